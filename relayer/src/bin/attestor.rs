//! `tidemark-attestor`: judges submissions and signs what holds.

use std::process::ExitCode;

use clap::Parser;
use tidemark_relayer::{attestor, config, http};

#[tokio::main]
async fn main() -> ExitCode {
    tidemark::install_tls();
    let config = config::Attestor::parse();
    http::start_logs();
    let served = async { attestor::serve(config, http::stop_on_signals()?).await };
    match served.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidemark-attestor: {error:#}");
            ExitCode::FAILURE
        }
    }
}
