//! Strangers: they verify and download with chain and content store only, and run an indexer of their own.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use alloy::primitives::U256;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tidemark::ids::{ContentHash, DataId};
use tokio::process::Command;

use crate::{
    folder::program,
    keys::role,
    services::Service,
    stack::{PROVIDER_NAME, Stack},
};

const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);
const CATCH_UP_TIME_MAX: Duration = Duration::from_secs(30);

/// What `tidemark verify … --json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// What was verified.
    pub subject: String,
    /// Whether every check holds.
    pub verified: bool,
    /// One by one.
    pub checks: Vec<Check>,
}

/// One check of a report.
#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

impl Report {
    /// First check that does not hold.
    pub fn failure(&self) -> Option<String> {
        let failed = self.checks.iter().find(|check| !check.ok);
        failed.map(|check| format!("{}: {}: {}", self.subject, check.name, check.detail))
    }
}

/// The `tidemark` command with RPC, deployment file and content store in its environment, and nothing else of ours.
pub async fn tidemark(stack: &Stack, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(program("tidemark")?);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).kill_on_drop(true);
    command.env("TIDEMARK_RPC_URL", stack.chain.url());
    command.env("TIDEMARK_DEPLOYMENT", stack.deployment_path());
    command.env("TIDEMARK_STORE", stack.store_address());
    let output = tokio::time::timeout(COMMAND_TIME_MAX, command.output()).await;
    let output = output.with_context(|| format!("tidemark {} took too long", arguments.join(" ")))?;
    output.context("failed to run tidemark")
}

async fn verify(stack: &Stack, arguments: &[&str]) -> Result<Report> {
    let all = [&["verify"], arguments, &["--json"]].concat();
    let output = tidemark(stack, &all).await?;
    let report = serde_json::from_slice::<Report>(&output.stdout);
    let said = || format!("tidemark {}: {}", all.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    let report = report.with_context(said)?;
    ensure!(report.verified == output.status.success(), "tidemark's exit code does not say what its report says");
    Ok(report)
}

/// `tidemark verify data`.
pub async fn verify_data(stack: &Stack, data_id: DataId) -> Result<Report> {
    verify(stack, &["data", &data_id.to_string()]).await
}

/// `tidemark verify batch`.
pub async fn verify_batch(stack: &Stack, number: u64) -> Result<Report> {
    verify(stack, &["batch", PROVIDER_NAME, &number.to_string()]).await
}

/// `tidemark verify license`.
pub async fn verify_license(stack: &Stack, license: U256) -> Result<Report> {
    verify(stack, &["license", &license.to_string()]).await
}

/// `tidemark download` as the buyer; gives the content hash of each file, taken from the file itself.
pub async fn download(stack: &Stack, license: U256, out: &Path) -> Result<BTreeMap<DataId, ContentHash>> {
    let custodian = stack.custodian.as_ref().context("the stack was started without a custodian")?;
    let (license, key_file, out_text) = (license.to_string(), stack.key_file(role::BUYER), out.display().to_string());
    let key_file = key_file.display().to_string();
    let flags = ["--key-file", &key_file, "--custodian", custodian.url(), "--out", &out_text, "--json"];
    let output = tidemark(stack, &[&["download", license.as_str()], flags.as_slice()].concat()).await?;
    if !output.status.success() {
        bail!("tidemark download failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    hash_files(out)
}

fn hash_files(folder: &Path) -> Result<BTreeMap<DataId, ContentHash>> {
    let mut hashes = BTreeMap::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))? {
        let path = entry.context("failed to read a folder entry")?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Ok(data_id) = name.parse::<DataId>() {
            let bytes = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
            hashes.insert(data_id, ContentHash::of(&bytes));
        }
    }
    Ok(hashes)
}

/// Rows and checksum of every table of schema `public`, by table.
pub type Checksums = BTreeMap<String, (i64, String)>;

/// Checksums of one indexer's public tables.
pub async fn checksums(database_url: &str) -> Result<Checksums> {
    let connected = PgConnection::connect(database_url).await;
    let mut connection = connected.with_context(|| format!("failed to connect to {database_url}"))?;
    let tables = sqlx::query_scalar::<_, String>(
        "SELECT table_name::text FROM information_schema.tables
         WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND table_name NOT LIKE '\\_sqlx%' ORDER BY 1",
    );
    let tables = tables.fetch_all(&mut connection).await.context("failed to list the tables")?;
    let mut checksums = Checksums::new();
    for table in tables {
        let statement = format!(
            "SELECT count(*), coalesce(md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))), '') FROM public.\"{table}\" t"
        );
        let row = sqlx::query(AssertSqlSafe(statement)).fetch_one(&mut connection).await;
        let row = row.with_context(|| format!("failed to read the table {table}"))?;
        checksums.insert(table, (row.try_get(0)?, row.try_get(1)?));
    }
    ensure!(!checksums.is_empty(), "{database_url} has no tables");
    Ok(checksums)
}

/// Tables in which two indexers differ, with their row counts.
pub fn differences(first: &Checksums, second: &Checksums) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = first.keys().chain(second.keys()).collect();
    let rows = |sums: &Checksums, name: &str| sums.get(name).map_or(0, |(rows, _)| *rows);
    let differs = names.into_iter().filter(|name| first.get(*name) != second.get(*name));
    differs.map(|name| format!("{name} ({} and {} rows)", rows(first, name), rows(second, name))).collect()
}

/// A second indexer from nothing beside the one on `database`; waits until their tables are equal, and fails with those that differ.
pub async fn second_indexer(stack: &Stack, database: &str) -> Result<(Service, Checksums)> {
    let second = format!("{database}_second");
    let service = stack.start_second_indexer(&second).await?;
    let deadline = Instant::now() + CATCH_UP_TIME_MAX;
    loop {
        let first = checksums(&stack.postgres.url(database)).await?;
        let differences = differences(&first, &checksums(&stack.postgres.url(&second)).await?);
        if differences.is_empty() {
            return Ok((service, first));
        }
        ensure!(Instant::now() < deadline, "a second indexer has other rows in: {}", differences.join(", "));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
