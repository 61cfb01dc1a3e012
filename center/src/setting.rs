mod all;

use std::fmt;
use std::time::Duration;

use callboard_net::{Address, AddressError};
use toml::de::DeValue;

pub(crate) use self::all::ALL;
use crate::{Config, ConfigError};

/// One key of a [`Config`].
#[derive(Debug)]
pub struct Setting {
    key: &'static str,
    about: &'static str,
    field: Field,
}

/// Where a setting lands, which decides what it takes.
#[derive(Debug)]
enum Field {
    Addresses(fn(&mut Config) -> &mut Vec<Address>),
    Switch(fn(&mut Config) -> &mut bool),
    /// A quantity, and the least that makes sense.
    Number(usize, fn(&mut Config) -> &mut usize),
    /// A time, given in milliseconds.
    Millis(fn(&mut Config) -> &mut Duration),
}

/// A value that was given, in the file or in the environment.
#[derive(Debug)]
pub(crate) enum Given {
    Bool(bool),
    Integer(u64),
    Text(String),
    List(Vec<Self>),
    /// Anything else, as it is to be shown.
    Other(String),
}

/// A value that its setting does not take.
#[derive(Debug)]
pub(crate) struct Wrong {
    key: &'static str,
    reason: String,
}

impl Setting {
    /// The key in the file; its unit is part of it.
    pub const fn key(&self) -> &'static str {
        self.key
    }

    /// What it sets, in one sentence.
    pub const fn about(&self) -> &'static str {
        self.about
    }

    /// The environment variable that overrides the file.
    pub fn variable(&self) -> String {
        format!("CALLBOARD_{}", self.key.to_uppercase())
    }

    /// The default, as it would stand in the file.
    pub fn default(&self) -> String {
        let config = &mut Config::default();
        match self.field {
            Field::Addresses(field) => {
                let listed: Vec<_> = field(config).iter().map(|address| format!("\"{address}\"")).collect();
                format!("[{}]", listed.join(", "))
            }
            Field::Switch(field) => field(config).to_string(),
            Field::Number(_, field) => field(config).to_string(),
            Field::Millis(field) => field(config).as_millis().to_string(),
        }
    }

    pub(crate) fn set(&self, config: &mut Config, given: &Given) -> Result<(), Wrong> {
        let wrong = || self.wrong(given);
        match (&self.field, given) {
            (Field::Addresses(_), Given::List(list)) if list.is_empty() => {
                return Err(self.refuse("no address to listen on"));
            }
            (Field::Addresses(field), Given::List(list)) => {
                *field(config) = list.iter().map(|given| self.address(given)).collect::<Result<_, _>>()?;
            }
            (Field::Switch(field), Given::Bool(on)) => *field(config) = *on,
            (Field::Number(least, field), Given::Integer(number)) => {
                let number = usize::try_from(*number).ok().filter(|number| number >= least);
                *field(config) = number.ok_or_else(wrong)?;
            }
            (Field::Millis(field), Given::Integer(millis @ 1..)) => *field(config) = Duration::from_millis(*millis),
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// Reads a text from the environment, where nothing has a type, as this setting would have it.
    pub(crate) fn read(&self, text: &str) -> Given {
        let other = || Given::Other(format!("\"{text}\""));
        match self.field {
            Field::Addresses(_) => {
                Given::List(text.split(',').map(|part| Given::Text(part.trim().to_owned())).collect())
            }
            Field::Switch(_) => text.parse().map_or_else(|_| other(), Given::Bool),
            Field::Number(..) | Field::Millis(_) => text.parse().map_or_else(|_| other(), Given::Integer),
        }
    }

    fn address(&self, given: &Given) -> Result<Address, Wrong> {
        let Given::Text(text) = given else {
            return Err(self.refuse(format!("must hold strings only, each an address, not {given}")));
        };
        text.parse().map_err(|error: AddressError| self.refuse(error.to_string()))
    }

    pub(crate) fn refuse(&self, reason: impl Into<String>) -> Wrong {
        Wrong { key: self.key, reason: reason.into() }
    }

    fn wrong(&self, given: &Given) -> Wrong {
        let expected = match self.field {
            Field::Addresses(_) => "a list of addresses".to_owned(),
            Field::Switch(_) => "true or false".to_owned(),
            Field::Number(least, _) => format!("an integer of at least {least}"),
            Field::Millis(_) => "an integer of at least 1 (milliseconds)".to_owned(),
        };
        self.refuse(format!("must be {expected}, not {given}"))
    }
}

impl Wrong {
    pub(crate) fn at(self, place: String) -> ConfigError {
        ConfigError::Value { place, key: self.key, reason: self.reason }
    }
}

impl From<&DeValue<'_>> for Given {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::Boolean(on) => Self::Bool(*on),
            DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix())
                .map_or_else(|_| Self::Other(digits.as_str().to_owned()), Self::Integer),
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Array(values) => Self::List(values.iter().map(|value| value.get_ref().into()).collect()),
            DeValue::Float(number) => Self::Other(number.as_str().to_owned()),
            DeValue::Datetime(_) | DeValue::Table(_) => Self::Other(format!("a {}", value.type_str())),
        }
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(on) => on.fmt(f),
            Self::Integer(number) => number.fmt(f),
            Self::Text(text) => write!(f, "the string \"{text}\""),
            Self::List(_) => f.write_str("a list"),
            Self::Other(shown) => f.write_str(shown),
        }
    }
}

pub(crate) fn find(key: &str) -> Option<&'static Setting> {
    ALL.iter().find(|setting| setting.key == key)
}

/// The known key that takes the fewest changes to get to.
pub(crate) fn nearest(key: &str) -> &'static str {
    let distance = |setting: &&Setting| strsim::damerau_levenshtein(setting.key, key);
    ALL.iter().min_by_key(distance).map_or("listen", Setting::key)
}
