//! Mirrors the chain's logs up to its head: history and live blocks by one path, in order, and takes back what a reorg took.
//!
//! ```text
//!  heads ─► reorg? take back ─► parts of blocks, several on their way at once: logs, headers, checks ─► one transaction each:
//!                               linked to the block before, COPY, and for final blocks projections, ledger and cursor
//! ```

pub mod check;
mod copy;
pub mod fetch;
pub mod node;
pub mod range;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, B256},
};
use sqlx::{PgConnection, PgPool, Postgres, Row, Transaction};
use tidemark::{chain::Deployment, nodes::One};
use tokio_util::task::AbortOnDropHandle;

use self::{
    check::Watched,
    fetch::{Chain, Part, registered_treasury},
    node::{Block, Header, NodeError, header, wrong},
};
use crate::project::{self, ProjectError};

/// Parts that are fetched at once, which bounds memory.
const PARTS_AT_ONCE: usize = 4;
/// After so long a step begins no new part, so that heads are read again.
const STEP_TIME: Duration = Duration::from_secs(5);

/// Why mirroring stopped.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The nodes; the next poll tries again.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The database; the next poll tries again.
    #[error("write the mirror")]
    Sql(#[from] sqlx::Error),
    /// Final blocks could not be applied.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// A fetching task died.
    #[error("fetch a range of blocks")]
    Worker(#[from] tokio::task::JoinError),
    /// A block that was final is gone: nothing that was posted can be trusted, and only a person may decide.
    #[error(
        "block {number} was final with hash {expected}, and the chain now has {actual} there, as every node says that can be \
         asked: the chain was reorganised below its finality. Check the nodes, and set --finality-blocks higher where the \
         chain has no finalized tag; then start the indexer on an empty database, beside this one, which still answers"
    )]
    DeepReorg {
        /// The applied block.
        number: u64,
        /// The hash that was applied.
        expected: B256,
        /// What the node has now.
        actual: String,
    },
    /// No node has come as far as the tables.
    #[error(
        "the node is at block {latest}, and block {applied} was final and applied before: it is still syncing, or it is a \
         new chain, which needs an empty database"
    )]
    NodeBehind {
        /// The newest block of any node.
        latest: u64,
        /// The applied block.
        applied: u64,
    },
    /// The database holds another deployment.
    #[error(
        "this database mirrors chain {chain_id} with ProvenanceLog {log}: use another --database-url or deployment"
    )]
    OtherDeployment {
        /// Its chain.
        chain_id: i64,
        /// Its log.
        log: Address,
    },
    /// A number that does not fit the database.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

impl SyncError {
    /// Whether the nodes contradict themselves, the headers or each other.
    pub fn is_inconsistency(&self) -> bool {
        matches!(self, Self::Node(NodeError::Wrong { .. }))
    }
}

/// A number that does not fit the database.
#[derive(Debug, thiserror::Error)]
#[error("{0} is out of range")]
pub struct OutOfRange(pub &'static str);

/// How far this indexer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Newest block whose logs are mirrored.
    pub mirrored_number: u64,
    /// Its hash; none before the first.
    pub mirrored_hash: Option<B256>,
    /// Newest final block that is in the tables.
    pub applied_number: u64,
    /// Its hash; none before the first.
    pub applied_hash: Option<B256>,
}

/// What the chain looked like at a poll.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The node's newest block.
    pub latest: Header,
    /// Its newest final block.
    pub finalized: Option<Header>,
    /// Whether there is more to mirror right away.
    pub more: bool,
}

/// Mirrors one deployment into one database.
#[derive(Debug)]
pub struct Mirror {
    chain: Chain,
    pool: PgPool,
    finality_blocks: u64,
    /// Contracts and treasuries as of the mirrored block; read from the tables at the start and after a reorg.
    watched: Option<Watched>,
}

pub(crate) fn signed(value: u64, what: &'static str) -> Result<i64, OutOfRange> {
    i64::try_from(value).map_err(|_| OutOfRange(what))
}

fn unsigned(value: i64) -> u64 {
    // columns with CHECK ≥ 0
    u64::try_from(value).unwrap_or_default()
}

