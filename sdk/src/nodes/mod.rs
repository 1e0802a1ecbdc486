//! Nodes of the chain: reads go to the first one that is well, signed transactions to all of them; a breaker for each.
//!
//! ```text
//!  closed ── failures in a row ──► open ── after a while: the trial (chain id, code, newest block) ──► closed, or open
//! ```
//!
//! alloy has a `FallbackLayer`; it asks several nodes at once, scores them by latency and takes the first answer. Here the
//! order is the operator's, so that one node's view of the chain is used as long as it answers, and a signed transaction
//! reaches every node. alloy's own HTTP transport puts the whole URL, and with it an API key, into its spans, and reads
//! answers without end.

pub mod said;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context as TaskContext, Poll},
    time::{Duration, Instant},
};

use alloy::{
    eips::BlockNumberOrTag,
    primitives::keccak256,
    providers::{DynProvider, Provider, ProviderBuilder},
    rpc::{
        client::RpcClient,
        json_rpc::{Id, Request, RequestPacket, ResponsePacket, ResponsePayload, RpcError, RpcSend, SerializedRequest},
    },
    transports::{TransportError, TransportErrorKind, TransportFut},
};
use anyhow::{Context, bail, ensure};
use futures::{StreamExt, stream::FuturesUnordered};
use reqwest::{Client, Url, redirect::Policy};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tower::Service;

use self::said::{Said, TOO_LONG};
use crate::{chain::Deployment, download::unix_seconds, service::causes};

/// Nodes that may be given.
const NODES_MAX: usize = 8;
/// Above the 5 s after which geth itself gives up on a call, so that a provider's slow contract does not look like a node
/// that is not well.
const CALL_TIME_MAX: Duration = Duration::from_secs(10);
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// Of an error page, for people.
const ERROR_CHARS_MAX: usize = 300;
/// Failures in a row that open a breaker.
const FAILURES_MAX: u32 = 3;
/// How often the nodes' newest blocks are compared.
const COMPARE_TIME: Duration = Duration::from_secs(15);
/// A node whose newest block is so many seconds older than another's is kept out: it answers, and of the past.
const BEHIND_SECONDS_MAX: u64 = 60;
/// How long an open breaker keeps a node out before its next trial.
const OPEN_TIME: Duration = Duration::from_secs(2);

/// A transport over all nodes of the chain.
#[derive(Clone, Debug)]
pub struct Nodes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nodes: Vec<Arc<Node>>,
    deployment: Deployment,
    /// Unix seconds of the newest block of any node, when they were compared last.
    newest: AtomicU64,
}

/// How a node is, for `/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Host and port; the rest of its URL may hold a key.
    pub name: String,
    /// Why it is kept out, where it is.
    pub error: Option<String>,
}

struct Node {
    name: String,
    url: Url,
    client: Client,
    breaker: Mutex<Breaker>,
    /// One trial at a time.
    trial: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
enum Breaker {
    Closed { failures: u32 },
    Open { until: Instant, error: String },
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a node can't be used.
enum Unfit {
    /// It may be later: it does not answer, or has not got so far.
    Now(String),
    /// It is of another chain, or has other contracts.
    Ever(String),
}

/// Opens the nodes: each that answers must be of the deployment's chain and hold its contracts, and one has to answer.
/// Those that do not are tried again while the service runs.
pub async fn connect(urls: &[String], deployment: &Deployment) -> anyhow::Result<(DynProvider, Nodes)> {
    ensure!((1..=NODES_MAX).contains(&urls.len()), "--rpc-url: expected 1 to {NODES_MAX} URLs, got {}", urls.len());
    // following a redirect would take the key in the URL elsewhere
    let client = Client::builder().timeout(CALL_TIME_MAX).connect_timeout(CONNECT_TIME_MAX).redirect(Policy::none());
    let client = client.build().context("make an HTTP client")?;
    let nodes = urls.iter().enumerate().map(|(at, url)| Node::new(urls, at, url, &client).map(Arc::new));
    let nodes = nodes.collect::<anyhow::Result<_>>()?;
    let nodes = Nodes(Arc::new(Inner { nodes, deployment: deployment.clone(), newest: AtomicU64::new(0) }));
    let checks = nodes.0.nodes.iter().map(|node| node.check(&nodes.0));
    let mut errors = Vec::new();
    for (node, checked) in nodes.0.nodes.iter().zip(futures::future::join_all(checks).await) {
        match checked {
            Ok(()) => node.close(),
            Err(Unfit::Ever(error)) => bail!("RPC {}: {error}", node.name),
            Err(Unfit::Now(error)) => {
                errors.push(format!("RPC {}: {error}", node.name));
                node.open(error);
            }
        }
    }
    ensure!(errors.len() < urls.len(), "{}", errors.join("; "));
    let client = RpcClient::new(nodes.clone(), false);
    Ok((ProviderBuilder::new().connect_client(client).erased(), nodes))
}

impl Nodes {
    /// How each node is, in the order given.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = |node: &Arc<Node>| Seen { name: node.name.clone(), error: node.why_out() };
        self.0.nodes.iter().map(seen).collect()
    }

