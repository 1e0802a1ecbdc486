//! Sending: intent and nonce first, then the signed bytes, each durable before the next step; broadcasting comes last.

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::{eip1559::Eip1559Estimation, eip2718::Encodable2718},
    network::{TransactionBuilder, TxSignerSync},
    primitives::{Address, B256, Bytes, TxKind, U256},
    providers::{DynProvider, Provider},
    rpc::types::TransactionRequest,
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use anyhow::Context;
use sqlx::Row;
use tidemark::{
    contracts::{ConsentRegistry, ProvenanceLog},
    ids::ConsentId,
    service::causes,
};

use super::{nonce, revert};
use crate::{
    app::App,
    batch::{self, State},
    config::Serve,
    intake::{Tx, bigint, withdraw},
};

const WITHDRAWALS_PER_ROUND: i64 = 32;
/// How many times the day's fee a replacement may pay.
const FEE_TIMES_MAX: u128 = 10;

/// The key that sends, and how patiently.
pub struct Sender {
    /// The node.
    pub provider: DynProvider,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Replace a transaction after this many blocks unmined.
    pub bump_after_blocks: u64,
    /// Blocks to finality where the chain has no tag for it.
    pub finality_depth: u64,
    signer: PrivateKeySigner,
}

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To anchor a batch.
    Anchor {
        /// Whose.
        provider: Address,
        /// Which.
        number: u64,
    },
    /// To withdraw a consent.
    Withdraw(ConsentId),
}

/// A transaction's row, as far as signing it needs.
#[derive(Clone, Debug)]
pub struct Intent {
    /// Row id.
    pub id: i64,
    /// Taken.
    pub nonce: u64,
    /// Contract.
    pub target: Address,
    /// Call.
    pub input: Bytes,
    /// Limit.
    pub gas: u64,
}

impl Sender {
    /// A sender from one key.
    pub fn new(provider: DynProvider, chain_id: u64, signer: PrivateKeySigner, config: &Serve) -> Self {
        Self {
            provider,
            chain_id,
            bump_after_blocks: config.bump_after_blocks,
            finality_depth: config.finality_depth,
            signer,
        }
    }

    /// Whose transactions these are.
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    fn sign(&self, intent: &Intent, fees: Eip1559Estimation) -> anyhow::Result<(B256, Vec<u8>)> {
        let mut transaction = TxEip1559 {
            chain_id: self.chain_id,
            nonce: intent.nonce,
            gas_limit: intent.gas,
            max_fee_per_gas: fees.max_fee_per_gas,
            max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
            to: TxKind::Call(intent.target),
            value: U256::ZERO,
            access_list: Default::default(),
            input: intent.input.clone(),
        };
        let signature = self.signer.sign_transaction_sync(&mut transaction).context("sign a transaction")?;
        let signed = transaction.into_signed(signature);
        Ok((*signed.hash(), TxEnvelope::from(signed).encoded_2718()))
    }
}

/// Sends, for each provider, the oldest batch that no transaction carries.
pub async fn send_batches(app: &App) -> anyhow::Result<()> {
    for batch in batch::to_anchor(&app.db).await? {
        let (provider, number) = (batch.header.provider, batch.header.number);
        // token, treasury and attestor are a provider's own contracts: what they make of a call holds up nobody else
        if let Err(error) = send_batch(app, batch).await {
            tracing::warn!(%provider, number, cause = causes(error.as_ref()), "a batch can't be sent now");
            batch::fail(&app.db, provider, number, &causes(error.as_ref())).await?;
        }
    }
    Ok(())
}

async fn send_batch(app: &App, batch: batch::Signed) -> anyhow::Result<()> {
    let (provider, number, root) = (batch.header.provider, batch.header.number, batch.header.root);
    let input = ProvenanceLog::anchorCall { batch: (&batch.header).into(), signature: batch.signature }.abi_encode();
    let purpose = Purpose::Anchor { provider, number };
    if is_cooling(app, provider, number).await? {
        return Ok(());
    }
    let refused = send(app, purpose, app.chain.deployment.provenance_log, input.into()).await?;
    let Some(reason) = refused else { return Ok(()) };
    if root_of(app, provider, number, None).await? == root {
        tracing::info!(%provider, number, "the chain has this batch already");
        let mut tx = app.db.begin().await?;
        batch::set_state(&mut tx, provider, number, State::Mined).await?;
        tx.commit().await?;
    } else {
        tracing::warn!(%provider, number, reason, "the chain would refuse this batch");
        batch::fail(&app.db, provider, number, &reason).await?;
    }
    Ok(())
}

