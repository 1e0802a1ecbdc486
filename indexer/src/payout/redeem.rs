//! The chain's steps: sign a redemption, send it, follow it until the mirror has posted it.

use std::{future::IntoFuture, time::Duration};

use alloy::{
    consensus::{SignableTransaction, Transaction as _, TxEip1559, TxEnvelope},
    eips::eip2718::{Decodable2718, Encodable2718},
    primitives::{Address, B256, TxKind, U256},
    providers::Provider,
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::SolCall,
    transports::TransportError,
};
use anyhow::{Context, anyhow, bail};
use futures::{StreamExt, TryStreamExt, stream};
use sqlx::Row;
use tidemark::contracts::PointsTreasury::{self, PointsDebit, PointsTreasuryErrors};
use uuid::Uuid;

use super::{
    Payouts, routes,
    worker::{Due, Step, advance},
};

const RPC_TIME_MAX: Duration = Duration::from_secs(15);
const READS_AT_ONCE: usize = 16;
/// Transactions that may be reverted or lost before an operator looks.
const TRANSACTIONS_MAX: i64 = 10;
/// After which an unmined transaction gets a higher fee.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// Gas of fetching accrued points out of the log, which the treasury does where it holds too little. An estimate may miss
/// that: another redemption may take what the treasury holds before this one is mined.
const SWEEP_GAS: u64 = 150_000;
/// How many times the day's fee a replacement may pay.
pub(super) const FEE_TIMES_MAX: u128 = 10;

/// Takes a paid payout one step further.
pub(super) async fn redeem(payouts: &Payouts, due: &Due) -> anyhow::Result<Option<Step>> {
    match due.state.as_str() {
        "paid" => sign(payouts, due).await,
        "redeeming" => {
            let Some(sent) = live_transaction(payouts, due.id).await? else { bail!("its transaction is gone") };
            broadcast(payouts, &sent.raw).await?;
            Ok(Some(Step::to("redeemed", "the redemption is sent")))
        }
        "redeemed" => follow(payouts, due).await,
        other => bail!("a payout in state {other} is not redeemed"),
    }
}

/// Signs a redemption of whatever is not redeemed yet, and keeps it before the chain sees it.
async fn sign(payouts: &Payouts, due: &Due) -> anyhow::Result<Option<Step>> {
    let tries: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM local.payout_transaction WHERE payout_id = $1 AND state IN ('reverted', 'lost')
             AND signed_at > now() - interval '1 day'",
    )
    .bind(due.id)
    .fetch_one(&payouts.inner.pool)
    .await?;
    if tries >= TRANSACTIONS_MAX {
        return Ok(Some(Step::to("stuck", format!("{tries} redemptions were reverted or lost"))));
    }
    let (treasury, debits) = open_debits(payouts, due.id).await?;
    if debits.is_empty() {
        return Ok(Some(Step::to("redeemed", "the chain has it already")));
    }
    let transaction = build(payouts, treasury, debits).await?;
    let nonce = i64::try_from(transaction.nonce)?;
    let (tx_hash, raw) = seal(&payouts.inner.config.operator, transaction)?;
    let mut rows = payouts.inner.pool.begin().await?;
    // a nonce comes again only where the chain took back the transaction that had used it
    let kept = sqlx::query(
        "INSERT INTO local.payout_transaction AS t (chain_id, signer, nonce, payout_id, tx_hash, raw)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (chain_id, signer, nonce) DO UPDATE SET payout_id = excluded.payout_id,
             tx_hash = excluded.tx_hash, raw = excluded.raw, state = 'sent', signed_at = now()
         WHERE t.state IN ('reverted', 'lost')",
    )
    .bind(i64::try_from(payouts.inner.chain_id)?)
    .bind(payouts.inner.config.operator.address().as_slice())
    .bind(nonce)
    .bind(due.id)
    .bind(tx_hash.as_slice())
    .bind(&raw)
    .execute(&mut *rows)
    .await?;
    if kept.rows_affected() == 0 {
        bail!("nonce {nonce} is taken by another redemption");
    }
    advance(&mut rows, payouts, due, Step::to("redeeming", "the redemption is signed")).await?;
    rows.commit().await?;
    Ok(None)
}