    /// Compares the nodes from time to time, until `stop`.
    pub async fn watch(&self, stop: &CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(COMPARE_TIME)).await.is_some() {
            self.compare().await;
        }
    }

    /// Keeps those out that stay behind the others.
    pub async fn compare(&self) {
        let closed = self.closed();
        if self.0.nodes.len() < 2 || closed.is_empty() {
            return;
        }
        let blocks = futures::future::join_all(closed.iter().map(|node| node.newest())).await;
        // a block of the future is a lie, or a clock that is wrong: others are not behind it
        let now = unix_seconds();
        let newest = blocks.iter().flatten().copied().filter(|time| *time <= now).max().unwrap_or(0);
        self.0.newest.store(newest, Ordering::Relaxed);
        for (node, block) in closed.iter().zip(blocks) {
            if let Some(error) = block.ok().and_then(|block| behind(block, newest)) {
                node.open(error);
            }
        }
    }

    /// Those that are well, in the order given, each to be asked by itself: for who compares what they say.
    pub async fn well(&self) -> Vec<One> {
        self.usable().await.into_iter().map(One).collect()
    }

    fn closed(&self) -> Vec<Arc<Node>> {
        self.0.nodes.iter().filter(|node| node.why_out().is_none()).cloned().collect()
    }

    /// Those that are well. Others whose time has come get their trial: behind the back of this call where it has somebody
    /// else to ask, before it otherwise.
    async fn usable(&self) -> Vec<Arc<Node>> {
        let closed = self.closed();
        let due: Vec<_> = self.0.nodes.iter().filter(|node| node.is_due()).cloned().collect();
        if closed.is_empty() {
            futures::future::join_all(due.iter().map(|node| node.try_out(&self.0))).await;
            return self.closed();
        }
        for node in due {
            let nodes = self.clone();
            tokio::spawn(async move { node.try_out(&nodes.0).await });
        }
        closed
    }

    fn nobody(&self) -> TransportError {
        let seen = self.seen().into_iter().map(|node| format!("{}: {}", node.name, node.error.unwrap_or_default()));
        TransportErrorKind::custom_str(&format!("no node can be asked now: {}", seen.collect::<Vec<_>>().join("; ")))
    }

    /// The first good answer, asking one node after another.
    async fn read(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let mut last = None;
        for node in self.usable().await {
            let answer = node.ask(&request).await;
            if !is_failure(&answer) {
                return answer;
            }
            last = Some(answer);
        }
        last.unwrap_or_else(|| Err(self.nobody()))
    }

    /// Tells all nodes; the first that takes it answers, and the others are told to the end all the same.
    async fn broadcast(self, request: RequestPacket) -> Result<ResponsePacket, TransportError> {
        let asked = self.usable().await.into_iter().map(|node| {
            let request = request.clone();
            tokio::spawn(async move { node.ask(&request).await })
        });
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut refused: Option<Result<ResponsePacket, TransportError>> = None;
        while let Some(joined) = asked.next().await {
            let Ok(answer) = joined else { continue };
            if answer.as_ref().is_ok_and(ResponsePacket::is_success) {
                return answer;
            }
            // what a node says of the transaction tells more than that another was not reached
            if refused.is_none() || refused.as_ref().is_some_and(is_failure) {
                refused = Some(answer);
            }
        }
        refused.unwrap_or_else(|| Err(self.nobody()))
    }
}

impl Service<RequestPacket> for Nodes {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        let nodes = self.clone();
        let sends = request.method_names().any(|method| method == "eth_sendRawTransaction");
        match sends {
            true => Box::pin(nodes.broadcast(request)),
            false => Box::pin(nodes.read(request)),
        }
    }
}

/// How far a node is behind, where that is too far.
fn behind(newest_of_node: u64, newest: u64) -> Option<String> {
    let seconds = newest.saturating_sub(newest_of_node);
    (seconds > BEHIND_SECONDS_MAX).then(|| format!("its newest block is {seconds} s older than another node's"))
}

