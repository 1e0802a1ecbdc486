//! A node that misbehaves on demand: a proxy before the real one, told by method what to do wrong.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

/// Longer than anybody waits.
const SILENCE: Duration = Duration::from_secs(600);
/// Path under which it answers, in the place where paid nodes have their keys.
pub const SECRET_PATH: &str = "/v3/0123456789abcdef-secret";

/// What it makes of the real node's answer: called with request and answer, of each call of a batch.
#[derive(Clone)]
pub struct Change(Arc<Rewrite>);

type Rewrite = dyn Fn(&Value, &mut Value) + Send + Sync;

/// Which requests it does not take.
#[derive(Clone)]
pub struct Chosen(Arc<dyn Fn(&Value) -> bool + Send + Sync>);

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chosen")
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Change")
    }
}

/// What it does wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Takes the request and never answers; the real node does not hear of it.
    Silent,
    /// The real node does as asked, and its answer never arrives.
    Lost,
    /// Answers what is no JSON.
    Garbage,
    /// The real node's answer, this much later.
    Late(Duration),
    /// An HTTP error without JSON.
    Status(u16),
    /// An HTTP error with a JSON-RPC error, as those who sell access to nodes answer to a wrong key.
    Denies(u16, &'static str),
    /// A JSON-RPC error; the real node does not hear of it.
    Refuses(i64, &'static str),
    /// A JSON-RPC error, though the real node does as asked.
    Lies(i64, &'static str),
    /// This result, whatever the real node's.
    Says(Value),
    /// The real node's answer, changed.
    Changes(Change),
    /// An HTTP error without JSON, to some requests.
    BreaksOff(u16, Chosen),
}

impl Fault {
    /// The real node's answer, changed.
    pub fn changes(change: impl Fn(&Value, &mut Value) + Send + Sync + 'static) -> Self {
        Self::Changes(Change(Arc::new(change)))
    }

    /// An HTTP error without JSON, to some requests.
    pub fn breaks_off(status: u16, chosen: impl Fn(&Value) -> bool + Send + Sync + 'static) -> Self {
        Self::BreaksOff(status, Chosen(Arc::new(chosen)))
    }
}

/// What goes wrong where a transaction is sent.
pub const ON_SEND: [Fault; 10] = [
    Fault::Lies(-32000, "already known"),
    Fault::Lies(-32000, "nonce too low"),
    Fault::Lies(-32000, "replacement transaction underpriced"),
    Fault::Refuses(-32000, "already known"),
    Fault::Refuses(-32000, "nonce too low"),
    Fault::Refuses(-32000, "replacement transaction underpriced"),
    Fault::Refuses(-32000, "txpool is full"),
    Fault::Garbage,
    Fault::Lost,
    Fault::Late(Duration::from_millis(1_500)),
];
/// What goes wrong where something is asked.
pub const ON_READS: [Fault; 6] = [
    Fault::Status(502),
    Fault::Status(429),
    Fault::Garbage,
    Fault::Late(Duration::from_millis(700)),
    Fault::Says(Value::Null),
    Fault::Refuses(-32603, "Internal error"),
];
/// What a relayer asks.
pub const READS: [&str; 11] = [
    ANY,
    "eth_getTransactionReceipt",
    "eth_estimateGas",
    "eth_blockNumber",
    "eth_getTransactionCount",
    "eth_getTransactionByHash",
    "eth_getBlockByNumber",
    "eth_getBalance",
    "eth_feeHistory",
    "eth_maxPriorityFeePerGas",
    "eth_call",
];

/// What a node may tell an indexer that is not so, and that `--verify full` finds out: each with the method that it is told in.
pub fn lies() -> Vec<(&'static str, &'static str, Fault)> {
    let zero_bloom = format!("0x{}", "0".repeat(512));
    let each_log = |change: fn(&mut Value)| {
        Fault::changes(move |_, answer| answer["result"].as_array_mut().into_iter().flatten().for_each(change))
    };
    let each_header = |field: &'static str, value: String| {
        Fault::changes(move |request, answer| {
            if !answer["result"].is_null() && request["params"][0].as_str().is_some_and(|at| at.starts_with("0x")) {
                answer["result"][field] = json!(value);
            }
        })
    };
    vec![
        ("eth_getLogs", "leaves logs out", Fault::Says(json!([]))),
        (
            "eth_getLogs",
            "leaves the last log out",
            Fault::changes(|_, answer| {
                answer["result"].as_array_mut().map(Vec::pop);
            }),
        ),
        (
            "eth_getLogs",
            "changes a log's block",
            each_log(|log| log["blockHash"] = json!(format!("0x{}", "1".repeat(64)))),
        ),
        (
            "eth_getLogs",
            "invents a topic",
            each_log(|log| {
                // some have none but their signature
                if let Some(topics) = log["topics"].as_array_mut() {
                    topics.truncate(1);
                    topics.push(json!(format!("0x{}", "2".repeat(64))));
                }
            }),
        ),
        ("eth_getBlockByNumber", "has empty blooms", each_header("logsBloom", zero_bloom)),
        ("eth_getBlockByNumber", "has other parents", each_header("parentHash", format!("0x{}", "3".repeat(64)))),
    ]
}

/// It stays at these heads, whatever comes.
pub fn stays_at(latest: Value, finalized: Value) -> Fault {
    Fault::changes(move |request, answer| match request["params"][0].as_str() {
        Some("latest") => answer["result"] = latest.clone(),
        Some("finalized") => answer["result"] = finalized.clone(),
        _ => {}
    })
}

#[derive(Debug, Default)]
struct Book {
    upstream: String,
    faults: BTreeMap<String, Fault>,
    calls: BTreeMap<String, usize>,
}

#[derive(Clone, Debug)]
struct Shared {
    client: reqwest::Client,
    book: Arc<Mutex<Book>>,
}

/// A running proxy; stops when dropped.
#[derive(Debug)]
pub struct FaultyNode {
    url: String,
    shared: Shared,
    server: JoinHandle<()>,
}

/// Any method that has no fault of its own.
pub const ANY: &str = "*";

impl FaultyNode {
    /// Starts one on a free port before the node at `upstream`; it behaves until told otherwise.
    pub async fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to bind a faulty node")?;
        let address = listener.local_addr().context("failed to read a faulty node's address")?;
        let book = Book { upstream: upstream.into(), ..Book::default() };
        let shared = Shared { client: reqwest::Client::new(), book: Arc::new(Mutex::new(book)) };
        let router = Router::new().route(SECRET_PATH, post(answer)).with_state(shared.clone());
        let server = tokio::spawn(async move {
            let _ended = axum::serve(listener, router).await;
        });
        Ok(Self { url: format!("http://{address}{SECRET_PATH}"), shared, server })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on this goes wrong with a method, or with [`ANY`].
    pub fn fail(&self, method: &str, fault: Fault) {
        self.shared.book().faults.insert(method.into(), fault);
    }

    /// From now on all is well.
    pub fn heal(&self) {
        self.shared.book().faults.clear();
    }

    /// From now on it speaks for another real node.
    pub fn redirect(&self, upstream: &str) {
        self.shared.book().upstream = upstream.into();
    }

    /// How often a method was called, or with [`ANY`] all of them.
    pub fn calls(&self, method: &str) -> usize {
        let book = self.shared.book();
        match method {
            ANY => book.calls.values().sum(),
            _ => book.calls.get(method).copied().unwrap_or_default(),
        }
    }
}

impl Drop for FaultyNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, body: Bytes) -> reqwest::Result<reqwest::Response> {
        let upstream = self.book().upstream.clone();
        self.client.post(upstream).header("content-type", "application/json").body(body).send().await
    }

    async fn changed(&self, body: Bytes, request: &Value, change: &Change) -> Response {
        let asked = self.send(body).await;
        let Ok(answer) = asked else { return StatusCode::BAD_GATEWAY.into_response() };
        let Ok(mut answer) = answer.json::<Value>().await else { return StatusCode::BAD_GATEWAY.into_response() };
        let answers = match &mut answer {
            Value::Array(batch) => batch.as_mut_slice(),
            single => std::slice::from_mut(single),
        };
        for answer in answers {
            let calls = request.as_array().map_or(std::slice::from_ref(request), Vec::as_slice);
            if let Some(call) = calls.iter().find(|call| call["id"] == answer["id"]) {
                (change.0)(call, answer);
            }
        }
        answer.to_string().into_response()
    }

    async fn ask(&self, body: Bytes) -> Response {
        match self.send(body).await {
            Ok(answer) => match answer.bytes().await {
                Ok(bytes) => bytes.into_response(),
                Err(_) => StatusCode::BAD_GATEWAY.into_response(),
            },
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }
}

