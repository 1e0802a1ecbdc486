//! Mirrors the chain's logs up to its head, block by block where a reorg may still come, and takes back what a reorg took.

pub mod node;
pub mod range;

use alloy::primitives::{Address, B256};
use futures::{StreamExt, TryStreamExt};
use sqlx::{PgConnection, PgPool, Postgres, Row, Transaction};
use tidemark::chain::Deployment;

use self::{
    node::{Blocks, Header, Node, NodeError, PlacedLog, registered_treasury},
    range::Span,
};

/// Headers fetched at once above the final block.
const HEADERS_AT_ONCE: usize = 8;
/// Blocks above the final one mirrored in one step.
const WINDOW_BLOCKS_PER_STEP: u64 = 64;
/// Logs written by one statement.
const LOGS_PER_INSERT: usize = 5_000;

/// Why mirroring stopped.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The node; the next poll tries again.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The database; the next poll tries again.
    #[error("write the mirror")]
    Sql(#[from] sqlx::Error),
    /// A block that was final is gone: nothing that was posted can be trusted, and only a person may decide.
    #[error(
        "block {number} was final with hash {expected}, and the chain now has {actual} there: the chain was reorganised \
         below its finality. Check the node; then start the indexer on an empty database"
    )]
    DeepReorg {
        /// The applied block.
        number: u64,
        /// The hash that was applied.
        expected: B256,
        /// What the node has now.
        actual: String,
    },
    /// The node has not come as far as the tables.
    #[error(
        "the node is at block {latest}, and block {applied} was final and applied before: it is still syncing, or it is a \
         new chain, which needs an empty database"
    )]
    NodeBehind {
        /// The node's newest block.
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
    #[error("{0} is out of range")]
    Range(&'static str),
}

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
    node: Node,
    pool: PgPool,
    span: Span,
    finality_blocks: u64,
}

pub(crate) fn signed(value: u64, what: &'static str) -> Result<i64, SyncError> {
    i64::try_from(value).map_err(|_| SyncError::Range(what))
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
        "INSERT INTO local.cursor (chain_id, provenance_log, mirrored_number, applied_number)
         VALUES ($1, $2, $3, $3) ON CONFLICT DO NOTHING",
    )
    .bind(chain_id)
    .bind(deployment.provenance_log.as_slice())
    .bind(before)
    .execute(pool)
    .await?;
    let row = sqlx::query("SELECT chain_id, provenance_log FROM local.cursor").fetch_one(pool).await?;
    let (found, log): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
    if found != chain_id || log != deployment.provenance_log.as_slice() {
        let log = Address::try_from(log.as_slice()).unwrap_or_default();
        return Err(SyncError::OtherDeployment { chain_id: found, log });
    }
    Ok(())
}