/// Whether a batch reverted so lately that sending it again would only burn gas: twice as long after each time.
async fn is_cooling(app: &App, provider: Address, number: u64) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT coalesce(max(created_at) + least(power(2, count(*)), 3600) * interval '1 second' > now(), false)
         FROM transaction WHERE provider = $1 AND number = $2 AND state = 'reverted'",
    )
    .bind(provider.0.0)
    .bind(bigint(number)?)
    .fetch_one(&app.db)
    .await?)
}

/// Root under a batch number, zero where there is none, in a given block or the newest.
pub async fn root_of(app: &App, provider: Address, number: u64, block: Option<u64>) -> anyhow::Result<B256> {
    let log = ProvenanceLog::new(app.chain.deployment.provenance_log, &app.chain.provider);
    let call = log.rootOf(provider, number);
    let call = match block {
        Some(block) => call.block(block.into()),
        None => call,
    };
    call.call().await.context("ask the log for a root")
}

/// Tells the chain of withdrawals that it does not know.
pub async fn send_withdrawals(app: &App) -> anyhow::Result<()> {
    for (id, consent, signature) in withdraw::unsettled(&app.db, WITHDRAWALS_PER_ROUND).await? {
        if app.chain.is_withdrawn(id).await? {
            withdraw::settle(&app.db, id).await?;
            continue;
        }
        if is_under_way(app, id).await? {
            continue;
        }
        let input = ConsentRegistry::withdrawBySignatureCall { consent: (&consent).into(), signature }.abi_encode();
        let target = app.chain.deployment.consent_registry;
        // a contributor's account may be a contract: what it makes of a call holds up nobody else
        let sent = send(app, Purpose::Withdraw(id), target, input.into()).await;
        if let Some(reason) = sent.unwrap_or_else(|error| Some(causes(error.as_ref()))) {
            tracing::warn!(consent = %id, reason, "this withdrawal can't be sent now");
            withdraw::fail(&app.db, id, &reason).await?;
        }
    }
    Ok(())
}

async fn is_under_way(app: &App, id: ConsentId) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM transaction WHERE consent_id = $1 AND state IN ('intent', 'submitted', 'mined'))",
    )
    .bind(id.0.0)
    .fetch_one(&app.db)
    .await
}

/// Sends one call, or gives the reason for which the chain would revert it.
async fn send(app: &App, purpose: Purpose, target: Address, input: Bytes) -> anyhow::Result<Option<String>> {
    let sender = &app.sender;
    let call = TransactionRequest::default().with_from(sender.address()).with_to(target).with_input(input.clone());
    // estimated before a nonce is taken: a call that would revert must not leave a gap
    let gas = match sender.provider.estimate_gas(call).await {
        Ok(gas) => gas.saturating_mul(5) / 4,
        Err(error) => match revert::reason(&error) {
            Some(reason) => return Ok(Some(reason)),
            None => return Err(anyhow::Error::from(error).context("estimate a transaction's gas")),
        },
    };
    let on_chain = nonce::on_chain(sender).await?;
    let mut tx = app.db.begin().await?;
    let nonce = nonce::take(&mut tx, sender, on_chain).await?;
    let id = insert_intent(&mut tx, sender, purpose, nonce, target, &input, gas).await?;
    if let Purpose::Anchor { provider, number } = purpose {
        batch::set_state(&mut tx, provider, number, State::Submitted).await?;
    }
    tx.commit().await?;
    sign_and_broadcast(app, &Intent { id, nonce, target, input, gas }, None).await?;
    Ok(None)
}