/// The entries that the treasury has not settled at the newest block.
async fn open_debits(payouts: &Payouts, id: Uuid) -> anyhow::Result<(Address, Vec<PointsDebit>)> {
    let rows = sqlx::query(
        "SELECT treasury, debit_id, account, entry.amount::text
         FROM local.payout JOIN local.payout_entry AS entry USING (payout_id) WHERE payout_id = $1 ORDER BY position",
    )
    .bind(id)
    .fetch_all(&payouts.inner.pool)
    .await?;
    let treasury = routes::address(rows.first().context("the payout has no entries")?, 0)?;
    let mut debits = Vec::with_capacity(rows.len());
    for row in &rows {
        debits.push(PointsDebit {
            payoutId: routes::hash(row, 1)?,
            account: routes::hash(row, 2)?,
            amount: row.try_get::<String, _>(3)?.parse()?,
        });
    }
    let contract = PointsTreasury::new(treasury, payouts.inner.chain.clone());
    let contract = &contract;
    let open = stream::iter(debits)
        .map(|debit| async move {
            let redeemed = timely(contract.isRedeemed(debit.payoutId).call().into_future()).await?;
            let redeemed = redeemed.map_err(|error| call_error("isRedeemed", &error))?;
            anyhow::Ok((!redeemed).then_some(debit))
        })
        .buffered(READS_AT_ONCE)
        .try_filter_map(|debit| async move { Ok(debit) })
        .try_collect()
        .await?;
    Ok((treasury, open))
}

async fn build(payouts: &Payouts, treasury: Address, debits: Vec<PointsDebit>) -> anyhow::Result<TxEip1559> {
    let inner = &payouts.inner;
    let operator = inner.config.operator.address();
    let call = PointsTreasury::redeemCall { debits, to: inner.config.settlement };
    let contract = PointsTreasury::new(treasury, inner.chain.clone());
    let estimate = contract.call_builder(&call).from(operator);
    let gas = timely(estimate.estimate_gas()).await?.map_err(|error| call_error("redeem", &error))?;
    let fees = timely(tidemark::chain::fees(&inner.chain)).await?.map_err(|error| rpc_error("fees", &error))?;
    let nonce = timely(inner.chain.get_transaction_count(operator).into_future()).await?;
    let nonce = nonce.map_err(|error| rpc_error("nonce", &error))?;
    let next: Option<i64> = sqlx::query_scalar(
        "SELECT max(nonce) + 1 FROM local.payout_transaction WHERE chain_id = $1 AND signer = $2 AND state = 'sent'",
    )
    .bind(i64::try_from(inner.chain_id)?)
    .bind(operator.as_slice())
    .fetch_one(&inner.pool)
    .await?;
    Ok(TxEip1559 {
        chain_id: inner.chain_id,
        nonce: nonce.max(u64::try_from(next.unwrap_or(0))?),
        // an earlier redemption may make this one a little dearer
        gas_limit: gas.saturating_add(gas / 4).saturating_add(SWEEP_GAS),
        max_fee_per_gas: fees.max_fee_per_gas,
        max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
        to: TxKind::Call(treasury),
        value: U256::ZERO,
        access_list: Default::default(),
        input: call.abi_encode().into(),
    })
}

/// Hash and bytes of a signed transaction.
pub(super) fn seal(signer: &PrivateKeySigner, transaction: TxEip1559) -> anyhow::Result<(B256, Vec<u8>)> {
    let signature = signer.sign_hash_sync(&transaction.signature_hash())?;
    let envelope = TxEnvelope::from(transaction.into_signed(signature));
    Ok((*envelope.tx_hash(), envelope.encoded_2718()))
}

