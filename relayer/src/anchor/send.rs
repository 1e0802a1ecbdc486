//! Sending: intent and nonce first, then the signed bytes, each durable before the next step; broadcasting comes last.

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::{eip1559::Eip1559Estimation, eip2718::Encodable2718},
    network::TransactionBuilder,
    primitives::{Address, B256, Bytes, TxKind, U256},
    providers::{DynProvider, Provider},
    rpc::types::TransactionRequest,
    sol_types::SolCall,
    transports::TransportError,
};
use anyhow::Context;
use tidemark::{
    contracts::{ConsentRegistry, ProvenanceLog},
    ids::ConsentId,
    nodes::said::Said,
    service::causes,
};
use tokio::sync::OnceCell;

use super::{
    data_fee::{self, DataFee},
    fees, nonce, revert,
};
use crate::{
    app::App,
    batch::{self, State},
    config::Serve,
    intake::{Tx, bigint, withdraw},
    signer::{SIGNING_TIME_MAX, Signer},
};

const WITHDRAWALS_PER_ROUND: i64 = 32;
const WEI_PER_GWEI: u128 = 1_000_000_000;

/// A lane: the key that sends, how patiently, and within which bounds.
pub struct Sender {
    /// The node.
    pub provider: DynProvider,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Replace a transaction after this many blocks unmined.
    pub bump_after_blocks: u64,
    /// Never offer more for a unit of gas.
    pub max_fee_wei: u128,
    /// Send nothing that could leave less.
    pub balance_floor_wei: U256,
    /// How the chain asks for data, once that is known.
    pub data_fee: OnceCell<DataFee>,
    signer: Signer,
    lease: String,
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
    /// To take a nonce that would be missing.
    Noop,
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
    /// What the names of all lanes' leases start with.
    pub const LEASES: &str = "send ";

    /// A lane from one key.
    pub fn new(provider: DynProvider, chain_id: u64, signer: Signer, config: &Serve) -> Self {
        Self {
            provider,
            chain_id,
            bump_after_blocks: config.bump_after_blocks,
            max_fee_wei: u128::from(config.max_fee_gwei).saturating_mul(WEI_PER_GWEI),
            balance_floor_wei: U256::from(config.balance_floor_wei),
            data_fee: OnceCell::new(),
            lease: Self::lease_of(chain_id, signer.address()),
            signer,
        }
    }

    /// The name of a lane's lease.
    pub fn lease_of(chain_id: u64, signer: Address) -> String {
        format!("{}{chain_id} {signer}", Self::LEASES)
    }

    /// Who holds it may write to the lane.
    pub fn lease(&self) -> &str {
        &self.lease
    }

    /// Whose transactions these are.
    pub fn address(&self) -> Address {
        self.signer.address()
    }

    fn draft(&self, nonce: u64, gas: u64, target: Address, input: &Bytes, offered: Eip1559Estimation) -> TxEip1559 {
        TxEip1559 {
            chain_id: self.chain_id,
            nonce,
            gas_limit: gas,
            max_fee_per_gas: offered.max_fee_per_gas,
            max_priority_fee_per_gas: offered.max_priority_fee_per_gas,
            to: TxKind::Call(target),
            value: U256::ZERO,
            access_list: Default::default(),
            input: input.clone(),
        }
    }

    async fn sign(&self, intent: &Intent, offered: Eip1559Estimation) -> anyhow::Result<(B256, Vec<u8>)> {
        let mut transaction = self.draft(intent.nonce, intent.gas, intent.target, &intent.input, offered);
        let signing = tokio::time::timeout(SIGNING_TIME_MAX, self.signer.sign_transaction(&mut transaction));
        let signature = signing.await.context("the key did not sign in time")?.context("sign a transaction")?;
        let signed = transaction.into_signed(signature);
        Ok((*signed.hash(), TxEnvelope::from(signed).encoded_2718()))
    }
}

/// What became of a call that was to be sent.
enum Sent {
    /// It is on its way.
    Yes,
    /// The chain would revert it, for this reason.
    Refused(String),
    /// The balance does not reach for it, and why.
    Short(String),
    /// Another lane was faster.
    ByOther,
}

/// Whether anything waits to be sent.
pub async fn is_due(app: &App) -> anyhow::Result<bool> {
    Ok(!batch::to_anchor(&app.db).await?.is_empty() || !withdraw::unsettled(&app.db, 1).await?.is_empty())
}

/// Sends what the lane serves: of each provider the oldest batch that no transaction carries, and withdrawals.
pub async fn send(app: &App, sender: &Sender) -> anyhow::Result<()> {
    let lanes = nonce::sending(app, sender).await?;
    for batch in batch::to_anchor(&app.db).await? {
        let (provider, number) = (batch.header.provider, batch.header.number);
        if !nonce::serves(&lanes, sender.address(), provider.as_slice()) {
            continue;
        }
        // token, treasury and attestor are a provider's own contracts: what they make of a call holds up nobody else
        if let Err(error) = send_batch(app, sender, batch).await {
            tracing::warn!(%provider, number, cause = causes(error.as_ref()), "a batch can't be sent now");
            batch::fail(&app.db, provider, number, &causes(error.as_ref())).await?;
        }
    }
    send_withdrawals(app, sender, &lanes).await
}

