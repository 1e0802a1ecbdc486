//! `tidemark-relayer`: runs the write side, lets providers in, issues and revokes keys, sets webhooks, erases, examines.
#![allow(clippy::print_stdout, reason = "a command line answers on standard output")]

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use tidemark::{
    chain::Deployment,
    nodes,
    service::{causes, start_log},
};
use tidemark_relayer::{
    app,
    chain::Chain,
    config::{
        Command, Doctor, KeyCommand, KeyRevoke, ProviderCommand, ProviderSet, ProviderWebhook, Relayer,
        StorageKeyCommand, StorageKeyRotate, WebhookCommand,
    },
    doctor::{self, Verdict},
    intake::{
        erase,
        key::{self, NewKey},
        provider::{self, Change},
    },
    outbox, storage_key,
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
            let (provider, _) = nodes::connect(&add.base.rpc_urls, &deployment).await?;
            let chain = Chain::new(provider, deployment, add.base.finality_depth);
            let db = app::open_database(&add.base.database_url, &app::MIGRATIONS).await?;
            let key = provider::add(&db, &chain, &add.name, add.account).await?;
            eprintln!("API key of {}; it is shown only now:", add.name);
            println!("{key}");
        }
        Command::Provider(ProviderCommand::Webhook(set)) => set_webhook(set).await?,
        Command::Webhook(WebhookCommand::Replay(replay)) => {
            let db = app::open_database(&replay.database_url, &app::MIGRATIONS).await?;
            let count = outbox::replay(&db, provider::account_of(&db, &replay.name).await?, replay.from).await?;
            println!("{count}");
        }
        Command::StorageKey(StorageKeyCommand::Rotate(wanted)) => rotate_storage_key(&wanted).await?,
        Command::Erase(wanted) => {
            let db = app::open_database(&wanted.database_url, &app::MIGRATIONS).await?;
            let erasure = erase::ask(&db, None, wanted.data_id).await?;
            let erasure = erasure.with_context(|| format!("no record {} here", wanted.data_id))?;
            println!("{}", erasure.state);
        }
        Command::Provider(ProviderCommand::Set(set)) => {
            let db = app::open_database(&set.database_url, &app::MIGRATIONS).await?;
            let ProviderSet { name, attestation, key_url, policies, signed_requests, .. } = set;
            let change = Change { attestation, key_url, policies, signed_requests };
            println!("{}", provider::set(&db, &name, &change).await?);
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
        }
        Command::Key(KeyCommand::List(list)) => {
            let db = app::open_database(&list.database_url, &app::MIGRATIONS).await?;
            key::list(&db, &list.provider).await?.iter().for_each(|line| println!("{line}"));
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
    let account = provider::account_of(&db, &set.name).await?;
    let Some(url) = set.url else {
        anyhow::ensure!(outbox::remove_endpoint(&db, account).await?, "{} has no webhook", set.name);
        println!("removed");
        return Ok(());
    };
    outbox::address::check_url(&url, set.webhook_allow_private)?;
    let key = set.storage_key.load()?;
    let secret = outbox::set_endpoint(&db, &key, account, &url).await?;
    eprintln!("Secret of {}'s webhook; it is shown only now:", set.name);
    println!("{secret}");
    Ok(())
}

async fn rotate_storage_key(wanted: &StorageKeyRotate) -> anyhow::Result<()> {
    let db = app::open_database(&wanted.database_url, &app::MIGRATIONS).await?;
    let key = wanted.storage_key.load()?;
    let total = storage_key::count(&db).await?;
    let is_terminal = std::io::stderr().is_terminal();
    let bar = if is_terminal { indicatif::ProgressBar::new(total) } else { indicatif::ProgressBar::hidden() };
    let done = storage_key::rotate(&db, &key, |done| match is_terminal {
        true => bar.set_position(done.secrets()),
        false => eprintln!("{}", serde_json::json!({ "type": "progress", "done": done.secrets(), "total": total })),
    })
    .await
    .context("some secrets may be sealed again already; run this again with both keys")?;
    bar.finish_and_clear();
    println!("{}", serde_json::to_string(&done)?);
    Ok(())
}
