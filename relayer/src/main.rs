//! `tidemark-relayer`: runs the write side, lets providers in, revokes keys.
#![allow(clippy::print_stdout, reason = "a command line answers on standard output")]

use std::process::ExitCode;

use clap::Parser;
use tidemark::chain::{Deployment, checked_reader};
use tidemark_relayer::{
    app,
    chain::Chain,
    config::{Command, KeyCommand, ProviderCommand, Relayer},
    http,
    intake::provider,
};

#[tokio::main]
async fn main() -> ExitCode {
    tidemark::install_tls();
    let command = Relayer::parse().command;
    match run(command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidemark-relayer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(config) => {
            http::start_logs();
            app::serve(config, http::stop_on_signals()?).await
        }
        Command::Provider(ProviderCommand::Add(add)) => {
            let deployment = Deployment::load(&add.base.deployment)?;
            let chain = Chain::new(checked_reader(&add.base.rpc_url, &deployment).await?, deployment);
            let db = app::open_database(&add.base.database_url, &app::MIGRATIONS).await?;
            let key = provider::add(&db, &chain, &add.name, add.account).await?;
            eprintln!("API key of {}; it is shown only now:", add.name);
            println!("{key}");
            Ok(())
        }
        Command::Key(KeyCommand::Revoke(revoke)) => {
            let db = app::open_database(&revoke.database_url, &app::MIGRATIONS).await?;
            let key = match revoke.key {
                Some(key) => key,
                None => std::io::read_to_string(std::io::stdin())?,
            };
            anyhow::ensure!(provider::revoke_key(&db, key.trim()).await?, "no such key, or it is revoked already");
            println!("revoked");
            Ok(())
        }
        Command::Openapi { attestor } => {
            let api = if attestor { tidemark_relayer::attestor::api::openapi() } else { tidemark_relayer::openapi() };
            println!("{}", api.to_pretty_json()?);
            Ok(())
        }
    }
}
