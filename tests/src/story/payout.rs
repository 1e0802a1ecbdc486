//! Points to cash: what the provider's app asks of the indexer for one of its contributors.

use std::time::{Duration, Instant};

use alloy::primitives::B256;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use crate::{stack::Stack, wirings::payout_token};

const SETTLE_TIME_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

/// A payout, as the indexer shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Payout {
    /// Its id: the partner's key.
    pub payout_id: Uuid,
    /// `pending`, `posted` or `voided`.
    pub state: String,
    /// Where it stands.
    pub step: String,
    /// Why, where something is wrong.
    #[serde(default)]
    pub note: Option<String>,
    /// Units, decimal.
    pub amount: String,
    /// Whole points.
    pub points: i64,
    /// The redemption on chain.
    #[serde(default)]
    pub transaction: Option<B256>,
}

/// Asks for a payout of these parts of these accounts.
pub async fn request(stack: &Stack, destination: &str, entries: &[(B256, u128)]) -> Result<Payout> {
    let entries: Vec<_> =
        entries.iter().map(|(account, amount)| json!({ "account": account, "amount": amount.to_string() })).collect();
    let body = json!({ "destination": destination, "entries": entries });
    let url = format!("{}/v1/payouts", indexer_url(stack)?);
    let request = reqwest::Client::new().post(url).bearer_auth(payout_token()).json(&body);
    let answer = request.header("Idempotency-Key", Uuid::new_v4().to_string()).send().await;
    read(answer.context("failed to ask for a payout")?).await
}

/// Waits until a payout is posted in the ledger, or fails with what stopped it.
pub async fn settled(stack: &Stack, payout_id: Uuid) -> Result<Payout> {
    let url = format!("{}/v1/payouts/{payout_id}", indexer_url(stack)?);
    let client = reqwest::Client::new();
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    loop {
        let answer = client.get(&url).bearer_auth(payout_token()).send().await;
        let payout = read(answer.context("failed to ask how a payout stands")?).await?;
        let note = payout.note.clone().unwrap_or_default();
        match payout.state.as_str() {
            "posted" => return Ok(payout),
            "voided" => bail!("the payout was voided: {note}"),
            _ => ensure!(Instant::now() < deadline, "the payout is still {} ({note})", payout.step),
        }
        tokio::time::sleep(POLL).await;
    }
}

fn indexer_url(stack: &Stack) -> Result<&str> {
    Ok(stack.indexer.as_ref().context("the stack was started without an indexer")?.url())
}

async fn read(answer: reqwest::Response) -> Result<Payout> {
    let status = answer.status();
    let text = answer.text().await.context("a payout's answer broke off")?;
    ensure!(status.is_success(), "the indexer answered {status}: {text}");
    serde_json::from_str(&text).with_context(|| format!("a payout that can't be read: {text}"))
}
