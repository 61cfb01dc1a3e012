//! What providers and callers write down: each line in one go, before and after what it speaks of, so that it stays when
//! its writer is killed.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The ledger of one process.
pub(crate) struct Ledger(File);

/// A line of it. A call has a name of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Entry {
    /// The provider's handler is about to do its work.
    Began(String),
    /// It has done it.
    Ended(String),
    /// The caller is about to call.
    Made(String),
    /// The caller is about to give it up.
    GivenUp(String),
    /// What became of it, as the caller sees it.
    Told(String, Told),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Told {
    Ok,
    /// An answer that is another call's.
    Another,
    /// An error: it was executed.
    Yes,
    /// An error: it was not executed.
    No,
    /// An error: nobody knows.
    Unknown,
}

impl Entry {
    pub(crate) fn call(&self) -> &str {
        match self {
            Self::Began(call) | Self::Ended(call) | Self::Made(call) | Self::GivenUp(call) | Self::Told(call, _) => {
                call
            }
        }
    }
}

impl Ledger {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::options().append(true).create(true).open(path);
        Ok(Self(file.with_context(|| path.display().to_string())?))
    }

    pub(crate) fn write(&self, entry: &Entry) -> io::Result<()> {
        let line = format!("{}\n", serde_json::to_string(entry)?);
        // One write(2): what a second one would add is lost if the process is killed between them.
        let written = (&self.0).write(line.as_bytes())?;
        if written == line.len() { Ok(()) } else { Err(ErrorKind::StorageFull.into()) }
    }

    /// What is written so far; nothing where none was opened.
    pub(crate) fn read(path: &Path) -> Result<Vec<Entry>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}
