//! Holds a local stack, empty of data, until Ctrl-C: for work on one room against the others.
#![allow(clippy::print_stdout, reason = "printing is what a command line does")]

use anyhow::Result;
use clap::{Parser, ValueEnum};
use tidemark_tests::{Options, Stack, progress::Progress, signal::stop_signal, stack::Services};

/// Starts chain, contracts, Postgres, content store and services, prints where they are as JSON, and waits for Ctrl-C.
#[derive(Parser)]
struct Flags {
    /// Which services to start.
    #[arg(long, value_enum, default_value_t = Which::All)]
    services: Which,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    All,
    WriteSide,
    None,
}

#[tokio::main]
async fn main() -> Result<()> {
    tidemark::install_tls();
    let services = match Flags::parse().services {
        Which::All => Services::All,
        Which::WriteSide => Services::WriteSide,
        Which::None => Services::None,
    };
    let stopped = stop_signal()?;
    tokio::select! {
        ended = hold(Options { services, progress: Progress::new(), ..Options::default() }) => ended,
        _ = stopped => Ok(()),
    }
}

async fn hold(options: Options) -> Result<()> {
    let stack = Stack::start(options).await?;
    let urls: serde_json::Map<_, _> =
        stack.urls().into_iter().map(|(name, url)| (name.to_owned(), url.into())).collect();
    println!(
        "{}",
        serde_json::json!({
            "folder": stack.folder.path(),
            "store": stack.store_address(),
            "deployment": stack.deployment_path(),
            "urls": urls,
        })
    );
    std::future::pending().await
}