/// One of the nodes, behind its breaker.
#[derive(Clone, Debug)]
pub struct One(Arc<Node>);

impl One {
    /// Host and port.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Keeps it out until its next trial: what it says can't be.
    pub fn distrust(&self, error: &str) {
        self.0.open(error.to_owned());
    }

    /// The result of one call, as JSON.
    pub async fn ask(&self, method: &'static str, params: impl RpcSend) -> Result<Box<RawValue>, TransportError> {
        match self.0.ask(&RequestPacket::Single(numbered(method, 0, params)?)).await? {
            ResponsePacket::Single(answer) => result(answer.payload),
            ResponsePacket::Batch(_) => Err(RpcError::NullResp),
        }
    }

    /// The results of the same call with different parameters, in their order, in one request.
    pub async fn ask_many(
        &self,
        method: &'static str,
        params: impl IntoIterator<Item = impl RpcSend>,
    ) -> Result<Vec<Box<RawValue>>, TransportError> {
        let calls = params.into_iter().zip(0u64..).map(|(params, id)| numbered(method, id, params));
        let calls = calls.collect::<Result<Vec<_>, _>>()?;
        let count = calls.len();
        let answers = match self.0.ask(&RequestPacket::Batch(calls)).await? {
            ResponsePacket::Batch(answers) => answers,
            // one error for all of them
            ResponsePacket::Single(answer) => return result(answer.payload).and(Err(RpcError::NullResp)),
        };
        // nodes may answer in any order
        let mut results: Vec<Option<Box<RawValue>>> = vec![None; count];
        for answer in answers {
            let at = answer.id.as_number().and_then(|id| usize::try_from(id).ok());
            if let Some(place) = at.and_then(|at| results.get_mut(at)) {
                *place = Some(result(answer.payload)?);
            }
        }
        results.into_iter().collect::<Option<_>>().ok_or(RpcError::NullResp)
    }
}

fn numbered(method: &'static str, id: u64, params: impl RpcSend) -> Result<SerializedRequest, TransportError> {
    Request::new(method, Id::Number(id), params).serialize().map_err(RpcError::ser_err)
}

fn result(payload: ResponsePayload) -> Result<Box<RawValue>, TransportError> {
    match payload {
        ResponsePayload::Success(result) => Ok(result),
        ResponsePayload::Failure(error) => Err(RpcError::ErrorResp(error)),
    }
}

/// One node as a transport, past its breaker: for its trial.
#[derive(Clone, Debug)]
struct Direct(Arc<Node>);

impl Service<RequestPacket> for Direct {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        let node = Arc::clone(&self.0);
        Box::pin(async move { node.post(&request).await })
    }
}

/// Whether another node should be asked: no answer, or one that says nothing of the chain ("too many requests").
fn is_failure(answer: &Result<ResponsePacket, TransportError>) -> bool {
    match answer {
        // a load balancer with a node that is behind answers so
        Ok(packet) => packet
            .iter_errors()
            .any(|error| Said::in_answer(error) == Said::RateLimited || error.message == "header not found"),
        Err(error) => Said::of(error) != Said::TooMuch,
    }
}