/// Reads the cursor.
pub async fn cursor(connection: &mut PgConnection) -> Result<Cursor, sqlx::Error> {
    let row = sqlx::query("SELECT mirrored_number, mirrored_hash, applied_number, applied_hash FROM local.cursor")
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
    /// A mirror of `node` in `pool`; [`claim`] comes first.
    pub fn new(node: Node, pool: PgPool, finality_blocks: u64) -> Self {
        Self { node, pool, span: Span::default(), finality_blocks }
    }

    /// One step: take back what a reorg took, then mirror up to one range of blocks.
    pub async fn step(&mut self) -> Result<Head, SyncError> {
        let latest = self.node.latest().await?;
        let finalized = self.node.finalized(latest, self.finality_blocks).await?;
        let mut cursor = cursor(&mut *self.pool.acquire().await?).await?;
        if cursor.applied_hash.is_some() && latest.number < cursor.applied_number {
            return Err(SyncError::NodeBehind { latest: latest.number, applied: cursor.applied_number });
        }
        if let Some(hash) = cursor.mirrored_hash
            && !self.is_canonical(cursor.mirrored_number, hash, latest).await?
        {
            cursor = self.take_back(cursor, latest).await?;
        }
        let from = cursor.mirrored_number + 1;
        let final_number = finalized.map_or(0, |header| header.number);
        if from <= final_number {
            self.mirror_final(cursor, from, final_number).await?;
        } else if from <= latest.number {
            let to = latest.number.min(from + WINDOW_BLOCKS_PER_STEP - 1);
            self.mirror_window(cursor, from, to).await?;
        }
        let mirrored = self::cursor(&mut *self.pool.acquire().await?).await?.mirrored_number;
        Ok(Head { latest, finalized, more: mirrored < latest.number })
    }

    /// A node that has not come as far as the mirror lags; that alone is no reorg.
    async fn is_canonical(&self, number: u64, hash: B256, latest: Header) -> Result<bool, SyncError> {
        if number > latest.number {
            let ours: Option<Vec<u8>> = sqlx::query_scalar("SELECT hash FROM local.block WHERE number = $1")
                .bind(signed(latest.number, "block")?)
                .fetch_optional(&self.pool)
                .await?;
            return Ok(ours.is_none_or(|ours| ours == latest.hash.as_slice()));
        }
        Ok(self.node.header(number.into()).await?.is_some_and(|header| header.hash == hash))
    }

    /// Deletes every mirrored block above the newest one that is still on the chain.
    async fn take_back(&self, cursor: Cursor, latest: Header) -> Result<Cursor, SyncError> {
        let window = sqlx::query("SELECT number, hash, time FROM local.block WHERE number >= $1 ORDER BY number DESC")
            .bind(signed(cursor.applied_number, "block")?)
            .fetch_all(&self.pool)
            .await?;
        let mut ancestor = None;
        for row in window {
            let (number, hash): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
            let (number, hash) = (unsigned(number), B256::try_from(hash.as_slice()).unwrap_or_default());
            if number <= latest.number
                && self.node.header(number.into()).await?.is_some_and(|header| header.hash == hash)
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
                let now = self.node.header(cursor.applied_number.into()).await?;
                if now.is_none_or(|header| header.hash != expected) {
                    let actual = now.map_or("no block".to_owned(), |header| header.hash.to_string());
                    return Err(SyncError::DeepReorg { number: cursor.applied_number, expected, actual });
                }
                (cursor.applied_number, Some(expected), signed(now.map_or(0, |header| header.time), "time")?)
            }
        };
        tracing::warn!(from = cursor.mirrored_number, to = number, "reorg: taking mirrored blocks back");
        metrics::counter!("tidemark_indexer_reorgs_total").increment(1);
        let Some(mut transaction) = self.begin_at(&cursor).await? else { return self.cursor_now().await };
        let above = signed(number, "block")?;
        sqlx::query("DELETE FROM chain_log WHERE block_number > $1").bind(above).execute(&mut *transaction).await?;
        sqlx::query("DELETE FROM local.block WHERE number > $1").bind(above).execute(&mut *transaction).await?;
        set_mirrored(&mut transaction, number, hash, time).await?;
        transaction.commit().await?;
        Ok(Cursor { mirrored_number: number, mirrored_hash: hash, ..cursor })
    }

    /// Final blocks, by number, as many as the node gives at once.
    async fn mirror_final(&mut self, cursor: Cursor, from: u64, to_max: u64) -> Result<(), SyncError> {
        let treasuries = self.treasuries(cursor).await?;
        let (to, logs) = loop {
            let to = self.span.end(from, to_max);
            match self.node.logs(Blocks::Final(from, to), &treasuries).await {
                Ok(logs) => {
                    self.span.answered(logs.len());
                    break (to, logs);
                }
                // nodes refuse ranges with too many results in as many words as there are nodes
                Err(error) if self.span.refused() => {
                    tracing::info!(from, to, %error, "the node refused a range of logs: asking for fewer blocks");
                }
                Err(error) => return Err(error.into()),
            }
        };
        let Some(end) = self.node.header(to.into()).await? else { return Ok(()) };
        let Some(mut transaction) = self.begin_at(&cursor).await? else { return Ok(()) };
        insert_logs(&mut transaction, &logs).await?;
        insert_block(&mut transaction, end).await?;
        set_mirrored(&mut transaction, to, Some(end.hash), signed(end.time, "time")?).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Blocks that a reorg may still take: each by hash, each on top of the one before.
    async fn mirror_window(&mut self, cursor: Cursor, from: u64, to: u64) -> Result<(), SyncError> {
        let headers: Vec<Option<Header>> = futures::stream::iter((from..=to).map(|number| {
            let node = self.node.clone();
            async move { node.header(number.into()).await }
        }))
        .buffered(HEADERS_AT_ONCE)
        .try_collect()
        .await?;
        let mut parent = cursor.mirrored_hash;
        for header in headers {
            // a gap or another parent is a reorg in the making: the next step sees it whole
            let Some(header) = header.filter(|header| parent.is_none_or(|parent| parent == header.parent_hash)) else {
                return Ok(());
            };
            let cursor = Cursor { mirrored_number: header.number - 1, mirrored_hash: parent, ..cursor };
            let treasuries = self.treasuries(cursor).await?;
            let logs = self.node.logs(Blocks::One(header), &treasuries).await?;
            let Some(mut transaction) = self.begin_at(&cursor).await? else { return Ok(()) };
            insert_logs(&mut transaction, &logs).await?;
            insert_block(&mut transaction, header).await?;
            let time = signed(header.time, "time")?;
            set_mirrored(&mut transaction, header.number, Some(header.hash), time).await?;
            transaction.commit().await?;
            parent = Some(header.hash);
        }
        Ok(())
    }

    /// Begins to move the mirror on from `cursor`; none where another process on this database, which a restart may leave
    /// running for a while, has moved it meanwhile.
    async fn begin_at(&self, cursor: &Cursor) -> Result<Option<Transaction<'static, Postgres>>, SyncError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("SELECT FROM local.cursor FOR UPDATE").execute(&mut *transaction).await?;
        let now = self::cursor(&mut transaction).await?;
        let same = (now.mirrored_number, now.mirrored_hash) == (cursor.mirrored_number, cursor.mirrored_hash);
        Ok(same.then_some(transaction))
    }

    async fn cursor_now(&self) -> Result<Cursor, SyncError> {
        Ok(cursor(&mut *self.pool.acquire().await?).await?)
    }

    /// Points treasuries registered up to the mirrored block.
    async fn treasuries(&self, cursor: Cursor) -> Result<Vec<Address>, SyncError> {
        use alloy::sol_types::SolEvent;
        let mut treasuries = std::collections::BTreeSet::new();
        let applied: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT DISTINCT points_treasury FROM provider").fetch_all(&self.pool).await?;
        treasuries.extend(applied.iter().filter_map(|bytes| Address::try_from(bytes.as_slice()).ok()));
        let rows = sqlx::query(
            "SELECT topics, data FROM chain_log WHERE block_number > $1 AND address = $2 AND topics[1] = $3",
        )
        .bind(signed(cursor.applied_number, "block")?)
        .bind(self.node.deployment.provenance_log.as_slice())
        .bind(tidemark::contracts::ProvenanceLog::ProviderRegistered::SIGNATURE_HASH.as_slice())
        .fetch_all(&self.pool)
        .await?;
        for row in rows {
            let (topics, data): (Vec<Vec<u8>>, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
            let topics: Vec<B256> = topics.iter().filter_map(|topic| B256::try_from(topic.as_slice()).ok()).collect();
            treasuries.extend(registered_treasury(&topics, &data));
        }
        Ok(treasuries.into_iter().collect())
    }
}

