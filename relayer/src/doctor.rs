//! `tidemark-relayer doctor`: tries every part that the service needs, with the service's own flags, and says how to fix what
//! is not right. It changes nothing but one block in the content store, which it deletes again.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, U256, utils::format_ether},
    providers::{DynProvider, Provider},
};
use anyhow::Context;
use serde::Serialize;
use sqlx::{PgPool, Row, postgres::PgPoolOptions};
use tidemark::{
    chain::{Deployment, checked_reader},
    contracts::ProvenanceLog,
    service::causes,
    store::{Store, StoreError},
};

use crate::{
    app::{CONNECTIONS_MAX, MIGRATIONS},
    attestor::client::AttestorClient,
    batch,
    chain::Chain,
    config::Serve,
    intake::{contributor, provider, unix_now},
    outbox, signer,
    storage_key::StorageKey,
};

/// A part that takes longer than this counts as one that does not answer.
const TIME_MAX: Duration = Duration::from_secs(20);
/// Milliseconds that the clocks of this machine and the database's may be apart.
const SKEW_MS_MAX: i64 = 2_000;
/// Seconds after which the newest block is old.
const HEAD_AGE_SECONDS_MAX: u64 = 120;
/// Gas of an anchor, rounded up (docs/benchmarks.md), and how many the sender should be able to pay.
const ANCHOR_GAS: u64 = 250_000;
const ANCHORS_MIN: u64 = 200;

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// As it should be.
    #[serde(rename = "ok")]
    Ok,
    /// The service works, but not for ever, or not safely.
    #[serde(rename = "WARN")]
    Warn,
    /// The service can't work.
    #[serde(rename = "FAIL")]
    Fail,
}

/// What one check found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// ok, WARN or FAIL.
    pub verdict: Verdict,
    /// Which part.
    pub part: String,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    /// One line for a person.
    pub fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        let fix = self.fix.as_ref().map(|fix| format!("; fix: {fix}")).unwrap_or_default();
        format!("{verdict} {}: {}{fix}", self.part, self.found)
    }
}

#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, verdict: Verdict, part: impl Into<String>, found: impl Into<String>, fix: &str) {
        let fix = (verdict != Verdict::Ok).then(|| fix.to_owned());
        self.0.push(Finding { verdict, part: part.into(), found: found.into(), fix });
    }

    /// A yes or no, where no is as bad as `otherwise`.
    fn check(&mut self, holds: bool, otherwise: Verdict, part: impl Into<String>, found: impl Into<String>, fix: &str) {
        self.add(if holds { Verdict::Ok } else { otherwise }, part, found, fix);
    }

    /// What failed, told by its causes; secrets in addresses are cut there.
    fn fail(&mut self, part: &str, error: &anyhow::Error, fix: &str) {
        self.add(Verdict::Fail, part, causes(error.as_ref()), fix);
    }

    /// The value of what worked.
    fn value<T>(&mut self, part: &str, tried: anyhow::Result<T>, fix: &str) -> Option<T> {
        tried.map_err(|error| self.fail(part, &error, fix)).ok()
    }
}

async fn in_time<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(TIME_MAX, work).await.with_context(|| format!("no answer within {TIME_MAX:?}"))?
}

