//! Following: every hash ever signed is watched until a block with one of them is final; a reorg sends it back.

use std::collections::HashMap;

use alloy::{
    eips::eip1559::Eip1559Estimation,
    network::TransactionBuilder,
    primitives::{Address, B256, Bytes},
    providers::Provider,
    rpc::types::{TransactionReceipt, TransactionRequest},
    sol_types::SolCall,
};
use anyhow::Context;
use sqlx::{PgPool, Row, postgres::PgRow};
use tidemark::{contracts::ProvenanceLog, ids::ConsentId};

use super::{
    fees, nonce, revert,
    send::{self, Intent, Purpose, Sender},
};
use crate::{
    app::App,
    batch::{self, State},
    chain::Heads,
    intake::{Tx, bigint},
};

/// Transactions followed in one round, lowest nonce first.
const PER_ROUND: i64 = 64;
/// How deep a block is whose state full nodes still have: geth keeps 128.
const STATE_KEPT_BLOCKS: u64 = 32;

struct Open {
    intent: Intent,
    purpose: Purpose,
    is_mined: bool,
    mined: Option<Place>,
    /// Of a transaction that failed in its block.
    error: Option<String>,
}

/// Transaction hash, block number, block hash.
type Place = (B256, u64, B256);

struct Attempt {
    hash: B256,
    raw: Vec<u8>,
    fees: Eip1559Estimation,
    signed_at_block: u64,
}

/// Whether blocks enough have come without it.
fn is_old(sender: &Sender, attempt: &Attempt, heads: Heads) -> bool {
    heads.latest >= attempt.signed_at_block.saturating_add(sender.bump_after_blocks)
}

/// Whether anything is under way.
pub async fn is_busy(app: &App, sender: &Sender) -> anyhow::Result<bool> {
    Ok(!open(&app.db, sender).await?.is_empty() || !batch::anchored_by_others(&app.db).await?.is_empty())
}

