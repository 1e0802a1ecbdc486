//! `scripts/bench NAME`: measures one thing on a local stack and prints a table, beside a floor measured in the same run.
#![allow(
    clippy::print_stdout,
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    reason = "a benchmark prints rates; nothing here is money"
)]

mod growth;
mod indexer;
mod lag;
mod ledger;
mod millions;
mod on_geth;
mod peers;
mod reads;
mod relayer;
mod sealing;
mod submissions;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tidemark_tests::process::stat_field;

/// Measures on a local stack of its own.
#[derive(Parser)]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Submissions a second through the whole path, and where the time goes.
    Submissions(submissions::Submissions),
    /// Records a second into the relayer by the Trace door, and its memory with many of them queued.
    Relayer(relayer::Relayer),
    /// Plain events a second out of a chain's history into Postgres, and the indexer's memory.
    Indexer(indexer::Indexer),
    /// Time and memory of the indexer with ever longer histories.
    Growth(growth::Growth),
    /// From a block's being mined to its rows in the API.
    Lag(lag::Lag),
    /// Contributions a second out of manifests into projections and ledger, a sale split over a million members, proofs.
    Ledger(ledger::Ledger),
    /// Sealing a batch of a million events.
    Sealing(sealing::Sealing),
}

#[tokio::main]
async fn main() -> ExitCode {
    tidemark::install_tls();
    let Flags { what } = Flags::parse();
    let done = match what {
        What::Submissions(flags) => submissions::run(&flags).await,
        What::Relayer(flags) => relayer::run(&flags).await,
        What::Indexer(flags) => indexer::run(&flags).await,
        What::Growth(flags) => growth::run(&flags).await,
        What::Lag(flags) => lag::run(&flags).await,
        What::Ledger(flags) => ledger::run(&flags).await,
        What::Sealing(flags) => sealing::run(&flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Bytes that a process holds in memory: a field of `/proc/PROCESS/status`.
fn memory(process: &str, field: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path} has no {field}"))? * 1024)
}

/// Time that a process has had the processors for, in its own code and in the kernel's: fields 14 and 15 of `/proc/PROCESS/stat`.
fn processor_time(process: &str) -> Result<Duration> {
    // clock ticks of `/proc` are 10 ms on every Linux that Rust runs on
    const TICK: Duration = Duration::from_millis(10);
    let ticks = [14, 15].map(|number| stat_field(process, number)?.parse::<u32>().ok());
    let ticks: Option<u32> = ticks.into_iter().sum();
    Ok(TICK * ticks.with_context(|| format!("/proc/{process}/stat can't be read"))?)
}