/// Checks everything that `serve` with these flags needs.
pub async fn examine(config: &Serve) -> Vec<Finding> {
    let mut report = Report::default();
    let fix = "--deployment: the file that `tidemark deploy` wrote for this chain";
    let deployment = report.value("deployment", Deployment::load(&config.base.deployment).map_err(Into::into), fix);
    let signers = senders(&mut report, config).await;
    let storage_key = storage_key(&mut report, config);
    let db = database(&mut report, &config.base.database_url).await;
    let mut chain = None;
    if let Some(deployment) = &deployment {
        for (number, url) in config.base.rpc_urls.iter().enumerate() {
            let node = node(&mut report, number, url, deployment).await;
            chain = chain.or(node.map(|provider| Chain::new(provider, deployment.clone(), config.base.finality_depth)));
        }
    }
    let attestor = match &deployment {
        Some(deployment) => attestor(&mut report, config, deployment).await,
        None => None,
    };
    store(&mut report, &config.store).await;
    if config.webhook_allow_private {
        let fix = "start without --webhook-allow-private";
        report.add(Verdict::Warn, "webhooks", "may point to addresses of the inside", fix);
    }
    if let (Some(db), Some(key)) = (&db, &storage_key) {
        sealed_secrets(&mut report, db, key).await;
    }
    if let Some(chain) = &chain {
        for signer in &signers {
            let sent = in_time(sender(&mut report, chain, db.as_ref(), *signer)).await;
            report.value("sender", sent, "see the chain's lines");
        }
        if let Some(db) = &db {
            let seen = in_time(providers(&mut report, chain, db, attestor)).await;
            report.value("providers", seen, "see the lines of database and chain");
        }
    }
    report.0
}

/// Senders' addresses, as far as their keys can be had.
async fn senders(report: &mut Report, config: &Serve) -> Vec<Address> {
    let mut found = Vec::new();
    for path in &config.sender_key_files {
        private(report, "sender key", path);
        let fix = "openssl rand -hex 32 > sender.key, mode 0600";
        found.extend(report.value("sender key", signer::of_file(path), fix).map(|signer| signer.address()));
    }
    for name in &config.senders {
        let fix = "name a secp256k1 signing key that this machine's cloud account may use (docs/operate-relayer.md)";
        let signer = in_time(signer::of_name(name)).await;
        found.extend(report.value("sender key", signer, fix).map(|signer| signer.address()));
    }
    found
}

fn storage_key(report: &mut Report, config: &Serve) -> Option<StorageKey> {
    let files = &config.storage_key;
    private(report, "storage key", &files.storage_key_file);
    if let Some(former) = &files.former_storage_key_file {
        private(report, "former storage key", former);
        let fix =
            "run `tidemark-relayer storage-key rotate`, then start every relayer without --former-storage-key-file";
        report.add(Verdict::Warn, "former storage key", "is still in use", fix);
    }
    let fix = "put back the key that the database's secrets were sealed with; for a new database openssl rand -hex 32";
    report.value("storage key", files.load(), fix)
}

/// A key that others can read is not a key.
fn private(report: &mut Report, part: &str, path: &Path) {
    if let Ok(metadata) = std::fs::metadata(path) {
        let mode = metadata.permissions().mode() & 0o777;
        let found = format!("{} has mode {mode:04o}", path.display());
        report.check(mode & 0o077 == 0, Verdict::Warn, part, found, "chmod 600");
    }
}

/// Reachable, durable, with tables that this program knows, room for its connections, and the same time as here.
async fn database(report: &mut Report, url: &str) -> Option<PgPool> {
    let fix = "start Postgres; DATABASE_URL=postgres://user:password@host:port/relayer";
    let connecting = async {
        Ok(PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(10)).connect(url).await?)
    };
    let db = report.value("database", in_time(connecting).await, fix)?;
    let examined = in_time(examine_database(report, &db)).await;
    report.value("database", examined, fix)?;
    Some(db)
}

async fn examine_database(report: &mut Report, db: &PgPool) -> anyhow::Result<()> {
    let before = unix_ms()?;
    let theirs: i64 =
        sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").fetch_one(db).await?;
    let skew_ms = theirs.saturating_sub(before.midpoint(unix_ms()?)).abs();
    let fix = "run an NTP client on both machines";
    report.check(skew_ms <= SKEW_MS_MAX, Verdict::Warn, "database clock", format!("{skew_ms} ms from ours"), fix);

    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        let value: String = sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(db).await?;
        let fix = format!("ALTER SYSTEM SET {setting} = on: without it an accepted record can be lost in a power cut");
        report.check(value != "off", Verdict::Fail, "database", format!("{setting} = {value}"), &fix);
    }
    let free: i64 = sqlx::query_scalar(
        "SELECT current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
             - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')",
    )
    .fetch_one(db)
    .await?;
    let fix = format!("raise max_connections: each relayer takes up to {CONNECTIONS_MAX}");
    let enough = free >= i64::from(CONNECTIONS_MAX);
    report.check(enough, Verdict::Warn, "database connections", format!("{free} are free"), &fix);
    migrations(report, db).await
}

