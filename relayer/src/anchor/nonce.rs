//! Nonces: a lane per signer, one row per nonce; the chain is only asked where its count may be ahead of ours.

use alloy::{primitives::Address, providers::Provider};
use anyhow::Context;
use sqlx::Row;

use super::Sender;
use crate::intake::{Tx, bigint};

/// Takes the lane's next nonce in the transaction that writes the intent, so that no crash leaves a gap.
pub async fn take(tx: &mut Tx<'_>, sender: &Sender, on_chain: u64) -> anyhow::Result<u64> {
    let row = sqlx::query(
        "INSERT INTO nonce_lane (chain_id, signer, next_nonce) VALUES ($1, $2, $3 + 1)
         ON CONFLICT (chain_id, signer) DO UPDATE SET next_nonce = greatest(nonce_lane.next_nonce, $3) + 1
         RETURNING next_nonce - 1",
    )
    .bind(bigint(sender.chain_id)?)
    .bind(sender.address().0.0)
    .bind(bigint(on_chain)?)
    .fetch_one(&mut **tx)
    .await?;
    Ok(u64::try_from(row.try_get::<i64, _>(0)?)?)
}

/// Transactions of the signer in the newest block: its next nonce, had nobody anything under way.
pub async fn on_chain(sender: &Sender) -> anyhow::Result<u64> {
    count(&sender.provider, sender.address(), None).await
}

/// The same in a given block, or in the newest.
pub async fn count(provider: &impl Provider, address: Address, block: Option<u64>) -> anyhow::Result<u64> {
    let asked = provider.get_transaction_count(address);
    let asked = match block {
        Some(block) => asked.block_id(block.into()),
        None => asked,
    };
    asked.await.context("ask for the sender's transaction count")
}
