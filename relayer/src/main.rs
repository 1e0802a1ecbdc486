//! `tidemark-relayer`: runs the write side, lets providers in, issues and revokes keys.
#![allow(clippy::print_stdout, reason = "a command line answers on standard output")]

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tidemark::{
    chain::Deployment,
    service::{causes, start_log},
};
use tidemark_relayer::{
    app,
    chain::Chain,
    config::{Command, KeyCommand, KeyRevoke, ProviderCommand, ProviderSet, Relayer},
    intake::{
        key::{self, NewKey},
        provider::{self, Change},
    },
    nodes,
};

#[tokio::main]
async fn main() -> ExitCode {
    tidemark::install_tls();
    match run(Relayer::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // causes name addresses, and those of nodes and databases may hold keys: they are cut here
            eprintln!("tidemark-relayer: {}", causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(Relayer { command, log }: Relayer) -> anyhow::Result<()> {
    start_log(&log).with_context(|| format!("--log: {log:?} is no filter; try info"))?;
    match command {
        Command::Serve(config) => app::serve(config).await,
        Command::Provider(ProviderCommand::Add(add)) => {
            let deployment = Deployment::load(&add.base.deployment)?;
            let (provider, _) = nodes::connect(&add.base.rpc_urls, &deployment).await?;
            let chain = Chain::new(provider, deployment);
            let db = app::open_database(&add.base.database_url, &app::MIGRATIONS).await?;
            let key = provider::add(&db, &chain, &add.name, add.account).await?;
            eprintln!("API key of {}; it is shown only now:", add.name);
            println!("{key}");
            Ok(())
        }
        Command::Provider(ProviderCommand::Set(set)) => {
            let db = app::open_database(&set.database_url, &app::MIGRATIONS).await?;
            let ProviderSet { name, attestation, key_url, policies, signed_requests, .. } = set;
            let change = Change { attestation, key_url, policies, signed_requests };
            println!("{}", provider::set(&db, &name, &change).await?);
            Ok(())
        }
        Command::Key(KeyCommand::Issue(issue)) => {
            let db = app::open_database(&issue.database_url, &app::MIGRATIONS).await?;
            let account = provider::account_of(&db, &issue.provider).await?;
            let new = NewKey { name: issue.name, scopes: issue.scope, days: issue.days };
            let mut tx = db.begin().await?;
            let key = key::issue(&mut tx, account, &new).await?;
            tx.commit().await?;
            eprintln!("API key of {}; it is shown only now:", issue.provider);
            println!("{key}");
            Ok(())
        }
        Command::Key(KeyCommand::List(list)) => {
            let db = app::open_database(&list.database_url, &app::MIGRATIONS).await?;
            key::list(&db, &list.provider).await?.iter().for_each(|line| println!("{line}"));
            Ok(())
        }
        Command::Key(KeyCommand::Revoke(KeyRevoke { database_url, key, provider, name })) => {
            let db = app::open_database(&database_url, &app::MIGRATIONS).await?;
            let is_ended = match (key, provider, name) {
                (None, Some(provider), Some(name)) => key::revoke_named(&db, &provider, &name).await?,
                (Some(key), ..) => key::revoke(&db, key.trim()).await?,
                (None, ..) => key::revoke(&db, std::io::read_to_string(std::io::stdin())?.trim()).await?,
            };
            anyhow::ensure!(is_ended, "no such key, or it is revoked already");
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
