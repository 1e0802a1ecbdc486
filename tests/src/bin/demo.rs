//! `scripts/demo`: the whole story on a local stack of real parts, with a closing table in which every line was checked.
#![allow(clippy::print_stdout, reason = "printing is what a command line does")]

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;
use tidemark_tests::{
    Options, Stack,
    progress::Progress,
    signal::stop_signal,
    story::{closing, run, samples},
};

/// Tells the story from a sponsor's budget to a licence that strangers verify.
#[derive(Parser)]
struct Flags {
    /// Folder of media files to submit; left out, the samples of this repository.
    folder: Option<PathBuf>,
    /// End after the closing table instead of keeping the stack up.
    #[arg(long)]
    exit: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    tidemark::install_tls();
    match demo_or_signal(Flags::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn demo_or_signal(flags: Flags) -> Result<ExitCode> {
    let stopped = stop_signal()?;
    tokio::select! {
        told = demo(flags) => told.map(|()| ExitCode::SUCCESS),
        // dropping the story stops all that it started
        signal = stopped => {
            eprintln!("stopped by {signal}");
            Ok(ExitCode::from(130))
        }
    }
}

async fn demo(flags: Flags) -> Result<()> {
    let begun = Instant::now();
    let samples = match &flags.folder {
        Some(folder) => samples::folder_samples(folder)?,
        None => samples::repository_samples()?,
    };
    let progress = Progress::new();
    // small batches, so that both ways to seal one are seen: by size and by age
    let options = Options { progress: progress.clone(), batch_events_max: 48, ..Options::default() };
    let mut stack = Stack::start(options).await?;
    let table = match tell(&stack, &samples, &progress).await {
        Ok(table) => table,
        Err(error) => return Err(explain(&mut stack, error)),
    };
    println!("{}", table.0);
    println!("the story took {} s", begun.elapsed().as_secs());
    if !table.1.is_empty() {
        stack.keep_logs();
        anyhow::bail!("not all of it is true:\n  {}", table.1.join("\n  "));
    }
    if flags.exit {
        return Ok(());
    }
    println!("\nThe stack stays up until Ctrl-C:");
    for (name, url) in stack.urls() {
        println!("  {name:<16} {url}");
    }
    std::future::pending().await
}

/// The table's text, and the claims in it that do not hold.
async fn tell(stack: &Stack, samples: &[samples::Sample], progress: &Progress) -> Result<(String, Vec<String>)> {
    let told = run::tell(stack, samples, progress).await?;
    let table = closing::table(stack, &told).await?;
    Ok((table.render(), table.failures()))
}

/// Adds which service has died, if one has, and where the logs are.
fn explain(stack: &mut Stack, error: anyhow::Error) -> anyhow::Error {
    stack.keep_logs();
    let logs = stack.folder.path().join("logs");
    let error = error.context(format!("the story broke off; the services' logs are in {}", logs.display()));
    match stack.check_running() {
        Ok(()) => error,
        Err(dead) => error.context(dead.to_string()),
    }
}
