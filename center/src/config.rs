use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use callboard_net::{Address, Limits};
use callboard_pubsub::TopicLimits;
use callboard_registry::{AvailabilityPolicy, RegistryLimits, RelayLimits};
use toml::de::DeTable;

use crate::setting::{self, Setting};

/// All that a center can be told: where it listens, on how many threads, and every bound.
///
/// It is read from TOML, one key a setting, all on the top level; each key names its unit. What is not set keeps its
/// default. [`Config::settings`] lists the keys.
///
/// ```
/// use callboard_center::Config;
/// let config = Config::from_toml("listen = [\"127.0.0.1:7070\"]\nqueue_bytes = 33_554_432")?;
/// assert_eq!(config.limits.queue_bytes, 32 << 20);
///
/// let mistaken = Config::from_toml("\n\nqueue_byte = 1").unwrap_err();
/// assert_eq!(
///     mistaken.to_string(),
///     r#"line 3: unknown key "queue_byte"; the nearest known key is "queue_bytes""#
/// );
/// # Ok::<(), callboard_center::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the center listens; default `tcp://127.0.0.1:7070`.
    pub listen: Vec<Address>,
    /// How many event loops, a thread each; default 0, which means one a core.
    pub loops: usize,
    /// Whether each event loop stays on one core; default no. It pays on a machine that does nothing else.
    pub pin: bool,
    /// How long a center that stops waits for requests in flight and for peers that end their connections; default
    /// 800 ms.
    pub grace: Duration,
    /// The bounds of connections and of the sum of them.
    pub limits: Limits,
    /// The bounds of the registry.
    pub registry: RegistryLimits,
    /// How the center makes sure that who is online can be called.
    pub availability: AvailabilityPolicy,
    /// The bounds of calls that the center passes on to providers that listen nowhere.
    pub relay: RelayLimits,
    /// The bounds of topics.
    pub topics: TopicLimits,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read it")]
    Read(#[from] io::Error),
    /// The text is not TOML.
    #[error("line {line}: not TOML: {message}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        message: String,
    },
    /// There is no such setting.
    #[error("line {line}: unknown key \"{key}\"; the nearest known key is \"{nearest}\"")]
    UnknownKey {
        /// Counted from 1.
        line: usize,
        /// The key as it was given.
        key: String,
        /// The known key that looks most like it.
        nearest: &'static str,
    },
    /// The setting does not take this value.
    #[error("{place}: {key}: {reason}")]
    Value {
        /// Where the value stands: `line 3`, or the name of the environment variable.
        place: String,
        /// The setting.
        key: &'static str,
        /// What it takes, and what was given.
        reason: String,
    },
}

impl Config {
    /// Where a center listens if it is told nothing.
    pub const DEFAULT_PORT: u16 = 7070;

    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or has an unknown key or a value that its setting does not take. The path
    /// is not part of the message.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::from_toml(&std::fs::read_to_string(path)?)
    }

    /// Reads a text. Of several mistakes the first is told.
    ///
    /// # Errors
    /// The text is not TOML, or has an unknown key or a value that its setting does not take.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let line = |at| line_of(text, at);
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            line: line(error.span().map_or(0, |span| span.start)),
            message: error.message().replace('\n', ", "),
        })?;
        let mut entries: Vec<_> = table.get_ref().iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut config = Self::default();
        for (key, value) in entries {
            let line = line(key.span().start);
            let setting = setting::find(key.get_ref()).ok_or_else(|| ConfigError::UnknownKey {
                line,
                key: key.get_ref().to_string(),
                nearest: setting::nearest(key.get_ref()),
            })?;
            setting.set(&mut config, &value.get_ref().into()).map_err(|wrong| wrong.at(format!("line {line}")))?;
        }
        Ok(config)
    }

    /// Overrides each setting `key` for which `lookup` has a variable `CALLBOARD_KEY`; an empty one counts as absent.
    /// A list is separated by commas.
    ///
    /// ```
    /// let mut config = callboard_center::Config::default();
    /// config.apply_environment(|name| (name == "CALLBOARD_LOOPS").then(|| "3".into()))?;
    /// assert_eq!(config.loops, 3);
    /// # Ok::<(), callboard_center::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// A variable holds a value that its setting does not take, or that is not UTF-8.
    pub fn apply_environment(&mut self, lookup: impl Fn(&str) -> Option<OsString>) -> Result<(), ConfigError> {
        for setting in setting::ALL {
            let variable = setting.variable();
            if let Some(value) = lookup(&variable).filter(|value| !value.is_empty()) {
                let text =
                    value.to_str().ok_or_else(|| setting.refuse(format!("\"{}\" is not UTF-8 text", value.display())));
                let set = text.and_then(|text| setting.set(self, &setting.read(text)));
                set.map_err(|wrong| wrong.at(variable))?;
            }
        }
        Ok(())
    }

    /// Every setting there is, in the order of the documentation.
    pub fn settings() -> impl Iterator<Item = &'static Setting> {
        setting::ALL.iter()
    }
}