async fn migrations(report: &mut Report, db: &PgPool) -> anyhow::Result<()> {
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL").fetch_one(db).await?;
    if !is_there {
        let fix = "none, if this database is new: `serve` makes its tables";
        report.add(Verdict::Warn, "tables", "there are none", fix);
        return Ok(());
    }
    let rows =
        sqlx::query("SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version").fetch_all(db).await?;
    let mut missing = MIGRATIONS.iter().count();
    for row in &rows {
        let version: i64 = row.try_get(0)?;
        let ours = MIGRATIONS.iter().find(|migration| migration.version == version);
        let Some(ours) = ours else {
            let fix = "run the program that wrote it, or a newer one";
            report.add(Verdict::Fail, "tables", format!("migration {version} is of a newer program"), fix);
            continue;
        };
        missing = missing.saturating_sub(1);
        let same = ours.checksum.as_ref() == row.try_get::<&[u8], _>(1)? && row.try_get::<bool, _>(2)?;
        if !same {
            let fix = "restore the database from a backup, or run the program that wrote it";
            report.add(Verdict::Fail, "tables", format!("migration {version} is another one, or failed"), fix);
        }
    }
    let found = format!("{} migrations are done, {missing} are to come", rows.len());
    report.check(missing == 0, Verdict::Warn, "tables", found, "back up; `serve` brings them up to date");
    Ok(())
}

fn unix_ms() -> anyhow::Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(i64::try_from(since.as_millis())?)
}

/// A node of the right chain, with the contracts that the deployment file names, up to date, and able to say what is final.
async fn node(report: &mut Report, number: usize, url: &str, deployment: &Deployment) -> Option<DynProvider> {
    let part = format!("node {}", number + 1);
    let fix = "--rpc-url: http(s)://… of a node of the deployment's chain";
    let provider = in_time(async { Ok(checked_reader(url, deployment).await?) }).await;
    let provider = report.value(&part, provider, fix)?;
    let examined = in_time(examine_node(report, &part, &provider, deployment)).await;
    report.value(&part, examined, "ask whoever runs the node; name another with --rpc-url")?;
    Some(provider)
}

async fn examine_node(
    report: &mut Report,
    part: &str,
    provider: &DynProvider,
    deployment: &Deployment,
) -> anyhow::Result<()> {
    let head = provider.get_block_by_number(BlockNumberOrTag::Latest).await?.context("a chain without blocks")?;
    let age = unix_now().saturating_sub(head.header.timestamp);
    let found = format!("chain {}, block {} is {age} s old", deployment.chain_id, head.header.number);
    let fix = "wait until the node has caught up; check its peers and this machine's clock";
    report.check(age <= HEAD_AGE_SECONDS_MAX, Verdict::Warn, part, found, fix);

    let found = match provider.get_block_by_number(BlockNumberOrTag::Finalized).await {
        Ok(Some(block)) => Some(block.header.number),
        Ok(None) | Err(_) => None,
    };
    let fix = "if the chain has no such tag: choose --finality-depth with its documentation";
    let text = found.map_or("does not say what is final".into(), |number| format!("block {number} is final"));
    report.check(found.is_some(), Verdict::Warn, part, text, fix);

    let checked = tidemark::deploy::check(provider, deployment).await?;
    let wrong = checked.checks.iter().find(|check| !check.ok);
    let found = wrong.map_or(format!("{} checks of the contracts hold", checked.checks.len()), |check| {
        format!("{}: {}", check.name, check.detail)
    });
    let fix = "do not serve with it; `tidemark verify deployment` says more";
    report.check(wrong.is_none(), Verdict::Fail, part, found, fix);
    let paused = ProvenanceLog::new(deployment.provenance_log, provider).paused().call().await?;
    let found = if paused { "the log is paused" } else { "the log takes batches" };
    report.check(!paused, Verdict::Warn, part, found, "wait for its pauser: batches are kept and sent afterwards");
    Ok(())
}