/// Looks at everything under way once.
pub async fn follow(app: &App, sender: &Sender) -> anyhow::Result<()> {
    let heads = app.chain.heads().await?;
    let next = nonce::on_chain(sender).await?;
    fill_gaps(app, sender, heads, next).await?;
    let mut blocks = Blocks::default();
    for open in open(&app.db, sender).await? {
        let nonce = open.intent.nonce;
        let followed = follow_one(app, sender, (heads, next), &mut blocks, open).await;
        followed.with_context(|| format!("follow the transaction with nonce {nonce}"))?;
    }
    for header in batch::anchored_by_others(&app.db).await? {
        let state = if send::root_of(app, header.provider, header.number, Some(heads.finalized)).await? == header.root {
            State::Final
        } else if send::root_of(app, header.provider, header.number, None).await? == header.root {
            continue;
        } else {
            State::Signed
        };
        let mut tx = app.leases.begin(sender.lease()).await?;
        batch::set_state(&mut tx, header.provider, header.number, state).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// What keeps later nonces waiting: one that was never taken here, as when somebody else who used the key had it and a reorg
/// or a pool dropped it; or one that was done with, as when a reorg takes a transaction back that had reverted.
async fn fill_gaps(app: &App, sender: &Sender, heads: Heads, next: u64) -> anyhow::Result<()> {
    let first_open = open(&app.db, sender).await?.into_iter().next().map(|open| open.intent);
    let gaps = nonce::gaps(&app.db, sender, next).await?;
    if !gaps.is_empty() {
        // below this the node has something with each nonce, whoever sent it: that is a gap only once it has kept ours waiting
        let in_pool = nonce::in_pool(sender).await?;
        let has_waited = match &first_open {
            Some(first) => {
                attempts(&app.db, first.id).await?.last().is_some_and(|newest| is_old(sender, newest, heads))
            }
            None => false,
        };
        for nonce in gaps.into_iter().filter(|nonce| has_waited || *nonce >= in_pool) {
            tracing::warn!(nonce, "the chain waits for a nonce that was never taken here: filling it");
            send::fill(app, sender, nonce).await?;
        }
    }
    let first_open = first_open.map(|intent| intent.nonce);
    if first_open.is_none_or(|first| next >= first) {
        return Ok(());
    }
    let row = sqlx::query(
        "SELECT t.id, a.hash, a.raw FROM transaction t JOIN attempt a ON a.transaction_id = t.id
         WHERE t.chain_id = $1 AND t.signer = $2 AND t.nonce = $3 ORDER BY a.max_fee_wei DESC LIMIT 1",
    )
    .bind(bigint(sender.chain_id)?)
    .bind(sender.address().0.0)
    .bind(bigint(next)?)
    .fetch_optional(&app.db)
    .await?;
    let Some(row) = row else { return Ok(()) };
    tracing::warn!(nonce = next, "the chain waits for a transaction that was done with: sending it again");
    let (hash, raw): (_, Vec<u8>) = (B256::from(row.try_get::<[u8; 32], _>(1)?), row.try_get(2)?);
    send::broadcast(app, sender, row.try_get(0)?, hash, &raw).await
}

/// `next` is the nonce that the chain waits for.
async fn follow_one(
    app: &App,
    sender: &Sender,
    (heads, next): (Heads, u64),
    blocks: &mut Blocks,
    open: Open,
) -> anyhow::Result<()> {
    let attempts = attempts(&app.db, open.intent.id).await?;
    let Some(newest) = attempts.last() else {
        // a crash came between intent and signature: the nonce is taken, so it has to be used
        return send::sign_and_broadcast(app, sender, &open.intent, fees::offer(sender).await?).await;
    };
    match receipt(sender, &attempts, blocks).await? {
        Told::Receipt(hash, receipt) => {
            // a node that lost blocks may go on telling the block and the receipt; the account knows what was taken
            if next > open.intent.nonce || nonce::on_chain(sender).await? > open.intent.nonce {
                return in_block(app, sender, heads, &open, hash, *receipt).await;
            }
            // or the one that was asked for the account is behind the other
            if !is_old(sender, newest, heads) {
                return Ok(());
            }
            tracing::warn!(transaction = %hash, nonce = open.intent.nonce, "a receipt of a nonce that the chain still waits for");
        }
        Told::Unclear => return Ok(()),
        Told::Nothing => {}
    }
    if open.is_mined {
        tracing::warn!(nonce = open.intent.nonce, "a reorg took the transaction out of its block");
        metrics::counter!("transactions_unmined_total").increment(1);
        let mut tx = app.leases.begin(sender.lease()).await?;
        set(&mut tx, open.intent.id, "submitted", None, None).await?;
        if let Purpose::Anchor { provider, number } = open.purpose {
            batch::set_state(&mut tx, provider, number, State::Submitted).await?;
        }
        tx.commit().await?;
        return send::broadcast(app, sender, open.intent.id, newest.hash, &newest.raw).await;
    }
    if is_used_for_good(sender, heads, open.intent.nonce).await? {
        // asked again after the count, as a block may have come between the two questions; and the count once more, as
        // another node may have answered that is behind, and that would not know the block
        if matches!(receipt(sender, &attempts, &mut Blocks::default()).await?, Told::Nothing)
            && is_used_for_good(sender, heads, open.intent.nonce).await?
        {
            return lose(app, sender, &open).await;
        }
        return Ok(());
    }
    // what waits for the nonces before it does not wait for a higher fee
    if is_old(sender, newest, heads)
        && nonce::on_chain(sender).await? == open.intent.nonce
        && let Some(offered) = fees::replacement(fees::today(sender).await?, newest.fees, sender.max_fee_wei)
    {
        tracing::info!(nonce = open.intent.nonce, "transaction replaced at a higher fee");
        metrics::counter!("transactions_replaced_total").increment(1);
        return send::sign_and_broadcast(app, sender, &open.intent, offered).await;
    }
    let known = sender.provider.get_transaction_by_hash(newest.hash).await.context("ask for a transaction")?;
    if known.is_none() {
        send::broadcast(app, sender, open.intent.id, newest.hash, &newest.raw).await?;
    }
    Ok(())
}

/// Whether a final block has used the nonce. Of a node that has no state of the final block, a block is asked that is this deep: should a
/// reorg go deeper, the contract takes the batch once all the same.
async fn is_used_for_good(sender: &Sender, heads: Heads, nonce: u64) -> anyhow::Result<bool> {
    // what no newer block has used, no final one has: mostly there is nothing more to ask
    if nonce::on_chain(sender).await? <= nonce {
        return Ok(false);
    }
    if let Some(count) = nonce::on_chain_at(sender, heads.finalized).await? {
        return Ok(count > nonce);
    }
    let recent = heads.latest.saturating_sub(STATE_KEPT_BLOCKS);
    let count = if recent > heads.finalized { nonce::on_chain_at(sender, recent).await? } else { None };
    Ok(count.is_some_and(|count| count > nonce))
}

/// Hashes of blocks as the chain has them in this round, by number.
#[derive(Default)]
struct Blocks(HashMap<u64, Option<B256>>);

impl Blocks {
    async fn hash_of(&mut self, sender: &Sender, number: u64) -> anyhow::Result<Option<B256>> {
        if let Some(hash) = self.0.get(&number) {
            return Ok(*hash);
        }
        let block = sender.provider.get_block_by_number(number.into()).await.context("ask for a block")?;
        let hash = block.map(|block| block.header.hash);
        self.0.insert(number, hash);
        Ok(hash)
    }
}

/// What the chain says of a transaction.
enum Told {
    /// It is in a block of the chain, in the form with this hash.
    Receipt(B256, Box<TransactionReceipt>),
    /// Its block is not known to the node that was asked for it, which may be behind the other.
    Unclear,
    /// It is in no block.
    Nothing,
}

/// The receipt of any form of the transaction, where its block is still the chain's: a node may go on telling one of a block
/// that a reorg took, and what is believed to be final is never sent again.
async fn receipt(sender: &Sender, attempts: &[Attempt], blocks: &mut Blocks) -> anyhow::Result<Told> {
    let mut told = Told::Nothing;
    for attempt in attempts {
        let found = sender.provider.get_transaction_receipt(attempt.hash).await.context("ask for a receipt")?;
        let Some(receipt) = found else { continue };
        let Some((number, hash)) = receipt.block_number.zip(receipt.block_hash) else { continue };
        match blocks.hash_of(sender, number).await? {
            Some(canonical) if canonical == hash => return Ok(Told::Receipt(attempt.hash, Box::new(receipt))),
            Some(_) => {
                tracing::warn!(transaction = %attempt.hash, block = number, "a receipt of a block that the chain does not have");
            }
            None => told = Told::Unclear,
        }
    }
    Ok(told)
}

async fn in_block(
    app: &App,
    sender: &Sender,
    heads: Heads,
    open: &Open,
    hash: B256,
    receipt: TransactionReceipt,
) -> anyhow::Result<()> {
    let (number, block_hash) = receipt.block_number.zip(receipt.block_hash).context("a receipt without a block")?;
    let (place, is_final) = ((hash, number, block_hash), number <= heads.finalized);
    if !is_final && open.mined == Some(place) {
        return Ok(());
    }
    if !receipt.status() {
        return failed(app, sender, open, (place, receipt.gas_used), is_final).await;
    }
    let (name, state) = if is_final { ("final", State::Final) } else { ("mined", State::Mined) };
    let mut tx = app.leases.begin(sender.lease()).await?;
    set(&mut tx, open.intent.id, name, Some((place, receipt.gas_used, true)), None).await?;
    if let Purpose::Anchor { provider, number } = open.purpose {
        batch::set_state(&mut tx, provider, number, state).await?;
    }
    tx.commit().await?;
    tracing::info!(transaction = %hash, block = number, gas = receipt.gas_used, state = name, "transaction in a block");
    Ok(())
}

/// A transaction that failed in its block: what it was for is due again only once that block is final, as a reorg could still
/// let it succeed.
async fn failed(
    app: &App,
    sender: &Sender,
    open: &Open,
    (place, gas): (Place, u64),
    is_final: bool,
) -> anyhow::Result<()> {
    let (hash, block, _) = place;
    let reason = match open.error.clone().filter(|_| open.mined == Some(place)) {
        Some(reason) => reason,
        None => why_reverted(sender, open, block).await,
    };
    let state = match open.purpose {
        // somebody else anchored it, which is mostly why this one failed
        Purpose::Anchor { provider, number } if is_anchored(app, open, provider, number).await? => State::Mined,
        _ if is_final => State::Signed,
        _ => State::Submitted,
    };
    let name = if is_final { "reverted" } else { "mined" };
    tracing::warn!(transaction = %hash, block, reason, state = name, "transaction failed in its block");
    if is_final {
        metrics::counter!("transactions_reverted_total").increment(1);
    }
    let mut tx = app.leases.begin(sender.lease()).await?;
    set(&mut tx, open.intent.id, name, Some((place, gas, false)), Some(&reason)).await?;
    if let Purpose::Anchor { provider, number } = open.purpose {
        batch::set_state(&mut tx, provider, number, state).await?;
        if state != State::Mined {
            batch::fail(&mut *tx, provider, number, &reason).await?;
        }
    }
    tx.commit().await?;
    Ok(())
}

/// Whether the log has the batch that a transaction carries.
async fn is_anchored(app: &App, open: &Open, provider: Address, number: u64) -> anyhow::Result<bool> {
    let call = ProvenanceLog::anchorCall::abi_decode(&open.intent.input).context("read an anchoring call again")?;
    Ok(send::root_of(app, provider, number, None).await? == call.batch.root)
}

/// Calls it again in the state before its block, to hear the error's name.
async fn why_reverted(sender: &Sender, open: &Open, block: u64) -> String {
    let call = TransactionRequest::default()
        .with_from(sender.address())
        .with_to(open.intent.target)
        .with_input(open.intent.input.clone())
        .with_gas_limit(open.intent.gas);
    match sender.provider.call(call).block(block.saturating_sub(1).into()).await {
        Ok(_) => "reverted, and would not in the block before: out of gas, or another transaction came first".into(),
        Err(error) => revert::reason(&error).unwrap_or_else(|| "reverted".into()),
    }
}

/// The nonce went to another transaction of the same key: what this one was for is due again.
async fn lose(app: &App, sender: &Sender, open: &Open) -> anyhow::Result<()> {
    tracing::error!(nonce = open.intent.nonce, "another transaction took this nonce; does somebody else use the key?");
    metrics::counter!("transactions_lost_total").increment(1);
    let mut tx = app.leases.begin(sender.lease()).await?;
    set(&mut tx, open.intent.id, "lost", None, Some("another transaction took the nonce")).await?;
    if let Purpose::Anchor { provider, number } = open.purpose {
        batch::set_state(&mut tx, provider, number, State::Signed).await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn open(db: &PgPool, sender: &Sender) -> anyhow::Result<Vec<Open>> {
    let rows = sqlx::query(
        // those in a block only wait: they keep no others from being looked at
        "WITH open AS (
             SELECT id, nonce, purpose, target, input, gas, provider, number, consent_id, state, mined_hash, block_number,
                    block_hash, error FROM transaction
             WHERE chain_id = $1 AND signer = $2 AND state IN ('intent', 'submitted', 'mined'))
         (SELECT * FROM open WHERE state <> 'mined' ORDER BY nonce LIMIT $3)
         UNION ALL (SELECT * FROM open WHERE state = 'mined' ORDER BY nonce LIMIT $3) ORDER BY nonce",
    )
    .bind(bigint(sender.chain_id)?)
    .bind(sender.address().0.0)
    .bind(PER_ROUND)
    .fetch_all(db)
    .await?;
    rows.iter().map(read_open).collect()
}

fn read_open(row: &PgRow) -> anyhow::Result<Open> {
    let provider: Option<[u8; 20]> = row.try_get("provider")?;
    let number: Option<i64> = row.try_get("number")?;
    let consent: Option<[u8; 32]> = row.try_get("consent_id")?;
    let purpose = match (row.try_get::<&str, _>("purpose")?, provider, number, consent) {
        ("anchor", Some(provider), Some(number), _) => {
            Purpose::Anchor { provider: Address::from(provider), number: u64::try_from(number)? }
        }
        ("withdraw", _, _, Some(consent)) => Purpose::Withdraw(ConsentId(consent.into())),
        ("noop", ..) => Purpose::Noop,
        (other, ..) => anyhow::bail!("a transaction for {other:?}"),
    };
    let mined = match (
        row.try_get::<Option<[u8; 32]>, _>("mined_hash")?,
        row.try_get::<Option<i64>, _>("block_number")?,
        row.try_get::<Option<[u8; 32]>, _>("block_hash")?,
    ) {
        (Some(hash), Some(number), Some(block)) => Some((B256::from(hash), u64::try_from(number)?, B256::from(block))),
        _ => None,
    };
    Ok(Open {
        intent: Intent {
            id: row.try_get("id")?,
            nonce: u64::try_from(row.try_get::<i64, _>("nonce")?)?,
            target: Address::from(row.try_get::<[u8; 20], _>("target")?),
            input: Bytes::from(row.try_get::<Vec<u8>, _>("input")?),
            gas: u64::try_from(row.try_get::<i64, _>("gas")?)?,
        },
        purpose,
        is_mined: row.try_get::<&str, _>("state")? == "mined",
        mined,
        error: row.try_get("error")?,
    })
}

/// Oldest first.
async fn attempts(db: &PgPool, transaction: i64) -> anyhow::Result<Vec<Attempt>> {
    let rows = sqlx::query(
        "SELECT hash, raw, max_fee_wei::text AS max_fee, tip_wei::text AS tip, signed_at_block FROM attempt
         WHERE transaction_id = $1 ORDER BY max_fee_wei, tip_wei",
    )
    .bind(transaction)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Attempt {
                hash: B256::from(row.try_get::<[u8; 32], _>("hash")?),
                raw: row.try_get("raw")?,
                fees: Eip1559Estimation {
                    max_fee_per_gas: row.try_get::<&str, _>("max_fee")?.parse()?,
                    max_priority_fee_per_gas: row.try_get::<&str, _>("tip")?.parse()?,
                },
                signed_at_block: u64::try_from(row.try_get::<i64, _>("signed_at_block")?)?,
            })
        })
        .collect()
}

