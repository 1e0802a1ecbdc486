//! `scripts/kms-check`: a relayer whose key is in AWS KMS, through the AWS SDK as it is used in the cloud. The KMS is local-kms,
//! which is not the cloud: it asks for no permissions and speaks no TLS.
#![allow(clippy::print_stdout, reason = "printing is what a command line does")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use alloy::{
    primitives::{Address, TxHash},
    providers::Provider as _,
};
use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tidemark_tests::{
    Options, Stack,
    folder::repository,
    process::{Process, Stop},
    services::{Service, Wiring, free_port, wait_until},
    signal::stop_signal,
    wirings::relayer_command,
    write_side::{App, changed, start},
};

const REGION: &str = "eu-central-1";
const START_TIME_MAX: Duration = Duration::from_secs(10);
/// Longer than the relayer waits for one signature.
const OUTAGE: Duration = Duration::from_secs(12);
const POLL: Duration = Duration::from_millis(500);
const BATCHES: u32 = 12;
/// Sent once KMS is back.
const BATCHES_LATER: u32 = 2;
const SECRET: &str = "nobody-s-secret";
/// SubjectPublicKeyInfo of a key on the curve ends with 4, x and y.
const POINT_BYTES: usize = 65;

#[tokio::main]
async fn main() -> Result<()> {
    let stopped = stop_signal()?;
    tokio::select! {
        checked = check() => checked,
        signal = stopped => anyhow::bail!("stopped by {signal}"),
    }
}

async fn check() -> Result<()> {
    let quick = Options { batch_events_max: 1, batch_age_ms_max: 50, poll_ms: 30, ..Options::default() };
    let (mut stack, _world, app) = start(quick).await?;
    let mut kms = Kms::start(&stack).await?;
    refusals(&stack, &kms).await?;
    println!("ok: a key on another curve, one that is not there, and a KMS without an answer are refused at the start");
    let key = kms.key("ECC_SECG_P256K1").await?;
    let alias = "alias/tidemark-anchor";
    kms.ask("CreateAlias", json!({"AliasName": alias, "TargetKeyId": key})).await?;
    let address = kms.address(&key).await?;
    stack.chain.fund(address).await?;
    let wiring = kms.wiring(&stack, alias)?;
    stack.relayer.take().context("the stack has no relayer")?.stop();
    let relayer = Service::start(&stack.folder, wiring).await?;
    let doctor = relayer.run_once(&relayer_command(relayer.wiring(), &["doctor"]))?;
    ensure!(doctor.contains(&format!("ok   sender {address}")), "expected the address of the key, {address}: {doctor}");
    stack.relayer = Some(relayer);
    println!("ok: the relayer has the address of {alias}, {address}");

    app.register(0, BATCHES).await?;
    app.reached(u64::from(BATCHES), &["final"]).await?;
    println!("ok: {BATCHES} batches are final");
    outage(&mut stack, &app, &mut kms).await?;
    let batches = app.reached(u64::from(BATCHES + BATCHES_LATER), &["final"]).await?;
    println!("ok: without KMS {BATCHES_LATER} more waited, and are final now that it is back");

    app.check_anchored_once(&stack, &batches).await?;
    for batch in &batches {
        let hash: TxHash = batch["transaction"].as_str().context("a batch without a transaction")?.parse()?;
        let sent = stack.provider().get_transaction_by_hash(hash).await?.context("a transaction that is nowhere")?;
        ensure!(sent.inner.signer() == address, "{hash} is from {}, not from {address}", sent.inner.signer());
    }
    let nonce = stack.provider().get_transaction_count(address).await?;
    ensure!(nonce == batches.len() as u64, "{nonce} transactions for {} batches", batches.len());
    let log = std::fs::read_to_string(stack.folder.log("local-kms")).context("read the log of local-kms")?;
    let signed = log.matches("DIGEST message signed with ECC_SECG_P256K1").count();
    ensure!(signed >= batches.len(), "local-kms signed {signed} digests for {} transactions", batches.len());
    println!("ok: the chain says of each that {address} sent it, and local-kms that it signed");
    Ok(())
}

