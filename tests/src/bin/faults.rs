//! `scripts/faults`: the fault campaign, at length; prints what failed how often, and what held.
#![allow(clippy::print_stdout, reason = "printing is what a command line does")]

use anyhow::Result;
use clap::Parser;
use tidemark_tests::{campaign, progress::Progress, random::Random, signal::stop_signal};

/// Kills, reorgs, full disks and lying nodes under a relayer that goes on taking records. `TIDEMARK_SEED` repeats a run.
#[derive(Parser)]
struct Flags {
    /// Processes to kill.
    #[arg(default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    kills: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let kills = Flags::parse().kills;
    let stopped = stop_signal()?;
    let progress = Progress::new();
    let report = tokio::select! {
        report = campaign::run(kills, Random::from_environment(), &progress) => report?,
        signal = stopped => anyhow::bail!("stopped by {signal}"),
    };
    println!("\n{report}");
    Ok(())
}