async fn insert_intent(
    tx: &mut Tx<'_>,
    sender: &Sender,
    purpose: Purpose,
    nonce: u64,
    target: Address,
    input: &Bytes,
    gas: u64,
) -> anyhow::Result<i64> {
    let (provider, number, consent) = match purpose {
        Purpose::Anchor { provider, number } => (Some(provider.0.0), Some(bigint(number)?), None),
        Purpose::Withdraw(id) => (None, None, Some(id.0.0)),
    };
    let row = sqlx::query(
        "INSERT INTO transaction (chain_id, signer, nonce, provider, number, consent_id, target, input, gas, state)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'intent') RETURNING id",
    )
    .bind(bigint(sender.chain_id)?)
    .bind(sender.address().0.0)
    .bind(bigint(nonce)?)
    .bind(provider)
    .bind(number)
    .bind(consent)
    .bind(target.0.0)
    .bind(input.as_ref())
    .bind(bigint(gas)?)
    .fetch_one(&mut **tx)
    .await?;
    Ok(row.try_get(0)?)
}

/// Signs at today's fees, but at least an eighth above `at_least`; persists, then broadcasts.
pub async fn sign_and_broadcast(app: &App, intent: &Intent, at_least: Option<Eip1559Estimation>) -> anyhow::Result<()> {
    let sender = &app.sender;
    let today = sender.provider.estimate_eip1559_fees().await.context("estimate fees")?;
    let fees = at_least.map_or(today, |before| bumped(today, before));
    let head = sender.provider.get_block_number().await.context("ask for the block number")?;
    let (hash, raw) = sender.sign(intent, fees)?;
    let mut tx = app.db.begin().await?;
    sqlx::query(
        "INSERT INTO attempt (hash, transaction_id, raw, max_fee_wei, tip_wei, signed_at_block)
         VALUES ($1, $2, $3, $4::text::numeric, $5::text::numeric, $6) ON CONFLICT DO NOTHING",
    )
    .bind(hash.0)
    .bind(intent.id)
    .bind(&raw)
    .bind(fees.max_fee_per_gas.to_string())
    .bind(fees.max_priority_fee_per_gas.to_string())
    .bind(bigint(head)?)
    .execute(&mut *tx)
    .await?;
    sqlx::query("UPDATE transaction SET state = 'submitted' WHERE id = $1 AND state = 'intent'")
        .bind(intent.id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    tracing::info!(transaction = %hash, nonce = intent.nonce, "transaction signed");
    broadcast(sender, hash, &raw).await;
    Ok(())
}

/// Whether more than before would still be near what the day asks; what is not mined at many times that waits for
/// something else.
pub async fn may_raise(sender: &Sender, before: Eip1559Estimation) -> anyhow::Result<bool> {
    let today = sender.provider.estimate_eip1559_fees().await.context("estimate fees")?;
    Ok(before.max_fee_per_gas / FEE_TIMES_MAX <= today.max_fee_per_gas)
}

/// Hands the bytes to the node. Whatever it says ("already known", "nonce too low", …), only the chain decides: the
/// follower looks there.
pub async fn broadcast(sender: &Sender, hash: B256, raw: &[u8]) {
    match sender.provider.send_raw_transaction(raw).await {
        Ok(_) => metrics::counter!("transactions_broadcast_total").increment(1),
        Err(error) => tracing::info!(transaction = %hash, %error, "the node did not take the transaction"),
    }
}

/// A replacement needs at least 10 % more of both fees; 12.5 % passes every client.
fn bumped(today: Eip1559Estimation, before: Eip1559Estimation) -> Eip1559Estimation {
    let above = |fee: u128| fee.saturating_add(fee / 8).saturating_add(1);
    Eip1559Estimation {
        max_fee_per_gas: today.max_fee_per_gas.max(above(before.max_fee_per_gas)),
        max_priority_fee_per_gas: today.max_priority_fee_per_gas.max(above(before.max_priority_fee_per_gas)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_pays_an_eighth_more_of_both_fees_or_what_the_day_asks() {
        let fees = |max, tip| Eip1559Estimation { max_fee_per_gas: max, max_priority_fee_per_gas: tip };
        let next = bumped(fees(10, 1), fees(800, 80));
        assert_eq!((next.max_fee_per_gas, next.max_priority_fee_per_gas), (901, 91));
        let next = bumped(fees(5000, 100), fees(800, 80));
        assert_eq!((next.max_fee_per_gas, next.max_priority_fee_per_gas), (5000, 100));
    }
}