impl Default for Config {
    fn default() -> Self {
        let listen = Address::Tcp { host: "127.0.0.1".to_owned(), port: Self::DEFAULT_PORT };
        Self {
            listen: vec![listen],
            loops: 0,
            pin: false,
            grace: Duration::from_millis(800),
            limits: Limits::default(),
            registry: RegistryLimits::default(),
            availability: AvailabilityPolicy::default(),
            relay: RelayLimits::default(),
            topics: TopicLimits::default(),
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn every_setting_takes_its_own_default_from_file_and_environment() {
        let default = format!("{:?}", Config::default());
        let file: Vec<_> = Config::settings().map(|s| format!("{} = {}", s.key(), s.default())).collect();
        assert_eq!(format!("{:?}", Config::from_toml(&file.join("\n")).unwrap()), default);

        let mut config = Config::default();
        let value = |name: &str| {
            let setting = Config::settings().find(|setting| setting.variable() == name)?;
            Some(setting.default().replace(['[', ']', '"'], "").into())
        };
        config.apply_environment(value).unwrap();
        assert_eq!(format!("{config:?}"), default);
    }

    #[test]
    fn every_setting_has_a_place_of_its_own() {
        let numbers = Config::settings().filter(|setting| !["listen", "pin", "probe"].contains(&setting.key()));
        let file: Vec<_> = numbers.zip(2001..).map(|(s, number)| format!("{} = {number}", s.key())).collect();
        let shown = format!("{:?}", Config::from_toml(&file.join("\n")).unwrap());
        for number in 2001..2001 + Config::settings().count() - 3 {
            let millis = format!("{:?}", Duration::from_millis(number as u64));
            assert!(shown.contains(&number.to_string()) || shown.contains(&millis), "{number} in {shown}");
        }
    }

    #[test]
    fn mistakes_name_the_line_and_what_would_do() {
        let rows = [
            ("loop = 1", r#"line 1: unknown key "loop"; the nearest known key is "loops""#),
            (
                "loops = 1\n\nframe_silence = 1",
                r#"line 3: unknown key "frame_silence"; the nearest known key is "frame_silence_ms""#,
            ),
            ("[limits]\nloops = 1", r#"line 1: unknown key "limits"; the nearest known key is "listen""#),
            ("zz = 1\naa = 2", r#"line 1: unknown key "zz""#),
            ("\nloops = \"four\"", r#"line 2: loops: must be an integer of at least 0, not the string "four""#),
            ("loops = -1", "line 1: loops: must be an integer of at least 0, not -1"),
            ("loops = 1.5", "line 1: loops: must be an integer of at least 0, not 1.5"),
            ("loops = 99999999999999999999", "not 99999999999999999999"),
            ("pin = 1", "line 1: pin: must be true or false, not 1"),
            ("stall_ms = 0", "line 1: stall_ms: must be an integer of at least 1 (milliseconds), not 0"),
            ("max_frame_bytes = 0", "line 1: max_frame_bytes: must be an integer of at least 1024, not 0"),
            ("listen = \"localhost:1\"", "line 1: listen: must be a list of addresses, not the string"),
            ("listen = []", "line 1: listen: no address to listen on"),
            ("listen = ['a:1', 7]", "line 1: listen: must hold strings only, each an address, not 7"),
            ("listen = [['a:1']]", "line 1: listen: must hold strings only, each an address, not a list"),
            ("listen = [\"nowhere\"]", r#"line 1: listen: "nowhere" is not an address: the port is missing"#),
            ("loops = [1, 2]", "line 1: loops: must be an integer of at least 0, not a list"),
            ("loops = 1\nloops = 2", "line 2: not TOML"),
            ("loops = 1\nloops 2", "line 2: not TOML"),
        ];
        for (text, told) in rows {
            let error = Config::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains('\n'), "{text:?}: {error}");
        }
    }

    #[test]
    fn values_may_be_written_as_toml_has_them() {
        let text =
            "listen = ['tcp://[::1]:1', 'unix:///run/c.sock']\nmax_frame_bytes = 0x10_0000 # 1 MiB\nstall_ms = 250";
        let config = Config::from_toml(text).unwrap();
        let listen: Vec<_> = config.listen.iter().map(Address::to_string).collect();
        assert_eq!(listen, ["tcp://[::1]:1", "unix:///run/c.sock"]);
        assert_eq!(config.limits.max_frame_bytes, 1 << 20);
        assert_eq!(config.limits.stall, Duration::from_millis(250));
        assert_eq!(config.loops, 0);
    }

    #[test]
    fn the_environment_overrides_and_names_the_variable_that_is_wrong() {
        let mut config = Config::from_toml("loops = 2\nin_flight = 7").unwrap();
        let given = |name: &str| match name {
            "CALLBOARD_LISTEN" => Some("127.0.0.1:1, 127.0.0.1:2".into()),
            "CALLBOARD_LOOPS" => Some(OsString::new()),
            "CALLBOARD_PIN" => Some("true".into()),
            _ => None,
        };
        config.apply_environment(given).unwrap();
        assert_eq!((config.listen.len(), config.loops, config.pin, config.limits.in_flight), (2, 2, true, 7));

        let error = config.apply_environment(|name| (name == "CALLBOARD_LOOPS").then(|| "two".into())).unwrap_err();
        assert_eq!(error.to_string(), r#"CALLBOARD_LOOPS: loops: must be an integer of at least 0, not "two""#);

        let bytes = |name: &str| (name == "CALLBOARD_LISTEN").then(|| OsString::from_vec(b"unix:///\xff".to_vec()));
        let error = config.apply_environment(bytes).unwrap_err();
        assert_eq!(error.to_string(), "CALLBOARD_LISTEN: listen: \"unix:///\u{fffd}\" is not UTF-8 text");
    }
}