async fn answer(State(shared): State<Shared>, body: Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap_or_default();
    // the calls of a batch are of one method
    let first = request.get(0).unwrap_or(&request);
    let method = first["method"].as_str().unwrap_or_default().to_owned();
    let fault = {
        let mut book = shared.book();
        *book.calls.entry(method.clone()).or_default() += 1;
        book.faults.get(&method).or_else(|| book.faults.get(ANY)).cloned()
    };
    let error = |code: i64, message: &str| {
        let error = json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": code, "message": message}});
        error.to_string().into_response()
    };
    match fault {
        None => shared.ask(body).await,
        Some(Fault::Changes(change)) => shared.changed(body, &request, &change).await,
        Some(Fault::BreaksOff(status, chosen)) => match (chosen.0)(first) {
            true => StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY).into_response(),
            false => shared.ask(body).await,
        },
        Some(Fault::Silent) => {
            tokio::time::sleep(SILENCE).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        Some(Fault::Lost) => {
            let _lost = shared.ask(body).await;
            tokio::time::sleep(SILENCE).await;
            StatusCode::GATEWAY_TIMEOUT.into_response()
        }
        Some(Fault::Garbage) => "<html>are you a robot?</html>".into_response(),
        Some(Fault::Late(time)) => {
            let answer = shared.ask(body).await;
            tokio::time::sleep(time).await;
            answer
        }
        Some(Fault::Status(status)) => {
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
        Some(Fault::Denies(status, message)) => {
            (StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN), error(-32600, message)).into_response()
        }
        Some(Fault::Refuses(code, message)) => error(code, message),
        Some(Fault::Lies(code, message)) => {
            let _answer = shared.ask(body).await;
            error(code, message)
        }
        Some(Fault::Says(result)) => {
            json!({"jsonrpc": "2.0", "id": request["id"], "result": result}).to_string().into_response()
        }
    }
}
