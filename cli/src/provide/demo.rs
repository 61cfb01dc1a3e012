use std::sync::Arc;
use std::time::Duration;

use callboard_server::{Method, MethodError, Router, Type};
use serde::Deserialize;
use serde_json::Number;

/// Hears the name of each method that is called.
pub(crate) type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// The methods of `provide --demo`.
pub(crate) fn router(tell: Tell) -> Router {
    let (told_of_echo, told_of_sleep) = (Arc::clone(&tell), Arc::clone(&tell));
    Router::new()
        .method(add_method(), move |pair: Pair| {
            tell("add");
            add(&pair)
        })
        .method(echo_method(), move |line: Line| {
            told_of_echo("echo");
            Ok(line.text)
        })
        .method_async(sleep_method(), move |nap: Nap| {
            told_of_sleep("sleep");
            async move {
                tokio::time::sleep(Duration::from_millis(nap.ms)).await;
                Ok(nap.ms)
            }
        })
}

#[derive(Debug, Deserialize)]
struct Pair {
    num1: Number,
    num2: Number,
}

#[derive(Debug, Deserialize)]
struct Line {
    text: String,
}

#[derive(Debug, Deserialize)]
struct Nap {
    ms: u64,
}

fn add_method() -> Method {
    Method::new("add")
        .describe("The sum of two numbers, an integer if both are integers")
        .param("num1", Type::Number)
        .param("num2", Type::Number)
        .returns(Type::Number)
}

fn echo_method() -> Method {
    Method::new("echo").describe("The same text").param("text", Type::String).returns(Type::String)
}

fn sleep_method() -> Method {
    Method::new("sleep")
        .describe("Waits for so many milliseconds, then returns their number")
        .param("ms", Type::Integer)
        .returns(Type::Integer)
}

fn add(pair: &Pair) -> Result<Number, MethodError> {
    let sum = match (pair.num1.as_i128(), pair.num2.as_i128()) {
        (Some(num1), Some(num2)) => num1.checked_add(num2).and_then(Number::from_i128),
        _ => pair.num1.as_f64().zip(pair.num2.as_f64()).and_then(|(num1, num2)| Number::from_f64(num1 + num2)),
    };
    sum.ok_or_else(|| MethodError::new(OVERFLOW, "the sum is out of range"))
}

/// The demonstration's own error number.
const OVERFLOW: i64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_stay_integers() {
        let rows = [
            ("1", "2", Some("3")),
            ("-5", "2", Some("-3")),
            ("0.5", "2", Some("2.5")),
            ("1.0", "2", Some("3.0")),
            ("9223372036854775807", "1", Some("9223372036854775808")),
            ("18446744073709551615", "1", None),
            ("-9223372036854775808", "-1", None),
            ("1e308", "1e308", None),
        ];
        for (num1, num2, sum) in rows {
            let pair: Pair = serde_json::from_str(&format!(r#"{{"num1":{num1},"num2":{num2}}}"#)).unwrap();
            assert_eq!(add(&pair).ok().map(|sum| sum.to_string()).as_deref(), sum, "{num1} + {num2}");
        }
    }
}
