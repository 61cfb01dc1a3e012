use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use callboard::Signals;
use callboard_center::{CenterBuilder, Config};
use callboard_net::{Address, Sockets};
use clap::Args;

use crate::{environment, output, service_manager};

/// Run a center: providers register there, callers discover, and topics pass through
///
/// It ends with SIGINT or SIGTERM, in good order; a second one stops it at once. systemd hears when it listens, stops
/// and is well, and may hand it the sockets to listen on.
#[derive(Debug, Args)]
#[command(after_long_help = settings())]
pub(crate) struct Center {
    /// Where to listen: tcp://host:port, host:port or unix:///path; port 0 takes a free one. May be given more than
    /// once [env: CALLBOARD_LISTEN=] [default: tcp://127.0.0.1:7070]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<Address>,
    /// How many event loops, a thread each; 0 means one a core [env: CALLBOARD_LOOPS=] [default: 0]
    #[arg(long, value_name = "N")]
    loops: Option<usize>,
    /// A TOML file of settings [env: CALLBOARD_CONFIG=]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Center {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        // First: before that, process 1 of a container does not hear them.
        let mut signals = Signals::new()?;
        let config = self.configuration()?;
        let (sockets, addresses) = service_manager::inherit(Sockets::new(config.limits.keep_alive))?;
        environment::warn_of_unknown();
        let builder = callboard_center::Center::builder().config(config);
        // Those that were handed over count in place of the configured ones.
        let starting = addresses.iter().fold(builder, CenterBuilder::listen).start_over(sockets);
        let center = tokio::select! {
            started = starting => started?,
            _ = signals.next() => return Ok(ExitCode::SUCCESS),
        };
        for address in center.addresses() {
            output::announce(&format!("listening on {address}"))?;
        }
        service_manager::ready();
        let signal = tokio::select! {
            signal = signals.next() => signal,
            never = service_manager::watchdog(&center) => match never {},
        };
        service_manager::stopping();
        let counted: Vec<_> = center.counted().map(|(name, count)| format!("{name}={count}")).collect();
        tracing::info!("{signal}: stopping; counted {}", counted.join(" "));
        Ok(match signals.unless_again(center.shutdown()).await {
            Ok(stopped) if stopped.cut > 0 => {
                tracing::warn!("stopped; {} requests in flight outlasted the grace", stopped.cut);
                ExitCode::SUCCESS
            }
            Ok(_) => ExitCode::SUCCESS,
            Err(second) => {
                tracing::warn!("{second} again: stopped at once");
                second.into()
            }
        })
    }

    /// Flags over environment over file over defaults.
    fn configuration(self) -> anyhow::Result<Config> {
        let file = self.config.or_else(|| environment::value(environment::CONFIG).map(PathBuf::from));
        let mut config = file.as_deref().map_or_else(|| Ok(Config::default()), read)?;
        // What a flag overrides is not looked at.
        let (has_listen, has_loops) = (!self.listen.is_empty(), self.loops.is_some());
        let overridden =
            |name: &str| (has_listen && name == "CALLBOARD_LISTEN") || (has_loops && name == "CALLBOARD_LOOPS");
        config.apply_environment(|name| environment::value(name).filter(|_| !overridden(name)))?;
        if !self.listen.is_empty() {
            config.listen = self.listen;
        }
        config.loops = self.loops.unwrap_or(config.loops);
        Ok(config)
    }
}

fn read(path: &Path) -> anyhow::Result<Config> {
    Config::read(path).with_context(|| format!("configuration file {}", path.display()))
}

/// All settings, for `--help`.
fn settings() -> String {
    let setting = |setting: &callboard_center::Setting| {
        format!("  {} = {}\n          {}\n", setting.key(), setting.default(), setting.about())
    };
    let settings: String = Config::settings().map(setting).collect();
    format!(
        "Settings of the file, with their defaults; each is overridden by the environment variable CALLBOARD_<KEY>, \
         a list there is separated by commas:\n{settings}"
    )
}