/// A fee that nodes replace a transaction for: they want a tenth more.
pub(super) fn raised(fee: u128) -> u128 {
    fee.saturating_add(fee / 8).saturating_add(1)
}

/// Sends signed bytes; that the chain has them, or a later nonce, is seen by `follow`.
pub(super) async fn broadcast(payouts: &Payouts, raw: &[u8]) -> anyhow::Result<()> {
    match timely(payouts.inner.chain.send_raw_transaction(raw)).await? {
        Ok(_pending) => Ok(()),
        Err(TransportError::ErrorResp(payload)) if is_known(&payload.message) => Ok(()),
        Err(error) => Err(rpc_error("sending a transaction", &error)),
    }
}

fn is_known(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["already known", "already imported", "nonce too low", "underpriced"].iter().any(|known| message.contains(known))
}

struct Sent {
    nonce: u64,
    tx_hash: B256,
    raw: Vec<u8>,
    is_old: bool,
}

async fn live_transaction(payouts: &Payouts, id: Uuid) -> anyhow::Result<Option<Sent>> {
    let row = sqlx::query(
        "SELECT nonce, tx_hash, raw, signed_at < now() - $2 * interval '1 second'
         FROM local.payout_transaction WHERE payout_id = $1 AND state IN ('sent', 'mined')",
    )
    .bind(id)
    .bind(i64::try_from(PATIENCE.as_secs())?)
    .fetch_optional(&payouts.inner.pool)
    .await?;
    row.map(|row| {
        anyhow::Ok(Sent {
            nonce: u64::try_from(row.try_get::<i64, _>(0)?)?,
            tx_hash: routes::hash(&row, 1)?,
            raw: row.try_get(2)?,
            is_old: row.try_get(3)?,
        })
    })
    .transpose()
}

/// Posted where the mirror has posted every entry; else looks after the transaction.
async fn follow(payouts: &Payouts, due: &Due) -> anyhow::Result<Option<Step>> {
    if is_posted(payouts, due.id).await? {
        let mut rows = payouts.inner.pool.begin().await?;
        sqlx::query("UPDATE local.payout_transaction SET state = 'mined' WHERE payout_id = $1 AND state = 'sent'")
            .bind(due.id)
            .execute(&mut *rows)
            .await?;
        advance(&mut rows, payouts, due, Step::to("posted", "the ledger has it, at finality")).await?;
        rows.commit().await?;
        return Ok(None);
    }
    let Some(sent) = live_transaction(payouts, due.id).await? else {
        return Ok(Some(match open_debits(payouts, due.id).await?.1.is_empty() {
            true => Step::wait("redeemed"),
            false => Step::fail("paid", "the chain took back a redemption"),
        }));
    };
    // asked for before the receipt: what took the nonce until now has one, if it is ours
    let operator = payouts.inner.config.operator.address();
    let next = timely(payouts.inner.chain.get_transaction_count(operator).into_future()).await?;
    let next = next.map_err(|error| rpc_error("nonce", &error))?;
    let receipt = timely(payouts.inner.chain.get_transaction_receipt(sent.tx_hash).into_future()).await?;
    match receipt.map_err(|error| rpc_error("receipt", &error))? {
        Some(receipt) if receipt.status() => Ok(Some(Step::wait("redeemed"))),
        Some(_) => end(payouts, due, "reverted", "the redemption was reverted").await,
        None => look_after(payouts, due, sent, next).await,
    }
}

/// A transaction without a receipt, and the nonce that the chain wanted before that was asked: send it again, raise its fee, or give it up where its nonce is gone.
async fn look_after(payouts: &Payouts, due: &Due, sent: Sent, next: u64) -> anyhow::Result<Option<Step>> {
    if next > sent.nonce {
        return end(payouts, due, "lost", "another transaction took the redemption's nonce").await;
    }
    // what waits for the nonces before it does not wait for a higher fee
    if !(sent.is_old && next == sent.nonce && replace(payouts, due.id, &sent).await?) {
        broadcast(payouts, &sent.raw).await?;
    }
    Ok(Some(Step::wait("redeemed")))
}