/// Claims the database for a deployment, or finds that it is another one's.
pub async fn claim(pool: &PgPool, deployment: &Deployment) -> Result<(), SyncError> {
    let before = signed(deployment.block.saturating_sub(1), "deployment block")?;
    let chain_id = signed(deployment.chain_id, "chain id")?;
    sqlx::query(
        "INSERT INTO cursor (chain_id, provenance_log, mirrored_number, applied_number)
         VALUES ($1, $2, $3, $3) ON CONFLICT DO NOTHING",
    )
    .bind(chain_id)
    .bind(deployment.provenance_log.as_slice())
    .bind(before)
    .execute(pool)
    .await?;
    check_claim(pool, deployment).await
}

/// Finds whether the database is of a deployment, as [`claim`] made it.
pub async fn check_claim(pool: &PgPool, deployment: &Deployment) -> Result<(), SyncError> {
    let chain_id = signed(deployment.chain_id, "chain id")?;
    let row = sqlx::query("SELECT chain_id, provenance_log FROM cursor").fetch_one(pool).await?;
    let (found, log): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
    if found != chain_id || log != deployment.provenance_log.as_slice() {
        let log = Address::try_from(log.as_slice()).unwrap_or_default();
        return Err(SyncError::OtherDeployment { chain_id: found, log });
    }
    Ok(())
}

/// Reads the cursor.
pub async fn cursor(connection: &mut PgConnection) -> Result<Cursor, sqlx::Error> {
    let row = sqlx::query("SELECT mirrored_number, mirrored_hash, applied_number, applied_hash FROM cursor")
        .fetch_one(connection)
        .await?;
    let hash = |bytes: Option<Vec<u8>>| bytes.and_then(|bytes| B256::try_from(bytes.as_slice()).ok());
    Ok(Cursor {
        mirrored_number: unsigned(row.try_get(0)?),
        mirrored_hash: hash(row.try_get(1)?),
        applied_number: unsigned(row.try_get(2)?),
        applied_hash: hash(row.try_get(3)?),
    })
}

impl Mirror {
    /// A mirror of `chain` in `pool`; [`claim`] comes first.
    pub fn new(chain: Chain, pool: PgPool, finality_blocks: u64) -> Self {
        Self { chain, pool, finality_blocks, watched: None }
    }

    /// One step: take back what a reorg took, apply what became final, mirror on towards the head.
    pub async fn step(&mut self) -> Result<Head, SyncError> {
        let mut nodes = self.chain.nodes.well().await;
        let mut cursor = self.cursor_now().await?;
        let (leader, latest, finalized) = self.heads(&nodes, cursor).await?;
        // from here on the first of them leads: heads and blocks that may still go are as it says
        nodes.rotate_left(leader);
        if let Some(hash) = cursor.mirrored_hash
            && !self.is_canonical(&nodes[0], cursor.mirrored_number, hash, latest).await?
        {
            self.watched = None;
            cursor = self.take_back(&nodes, cursor, latest).await?;
        }
        if let Some(finalized) = finalized
            && cursor.applied_number < cursor.mirrored_number
        {
            while project::apply(&self.pool, &self.chain.deployment, finalized).await? {}
        }
        let cursor = match self.advance(&nodes, latest, finalized).await {
            Ok(cursor) => cursor,
            Err(error) => {
                // whether the last part was committed is not known: what is watched is read again
                self.watched = None;
                if error.is_inconsistency() && nodes.len() > 1 {
                    // nobody can tell what its heads promise, so another leads next
                    nodes[0].distrust(&error.to_string());
                }
                return Err(error);
            }
        };
        Ok(Head { latest, finalized, more: cursor.mirrored_number < latest.number })
    }

