//! Events as rows: made at intake with their sequence and commitment, placed when their batch is sealed.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256};
use anyhow::Context;
use sqlx::{PgPool, Row, postgres::PgRow};
use tidemark::{
    canonical::{commitment, jcs},
    event::{Event, EventKind},
    ids::{ConsentId, ContentHash, DataId},
    manifest::Disclosure,
    payload::Payload,
};

use super::{Tx, bigint};

/// Rows of one statement.
const ROWS_PER_STATEMENT: usize = 5_000;

/// An event that waits for a batch.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Which record.
    pub data_id: DataId,
    /// Position in the record's chain.
    pub sequence: u32,
    /// What happened.
    pub kind: EventKind,
    /// Pseudonym.
    pub contributor: B256,
    /// Of the bytes.
    pub content_hash: ContentHash,
    /// Zero where none.
    pub consent_id: ConsentId,
    /// Unix seconds.
    pub occurred_at: u64,
    /// 0 where none.
    pub task_id: u64,
    /// Payment-token units.
    pub reward: u128,
    /// Zero: points.
    pub payee: Address,
    salt: [u8; 32],
    payload: String,
    commitment: B256,
}

/// What all events of a record share.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Which record.
    pub data_id: DataId,
    /// Pseudonym.
    pub contributor: B256,
    /// Of the bytes.
    pub content_hash: ContentHash,
    /// Zero where none.
    pub consent_id: ConsentId,
    /// 0 where none.
    pub task_id: u64,
}

impl NewEvent {
    /// An event that pays nobody, with a fresh salt.
    pub fn new(subject: &Subject, sequence: u32, occurred_at: u64, payload: &Payload) -> anyhow::Result<Self> {
        let text = String::from_utf8(jcs(payload)?).context("canonical JSON is UTF-8")?;
        Self::of(subject, sequence, occurred_at, payload, text)
    }

    /// The same for a payload without its metadata, which is canonical already.
    pub fn with_metadata(
        subject: &Subject,
        sequence: u32,
        occurred_at: u64,
        payload: &Payload,
        metadata: &str,
    ) -> anyhow::Result<Self> {
        Self::of(subject, sequence, occurred_at, payload, payload.canonical_with(metadata)?)
    }

    fn of(subject: &Subject, sequence: u32, occurred_at: u64, payload: &Payload, text: String) -> anyhow::Result<Self> {
        let kind = match payload {
            Payload::Registered { .. } => EventKind::Registered,
            Payload::Accepted { .. } => EventKind::Accepted,
            Payload::Rejected { .. } => EventKind::Rejected,
            Payload::MetadataUpdated { .. } => EventKind::MetadataUpdated,
            Payload::ConsentWithdrawn { .. } => EventKind::ConsentWithdrawn,
            Payload::Erased { .. } => EventKind::Erased,
        };
        let mut salt = [0u8; 32];
        getrandom::fill(&mut salt)?;
        Ok(Self {
            data_id: subject.data_id,
            sequence,
            kind,
            contributor: subject.contributor,
            content_hash: subject.content_hash,
            consent_id: subject.consent_id,
            occurred_at,
            task_id: subject.task_id,
            reward: 0,
            payee: Address::ZERO,
            commitment: commitment(&salt, text.as_bytes()),
            salt,
            payload: text,
        })
    }

    /// The same, paying `reward` to `payee`.
    pub fn paying(self, reward: u128, payee: Address) -> Self {
        Self { reward, payee, ..self }
    }
}

