//! Waiting for finality, with a bound: in chain and content store as anybody sees them, and in the indexer's accounts.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use alloy::primitives::B256;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;
use tidemark::{
    history::{History, LoadedBatch},
    ids::DataId,
};

use super::world::World;
use crate::stack::{PROVIDER_NAME, Stack};

const FINAL_TIME_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(150);

/// Waits until so many events of each record stand in final batches; gives all batches of the provider.
pub async fn anchored(history: &History, world: &World, expected: &[(DataId, usize)]) -> Result<Vec<LoadedBatch>> {
    let deadline = Instant::now() + FINAL_TIME_MAX;
    loop {
        let headers = history.anchored(Some(world.provider)).await.context("failed to read the anchored batches")?;
        let events: u64 = headers.iter().filter(|b| b.place.is_final).map(|b| u64::from(b.header.event_count)).sum();
        let wanted: usize = expected.iter().map(|(_, count)| count).sum();
        if usize::try_from(events).is_ok_and(|events| events >= wanted) {
            let batches = history.load_all(Some(world.provider)).await.context("failed to load the batches")?;
            let missing = missing(&batches, expected);
            ensure!(missing.is_empty(), "records that are not anchored as they should be: {missing:?}");
            return Ok(batches);
        }
        ensure!(
            Instant::now() < deadline,
            "{events} of {wanted} events are final after {} s",
            FINAL_TIME_MAX.as_secs()
        );
        tokio::time::sleep(POLL).await;
    }
}

fn missing(batches: &[LoadedBatch], expected: &[(DataId, usize)]) -> BTreeSet<DataId> {
    let count = |data_id: DataId| {
        let events = batches.iter().flat_map(|batch| &batch.manifest.events);
        events.filter(|event| event.data_id == data_id).count()
    };
    expected.iter().filter(|(data_id, wanted)| count(*data_id) != *wanted).map(|(data_id, _)| *data_id).collect()
}

#[derive(Deserialize)]
struct Balances {
    accounts: Vec<Account>,
}

#[derive(Deserialize)]
struct Account {
    balance: String,
}

/// Balances of points accounts in the order asked, as the indexer gives them.
pub async fn balances(indexer_url: &str, accounts: &[B256]) -> Result<Vec<u128>> {
    let client = reqwest::Client::new();
    let mut balances = Vec::with_capacity(accounts.len());
    for some in accounts.chunks(1_000) {
        let body = json!({ "provider": PROVIDER_NAME, "accounts": some });
        let answer = client.post(format!("{indexer_url}/v1/accounts:query")).json(&body).send().await;
        let answer = answer.context("the indexer does not answer")?;
        let (status, text) = (answer.status(), answer.text().await.context("the indexer's answer broke off")?);
        // before the provider's registration is final, the indexer does not know it
        if status == reqwest::StatusCode::BAD_REQUEST {
            return Ok(vec![0; accounts.len()]);
        }
        ensure!(status.is_success(), "the indexer answered {status}: {text}");
        let read: Balances = serde_json::from_str(&text).context("balances that can't be read")?;
        for account in read.accounts {
            balances.push(account.balance.parse().context("a balance that is no number")?);
        }
    }
    Ok(balances)
}

/// Waits until the indexer gives exactly these balances; fails with the first that stays different.
pub async fn credited(stack: &Stack, expected: &[(B256, u128)]) -> Result<()> {
    let indexer = stack.indexer.as_ref().context("the stack was started without an indexer")?;
    let accounts: Vec<B256> = expected.iter().map(|(account, _)| *account).collect();
    let deadline = Instant::now() + FINAL_TIME_MAX;
    loop {
        let balances = balances(indexer.url(), &accounts).await?;
        let different = expected.iter().zip(&balances).find(|((_, wanted), actual)| wanted != *actual);
        let Some(((account, wanted), actual)) = different else { return Ok(()) };
        ensure!(
            Instant::now() < deadline,
            "points account {account}: expected {wanted} units, the indexer has {actual}"
        );
        tokio::time::sleep(POLL).await;
    }
}