/// Moves a transaction; `place` is where it is, once in a block, what gas it used there, and whether it succeeded.
async fn set(
    tx: &mut Tx<'_>,
    id: i64,
    state: &str,
    place: Option<(Place, u64, bool)>,
    error: Option<&str>,
) -> anyhow::Result<()> {
    let block = place.map(|((_, number, _), ..)| bigint(number)).transpose()?;
    let gas = place.map(|(_, gas, _)| bigint(gas)).transpose()?;
    sqlx::query(
        "UPDATE transaction SET state = $2, mined_hash = $3, block_number = $4, block_hash = $5, gas_used = $6,
             succeeded = $7, error = $8, why = NULL
         WHERE id = $1",
    )
    .bind(id)
    .bind(state)
    .bind(place.map(|((hash, ..), ..)| hash.0))
    .bind(block)
    .bind(place.map(|((.., block), ..)| block.0))
    .bind(gas)
    .bind(place.map(|(.., succeeded)| succeeded))
    .bind(error)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The transaction that carries a batch: its hash (the mined one, else the newest signed), block and gas.
#[derive(Clone, Debug)]
pub struct Carrier {
    /// Batch number.
    pub number: i64,
    /// Transaction hash.
    pub hash: B256,
    /// Where it is, once in a block.
    pub block_number: Option<i64>,
    /// Once in a block.
    pub gas_used: Option<i64>,
}

/// Carriers of these batches of a provider, where there are any.
pub async fn carriers(db: &PgPool, provider: Address, numbers: &[i64]) -> sqlx::Result<Vec<Carrier>> {
    let rows = sqlx::query(
        "SELECT t.number, coalesce(t.mined_hash, newest.hash), t.block_number, t.gas_used FROM transaction t
         CROSS JOIN LATERAL (SELECT hash FROM attempt WHERE transaction_id = t.id ORDER BY max_fee_wei DESC LIMIT 1) AS newest
         WHERE t.provider = $1 AND t.number = ANY($2) AND t.state IN ('submitted', 'mined', 'final')
             AND t.succeeded IS NOT FALSE",
    )
    .bind(provider.0.0)
    .bind(numbers)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Carrier {
                number: row.try_get(0)?,
                hash: B256::from(row.try_get::<[u8; 32], _>(1)?),
                block_number: row.try_get(2)?,
                gas_used: row.try_get(3)?,
            })
        })
        .collect()
}

