//! Measures what `docs/reliability.md` promises: how long it takes until others notice that a part has gone, and until all
//! is whole again. It starts centers and providers as processes of their own, which are this program again.
//!
//! It prints a table on a terminal, and a JSON object a line elsewhere. `reliability NAME...` measures only what contains
//! one of the names.

#![expect(clippy::print_stdout, reason = "its lines are what it is for")]

mod crowd;
mod departures;
mod failover;
mod network;
mod part;
mod process;
mod report;
mod rolling;

use anyhow::{Result, bail};

use crate::network::Dropped;
use crate::report::{Figure, Measured, Report, What};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["part", "center"] => part::center().await,
        ["part", "provider", center, method, ip] => part::provider(center, method, ip).await,
        ["part", "called", center, listen] => part::called(center, listen).await,
        ["part", ..] => bail!("no such part"),
        ref names => measure(names).await,
    }
}

/// Measures each figure whose name contains one of these; without names all.
async fn measure(names: &[&str]) -> Result<()> {
    callboard_net::raise_open_files()?;
    let mut report = Report::default();
    let wanted = |figure: &Figure| names.is_empty() || names.iter().any(|name| figure.name.contains(name));
    for figure in report::FIGURES.iter().filter(|figure| wanted(figure)) {
        report.tell(figure, run(figure.what).await);
    }
    report.end();
    Ok(())
}

async fn run(what: What) -> Result<Measured> {
    Ok(Measured::Times(match what {
        What::Close => departures::close(20).await?,
        What::Withdrawal => departures::withdrawal(20).await?,
        What::GoAway => departures::go_away(20).await?,
        What::Kill => departures::kill(10).await?,
        What::Stop => departures::stop(5, &[]).await?,
        What::EagerStop => departures::stop(10, &departures::EAGER).await?,
        What::Drop => network::dropped(5, Dropped::All, &[]).await?,
        What::DropThere => network::dropped(10, Dropped::There, &[]).await?,
        What::EagerDropThere => network::dropped(10, Dropped::There, &departures::EAGER).await?,
        What::DropBack => network::dropped(5, Dropped::Back, &[]).await?,
        What::Restart => crowd::restart(5).await?,
        What::Providers => return rolling::providers(25).await.map(Measured::Counts),
        What::Center => return rolling::center(10).await.map(Measured::Counts),
        What::Failover => return failover::kill_one_of_two(5).await.map(Measured::Counts),
    }))
}