    /// The heads of the first node that has come as far as the tables, and its place.
    async fn heads(&self, nodes: &[One], cursor: Cursor) -> Result<(usize, Header, Option<Header>), SyncError> {
        let mut last = None;
        for (at, node) in nodes.iter().enumerate() {
            match self.heads_of(node).await {
                Ok((latest, _)) if cursor.applied_hash.is_some() && latest.number < cursor.applied_number => {
                    let error = SyncError::NodeBehind { latest: latest.number, applied: cursor.applied_number };
                    if nodes.len() > 1 {
                        node.distrust(&error.to_string());
                    }
                    last = Some(error);
                }
                Ok((latest, finalized)) => return Ok((at, latest, finalized)),
                Err(error) => last = Some(error.into()),
            }
        }
        let nobody = || {
            let seen = self.chain.nodes.seen();
            let why = seen.into_iter().map(|node| format!("{}: {}", node.name, node.error.unwrap_or_default()));
            NodeError::Nobody(why.collect::<Vec<_>>().join("; ")).into()
        };
        Err(last.unwrap_or_else(nobody))
    }

    /// A node's newest header and its newest final one: by tag, or by depth where the chain knows none.
    async fn heads_of(&self, node: &One) -> Result<(Header, Option<Header>), NodeError> {
        let latest = header(node, BlockNumberOrTag::Latest).await?;
        let latest = latest.ok_or_else(|| wrong(node, "header at latest", "there is none"))?;
        match header(node, BlockNumberOrTag::Finalized).await {
            // read after it, so that it may be of a block that came meanwhile
            Ok(Some(finalized)) => {
                return Ok((latest, Some(finalized).filter(|header| header.number <= latest.number)));
            }
            // "unknown block" and "invalid params" are how nodes say that they know no tags; "too many requests" is not
            Ok(None) | Err(NodeError::Rpc { is_answer: true, .. }) => {}
            Err(error) => return Err(error),
        }
        let finalized = match latest.number.checked_sub(self.finality_blocks) {
            Some(number) => header(node, number.into()).await?,
            None => None,
        };
        Ok((latest, finalized))
    }

    /// A node that has not come as far as the mirror lags; that alone is no reorg.
    async fn is_canonical(&self, node: &One, number: u64, hash: B256, latest: Header) -> Result<bool, SyncError> {
        if number > latest.number {
            let ours: Option<Vec<u8>> = sqlx::query_scalar("SELECT hash FROM block WHERE number = $1")
                .bind(signed(latest.number, "block")?)
                .fetch_optional(&self.pool)
                .await?;
            return Ok(ours.is_none_or(|ours| ours == latest.hash.as_slice()));
        }
        Ok(header(node, number.into()).await?.is_some_and(|header| header.hash == hash))
    }

    /// Deletes every mirrored block above the newest one that is still on the chain.
    async fn take_back(&self, nodes: &[One], cursor: Cursor, latest: Header) -> Result<Cursor, SyncError> {
        let window = sqlx::query("SELECT number, hash, time FROM block WHERE number >= $1 ORDER BY number DESC")
            .bind(signed(cursor.applied_number, "block")?)
            .fetch_all(&self.pool)
            .await?;
        let mut ancestor = None;
        for row in window {
            let (number, hash): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
            let (number, hash) = (unsigned(number), B256::try_from(hash.as_slice()).unwrap_or_default());
            if number <= latest.number
                && header(&nodes[0], number.into()).await?.is_some_and(|header| header.hash == hash)
            {
                ancestor = Some((number, Some(hash), row.try_get::<i64, _>(2)?));
                break;
            }
        }
        let (number, hash, time) = match (ancestor, cursor.applied_hash) {
            (Some(found), _) => found,
            // nothing was applied yet: begin again
            (None, None) => (cursor.applied_number, None, 0),
            (None, Some(expected)) => {
                let all = self.chain.nodes.seen().len();
                return Err(gone(nodes, all, cursor.applied_number, expected).await?);
            }
        };
        tracing::warn!(from = cursor.mirrored_number, to = number, "reorg: taking mirrored blocks back");
        metrics::counter!("tidemark_indexer_reorgs_total").increment(1);
        let Some(mut transaction) = self.begin_at(&cursor, false).await? else { return self.cursor_now().await };
        let above = signed(number, "block")?;
        sqlx::query("DELETE FROM chain_log WHERE block_number > $1 AND block_number <= $2")
            .bind(above)
            .bind(signed(cursor.mirrored_number, "block")?)
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM block WHERE number > $1").bind(above).execute(&mut *transaction).await?;
        set_mirrored(&mut transaction, number, hash, time).await?;
        transaction.commit().await?;
        Ok(Cursor { mirrored_number: number, mirrored_hash: hash, ..cursor })
    }