/// Whose signatures it makes, where it answers.
async fn attestor(report: &mut Report, config: &Serve, deployment: &Deployment) -> Option<Address> {
    let part = "attestor";
    let client = AttestorClient::new(&config.attestor_url, &config.attestor_token, deployment.batch_domain());
    let client = report.value(part, client, "--attestor-url http://host:port")?;
    let ready = in_time(async { Ok(client.is_ready().await) }).await.unwrap_or_default();
    let found = if ready { "ready" } else { "not ready" };
    report.check(ready, Verdict::Fail, part, found, "start tidemark-attestor; check --attestor-url and its database");
    if !ready {
        return None;
    }
    if let Some(right) = report.value(part, in_time(client.takes_token()).await, "read its log") {
        let found = if right { "takes our token" } else { "does not take our token" };
        report.check(right, Verdict::Fail, part, found, "give both the same TIDEMARK_ATTESTOR_TOKEN");
    }
    let key = report.value(part, in_time(client.address()).await, "is --attestor-url really the attestor's?")?;
    report.add(Verdict::Ok, part, format!("signs as {key}"), "");
    Some(key)
}

/// One block is written, read back and deleted.
async fn store(report: &mut Report, address: &str) {
    let tried = in_time(async {
        let store = Store::open(address)?;
        let mut bytes = [0u8; 64];
        getrandom::fill(&mut bytes)?;
        let cid = store.put(&bytes).await?;
        let read = store.get(&cid, 64).await?;
        anyhow::ensure!(read.as_ref() == bytes, "read other bytes than were written");
        store.delete(&cid).await?;
        match store.get(&cid, 64).await {
            Err(StoreError::NotFound { .. }) => Ok(()),
            _ => anyhow::bail!("a deleted block is still there"),
        }
    });
    let fix = "--store: folder:/path that this user may write, or kubo:http://host:port; check the disk's free space";
    if report.value("store", tried.await, fix).is_some() {
        report.add(Verdict::Ok, "store", "a block was written, read and deleted", "");
    }
}

async fn sealed_secrets(report: &mut Report, db: &PgPool, key: &StorageKey) {
    let tried = in_time(async {
        let contributors = contributor::opens_a_secret(db, key).await?;
        let webhooks = outbox::opens_a_secret(db, key).await?;
        Ok((contributors, webhooks))
    });
    let part = "storage key";
    match tried.await {
        Ok((None, None)) => report.add(Verdict::Ok, part, "nothing is sealed yet", ""),
        Ok(opened) => {
            let holds = opened.0 != Some(false) && opened.1 != Some(false);
            let found = if holds { "opens what is sealed" } else { "does not open what is sealed in this database" };
            let fix = "put back the key file that belongs to this database";
            report.check(holds, Verdict::Fail, part, found, fix);
        }
        // before the first start there are no tables
        Err(error) => report.add(Verdict::Warn, part, causes(error.as_ref()), "start `serve` once, then ask again"),
    }
}