impl Node {
    fn new(urls: &[String], at: usize, url: &str, client: &Client) -> anyhow::Result<Self> {
        let parse = |url: &str| Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        // the URL may hold a key: it is not repeated
        let url = parse(url).with_context(|| format!("--rpc-url: expected http(s)://…, the {}. is none", at + 1))?;
        let authority = |url: &Url| {
            format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
        };
        let name = authority(&url);
        let is_unique = urls.iter().filter_map(|url| parse(url)).filter(|other| authority(other) == name).count() == 1;
        Ok(Self {
            name: if is_unique { name } else { format!("{name} ({})", at + 1) },
            url,
            client: client.clone(),
            breaker: Mutex::new(Breaker::Closed { failures: 0 }),
            trial: tokio::sync::Mutex::default(),
        })
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_out(&self) -> Option<String> {
        match &*self.breaker() {
            Breaker::Closed { .. } => None,
            Breaker::Open { error, .. } => Some(error.clone()),
        }
    }

    fn is_due(&self) -> bool {
        matches!(&*self.breaker(), Breaker::Open { until, .. } if *until <= Instant::now())
    }

    fn close(&self) {
        metrics::gauge!("node_well", "node" => self.name.clone()).set(1.0);
        *self.breaker() = Breaker::Closed { failures: 0 };
    }

    fn open(&self, error: String) {
        tracing::warn!(node = self.name, error, "node is kept out");
        metrics::gauge!("node_well", "node" => self.name.clone()).set(0.0);
        *self.breaker() = Breaker::Open { until: Instant::now() + OPEN_TIME, error };
    }

    /// Asks, and remembers how it went.
    async fn ask(&self, request: &RequestPacket) -> Result<ResponsePacket, TransportError> {
        let answer = self.post(request).await;
        if !is_failure(&answer) {
            if let Breaker::Closed { failures } = &mut *self.breaker() {
                *failures = 0;
            }
            return answer;
        }
        metrics::counter!("node_calls_failed_total", "node" => self.name.clone()).increment(1);
        let failures = match &mut *self.breaker() {
            Breaker::Closed { failures } => {
                *failures += 1;
                *failures
            }
            Breaker::Open { .. } => 0,
        };
        if failures >= FAILURES_MAX {
            let error = match &answer {
                Err(error) => causes(error),
                Ok(packet) => packet.first_error_message().unwrap_or("an error without a message").to_owned(),
            };
            self.open(error);
        }
        answer
    }

    /// The trial of a node whose time has come; whoever comes meanwhile waits for it.
    async fn try_out(self: &Arc<Self>, all: &Inner) {
        let _one = self.trial.lock().await;
        if !self.is_due() {
            return;
        }
        match self.check(all).await {
            Ok(()) => {
                tracing::info!(node = self.name, "node is well again");
                self.close();
            }
            Err(Unfit::Now(error) | Unfit::Ever(error)) => self.open(error),
        }
    }

    fn direct(self: &Arc<Self>) -> impl Provider {
        ProviderBuilder::new().connect_client(RpcClient::new(Direct(Arc::clone(self)), false))
    }

    /// Unix seconds of its newest block.
    async fn newest(self: &Arc<Self>) -> Result<u64, TransportError> {
        let block = self.direct().get_block_by_number(BlockNumberOrTag::Latest).await?;
        block.map(|block| block.header.timestamp).ok_or(RpcError::NullResp)
    }

    /// Whether it is of the right chain, knows the contracts and is not far behind the others.
    async fn check(self: &Arc<Self>, all: &Inner) -> Result<(), Unfit> {
        let (node, deployment) = (self.direct(), &all.deployment);
        let silent = |error: TransportError| Unfit::Now(causes(&error));
        let (expected, actual) = (deployment.chain_id, node.get_chain_id().await.map_err(silent)?);
        if actual != expected {
            return Err(Unfit::Ever(format!("expected chain {expected}, got {actual}")));
        }
        let contracts =
            [("ProvenanceLog", deployment.provenance_log), ("ConsentRegistry", deployment.consent_registry)];
        for (name, address) in contracts {
            let code = node.get_code_at(address).await.map_err(silent)?;
            if code.is_empty() {
                return Err(Unfit::Now(format!("no code of {name} at {address}; is the node behind?")));
            }
            let (expected, actual) = (deployment.code.get(name).map(|code| code.hash), keccak256(&code));
            if expected.is_some_and(|expected| expected != actual) {
                return Err(Unfit::Ever(format!("{name} at {address} has other code than the deployment file says")));
            }
        }
        let newest = all.newest.load(Ordering::Relaxed);
        if newest == 0 {
            return Ok(());
        }
        behind(self.newest().await.map_err(silent)?, newest).map_or(Ok(()), |error| Err(Unfit::Now(error)))
    }

    async fn post(&self, request: &RequestPacket) -> Result<ResponsePacket, TransportError> {
        let custom = |error: reqwest::Error| TransportErrorKind::custom(error.without_url());
        let mut answer = self.client.post(self.url.clone()).json(request).send().await.map_err(custom)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(custom)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(TransportErrorKind::custom_str(&format!("{TOO_LONG} than {ANSWER_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        let excerpt = || String::from_utf8_lossy(&body).chars().take(ERROR_CHARS_MAX).collect::<String>();
        // some answer 400 to what they refuse; other statuses are of who stands before the node, whatever is in the body
        let is_answer = |packet: &ResponsePacket| status.is_success() || (status == 400 && packet.is_error());
        match serde_json::from_slice::<ResponsePacket>(&body) {
            Ok(packet) if is_answer(&packet) => Ok(packet),
            Err(error) if status.is_success() => Err(RpcError::deser_err(error, excerpt())),
            _ => Err(TransportErrorKind::http_error(status.as_u16(), excerpt())),
        }
    }
}