async fn send_batch(app: &App, sender: &Sender, batch: batch::Signed) -> anyhow::Result<()> {
    let (provider, number, root) = (batch.header.provider, batch.header.number, batch.header.root);
    let input =
        ProvenanceLog::anchorCall { batch: (&batch.header).into(), signature: batch.signature.clone() }.abi_encode();
    let purpose = Purpose::Anchor { provider, number };
    if is_cooling(app, provider, number).await? {
        return Ok(());
    }
    let reason = match send_call(app, sender, purpose, app.chain.deployment.provenance_log, input.into()).await? {
        Sent::Yes | Sent::ByOther => return Ok(()),
        Sent::Short(reason) => {
            tracing::warn!(%provider, number, reason, "this batch can't be paid for");
            return batch::fail(&app.db, provider, number, &reason).await;
        }
        Sent::Refused(reason) => reason,
    };
    if root_of(app, provider, number, None).await? == root {
        tracing::info!(%provider, number, "the chain has this batch already");
        let mut tx = app.leases.begin(sender.lease()).await?;
        batch::set_state(&mut tx, provider, number, State::Mined).await?;
        tx.commit().await?;
    } else {
        tracing::warn!(%provider, number, reason, "the chain would refuse this batch");
        batch::fail(&app.db, provider, number, &reason).await?;
        // its attestor may have been replaced since: the new one's signature is over the same header
        if reason.starts_with("AttestationInvalid") {
            batch::build::sign_again(app, &batch.header, &batch.signature).await?;
        }
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
async fn send_withdrawals(app: &App, sender: &Sender, lanes: &[Address]) -> anyhow::Result<()> {
    for (id, consent, signature) in withdraw::unsettled(&app.db, WITHDRAWALS_PER_ROUND).await? {
        if !nonce::serves(lanes, sender.address(), id.0.as_slice()) {
            continue;
        }
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
        let reason = match send_call(app, sender, Purpose::Withdraw(id), target, input.into()).await {
            Ok(Sent::Yes | Sent::ByOther) => continue,
            Ok(Sent::Refused(reason) | Sent::Short(reason)) => reason,
            Err(error) => causes(error.as_ref()),
        };
        tracing::warn!(consent = %id, reason, "this withdrawal can't be sent now");
        withdraw::fail(&app.db, id, &reason).await?;
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

/// Sends one call, unless the chain would revert it or it can't be paid for.
async fn send_call(
    app: &App,
    sender: &Sender,
    purpose: Purpose,
    target: Address,
    input: Bytes,
) -> anyhow::Result<Sent> {
    // estimated before a nonce is taken: a call that would revert must not leave a gap
    let gas = match estimate(sender, target, &input).await {
        Ok(gas) => gas,
        Err(error) => {
            count(Said::of(&error), "eth_estimateGas");
            return match revert::reason(&error) {
                Some(reason) => Ok(Sent::Refused(reason)),
                None => Err(anyhow::Error::from(error).context("estimate a transaction's gas")),
            };
        }
    };
    let (offered, seen) = (fees::offer(sender).await?, nonce::in_pool(sender).await?);
    let data_fee = data_fee::beside_gas(sender, target, &sender.draft(seen, gas, target, &input, offered)).await?;
    if let Some(reason) = fees::shortage(&app.db, sender, gas, offered, data_fee).await? {
        return Ok(Sent::Short(reason));
    }
    let mut tx = app.leases.begin(sender.lease()).await?;
    let nonce = nonce::take(&mut tx, sender, seen).await?;
    if let Purpose::Anchor { provider, number } = purpose
        && !batch::carry(&mut tx, provider, number).await?
    {
        return Ok(Sent::ByOther);
    }
    let draft = Draft { purpose, nonce, target, input, gas, data_fee };
    let Some(intent) = insert_intent(&mut tx, sender, draft).await? else {
        return Ok(Sent::ByOther);
    };
    tx.commit().await?;
    sign_and_broadcast(app, sender, &intent, offered).await?;
    Ok(Sent::Yes)
}

/// With a quarter more: the state may change until the block.
async fn estimate(sender: &Sender, target: Address, input: &Bytes) -> Result<u64, TransportError> {
    let call = TransactionRequest::default().with_from(sender.address()).with_to(target).with_input(input.clone());
    Ok(sender.provider.estimate_gas(call).await?.saturating_mul(5) / 4)
}

/// Takes a nonce that the chain waits for and that nothing here has, with a transfer of nothing to the signer itself.
pub async fn fill(app: &App, sender: &Sender, nonce: u64) -> anyhow::Result<()> {
    let (target, input) = (sender.address(), Bytes::new());
    let gas = estimate(sender, target, &input).await.context("estimate a transfer's gas")?;
    let offered = fees::offer(sender).await?;
    if let Some(reason) = fees::shortage(&app.db, sender, gas, offered, U256::ZERO).await? {
        tracing::warn!(nonce, reason, "a nonce that is missing can't be filled");
        return Ok(());
    }
    let mut tx = app.leases.begin(sender.lease()).await?;
    let draft = Draft { purpose: Purpose::Noop, nonce, target, input, gas, data_fee: U256::ZERO };
    let Some(intent) = insert_intent(&mut tx, sender, draft).await? else {
        return Ok(());
    };
    tx.commit().await?;
    metrics::counter!("nonce_gaps_filled_total").increment(1);
    sign_and_broadcast(app, sender, &intent, offered).await
}

/// A transaction that has no row yet.
struct Draft {
    purpose: Purpose,
    nonce: u64,
    target: Address,
    input: Bytes,
    gas: u64,
    /// What an L2 asks for its data beside the gas, wei.
    data_fee: U256,
}

/// Its row; `None` where this batch, withdrawal or nonce has a transaction by now.
async fn insert_intent(tx: &mut Tx<'_>, sender: &Sender, draft: Draft) -> anyhow::Result<Option<Intent>> {
    let Draft { purpose, nonce, target, input, gas, data_fee } = draft;
    let (name, provider, number, consent) = match purpose {
        Purpose::Anchor { provider, number } => ("anchor", Some(provider.0.0), Some(bigint(number)?), None),
        Purpose::Withdraw(id) => ("withdraw", None, None, Some(id.0.0)),
        Purpose::Noop => ("noop", None, None, None),
    };
    let id: Option<i64> = sqlx::query_scalar(
        "INSERT INTO transaction
             (chain_id, signer, nonce, purpose, provider, number, consent_id, target, input, gas, data_fee_wei, state)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::numeric, 'intent') ON CONFLICT DO NOTHING RETURNING id",
    )
    .bind(bigint(sender.chain_id)?)
    .bind(sender.address().0.0)
    .bind(bigint(nonce)?)
    .bind(name)
    .bind(provider)
    .bind(number)
    .bind(consent)
    .bind(target.0.0)
    .bind(input.as_ref())
    .bind(bigint(gas)?)
    .bind(data_fee.to_string())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(id.map(|id| Intent { id, nonce, target, input, gas }))
}

/// Signs, persists, then broadcasts.
pub async fn sign_and_broadcast(
    app: &App,
    sender: &Sender,
    intent: &Intent,
    offered: Eip1559Estimation,
) -> anyhow::Result<()> {
    let head = sender.provider.get_block_number().await.context("ask for the block number")?;
    let (hash, raw) = sender.sign(intent, offered).await?;
    let mut tx = app.leases.begin(sender.lease()).await?;
    sqlx::query(
        "INSERT INTO attempt (hash, transaction_id, raw, max_fee_wei, tip_wei, signed_at_block)
         VALUES ($1, $2, $3, $4::text::numeric, $5::text::numeric, $6) ON CONFLICT DO NOTHING",
    )
    .bind(hash.0)
    .bind(intent.id)
    .bind(&raw)
    .bind(offered.max_fee_per_gas.to_string())
    .bind(offered.max_priority_fee_per_gas.to_string())
    .bind(bigint(head)?)
    .execute(&mut *tx)
    .await?;
    sqlx::query("UPDATE transaction SET state = 'submitted' WHERE id = $1 AND state = 'intent'")
        .bind(intent.id)
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    tracing::info!(transaction = %hash, nonce = intent.nonce, "transaction signed");
    broadcast(app, sender, intent.id, hash, &raw).await
}

/// Hands the bytes to the nodes. Whatever they say ("already known", "nonce too low", …), only the chain decides, and the
/// follower looks there; for people, what was said stays with the transaction until a node takes it.
pub async fn broadcast(app: &App, sender: &Sender, id: i64, hash: B256, raw: &[u8]) -> anyhow::Result<()> {
    let refusal = match sender.provider.send_raw_transaction(raw).await {
        Ok(_) => {
            metrics::counter!("transactions_broadcast_total").increment(1);
            None
        }
        Err(error) => {
            let said = Said::of(&error);
            count(said, "eth_sendRawTransaction");
            (said != Said::AlreadyKnown).then(|| (said.name(), causes(&error)))
        }
    };
    let changed = sqlx::query(
        "UPDATE transaction SET why = $2 WHERE id = $1 AND state = 'submitted' AND why IS DISTINCT FROM $2",
    )
    .bind(id)
    .bind(refusal.as_ref().map(|(class, _)| *class))
    .execute(&app.db)
    .await?;
    // once, and not in every round
    if let Some((class, cause)) = refusal.filter(|_| changed.rows_affected() == 1) {
        tracing::warn!(transaction = %hash, class, cause, "the nodes do not take the transaction");
    }
    Ok(())
}

fn count(said: Said, method: &'static str) {
    metrics::counter!("node_errors_total", "method" => method, "class" => said.name()).increment(1);
}
