use std::fmt;

use callboard_common::ErrorInfo;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// A method's own error, which its caller sees as it is: a number, a text, and any data.
///
/// Every `std::error::Error` becomes one by `?`; therefore this type is none itself.
///
/// ```
/// use callboard_server::MethodError;
/// fn half(text: &str) -> Result<i64, MethodError> {
///     let number: i64 = text.parse()?; // any error of the program's
///     if number % 2 != 0 {
///         return Err(MethodError::new(22, "can't halve an odd number").with_data(&number));
///     }
///     Ok(number / 2)
/// }
/// assert_eq!(half("8").unwrap(), 4);
/// assert_eq!(half("7").unwrap_err().code(), Some(22));
/// assert_eq!(half("x").unwrap_err().to_string(), "invalid digit found in string");
/// ```
#[derive(Clone, Debug)]
pub struct MethodError {
    code: Option<i64>,
    message: String,
    data: Option<Box<RawValue>>,
}

impl MethodError {
    /// An error with a number of the method's own. It is no result code of the wire: the caller gets APPLICATION with
    /// this number beside it.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::text(message) }
    }

    /// An error without a number.
    pub fn text(message: impl Into<String>) -> Self {
        Self { code: None, message: message.into(), data: None }
    }

    /// Adds data for the caller's program; left out where the value can't be written as JSON.
    #[must_use]
    pub fn with_data<T: Serialize + ?Sized>(mut self, data: &T) -> Self {
        self.data = to_raw_value(data).ok();
        self
    }

    /// The method's own number.
    pub const fn code(&self) -> Option<i64> {
        self.code
    }

    /// What happened, for a person.
    pub fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn into_info(self) -> ErrorInfo {
        ErrorInfo { code: self.code, data: self.data, ..ErrorInfo::executed(self.message) }
    }
}

/// The text is the error's with those of its sources, since a source does not travel.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for MethodError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::text(message)
    }
}

impl fmt::Display for MethodError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.code.map_or(Ok(()), |code| write!(f, " (code {code})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("can't read the price")]
    struct NoPrice(#[source] std::num::ParseIntError);

    #[test]
    fn sources_are_told_with_the_error() {
        let error = MethodError::from(NoPrice("x".parse::<i64>().unwrap_err()));
        assert_eq!(error.to_string(), "can't read the price: invalid digit found in string");
        assert_eq!(MethodError::new(7, "no").to_string(), "no (code 7)");
    }
}
