//! `tidemark-attestor`: judges submissions and signs what holds.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tidemark::service::{causes, start_log};
use tidemark_relayer::{
    attestor::{
        self,
        sandbox::{COMMAND, judge_stdin},
    },
    config,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, mime_type, length] = arguments.as_slice()
        && command == COMMAND
    {
        return judge_stdin(mime_type, length);
    }
    serve()
}

#[tokio::main]
async fn serve() -> ExitCode {
    tidemark::install_tls();
    match run(config::Attestor::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // causes name addresses, and those of nodes and databases may hold keys: they are cut here
            eprintln!("tidemark-attestor: {}", causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(config: config::Attestor) -> anyhow::Result<()> {
    start_log(&config.log).with_context(|| format!("--log: {:?} is no filter; try info", config.log))?;
    attestor::serve(config).await
}