async fn insert_logs(connection: &mut PgConnection, logs: &[PlacedLog]) -> Result<(), SyncError> {
    for logs in logs.chunks(LOGS_PER_INSERT) {
        let numbers = |of: fn(&PlacedLog) -> u64, what| {
            logs.iter().map(|log| signed(of(log), what)).collect::<Result<Vec<i64>, SyncError>>()
        };
        let bytes = |of: fn(&PlacedLog) -> &[u8]| logs.iter().map(of).collect::<Vec<_>>();
        // arrays of arrays must be rectangular, and a log has up to four topics
        let topic = |at: usize| logs.iter().map(|log| log.topics.get(at).map(|t| t.as_slice())).collect::<Vec<_>>();
        sqlx::query(
            "INSERT INTO chain_log
                 (block_hash, log_index, block_number, block_time, tx_hash, address, topics, data)
             SELECT block_hash, log_index, block_number, block_time, tx_hash, address,
                 array_remove(ARRAY[topic0, topic1, topic2, topic3], NULL), data
             FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bytea[], $6::bytea[], $7::bytea[],
                 $8::bytea[], $9::bytea[], $10::bytea[], $11::bytea[])
                 AS row (block_hash, log_index, block_number, block_time, tx_hash, address, topic0, topic1, topic2,
                 topic3, data)",
        )
        .bind(bytes(|log| log.block_hash.as_slice()))
        .bind(numbers(|log| log.log_index, "log index")?)
        .bind(numbers(|log| log.block_number, "block")?)
        .bind(numbers(|log| log.block_time, "time")?)
        .bind(bytes(|log| log.tx_hash.as_slice()))
        .bind(bytes(|log| log.address.as_slice()))
        .bind(topic(0))
        .bind(topic(1))
        .bind(topic(2))
        .bind(topic(3))
        .bind(bytes(|log| &log.data))
        .execute(&mut *connection)
        .await?;
    }
    metrics::counter!("tidemark_indexer_logs_mirrored_total").increment(logs.len() as u64);
    Ok(())
}

async fn insert_block(connection: &mut PgConnection, header: Header) -> Result<(), SyncError> {
    sqlx::query(
        "INSERT INTO local.block (number, hash, parent_hash, time) VALUES ($1, $2, $3, $4)
         ON CONFLICT (number) DO UPDATE SET hash = excluded.hash, parent_hash = excluded.parent_hash, time = excluded.time",
    )
    .bind(signed(header.number, "block")?)
    .bind(header.hash.as_slice())
    .bind(header.parent_hash.as_slice())
    .bind(signed(header.time, "time")?)
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
    sqlx::query("UPDATE local.cursor SET mirrored_number = $1, mirrored_hash = $2, mirrored_time = $3")
        .bind(signed(number, "block")?)
        .bind(hash.as_ref().map(|hash| hash.as_slice()))
        .bind(time)
        .execute(connection)
        .await?;
    Ok(())
}
