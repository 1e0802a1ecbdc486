//! The payout partner of development: a real HTTP server shaped like Toss' promotion grants, able to misbehave on demand.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinHandle};

/// Error code of a key that was paid before.
pub const ALREADY_PAID: &str = "4113";
/// The most grants that are kept.
const GRANTS_MAX: usize = 100_000;

/// What the partner is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    /// Which promotion pays.
    pub promotion_code: String,
    /// Whole points.
    pub amount: u64,
    /// The caller's key of the payout: paid once.
    pub key: String,
}

/// What the partner does with one request instead of paying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Answers this error code, for example `4112`, and does not pay.
    Refuse(&'static str),
    /// Pays, and then keeps silent for this long: the caller can't know.
    PayAndHang(Duration),
    /// Answers HTTP 503 and does not pay.
    Unavailable,
}

#[derive(Debug, Default)]
struct Book {
    grants: BTreeMap<String, Grant>,
    misbehaviours: VecDeque<Misbehaviour>,
    requests: u64,
}

type Shared = Arc<Mutex<Book>>;

/// A running partner; stops when dropped.
#[derive(Debug)]
pub struct Partner {
    url: String,
    book: Shared,
    server: JoinHandle<()>,
}

impl Partner {
    /// Starts it on a free port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to bind the payout partner")?;
        let address = listener.local_addr().context("failed to read the payout partner's address")?;
        let book = Shared::default();
        let router = Router::new()
            .route("/promotions/grant", post(grant))
            .route("/grants", get(grants))
            .route("/health", get(|| async { "ok" }))
            .with_state(book.clone());
        let server = tokio::spawn(async move {
            let _ended = axum::serve(listener, router).await;
        });
        Ok(Self { url: format!("http://{address}"), book, server })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it paid, by key.
    pub fn grants(&self) -> Vec<Grant> {
        lock(&self.book).grants.values().cloned().collect()
    }

    /// How often it was asked.
    pub fn requests(&self) -> u64 {
        lock(&self.book).requests
    }

    /// The next requests meet these, one each, in order.
    pub fn misbehave(&self, with: impl IntoIterator<Item = Misbehaviour>) {
        lock(&self.book).misbehaviours.extend(with);
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(book: &Shared) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn grant(State(book): State<Shared>, Json(grant): Json<Grant>) -> Response {
    let misbehaviour = {
        let mut book = lock(&book);
        book.requests += 1;
        book.misbehaviours.pop_front()
    };
    match misbehaviour {
        Some(Misbehaviour::Refuse(code)) => refusal(code, "refused on demand"),
        Some(Misbehaviour::Unavailable) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Some(Misbehaviour::PayAndHang(time)) => {
            let answer = pay(&book, grant);
            tokio::time::sleep(time).await;
            answer
        }
        None => pay(&book, grant),
    }
}

fn pay(book: &Shared, grant: Grant) -> Response {
    let mut book = lock(book);
    if let Some(before) = book.grants.get(&grant.key) {
        let same = if *before == grant { "with the same amount" } else { "with another amount" };
        return refusal(ALREADY_PAID, &format!("this key was paid before, {same}"));
    }
    if book.grants.len() >= GRANTS_MAX {
        return refusal("4112", "the promotion's money is used up");
    }
    let answer = Json(serde_json::json!({ "key": grant.key }));
    book.grants.insert(grant.key.clone(), grant);
    answer.into_response()
}

fn refusal(code: &str, message: &str) -> Response {
    Json(serde_json::json!({ "errorCode": code, "message": message })).into_response()
}

async fn grants(State(book): State<Shared>) -> Json<Vec<Grant>> {
    Json(lock(&book).grants.values().cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(partner: &Partner, key: &str) -> serde_json::Value {
        let body = Grant { promotion_code: "DEV".into(), amount: 3, key: key.into() };
        let client = reqwest::Client::new();
        let url = format!("{}/promotions/grant", partner.url());
        client.post(url).json(&body).send().await.unwrap().json().await.unwrap()
    }

    #[tokio::test]
    async fn a_key_is_paid_once() {
        tidemark::install_tls();
        let partner = Partner::start().await.unwrap();
        assert_eq!(ask(&partner, "a").await["key"], "a");
        assert_eq!(ask(&partner, "a").await["errorCode"], ALREADY_PAID);
        partner.misbehave([Misbehaviour::Refuse("4109")]);
        assert_eq!(ask(&partner, "b").await["errorCode"], "4109");
        assert_eq!(ask(&partner, "b").await["key"], "b");
        assert_eq!((partner.grants().len(), partner.requests()), (2, 4));
    }
}