/// Adds events; the caller holds the lock of each record, or has just made it.
pub async fn insert(tx: &mut Tx<'_>, provider: Address, events: &[NewEvent]) -> anyhow::Result<()> {
    for chunk in events.chunks(ROWS_PER_STATEMENT) {
        sqlx::query(
            "INSERT INTO event (provider, data_id, sequence, kind, contributor, content_hash, consent_id, commitment,
                                salt, payload, occurred_at, task_id, reward, payee)
             SELECT $1, data_id, sequence, kind, contributor, content_hash, consent_id, commitment,
                    salt, payload, occurred_at, task_id, reward::numeric, payee
             FROM unnest($2::uuid[], $3::int[], $4::smallint[], $5::bytea[], $6::bytea[], $7::bytea[], $8::bytea[],
                         $9::bytea[], $10::text[], $11::bigint[], $12::bigint[], $13::text[], $14::bytea[])
                  WITH ORDINALITY AS new (data_id, sequence, kind, contributor, content_hash, consent_id, commitment,
                                          salt, payload, occurred_at, task_id, reward, payee, place)
             ORDER BY place",
        )
        .bind(provider.0.0)
        .bind(chunk.iter().map(|e| e.data_id.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|e| i32::try_from(e.sequence)).collect::<Result<Vec<_>, _>>()?)
        .bind(chunk.iter().map(|e| i16::from(e.kind as u8)).collect::<Vec<_>>())
        .bind(chunk.iter().map(|e| e.contributor.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|e| e.content_hash.0.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|e| e.consent_id.0.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|e| e.commitment.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|e| e.salt).collect::<Vec<_>>())
        .bind(chunk.iter().map(|e| e.payload.as_str()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|e| bigint(e.occurred_at)).collect::<Result<Vec<_>, _>>()?)
        .bind(chunk.iter().map(|e| bigint(e.task_id)).collect::<Result<Vec<_>, _>>()?)
        .bind(chunk.iter().map(|e| e.reward.to_string()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|e| e.payee.0.0).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// A provider that has events without a batch.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Whose.
    pub provider: Address,
    /// How many, counted up to the asked limit.
    pub count: i64,
    /// Age of the oldest.
    pub age_ms: i64,
}

/// Providers with pending events, counting up to `count_max` of each.
pub async fn pending(db: &PgPool, count_max: u32) -> sqlx::Result<Vec<Pending>> {
    let rows = sqlx::query(
        "SELECT p.account, found.count, found.age_ms
         FROM provider p CROSS JOIN LATERAL (
             SELECT count(*) AS count,
                    (extract(epoch FROM now() - min(received_at)) * 1000)::bigint AS age_ms
             FROM (SELECT received_at FROM event WHERE provider = p.account AND batch_number IS NULL
                   ORDER BY position LIMIT $1) AS oldest
         ) AS found
         WHERE found.count > 0",
    )
    .bind(i64::from(count_max))
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            let provider = Address::from(row.try_get::<[u8; 20], _>(0)?);
            Ok(Pending { provider, count: row.try_get(1)?, age_ms: row.try_get::<Option<i64>, _>(2)?.unwrap_or(0) })
        })
        .collect()
}

/// The oldest pending events of a provider in order of arrival, locked; index and previous are not set yet.
pub async fn take_pending(tx: &mut Tx<'_>, provider: Address, count_max: u32) -> anyhow::Result<Vec<Event>> {
    let rows = sqlx::query(
        "SELECT data_id, sequence, kind, contributor, content_hash, consent_id, commitment, occurred_at, task_id,
                reward::text AS reward, payee, 0 AS batch_index, NULL::bytea AS previous
         FROM event WHERE provider = $1 AND batch_number IS NULL ORDER BY position LIMIT $2 FOR UPDATE",
    )
    .bind(provider.0.0)
    .bind(i64::from(count_max))
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(read).collect()
}