/// A relayer does not start with a key that can't send, says which, and keeps the secret.
async fn refusals(stack: &Stack, kms: &Kms) -> Result<()> {
    let relayer = stack.relayer.as_ref().context("the stack has no relayer")?;
    let curve = kms.key("ECC_NIST_P256").await?;
    let mut wirings = Vec::new();
    for key in [curve.as_str(), "11111111-2222-3333-4444-555555555555"] {
        wirings.push((key, kms.wiring(stack, key)?));
    }
    let nobody = ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", free_port()?));
    wirings.push((curve.as_str(), changed(&kms.wiring(stack, &curve)?, &[nobody])));
    for (key, wiring) in wirings {
        let Err(said) = relayer.run_once(&relayer_command(&wiring, &["serve"])) else {
            anyhow::bail!("a relayer with the key {key} ended well")
        };
        let said = said.to_string();
        ensure!(said.contains(&format!("--sender aws-kms:{key}")), "the key is not named: {said}");
        ensure!(said.contains("AWS KMS"), "it is not said who was asked: {said}");
        ensure!(!said.contains(SECRET), "the secret is told");
    }
    Ok(())
}

/// Ends KMS, has records come in meanwhile, and starts it again.
async fn outage(stack: &mut Stack, app: &App, kms: &mut Kms) -> Result<()> {
    kms.process.stop();
    app.register(BATCHES, BATCHES_LATER).await?;
    let deadline = Instant::now() + OUTAGE;
    while Instant::now() < deadline {
        stack.relayer.as_mut().context("the stack has no relayer")?.check_running()?;
        let batches = app.get("/v1/batches?limit=500").await?;
        let list = batches["batches"].as_array().context("no list of batches")?;
        let anchored = list.iter().filter(|batch| batch["state"] == "final").count();
        ensure!(anchored == BATCHES as usize, "nobody signed, and a batch was sent: {batches}");
        tokio::time::sleep(POLL).await;
    }
    kms.process = spawn(stack, kms.port)?;
    kms.answers().await
}

/// A running emulator, whose keys are in the stack's folder.
struct Kms {
    url: String,
    port: u16,
    process: Process,
}

impl Kms {
    async fn start(stack: &Stack) -> Result<Self> {
        let port = free_port()?;
        let mut kms = Self { url: format!("http://127.0.0.1:{port}"), port, process: spawn(stack, port)? };
        kms.answers().await?;
        Ok(kms)
    }

    async fn answers(&mut self) -> Result<()> {
        let url = self.url.clone();
        wait_until(&mut self.process, START_TIME_MAX, async || reqwest::get(&url).await.is_ok()).await
    }

    async fn ask(&self, action: &str, body: Value) -> Result<Value> {
        let request = reqwest::Client::new().post(&self.url).header("x-amz-target", format!("TrentService.{action}"));
        let answer = request.header("content-type", "application/x-amz-json-1.1").body(body.to_string()).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{action}: {status} {text}");
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// A new key's id.
    async fn key(&self, spec: &str) -> Result<String> {
        let made = self.ask("CreateKey", json!({"KeySpec": spec, "KeyUsage": "SIGN_VERIFY"})).await?;
        Ok(made["KeyMetadata"]["KeyId"].as_str().with_context(|| format!("a key without an id: {made}"))?.to_owned())
    }

    /// The address of a key, out of its public key and without the relayer's code.
    async fn address(&self, key: &str) -> Result<Address> {
        let answer = self.ask("GetPublicKey", json!({"KeyId": key})).await?;
        let der = STANDARD.decode(answer["PublicKey"].as_str().context("no public key")?)?;
        let point = der.last_chunk::<POINT_BYTES>().context("a short public key")?;
        ensure!(point[0] == 4, "expected a point in full, got {point:02x?}");
        Ok(Address::from_raw_public_key(&point[1..]))
    }

    /// The stack's relayer with this key and no other.
    fn wiring(&self, stack: &Stack, key: &str) -> Result<Wiring> {
        let cloud = [
            ("TIDEMARK_SENDER", format!("aws-kms:{key}")),
            ("AWS_ENDPOINT_URL", self.url.clone()),
            ("AWS_REGION", REGION.into()),
            ("AWS_ACCESS_KEY_ID", "nobody".into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
        ];
        let mut wiring = changed(stack.relayer.as_ref().context("the stack has no relayer")?.wiring(), &cloud);
        wiring.environment.retain(|(name, _)| *name != "TIDEMARK_SENDER_KEY_FILE");
        Ok(wiring)
    }
}

fn spawn(stack: &Stack, port: u16) -> Result<Process> {
    let program: PathBuf = repository().join(".tidemark/tools/local-kms");
    let folder: &Path = stack.folder.path();
    let mut command = Command::new(program);
    command.env_clear().env("PORT", port.to_string()).env("KMS_REGION", REGION);
    command.env("KMS_DATA_PATH", folder.join("kms")).env("KMS_SEED_PATH", folder.join("none.yaml"));
    Process::spawn("local-kms", command, &stack.folder.log("local-kms"), &stack.folder.pid_file(), Stop::Terminate)
}
