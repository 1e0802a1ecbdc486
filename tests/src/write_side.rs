//! The write side under attack: providers that go on sending, relayers that are wired anew, and what must hold at the end.

use std::time::{Duration, Instant};

use alloy::{primitives::Address, providers::Provider as _, rpc::types::Filter, sol_types::SolEvent};
use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tidemark::{
    batch::Header,
    contracts::{PointsTreasury, ProvenanceLog},
    ids::{ContentHash, DataId},
};

use crate::{
    Stack,
    keys::{dev_address, role},
    mined,
    services::{Service, Wiring, free_port},
    stack::Options,
    stack::{PROVIDER_NAME, Services},
    story::{
        doors::{kept_metadata, metadata_update, registration, upload_form},
        world::World,
    },
};

const TIME_MAX: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(100);
/// Longer than any request that a relayer under attack may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(15);

/// A provider's app.
#[derive(Clone, Debug)]
pub struct App {
    client: Client,
    name: String,
    /// Its account on chain.
    pub account: Address,
    api_key: String,
    /// Relayers that it may speak to; where one does not answer it asks the next.
    pub relayers: Vec<String>,
}

/// A stack of the write side with a provider; blocks come by themselves.
pub async fn start(options: Options) -> Result<(Stack, World, App)> {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::WriteSide, ..options }).await?;
    let world = World::build(&stack, [1, 1, 1]).await?;
    let relayer = stack.relayer.as_ref().context("the stack has no relayer")?.url().to_owned();
    let app = App::new(PROVIDER_NAME, world.provider, &world.api_key, vec![relayer])?;
    Ok((stack, world, app))
}

