//! The `callboard` program: the center, and the commands of those who talk to it. A file a subcommand.

#![expect(clippy::doc_markdown, reason = "what is said of an option is printed as it stands")]

mod args;
mod call;
mod center;
mod discover;
mod environment;
mod health;
mod logging;
mod output;
mod provide;
mod publish;
mod reach;
mod service_manager;
mod subscribe;
mod told;
mod tour;

use std::process::ExitCode;

use crate::args::Args;

/// The system's keeps for good what its threads have held at their worst, each for itself: a center grew for a quarter of
/// an hour at the same load.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) => args,
        Err(usage) => return usage.exit_code(),
    };
    let ended = logging::start(args.command.log_level()).and_then(|log| {
        let ended = run(args);
        log.flush();
        ended
    });
    match ended {
        Ok(code) => code,
        Err(error) if error.is::<output::Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&told::told(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(args.command.run());
    // A thread that waits for a reader of standard output must not hold up the end.
    runtime.shutdown_background();
    ended
}