/// Writes the places that sealing gave to events, and the records' new tips.
pub async fn place(
    tx: &mut Tx<'_>,
    provider: Address,
    number: u64,
    events: &[Event],
    leaves: &[B256],
) -> anyhow::Result<()> {
    for (chunk, leaves) in events.chunks(ROWS_PER_STATEMENT).zip(leaves.chunks(ROWS_PER_STATEMENT)) {
        let placed = sqlx::query(
            "UPDATE event SET batch_number = $2, batch_index = new.batch_index, previous = new.previous, leaf = new.leaf
             FROM unnest($3::uuid[], $4::int[], $5::int[], $6::bytea[], $7::bytea[])
                  AS new (data_id, sequence, batch_index, previous, leaf)
             WHERE event.data_id = new.data_id AND event.sequence = new.sequence
               AND event.provider = $1 AND event.batch_number IS NULL",
        )
        .bind(provider.0.0)
        .bind(bigint(number)?)
        .bind(chunk.iter().map(|e| e.data_id.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|e| i32::try_from(e.sequence)).collect::<Result<Vec<_>, _>>()?)
        .bind(chunk.iter().map(|e| i32::try_from(e.index)).collect::<Result<Vec<_>, _>>()?)
        .bind(chunk.iter().map(|e| e.previous.0).collect::<Vec<_>>())
        .bind(leaves.iter().map(|leaf| leaf.0).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
        anyhow::ensure!(placed.rows_affected() == chunk.len() as u64, "an event to seal was sealed by somebody else");
    }
    Ok(())
}

/// The events of a sealed batch in index order, their leaves, and what they disclose.
pub async fn of_batch(
    db: &PgPool,
    provider: Address,
    number: u64,
) -> anyhow::Result<(Vec<Event>, Vec<B256>, Vec<Disclosure>)> {
    let rows = sqlx::query(
        "SELECT data_id, sequence, kind, contributor, content_hash, consent_id, commitment, occurred_at, task_id,
                reward::text AS reward, payee, batch_index, previous, leaf, salt, payload
         FROM event WHERE provider = $1 AND batch_number = $2 ORDER BY batch_index",
    )
    .bind(provider.0.0)
    .bind(bigint(number)?)
    .fetch_all(db)
    .await?;
    let mut events = Vec::with_capacity(rows.len());
    let mut leaves = Vec::with_capacity(rows.len());
    let mut disclosures = Vec::with_capacity(rows.len());
    for row in &rows {
        let event = read(row)?;
        leaves.push(B256::from(row.try_get::<[u8; 32], _>("leaf")?));
        disclosures.push(Disclosure {
            index: event.index,
            salt: row.try_get("salt")?,
            payload: row.try_get("payload")?,
        });
        events.push(event);
    }
    Ok((events, leaves, disclosures))
}

fn read(row: &PgRow) -> anyhow::Result<Event> {
    let hash = |column: &str| row.try_get::<[u8; 32], _>(column).map(B256::from);
    let kind = u8::try_from(row.try_get::<i16, _>("kind")?)?;
    Ok(Event {
        index: u32::try_from(row.try_get::<i32, _>("batch_index")?)?,
        data_id: DataId(row.try_get("data_id")?),
        sequence: u32::try_from(row.try_get::<i32, _>("sequence")?)?,
        kind: EventKind::from_u8(kind).context("an event of no known kind")?,
        contributor: hash("contributor")?,
        content_hash: ContentHash(hash("content_hash")?),
        consent_id: ConsentId(hash("consent_id")?),
        commitment: hash("commitment")?,
        previous: row.try_get::<Option<[u8; 32]>, _>("previous")?.map_or(B256::ZERO, B256::from),
        occurred_at: u64::try_from(row.try_get::<i64, _>("occurred_at")?)?,
        task_id: u64::try_from(row.try_get::<i64, _>("task_id")?)?,
        reward: row.try_get::<&str, _>("reward")?.parse()?,
        payee: Address::from(row.try_get::<[u8; 20], _>("payee")?),
    })
}

/// How many events wait for a batch, and how old is the oldest whose batch is not final.
pub async fn backlog(db: &PgPool) -> sqlx::Result<(i64, Option<i64>)> {
    let row = sqlx::query(
        "SELECT count(*), (extract(epoch FROM now() - min(received_at)) * 1000)::bigint FROM event WHERE batch_number IS NULL",
    )
    .fetch_one(db)
    .await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Those of these records that have a ConsentWithdrawn event.
pub async fn with_withdrawal(tx: &mut Tx<'_>, ids: &BTreeSet<DataId>) -> anyhow::Result<BTreeSet<DataId>> {
    let found: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT data_id FROM event WHERE kind = 4 AND data_id = ANY($1)")
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await?;
    Ok(found.into_iter().map(DataId).collect())
}
