use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use crate::{call, center, discover, health, output, provide, publish, subscribe, tour};

/// Services sign in, callers find and call them, and topics carry the news.
#[derive(Debug, Parser)]
#[command(name = "callboard", version, args_override_self = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Center(center::Center),
    Call(call::Call),
    Discover(discover::Discover),
    Health(health::Health),
    Pub(publish::Publish),
    Sub(subscribe::Subscribe),
    Provide(provide::Provide),
    Tour(tour::Tour),
    #[command(hide = true)]
    TourCaller(tour::TourCaller),
}

/// A command line that cannot be run, or one that only asks for help.
#[derive(Debug)]
pub(crate) struct Usage(clap::Error);

impl Args {
    pub(crate) fn read() -> Result<Self, Usage> {
        Self::try_parse().map_err(Usage)
    }
}

impl Command {
    /// The exit code is that of services; other commands end with 0 where they do not fail.
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Center(command) => return command.run().await,
            Self::Provide(command) => return command.run().await,
            Self::Call(command) => command.run().await?,
            Self::Discover(command) => command.run().await?,
            Self::Health(command) => command.run().await?,
            Self::Pub(command) => command.run().await?,
            Self::Sub(command) => command.run().await?,
            Self::Tour(command) => command.run().await?,
            Self::TourCaller(command) => command.run().await?,
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What is logged if the environment does not say: services tell what they do; a command's own error says enough.
    pub(crate) const fn log_level(&self) -> &'static str {
        match self {
            Self::Center(_) | Self::Provide(_) => "info",
            _ => "error",
        }
    }
}

impl Usage {
    /// Prints what has to be said: help as it is, a mistake as one line.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.0.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                // Nobody is left to be told that nobody reads.
                let _ = self.0.print();
            }
            _ => output::complain(&self.one_line()),
        }
        if self.0.exit_code() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// The first paragraph and the tips; the usage that follows is for `--help`.
    fn one_line(&self) -> String {
        let text = self.0.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let paragraphs = text.split("\n\n").enumerate();
        let told = paragraphs.filter(|(at, paragraph)| *at == 0 || paragraph.trim_start().starts_with("tip: "));
        let lines: Vec<_> = told.map(|(_, paragraph)| output::one_line(paragraph)).collect();
        format!("{} (see --help)", lines.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