/// Can pay for a while, and nobody else uses its key.
async fn sender(report: &mut Report, chain: &Chain, db: Option<&PgPool>, signer: Address) -> anyhow::Result<()> {
    let part = format!("sender {signer}");
    let balance = chain.provider.get_balance(signer).await?;
    let fees = tidemark::chain::fees(&chain.provider).await?;
    let needed = U256::from(fees.max_fee_per_gas).saturating_mul(U256::from(ANCHOR_GAS * ANCHORS_MIN));
    let found = format!("{} ether; {ANCHORS_MIN} batches cost up to {}", format_ether(balance), format_ether(needed));
    let otherwise = if balance.is_zero() { Verdict::Fail } else { Verdict::Warn };
    report.check(balance >= needed, otherwise, &part, found, "send it ether");

    let on_chain = chain.provider.get_transaction_count(signer).await?;
    let pending = chain.provider.get_transaction_count(signer).pending().await?;
    let Some(db) = db else { return Ok(()) };
    let next: Option<i64> = sqlx::query_scalar("SELECT next_nonce FROM nonce_lane WHERE chain_id = $1 AND signer = $2")
        .bind(i64::try_from(chain.deployment.chain_id)?)
        .bind(signer.0.0)
        .fetch_optional(db)
        .await
        .unwrap_or_default();
    let next = next.and_then(|next| u64::try_from(next).ok());
    let found = format!("nonce {on_chain} on chain, {pending} with what is pending, {next:?} in the database");
    let fix = "use a key of its own for each relayer database: somebody else sent from this one";
    report.check(next.is_none_or(|next| pending <= next), Verdict::Warn, part, found, fix);
    Ok(())
}

/// Each provider is registered, signed for by this attestor, and not behind the chain.
async fn providers(report: &mut Report, chain: &Chain, db: &PgPool, attestor: Option<Address>) -> anyhow::Result<()> {
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass('provider') IS NOT NULL").fetch_one(db).await?;
    let known = if is_there { provider::all(db).await? } else { Vec::new() };
    let fix = "tidemark-relayer provider add";
    report.check(!known.is_empty(), Verdict::Warn, "providers", format!("{} are let in", known.len()), fix);
    for provider in known {
        let part = format!("provider {}", provider.name);
        let Some(seen) = chain.provider_of(provider.account).await? else {
            let fix = "ProvenanceLog.registerProvider from its account; is this the right chain?";
            report.add(Verdict::Fail, part, format!("{} is not registered on chain", provider.account), fix);
            continue;
        };
        let holder = chain.provider_named(&provider.name).await?;
        let fix = "this database belongs to another deployment";
        let found = format!("{} is on chain", provider.account);
        report.check(holder == Some(provider.account), Verdict::Fail, &part, found, fix);
        let is_contract = !chain.provider.get_code_at(seen.attestor).await?.is_empty();
        match attestor {
            Some(key) if key != seen.attestor && !is_contract => {
                let found = format!("names attestor {}, ours signs as {key}", seen.attestor);
                let fix = "ProvenanceLog.setAttestor from its account, or start the attestor with the right key";
                report.add(Verdict::Fail, &part, found, fix);
            }
            Some(key) if is_contract => {
                let found = format!("names the contract {} as attestor; ours signs as {key}", seen.attestor);
                report.add(Verdict::Warn, &part, found, "check that the contract takes that key's signature");
            }
            Some(_) => report.add(Verdict::Ok, &part, format!("names our attestor {}", seen.attestor), ""),
            None => {}
        }
        let next = batch::next_number(db, provider.account).await?;
        let found = format!("next batch {} on chain, {next:?} here", seen.nextBatch);
        let fix = "another relayer anchors for this provider; stop one of them, or restore the newest backup";
        report.check(next.is_some_and(|next| next >= seen.nextBatch), Verdict::Fail, &part, found, fix);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_and_says_how_to_fix_what_is_wrong() {
        let mut report = Report::default();
        report.check(true, Verdict::Fail, "store", "works", "never shown");
        report.check(false, Verdict::Warn, "clock", "9 ms off", "run NTP");
        let lines: Vec<String> = report.0.iter().map(Finding::line).collect();
        assert_eq!(lines, ["ok   store: works", "WARN clock: 9 ms off; fix: run NTP"]);
    }
}