/// The same redemption under the same nonce with a higher fee. Should the old one be mined after all, the new one is
/// found `lost`, and then the treasury says that nothing is left to redeem. False where the old one pays many times the
/// day's fee already, and so waits for something else.
async fn replace(payouts: &Payouts, id: Uuid, sent: &Sent) -> anyhow::Result<bool> {
    let TxEnvelope::Eip1559(old) = TxEnvelope::decode_2718(&mut sent.raw.as_slice())? else {
        bail!("its transaction is of another type");
    };
    let fees = timely(tidemark::chain::fees(&payouts.inner.chain)).await?.map_err(|error| rpc_error("fees", &error))?;
    if old.tx().max_fee_per_gas / FEE_TIMES_MAX > fees.max_fee_per_gas {
        return Ok(false);
    }
    let mut new = old.tx().clone();
    new.max_fee_per_gas = fees.max_fee_per_gas.max(raised(old.tx().max_fee_per_gas()));
    new.max_priority_fee_per_gas = fees.max_priority_fee_per_gas.max(raised(old.tx().max_priority_fee_per_gas));
    let (tx_hash, raw) = seal(&payouts.inner.config.operator, new)?;
    sqlx::query(
        "UPDATE local.payout_transaction SET tx_hash = $3, raw = $4, signed_at = now()
         WHERE payout_id = $1 AND tx_hash = $2 AND state = 'sent'",
    )
    .bind(id)
    .bind(sent.tx_hash.as_slice())
    .bind(tx_hash.as_slice())
    .bind(&raw)
    .execute(&payouts.inner.pool)
    .await?;
    tracing::info!(payout_id = %id, %tx_hash, "redemption replaced by one with a higher fee");
    broadcast(payouts, &raw).await?;
    Ok(true)
}

/// Writes off the transaction; the payout is paid and not redeemed again.
async fn end(payouts: &Payouts, due: &Due, state: &str, note: &str) -> anyhow::Result<Option<Step>> {
    let mut rows = payouts.inner.pool.begin().await?;
    sqlx::query("UPDATE local.payout_transaction SET state = $2 WHERE payout_id = $1 AND state IN ('sent', 'mined')")
        .bind(due.id)
        .bind(state)
        .execute(&mut *rows)
        .await?;
    advance(&mut rows, payouts, due, Step::fail("paid", note)).await?;
    rows.commit().await?;
    Ok(None)
}

async fn is_posted(payouts: &Payouts, id: Uuid) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT NOT EXISTS (
             SELECT FROM local.payout JOIN local.payout_entry AS entry USING (payout_id)
             LEFT JOIN points_redeemed AS mirrored
                 ON mirrored.provider = payout.provider AND mirrored.payout_id = entry.debit_id
                 AND mirrored.state = 'posted'
             WHERE payout.payout_id = $1 AND mirrored.payout_id IS NULL
         )",
    )
    .bind(id)
    .fetch_one(&payouts.inner.pool)
    .await?)
}

pub(super) async fn timely<T>(asking: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(RPC_TIME_MAX, asking).await.map_err(|_| anyhow!("the chain's node did not answer in time"))
}

/// What the node said; never its URL, which may hold a key.
pub(super) fn rpc_error(doing: &str, error: &TransportError) -> anyhow::Error {
    match error {
        TransportError::ErrorResp(payload) => anyhow!("{doing}: the node said: {}", payload.message),
        _ => anyhow!("{doing}: the chain's node can't be reached"),
    }
}

fn call_error(doing: &str, error: &alloy::contract::Error) -> anyhow::Error {
    if let Some(refusal) = error.as_decoded_interface_error::<PointsTreasuryErrors>() {
        return anyhow!("{doing}: the treasury refuses: {refusal:?}");
    }
    match error {
        alloy::contract::Error::TransportError(error) => rpc_error(doing, error),
        _ => anyhow!("{doing}: the treasury's answer can't be read; is it a PointsTreasury?"),
    }
}