    /// Fetches and commits parts up to what is final, or where all of that is here, to the head.
    async fn advance(&mut self, nodes: &[One], latest: Header, finalized: Option<Header>) -> Result<Cursor, SyncError> {
        let mut cursor = self.cursor_now().await?;
        let watched = match &self.watched {
            Some(watched) => watched.clone(),
            None => self.watched.insert(self.known(cursor).await?).clone(),
        };
        let final_number = finalized.map_or(0, |header| header.number);
        let is_final = cursor.mirrored_number < final_number;
        let target = if is_final { final_number } else { latest.number };
        let begun = Instant::now();
        let mut next = cursor.mirrored_number + 1;
        let mut on_the_way = VecDeque::with_capacity(PARTS_AT_ONCE);
        let mut turn = 0;
        loop {
            while on_the_way.len() < PARTS_AT_ONCE && next <= target && begun.elapsed() < STEP_TIME {
                let mut order = nodes.to_vec();
                if is_final {
                    order.rotate_left(turn % nodes.len());
                    turn += 1;
                }
                let to = self.chain.end(&order[0], next, target);
                let (chain, watched, from) = (self.chain.clone(), watched.clone(), next);
                let fetched = tokio::spawn(async move { chain.part(&order, from, to, &watched).await });
                on_the_way.push_back((to, AbortOnDropHandle::new(fetched)));
                next = to + 1;
            }
            let Some((to, fetched)) = on_the_way.pop_front() else { return Ok(cursor) };
            let mut part = fetched.await??;
            // a node may have given less than it was asked for
            loop {
                match self.commit(nodes, cursor, part, finalized.filter(|_| is_final)).await? {
                    Some(moved) => cursor = moved,
                    None => {
                        self.watched = None;
                        return self.cursor_now().await;
                    }
                }
                if cursor.mirrored_number >= to {
                    break;
                }
                part = self.chain.part(nodes, cursor.mirrored_number + 1, to, &watched).await?;
            }
        }
    }

    /// Puts a part on top of what is mirrored, in one transaction. None where that has moved, or the part is of a reorg in the
    /// making: the next step sees it whole.
    async fn commit(
        &mut self,
        nodes: &[One],
        cursor: Cursor,
        part: Part,
        finalized: Option<Header>,
    ) -> Result<Option<Cursor>, SyncError> {
        let Some(mut part) = self.linked(nodes, cursor, part, finalized).await? else { return Ok(None) };
        let Some(end) = part.blocks.last().map(|block| block.header) else { return Ok(None) };
        if let Some(watched) = &self.watched {
            // treasuries that were registered while this part was on its way: all of their logs in it count
            let late = watched.beyond(&part.watched);
            if !late.is_empty() {
                part.logs.retain(|log| !late.has(&log.address));
                self.chain.add(&mut part, nodes, &late).await?;
            }
        }
        let registered = self.chain.registered(&part.logs);
        let applies = finalized.is_some() && cursor.applied_number == cursor.mirrored_number;
        let speaking = match applies {
            true => project::speaking(&part.logs, &self.chain.deployment)?,
            false => Vec::new(),
        };
        let Some(mut transaction) = self.begin_at(&cursor, !speaking.is_empty()).await? else { return Ok(None) };
        copy::copy_logs(&mut transaction, &part.logs).await?;
        let time = signed(end.time, "time")?;
        set_mirrored(&mut transaction, end.number, Some(end.hash), time).await?;
        let mut moved = Cursor { mirrored_number: end.number, mirrored_hash: Some(end.hash), ..cursor };
        if applies {
            project::apply_said(&mut transaction, speaking).await?;
            project::set_applied(&mut transaction, signed(end.number, "block")?, end.hash.as_slice(), time).await?;
            insert_blocks(&mut transaction, part.blocks.last().map(std::slice::from_ref).unwrap_or_default()).await?;
            (moved.applied_number, moved.applied_hash) = (end.number, Some(end.hash));
        } else {
            insert_blocks(&mut transaction, &part.blocks).await?;
        }
        transaction.commit().await?;
        if let Some(watched) = &mut self.watched {
            registered.into_keys().for_each(|treasury| watched.add_treasury(treasury));
        }
        if applies {
            metrics::counter!("tidemark_indexer_logs_applied_total").increment(part.logs.len() as u64);
        }
        Ok(Some(moved))
    }

