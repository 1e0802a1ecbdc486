//! `scripts/faults`: the fault campaigns, at length; prints what failed how often, and what held.
#![allow(clippy::print_stdout, reason = "printing is what a command line does")]

use anyhow::Result;
use clap::{Parser, Subcommand};
use tidemark_tests::{
    campaign::{self, indexer},
    progress::Progress,
    random::Random,
    signal::stop_signal,
};

/// Kills, reorgs, full disks and lying nodes under a relayer that goes on taking records. `TIDEMARK_SEED` repeats a run.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Flags {
    #[command(subcommand)]
    other: Option<Other>,
    /// Processes to kill.
    #[arg(default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    kills: u32,
}

#[derive(Subcommand)]
enum Other {
    /// The same under an indexer: reorgs, kills, lying nodes and stores without files, and a fresh index to compare with.
    Indexer {
        /// Times to kill it.
        #[arg(default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        kills: u32,
        /// In place of kills, so many blocks as fast as they come, with ten reorgs in 300 of them; a day's where no number is given.
        #[arg(long, value_name = "BLOCKS", num_args = 0..=1, default_missing_value = "7200", conflicts_with = "kills",
              value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        day: Option<u64>,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    let stopped = stop_signal()?;
    let (progress, random) = (Progress::new(), Random::from_environment());
    let report = async {
        Ok::<_, anyhow::Error>(match flags.other {
            None => campaign::run(flags.kills, random, &progress).await?.to_string(),
            Some(Other::Indexer { day: Some(blocks), .. }) => {
                indexer::run(indexer::Plan::Blocks(blocks), random, &progress).await?.to_string()
            }
            Some(Other::Indexer { kills, day: None }) => {
                indexer::run(indexer::Plan::Kills(kills), random, &progress).await?.to_string()
            }
        })
    };
    let report = tokio::select! {
        report = report => report?,
        signal = stopped => anyhow::bail!("stopped by {signal}"),
    };
    println!("\n{report}");
    Ok(())
}
