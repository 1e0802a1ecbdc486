//! A token on the chain: a transfer for each payout, signed and kept in a row before the chain sees it.
//!
//! A payout has one row, and so one nonce, for ever: whatever happens to this process, the same bytes are sent again, or the
//! same transfer under the same nonce with a higher fee. Of one nonce the chain takes one transaction. It has paid when the
//! transfer stands in a block that this indexer has applied, which it does to final ones only.

use std::future::IntoFuture;

use alloy::{
    consensus::{Transaction as _, TxEip1559, TxEnvelope},
    eips::eip2718::Decodable2718,
    primitives::{Address, B256, TxKind, U256},
    providers::Provider,
    rpc::types::TransactionReceipt,
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use anyhow::{Context, bail, ensure};
use sqlx::Row;
use tidemark::contracts::DevToken;
use uuid::Uuid;

use super::{
    Payouts,
    rail::{Answer, Order, PayoutRail},
    redeem::{FEE_TIMES_MAX, PATIENCE, broadcast, raised, rpc_error, seal, timely},
    routes,
};

/// Signatures under one nonce.
const HASHES_MAX: usize = 64;

/// What the rail needs to be told.
#[derive(Clone, Debug)]
pub struct TokenConfig {
    /// The token that it pays in.
    pub token: Address,
    /// Holds the tokens and pays the gas; nobody else may use it.
    pub signer: PrivateKeySigner,
}

impl TokenConfig {
    /// The token as rates name it.
    pub fn currency(&self) -> String {
        format!("{:#x}", self.token)
    }
}

/// Sends transfers of a token.
pub struct TokenRail {
    payouts: Payouts,
    config: TokenConfig,
}

/// What was signed for a payout.
struct Sent {
    nonce: u64,
    amount: u128,
    hashes: Vec<B256>,
    raw: Vec<u8>,
    state: String,
    is_old: bool,
}

impl TokenRail {
    /// Over the chain that the indexer mirrors.
    pub fn new(payouts: &Payouts, config: TokenConfig) -> Self {
        Self { payouts: payouts.clone(), config }
    }

    async fn ask(&self, order: &Order) -> anyhow::Result<Answer> {
        let recipient: Address = order.destination.parse().context("the destination is no address")?;
        let Some(sent) = self.kept(order.key).await? else {
            let raw = self.sign(order, recipient).await?;
            broadcast(&self.payouts, &raw).await?;
            return Ok(self.later("the transfer is sent"));
        };
        self.follow(order.key, recipient, sent).await
    }

    fn later(&self, note: impl Into<String>) -> Answer {
        Answer::Accepted(note.into(), self.payouts.inner.config.poll_interval)
    }

    async fn kept(&self, key: Uuid) -> anyhow::Result<Option<Sent>> {
        let row = sqlx::query(
            "SELECT nonce, amount::text, tx_hashes, raw, state, signed_at < now() - $2 * interval '1 second', chain_id, signer,
                 token
             FROM local.payout_transfer WHERE payout_id = $1",
        )
        .bind(key)
        .bind(i64::try_from(PATIENCE.as_secs())?)
        .fetch_optional(&self.payouts.inner.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let chain_id: i64 = row.try_get(6)?;
        ensure!(
            chain_id == i64::try_from(self.payouts.inner.chain_id)?
                && routes::address(&row, 7)? == self.config.signer.address()
                && routes::address(&row, 8)? == self.config.token,
            "its transfer was signed for another chain, with another key or of another token: start with those that it has"
        );
        let hashes = row.try_get::<Vec<Vec<u8>>, _>(2)?;
        Ok(Some(Sent {
            nonce: u64::try_from(row.try_get::<i64, _>(0)?)?,
            amount: row.try_get::<String, _>(1)?.parse()?,
            hashes: hashes.iter().map(|hash| B256::try_from(hash.as_slice())).collect::<Result<_, _>>()?,
            raw: row.try_get(3)?,
            state: row.try_get(4)?,
            is_old: row.try_get(5)?,
        }))
    }

    /// Signs the one transfer of a payout. What the node is asked for comes first, so that no row is held meanwhile; the nonce
    /// is taken and kept in the transaction that holds the payout in `paying`.
    async fn sign(&self, order: &Order, recipient: Address) -> anyhow::Result<Vec<u8>> {
        let inner = &self.payouts.inner;
        let money = order.money.as_ref().filter(|money| money.currency == self.config.currency());
        let amount = money.context("the payout is not in the token that is paid here")?.minor;
        let signer = self.config.signer.address();
        let call = DevToken::transferCall { to: recipient, value: U256::from(amount) };
        let contract = DevToken::new(self.config.token, inner.chain.clone());
        let builder = contract.call_builder(&call).from(signer);
        let gas = timely(builder.estimate_gas()).await?;
        let gas = gas.map_err(|error| match error {
            alloy::contract::Error::TransportError(error) => rpc_error("transfer", &error),
            error => anyhow::anyhow!("transfer: the token's answer can't be read: {error}"),
        })?;
        let fees = timely(tidemark::chain::fees(&inner.chain)).await?.map_err(|error| rpc_error("fees", &error))?;
        let next = timely(inner.chain.get_transaction_count(signer).into_future()).await?;
        let next = next.map_err(|error| rpc_error("nonce", &error))?;
        let chain_id = i64::try_from(inner.chain_id)?;

        let mut rows = inner.pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(format!("tidemark/payout-signer/{chain_id}/{signer:#x}"))
            .execute(&mut *rows)
            .await?;
        let after: Option<i64> =
            sqlx::query_scalar("SELECT max(nonce) + 1 FROM local.payout_transfer WHERE chain_id = $1 AND signer = $2")
                .bind(chain_id)
                .bind(signer.as_slice())
                .fetch_one(&mut *rows)
                .await?;
        let nonce = next.max(u64::try_from(after.unwrap_or(0))?);
        let transaction = TxEip1559 {
            chain_id: inner.chain_id,
            nonce,
            gas_limit: gas.saturating_add(gas / 4),
            max_fee_per_gas: fees.max_fee_per_gas,
            max_priority_fee_per_gas: fees.max_priority_fee_per_gas,
            to: TxKind::Call(self.config.token),
            value: U256::ZERO,
            access_list: Default::default(),
            input: call.abi_encode().into(),
        };
        let (tx_hash, raw) = seal(&self.config.signer, transaction)?;
        let kept = sqlx::query(
            "INSERT INTO local.payout_transfer (payout_id, chain_id, signer, nonce, token, amount, tx_hashes, raw)
             SELECT payout_id, $2, $3, $4, $5, minor, ARRAY[$6::bytea], $7 FROM local.payout
             WHERE payout_id = $1 AND state = 'paying' AND rail = 'token' AND currency = $8 AND minor = $9::text::numeric
             FOR UPDATE",
        )
        .bind(order.key)
        .bind(chain_id)
        .bind(signer.as_slice())
        .bind(i64::try_from(nonce)?)
        .bind(self.config.token.as_slice())
        .bind(tx_hash.as_slice())
        .bind(&raw)
        .bind(self.config.currency())
        .bind(amount.to_string())
        .execute(&mut *rows)
        .await?;
        ensure!(kept.rows_affected() == 1, "the payout is not to be paid any more");
        rows.commit().await?;
        tracing::info!(payout_id = %order.key, nonce, %tx_hash, "transfer signed");
        Ok(raw)
    }

    async fn follow(&self, key: Uuid, recipient: Address, sent: Sent) -> anyhow::Result<Answer> {
        let inner = &self.payouts.inner;
        match sent.state.as_str() {
            "paid" => return Ok(Answer::Paid("the transfer is final".into())),
            "failed" => return Ok(Answer::Never("the transfer was reverted".into())),
            _ => {}
        }
        let applied: Option<i64> =
            sqlx::query_scalar("SELECT applied_number FROM cursor").fetch_optional(&inner.pool).await?;
        let applied = applied.and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
        // nonces before receipts: what took the nonce until now has one, if it is ours
        let signer = self.config.signer.address();
        let next = timely(inner.chain.get_transaction_count(signer).into_future()).await?;
        let next = next.map_err(|error| rpc_error("nonce", &error))?;
        let final_next = match next > sent.nonce {
            false => 0,
            true => {
                let asked = inner.chain.get_transaction_count(signer).number(applied);
                timely(asked.into_future()).await?.map_err(|error| rpc_error("nonce at the final block", &error))?
            }
        };
        for hash in &sent.hashes {
            let receipt = timely(inner.chain.get_transaction_receipt(*hash).into_future()).await?;
            let Some(receipt) = receipt.map_err(|error| rpc_error("receipt", &error))? else { continue };
            let Some((number, told)) = receipt.block_number.zip(receipt.block_hash) else { continue };
            // a node may go on telling the receipt of a block that a reorg took, and the block too; the account knows better
            if number <= applied && final_next <= sent.nonce {
                continue;
            }
            let block = timely(inner.chain.get_block_by_number(number.into()).into_future()).await?;
            match block.map_err(|error| rpc_error("block", &error))?.map(|block| block.header.hash) {
                Some(hash) if hash == told => return self.mined(key, recipient, &sent, &receipt, applied).await,
                Some(_) => {}
                None => return Ok(self.later("the node does not have the block that it says the transfer is in")),
            }
        }
        if final_next > sent.nonce {
            self.end(key, "lost").await?;
            return Ok(Answer::Doubt(format!(
                "nonce {} was used by a transaction that is not in our rows: who else has the key, and did it pay?",
                sent.nonce
            )));
        }
        if next > sent.nonce {
            return Ok(self.later("another transaction has the transfer's nonce; waiting whether that is final"));
        }
        if sent.state == "lost" {
            return Ok(Answer::Doubt("its nonce was used in a final block that is gone".into()));
        }
        if !(sent.is_old && self.replace(key, &sent).await?) {
            broadcast(&self.payouts, &sent.raw).await?;
        }
        Ok(self.later("the transfer is sent"))
    }

    async fn mined(
        &self,
        key: Uuid,
        recipient: Address,
        sent: &Sent,
        receipt: &TransactionReceipt,
        applied: u64,
    ) -> anyhow::Result<Answer> {
        let Some(block) = receipt.block_number.filter(|block| *block <= applied) else {
            return Ok(self.later("the transfer is mined, and not final yet"));
        };
        if !receipt.status() {
            self.end(key, "failed").await?;
            return Ok(Answer::Never(format!("the transfer was reverted in block {block}")));
        }
        // a token may say no without reverting
        let moved = receipt.inner.logs().iter().any(|log| {
            let event = log.log_decode::<DevToken::Transfer>().map(|log| log.inner.data);
            log.address() == self.config.token
                && event.is_ok_and(|event| {
                    (event.from, event.to, event.value)
                        == (self.config.signer.address(), recipient, U256::from(sent.amount))
                })
        });
        if !moved {
            // nothing more can come of it, whatever its operator decides
            self.end(key, "lost").await?;
            return Ok(Answer::Doubt(format!(
                "the transfer is in block {block}, and its token tells of no such transfer"
            )));
        }
        self.end(key, "paid").await?;
        Ok(Answer::Paid(format!("the transfer is final in block {block}")))
    }

    async fn end(&self, key: Uuid, state: &str) -> anyhow::Result<()> {
        sqlx::query("UPDATE local.payout_transfer SET state = $2 WHERE payout_id = $1")
            .bind(key)
            .bind(state)
            .execute(&self.payouts.inner.pool)
            .await?;
        Ok(())
    }

    /// The same transfer under the same nonce with a higher fee; whether it was sent.
    async fn replace(&self, key: Uuid, sent: &Sent) -> anyhow::Result<bool> {
        let TxEnvelope::Eip1559(old) = TxEnvelope::decode_2718(&mut sent.raw.as_slice())? else {
            bail!("its transaction is of another type");
        };
        let fees = timely(tidemark::chain::fees(&self.payouts.inner.chain)).await?;
        let fees = fees.map_err(|error| rpc_error("fees", &error))?;
        if sent.hashes.len() >= HASHES_MAX || old.tx().max_fee_per_gas / FEE_TIMES_MAX > fees.max_fee_per_gas {
            return Ok(false);
        }
        let mut new = old.tx().clone();
        new.max_fee_per_gas = fees.max_fee_per_gas.max(raised(old.tx().max_fee_per_gas()));
        new.max_priority_fee_per_gas = fees.max_priority_fee_per_gas.max(raised(old.tx().max_priority_fee_per_gas));
        let (tx_hash, raw) = seal(&self.config.signer, new)?;
        sqlx::query(
            "UPDATE local.payout_transfer SET tx_hashes = tx_hashes || $2::bytea, raw = $3, signed_at = now()
             WHERE payout_id = $1 AND state = 'sent'",
        )
        .bind(key)
        .bind(tx_hash.as_slice())
        .bind(&raw)
        .execute(&self.payouts.inner.pool)
        .await?;
        tracing::info!(payout_id = %key, %tx_hash, "transfer replaced by one with a higher fee");
        broadcast(&self.payouts, &raw).await?;
        Ok(true)
    }
}

impl PayoutRail for TokenRail {
    async fn pay(&self, order: &Order) -> Answer {
        match self.ask(order).await {
            Ok(answer) => answer,
            // the row tells what was signed, so nothing that failed leaves a doubt
            Err(error) => match error.downcast_ref::<sqlx::Error>() {
                Some(_) => Answer::Later("the indexer's database failed; its log has the cause".into()),
                None => Answer::Later(format!("{error:#}")),
            },
        }
    }
}