    /// What is wrong with a part's place: it stands on the mirrored block, and where it is final it ends on a block that the
    /// leading node has, whoever told it: else a node could append blocks of its own.
    async fn flaw(
        &self,
        nodes: &[One],
        cursor: Cursor,
        part: &Part,
        finalized: Option<Header>,
    ) -> Result<Option<String>, SyncError> {
        let (Some(first), Some(last)) = (part.blocks.first(), part.blocks.last()) else { return Ok(None) };
        let (first, last) = (first.header, last.header);
        if let Some(hash) = cursor.mirrored_hash.filter(|hash| *hash != first.parent_hash) {
            let (number, parent) = (first.number, first.parent_hash);
            return Ok(Some(format!(
                "block {number} has the parent {parent}, and the one that was mirrored is {hash}"
            )));
        }
        let Some(end) = finalized else { return Ok(None) };
        let led = if end.number == last.number {
            Some(end)
        } else if part.node.name() == nodes[0].name() {
            Some(last)
        } else {
            header(&nodes[0], last.number.into()).await?
        };
        Ok(match led {
            Some(led) if led.hash == last.hash => None,
            Some(led) => {
                Some(format!("block {} is {}, and as the final one it was {}", last.number, last.hash, led.hash))
            }
            None => Some(format!("block {} is final, and the leading node has none", last.number)),
        })
    }

    /// The part, where it has no flaw; else what the leading node has there.
    async fn linked(
        &self,
        nodes: &[One],
        cursor: Cursor,
        part: Part,
        finalized: Option<Header>,
    ) -> Result<Option<Part>, SyncError> {
        let Some(first) = self.flaw(nodes, cursor, &part, finalized).await? else { return Ok(Some(part)) };
        tracing::warn!(node = part.node.name(), flaw = first, "a part of the chain does not fit: asking again");
        let (Some(from), Some(to)) = (part.blocks.first(), part.blocks.last()) else { return Ok(None) };
        let again = self.chain.part(nodes, from.header.number, to.header.number, &part.watched).await?;
        match self.flaw(nodes, cursor, &again, finalized).await? {
            None => {
                if again.node.name() != part.node.name() {
                    part.node.distrust(&first);
                }
                Ok(Some(again))
            }
            Some(flaw) if finalized.is_some() => Err(wrong(&again.node, "final blocks", flaw).into()),
            Some(flaw) => {
                let below = header(&again.node, cursor.mirrored_number.into()).await?;
                match cursor.mirrored_hash == below.map(|below| below.hash) {
                    true => Err(wrong(&again.node, "blocks", flaw).into()),
                    // a reorg, which the next step takes back
                    false => Ok(None),
                }
            }
        }
    }