/// A lane as its operator sees it.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Nonce that the next transaction gets; none before the first look at the chain.
    pub next_nonce: Option<i64>,
    /// Why it sends nothing now.
    pub paused: Option<String>,
    /// Nonces of transactions that the nodes did not take, and the class of what they said.
    pub refused: Vec<(i64, String)>,
}

/// How a lane is.
pub async fn lane(db: &PgPool, sender: &Sender) -> anyhow::Result<Lane> {
    let (chain, signer) = (bigint(sender.chain_id)?, sender.address().0.0);
    let row = sqlx::query("SELECT next_nonce, paused FROM nonce_lane WHERE chain_id = $1 AND signer = $2")
        .bind(chain)
        .bind(signer)
        .fetch_optional(db)
        .await?;
    let refused = sqlx::query(
        "SELECT nonce, why FROM transaction
         WHERE chain_id = $1 AND signer = $2 AND state = 'submitted' AND why IS NOT NULL ORDER BY nonce LIMIT 20",
    )
    .bind(chain)
    .bind(signer)
    .fetch_all(db)
    .await?;
    Ok(Lane {
        next_nonce: row.as_ref().map(|row| row.try_get(0)).transpose()?,
        paused: row.as_ref().map(|row| row.try_get(1)).transpose()?.flatten(),
        refused: refused.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<sqlx::Result<_>>()?,
    })
}

/// How many transactions are in which state.
pub async fn counts(db: &PgPool) -> sqlx::Result<Vec<(String, i64)>> {
    let rows =
        sqlx::query("SELECT state, count(*) FROM transaction GROUP BY state ORDER BY state").fetch_all(db).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
