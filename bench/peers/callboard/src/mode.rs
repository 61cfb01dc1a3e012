//! What `--mode` says beyond one word: `word,key=value,...`.
use std::str::FromStr;

use anyhow::{Context, Result};
use load::Opt;

/// The words and values of a `--mode`.
pub struct Mode<'a>(&'a str);

impl<'a> Mode<'a> {
    pub fn of(opt: &'a Opt) -> Self {
        Self(&opt.mode)
    }

    pub fn has(&self, word: &str) -> bool {
        self.parts().any(|part| part == word)
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.parts().find_map(|part| part.split_once('=').filter(|(name, _)| *name == key).map(|(_, value)| value))
    }

    /// The value of `key`, or `default` where it is not given.
    pub fn value<T: FromStr>(&self, key: &str, default: T) -> Result<T> {
        let Some(text) = self.text(key) else { return Ok(default) };
        text.parse().ok().with_context(|| format!("--mode {key}={text}: not a value of {key}"))
    }

    fn parts(&self) -> impl Iterator<Item = &'a str> {
        self.0.split(',')
    }
}