    /// Begins to move the mirror on from `cursor`; none where another process on this database, which a restart may leave
    /// running for a while, has moved it meanwhile.
    async fn begin_at(
        &self,
        cursor: &Cursor,
        writes_tables: bool,
    ) -> Result<Option<Transaction<'static, Postgres>>, SyncError> {
        let mut transaction = self.pool.begin().await?;
        if writes_tables {
            crate::manifest::lock_tables(&mut transaction).await?;
        }
        sqlx::query("SELECT FROM cursor FOR UPDATE").execute(&mut *transaction).await?;
        let now = self::cursor(&mut transaction).await?;
        let same = (now.mirrored_number, now.mirrored_hash) == (cursor.mirrored_number, cursor.mirrored_hash);
        Ok(same.then_some(transaction))
    }

    async fn cursor_now(&self) -> Result<Cursor, SyncError> {
        Ok(cursor(&mut *self.pool.acquire().await?).await?)
    }

    /// The contracts, and points treasuries registered up to the mirrored block.
    async fn known(&self, cursor: Cursor) -> Result<Watched, SyncError> {
        use alloy::sol_types::SolEvent;
        let mut watched = Watched::new(&self.chain.deployment);
        let applied: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT DISTINCT points_treasury FROM provider").fetch_all(&self.pool).await?;
        let applied = applied.iter().filter_map(|bytes| Address::try_from(bytes.as_slice()).ok());
        applied.for_each(|treasury| watched.add_treasury(treasury));
        let rows = sqlx::query(
            "SELECT topics, data FROM chain_log
             WHERE block_number > $1 AND block_number <= $2 AND address = $3 AND topics[1] = $4",
        )
        .bind(signed(cursor.applied_number, "block")?)
        .bind(signed(cursor.mirrored_number, "block")?)
        .bind(self.chain.deployment.provenance_log.as_slice())
        .bind(tidemark::contracts::ProvenanceLog::ProviderRegistered::SIGNATURE_HASH.as_slice())
        .fetch_all(&self.pool)
        .await?;
        for row in rows {
            let (topics, data): (Vec<Vec<u8>>, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
            let topics: Vec<B256> = topics.iter().filter_map(|topic| B256::try_from(topic.as_slice()).ok()).collect();
            registered_treasury(&topics, &data).into_iter().for_each(|treasury| watched.add_treasury(treasury));
        }
        Ok(watched)
    }
}

/// What to make of it that the leading node has not a block that was final: another node may still have it.
async fn gone(nodes: &[One], all: usize, number: u64, expected: B256) -> Result<SyncError, SyncError> {
    let mut actual = "no block".to_owned();
    for (at, node) in nodes.iter().enumerate() {
        match header(node, number.into()).await {
            Ok(Some(found)) if found.hash == expected => {
                let flaw = format!("block {number} was final with hash {expected}, and {} still has it", node.name());
                nodes.iter().take(at).for_each(|other| other.distrust(&flaw));
                return Ok(wrong(&nodes[0], "final blocks", flaw).into());
            }
            Ok(Some(found)) => actual = found.hash.to_string(),
            Ok(None) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if nodes.len() < all {
        let why =
            format!("block {number} was final with hash {expected} and is {actual} now, as those say that answer");
        return Ok(NodeError::Nobody(why).into());
    }
    Ok(SyncError::DeepReorg { number, expected, actual })
}

async fn insert_blocks(connection: &mut PgConnection, blocks: &[Block]) -> Result<(), SyncError> {
    let numbers = |of: fn(&Header) -> u64, what| {
        blocks.iter().map(|block| signed(of(&block.header), what)).collect::<Result<Vec<i64>, _>>()
    };
    sqlx::query(
        "INSERT INTO block (number, hash, parent_hash, time)
         SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[], $4::bigint[])
         ON CONFLICT (number) DO UPDATE SET hash = excluded.hash, parent_hash = excluded.parent_hash, time = excluded.time",
    )
    .bind(numbers(|header| header.number, "block")?)
    .bind(blocks.iter().map(|block| block.header.hash.as_slice()).collect::<Vec<_>>())
    .bind(blocks.iter().map(|block| block.header.parent_hash.as_slice()).collect::<Vec<_>>())
    .bind(numbers(|header| header.time, "time")?)
    .execute(connection)
    .await?;
    Ok(())
}

async fn set_mirrored(
    connection: &mut PgConnection,
    number: u64,
    hash: Option<B256>,
    time: i64,
) -> Result<(), SyncError> {
    sqlx::query("UPDATE cursor SET mirrored_number = $1, mirrored_hash = $2, mirrored_time = $3")
        .bind(signed(number, "block")?)
        .bind(hash.as_ref().map(|hash| hash.as_slice()))
        .bind(time)
        .execute(connection)
        .await?;
    Ok(())
}