/// The same wiring with some of its environment changed or added.
pub fn changed(wiring: &Wiring, changes: &[(&'static str, String)]) -> Wiring {
    let mut wiring = wiring.clone();
    for (name, value) in changes {
        wiring.environment.retain(|(known, _)| known != name);
        wiring.environment.push((name, value.clone()));
    }
    wiring
}

/// Starts the stack's relayer anew with some of its environment changed.
pub async fn rewire(stack: &mut Stack, changes: &[(&'static str, String)]) -> Result<()> {
    let mut relayer = stack.relayer.take().context("the stack has no relayer")?;
    relayer.stop();
    stack.relayer = Some(Service::start(&stack.folder, changed(relayer.wiring(), changes)).await?);
    Ok(())
}

/// One more relayer like the stack's, on a port of its own.
pub async fn another_relayer(stack: &Stack, name: &str, changes: &[(&'static str, String)]) -> Result<Service> {
    let port = free_port()?;
    let own = [&[("TIDEMARK_RELAYER_LISTEN", format!("127.0.0.1:{port}"))], changes].concat();
    let like = stack.relayer.as_ref().context("the stack has no relayer")?.wiring();
    let wiring = Wiring { name: name.into(), port, ..changed(like, &own) };
    Service::start(&stack.folder, wiring).await
}

/// One more provider, registered on chain and let into a relayer.
pub async fn another_provider(stack: &Stack, world: &World, name: &str, relayer: &Service) -> Result<App> {
    let (sender, account) = (stack.sender(name).await?, dev_address(name)?);
    let deployment = &stack.deployment;
    let operator = dev_address(role::TREASURY_OPERATOR)?;
    let treasury = PointsTreasury::deploy(&sender, deployment.provenance_log, account, world.token, operator).await?;
    let log = ProvenanceLog::new(deployment.provenance_log, &sender);
    let attestor = dev_address(role::ATTESTOR)?;
    mined!("register a provider", log.registerProvider(name.into(), attestor, *treasury.address(), world.token, 0));
    let arguments = ["provider", "add", "--name", name, "--account", &account.to_string()].map(str::to_owned);
    let adding = Wiring { name: format!("add-{name}"), arguments: arguments.into(), ..relayer.wiring().clone() };
    App::new(name, account, &relayer.run_once(&adding)?, vec![relayer.url().to_owned()])
}

impl App {
    /// A provider's app with an API key.
    pub fn new(name: &str, account: Address, api_key: &str, relayers: Vec<String>) -> Result<Self> {
        let client = Client::builder().timeout(REQUEST_TIME_MAX).build().context("failed to make an HTTP client")?;
        Ok(Self { client, name: name.into(), account, api_key: api_key.into(), relayers })
    }

    /// The record that [`App::register`] makes of a number.
    pub fn data_id(&self, number: u32) -> Result<DataId> {
        DataId::new(&self.name, &format!("{}-{number}", self.name)).context("a source record id")
    }

    /// Its metadata after so many updates.
    fn metadata(&self, number: u32, updates: u32) -> (String, Value) {
        let id = format!("{}-{number}", self.name);
        let metadata = kept_metadata(&id, ContentHash::of(id.as_bytes()), updates);
        (id, metadata)
    }

    /// Registers records `from` to `from + count`, again and again until some relayer has taken them.
    pub async fn register(&self, from: u32, count: u32) -> Result<()> {
        let item = |number| {
            let (id, metadata) = self.metadata(number, 0);
            registration(&id, &metadata)
        };
        let items = (from..from + count).map(item).collect::<Result<Vec<Value>>>()?;
        self.post_batch("records:batch", &format!("{}-{from}", self.name), json!(items)).await
    }

    /// Sends a record's next update, which is the `updates`-th, until some relayer has taken it.
    pub async fn update(&self, number: u32, updates: u32) -> Result<()> {
        let (before, after) = (self.metadata(number, updates - 1).1, self.metadata(number, updates).1);
        let item = metadata_update(self.data_id(number)?, updates, &before, &after)?;
        let batch_id = format!("{}-{number}-update-{updates}", self.name);
        self.post_batch("metadata-updates:batch", &batch_id, json!([item])).await
    }

    async fn post_batch(&self, path: &str, batch_id: &str, items: Value) -> Result<()> {
        let body = items.to_string();
        let request = |relayer: &str| {
            let request = self.client.post(format!("{relayer}/webhook/v1/data-audit/{path}")).body(body.clone());
            Ok(request.header("content-type", "application/json").header("x-batch-id", batch_id))
        };
        self.until_taken(batch_id, request).await.map(drop)
    }

    /// Uploads a file until some relayer has judged it; gives the answer.
    pub async fn upload(&self, meta: &Value, mime: &str, bytes: &[u8]) -> Result<Value> {
        let request = |relayer: &str| {
            let form = upload_form(meta, mime, bytes.to_vec())?;
            Ok(self.client.post(format!("{relayer}/v1/submissions")).multipart(form))
        };
        let text = self.until_taken(&meta["source_record_id"].to_string(), request).await?;
        serde_json::from_str(&text).with_context(|| format!("an answer that can't be read: {text}"))
    }

    /// Asks one relayer after the other, again and again, until one says yes; gives what it said. A refusal is an error.
    async fn until_taken(&self, what: &str, request: impl Fn(&str) -> Result<RequestBuilder>) -> Result<String> {
        let deadline = Instant::now() + TIME_MAX;
        loop {
            let mut said = String::from("there is no relayer");
            for relayer in &self.relayers {
                let request = request(relayer)?.header("x-api-key", &self.api_key).header("x-provider", &self.name);
                said = match request.send().await {
                    Ok(answer) => {
                        let status = answer.status();
                        match answer.text().await {
                            Ok(text) if status.is_success() => return Ok(text),
                            Ok(text) => {
                                ensure!(status.is_server_error(), "{relayer} refused {what}: {status}: {text}");
                                format!("{status}: {text}")
                            }
                            Err(error) => error.to_string(),
                        }
                    }
                    Err(error) => error.to_string(),
                };
            }
            ensure!(Instant::now() < deadline, "no relayer took {what}: {said}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// JSON of the first relayer that answers.
    pub async fn get(&self, path: &str) -> Result<Value> {
        let mut said = String::from("there is no relayer");
        for relayer in &self.relayers {
            match self.client.get(format!("{relayer}{path}")).header("x-api-key", &self.api_key).send().await {
                Ok(answer) if answer.status().is_success() => {
                    return serde_json::from_str(&answer.text().await?).with_context(|| format!("read {path}"));
                }
                Ok(answer) => said = format!("{relayer}: {}", answer.status()),
                Err(error) => said = format!("{relayer}: {error}"),
            }
        }
        bail!("{path}: {said}")
    }

    /// The first lane of the first relayer that answers.
    pub async fn lane(&self) -> Result<Value> {
        Ok(self.get("/status").await?["lanes"][0].clone())
    }

    /// Asks for the first lane until it is as wanted.
    pub async fn lane_until(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + TIME_MAX;
        loop {
            let lane = self.lane().await?;
            if wanted(&lane) {
                return Ok(lane);
            }
            ensure!(Instant::now() < deadline, "the lane stays {lane}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until so many events are in batches of one of these states.
    pub async fn reached(&self, events: u64, states: &[&str]) -> Result<Vec<Value>> {
        let deadline = Instant::now() + TIME_MAX;
        loop {
            let batches = self.get("/v1/batches?limit=500").await;
            if let Ok(batches) = &batches {
                let batches = batches["batches"].as_array().context("no list of batches")?;
                let done = batches.iter().filter(|batch| states.contains(&batch["state"].as_str().unwrap_or_default()));
                if done.filter_map(|batch| batch["event_count"].as_u64()).sum::<u64>() == events {
                    return Ok(batches.clone());
                }
            }
            if Instant::now() > deadline {
                bail!("not {events} events are {states:?}: {batches:#?}, {:?}", self.get("/status").await);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What must hold of the provider's batches at the end: no gap in their numbers, and the chain's log has each of them
    /// once, with this root.
    pub async fn check_anchored_once(&self, stack: &Stack, batches: &[Value]) -> Result<()> {
        let filter = Filter::new().address(stack.deployment.provenance_log).from_block(0);
        let filter = filter.event_signature(ProvenanceLog::BatchAnchored::SIGNATURE_HASH);
        let logs = stack.provider().get_logs(&filter.topic1(self.account.into_word())).await?;
        ensure!(logs.len() == batches.len(), "{}: {} logs of {} batches", self.name, logs.len(), batches.len());
        let log = ProvenanceLog::new(stack.deployment.provenance_log, stack.provider());
        for (number, batch) in batches.iter().enumerate() {
            ensure!(batch["number"] == json!(number), "{}: a gap before batch {number}: {batches:#?}", self.name);
            let header: Header = serde_json::from_value(batch["header"].clone())?;
            ensure!(header.provider == self.account, "a batch of somebody else: {batch}");
            let root = log.rootOf(header.provider, header.number).call().await?;
            ensure!(root == header.root, "{}: batch {number} has another root on chain", self.name);
        }
        Ok(())
    }
}
