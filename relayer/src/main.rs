//! `tidemark-relayer`: runs the write side, lets providers in, revokes keys, sets webhooks.
#![allow(clippy::print_stdout, reason = "a command line answers on standard output")]

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tidemark::{
    chain::{Deployment, checked_reader},
    service::{causes, start_log},
};
use tidemark_relayer::{
    app,
    chain::Chain,
    config::{Command, Doctor, KeyCommand, ProviderCommand, ProviderWebhook, Relayer, WebhookCommand, secret_file},
    doctor::{self, Verdict},
    intake::{contributor::StorageKey, erase, provider},
    outbox,
};

#[tokio::main]
async fn main() -> ExitCode {
    tidemark::install_tls();
    match run(Relayer::parse()).await {
        Ok(code) => code,
        Err(error) => {
            // causes name addresses, and those of nodes and databases may hold keys: they are cut here
            eprintln!("tidemark-relayer: {}", causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(Relayer { command, log }: Relayer) -> anyhow::Result<ExitCode> {
    start_log(&log).with_context(|| format!("--log: {log:?} is no filter; try info"))?;
    match command {
        Command::Doctor(wanted) => return examine(wanted).await,
        Command::Serve(config) => app::serve(config).await?,
        Command::Provider(ProviderCommand::Add(add)) => {
            let deployment = Deployment::load(&add.base.deployment)?;
            let chain = Chain::new(checked_reader(&add.base.rpc_url, &deployment).await?, deployment);
            let db = app::open_database(&add.base.database_url, &app::MIGRATIONS).await?;
            let key = provider::add(&db, &chain, &add.name, add.account).await?;
            eprintln!("API key of {}; it is shown only now:", add.name);
            println!("{key}");
        }
        Command::Provider(ProviderCommand::Webhook(set)) => set_webhook(set).await?,
        Command::Webhook(WebhookCommand::Replay(replay)) => {
            let db = app::open_database(&replay.database_url, &app::MIGRATIONS).await?;
            let count = outbox::replay(&db, provider::named(&db, &replay.name).await?, replay.from).await?;
            println!("{count}");
        }
        Command::Erase(wanted) => {
            let db = app::open_database(&wanted.database_url, &app::MIGRATIONS).await?;
            let erasure = erase::ask(&db, None, wanted.data_id).await?;
            let erasure = erasure.with_context(|| format!("no record {} here", wanted.data_id))?;
            println!("{}", erasure.state);
        }
        Command::Key(KeyCommand::Revoke(revoke)) => {
            let db = app::open_database(&revoke.database_url, &app::MIGRATIONS).await?;
            let key = match revoke.key {
                Some(key) => key,
                None => std::io::read_to_string(std::io::stdin())?,
            };
            anyhow::ensure!(provider::revoke_key(&db, key.trim()).await?, "no such key, or it is revoked already");
            println!("revoked");
        }
        Command::Openapi { attestor } => {
            let api = if attestor { tidemark_relayer::attestor::api::openapi() } else { tidemark_relayer::openapi() };
            println!("{}", api.to_pretty_json()?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what the doctor finds; fails where something is broken.
async fn examine(wanted: Doctor) -> anyhow::Result<ExitCode> {
    let findings = doctor::examine(&wanted.serve).await;
    for finding in &findings {
        match wanted.json {
            true => println!("{}", serde_json::to_string(finding)?),
            false => println!("{}", finding.line()),
        }
    }
    let is_broken = findings.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if is_broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn set_webhook(set: ProviderWebhook) -> anyhow::Result<()> {
    let db = app::open_database(&set.database_url, &app::MIGRATIONS).await?;
    let account = provider::named(&db, &set.name).await?;
    let Some(url) = set.url else {
        anyhow::ensure!(outbox::remove_endpoint(&db, account).await?, "{} has no webhook", set.name);
        println!("removed");
        return Ok(());
    };
    outbox::address::check_url(&url, set.webhook_allow_private)?;
    let key = StorageKey::new(&*secret_file(&set.storage_key_file)?);
    let secret = outbox::set_endpoint(&db, &key, account, &url).await?;
    eprintln!("Secret of {}'s webhook; it is shown only now:", set.name);
    println!("{secret}");
    Ok(())
}
