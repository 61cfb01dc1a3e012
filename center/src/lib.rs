//! The center as a library: the registry, the topics, and any methods of the program's own, on one port. A program or a
//! test can embed it.
//!
//! In reading order:
//!
//! 1. [`Center`] and its [`CenterBuilder`].
//! 2. [`Config`]: all settings, as a file and the environment have them; [`Setting`]: one of them.

#![deny(missing_docs)]

mod builder;
mod center;
mod config;
mod reach;
mod setting;

pub use builder::{CenterBuilder, CenterError};
pub use center::Center;
pub use config::{Config, ConfigError};
pub use setting::Setting;
