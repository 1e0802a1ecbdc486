//! Records as rows: one a submission, made once, then only their newest metadata and sequence move.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alloy::primitives::{Address, B256};
use sqlx::{PgPool, Row, postgres::PgRow};
use tidemark::{
    event::Event,
    ids::{ConsentId, ContentHash, DataId},
};
use uuid::Uuid;

use super::{Tx, bigint, event::Subject};

/// A record to be made.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// What its events share.
    pub subject: Subject,
    /// The provider's id.
    pub source_record_id: String,
    /// `upload` or `trace`.
    pub door: &'static str,
    /// Of what was sent.
    pub fingerprint: B256,
    /// Whose.
    pub contributor_reference: String,
    /// What its acceptance pays.
    pub reward: u128,
    /// To whom; zero: points.
    pub payee: Address,
    /// The gate's word and sentence, of an upload.
    pub verdict: Option<(String, String)>,
    /// Of its first metadata.
    pub metadata_root: B256,
    /// Events made with it.
    pub event_count: u32,
}

/// Makes records; gives the ids that are new. Those that exist stay as they are.
pub async fn insert<'a>(
    tx: &mut Tx<'_>,
    provider: Address,
    records: impl IntoIterator<Item = &'a NewRecord>,
) -> anyhow::Result<BTreeSet<DataId>> {
    let mut sorted: Vec<&NewRecord> = records.into_iter().collect();
    // two batches that name the same records wait for each other and do not deadlock
    sorted.sort_by_key(|record| record.subject.data_id);
    let rows = sqlx::query(
        "INSERT INTO record (provider, data_id, source_record_id, door, fingerprint, contributor_reference, contributor,
                             content_hash, consent_id, task_id, reward, payee, outcome, detail, metadata_root, next_sequence)
         SELECT $1, data_id, source_record_id, door, fingerprint, contributor_reference, contributor,
                content_hash, consent_id, task_id, reward::numeric, payee, outcome, detail, metadata_root, next_sequence
         FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::bytea[], $8::bytea[], $9::bytea[],
                     $10::bigint[], $11::text[], $12::bytea[], $13::text[], $14::text[], $15::bytea[], $16::int[])
              AS new (data_id, source_record_id, door, fingerprint, contributor_reference, contributor, content_hash,
                      consent_id, task_id, reward, payee, outcome, detail, metadata_root, next_sequence)
         ON CONFLICT DO NOTHING RETURNING data_id",
    )
    .bind(provider.0.0)
    .bind(sorted.iter().map(|r| r.subject.data_id.0).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| r.source_record_id.as_str()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| r.door).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| r.fingerprint.0).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| r.contributor_reference.as_str()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| r.subject.contributor.0).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| r.subject.content_hash.0.0).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| (!r.subject.consent_id.is_zero()).then_some(r.subject.consent_id.0.0)).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| bigint(r.subject.task_id)).collect::<Result<Vec<_>, _>>()?)
    .bind(sorted.iter().map(|r| r.reward.to_string()).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| r.payee.0.0).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| r.verdict.as_ref().map(|(outcome, _)| outcome.as_str())).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| r.verdict.as_ref().map(|(_, detail)| detail.as_str())).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| r.metadata_root.0).collect::<Vec<_>>())
    .bind(sorted.iter().map(|r| i32::try_from(r.event_count)).collect::<Result<Vec<_>, _>>()?)
    .fetch_all(&mut **tx)
    .await?;
    Ok(rows.iter().map(|row| row.try_get::<Uuid, _>(0).map(DataId)).collect::<Result<_, _>>()?)
}

/// In the place of an erased record's fingerprint, which could be tested against guesses.
pub const ERASED: B256 = B256::ZERO;

/// Fingerprints of those of these records that exist.
pub async fn fingerprints(
    tx: &mut Tx<'_>,
    provider: Address,
    ids: &[DataId],
) -> anyhow::Result<BTreeMap<DataId, B256>> {
    // only the key leads to the rows: where the provider stood in the condition, Postgres might read all of its records
    let rows = sqlx::query("SELECT data_id, fingerprint, provider FROM record WHERE data_id = ANY($1)")
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await?;
    let mut found = BTreeMap::new();
    for row in &rows {
        if Address::from(row.try_get::<[u8; 20], _>(2)?) == provider {
            found.insert(DataId(row.try_get(0)?), B256::from(row.try_get::<[u8; 32], _>(1)?));
        }
    }
    Ok(found)
}

/// What moves as updates and withdrawals come.
#[derive(Clone, Debug)]
pub struct Head {
    /// Whose.
    pub provider: Address,
    /// What its events share.
    pub subject: Subject,
    /// Root of the newest metadata.
    pub metadata_root: B256,
    /// Trace sequence of the newest metadata.
    pub trace_seq: u32,
    /// Sequence of the next event.
    pub next_sequence: u32,
}

/// The heads of those of these records that exist, locked in the order of their ids.
pub async fn lock(tx: &mut Tx<'_>, ids: &BTreeSet<DataId>) -> anyhow::Result<BTreeMap<DataId, Head>> {
    let rows = sqlx::query(
        "SELECT data_id, provider, contributor, content_hash, consent_id, task_id, metadata_root, trace_seq, next_sequence
         FROM record WHERE data_id = ANY($1) ORDER BY data_id FOR UPDATE",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?;
    rows.iter().map(|row| head(row).map(|head| (head.subject.data_id, head))).collect()
}

/// The ids of the records under one consent.
pub async fn of_consent(tx: &mut Tx<'_>, consent: ConsentId) -> anyhow::Result<BTreeSet<DataId>> {
    let ids: Vec<Uuid> = sqlx::query_scalar("SELECT data_id FROM record WHERE consent_id = $1")
        .bind(consent.0.0)
        .fetch_all(&mut **tx)
        .await?;
    Ok(ids.into_iter().map(DataId).collect())
}

fn head(row: &PgRow) -> anyhow::Result<Head> {
    let hash = |column: &str| row.try_get::<[u8; 32], _>(column).map(B256::from);
    Ok(Head {
        provider: Address::from(row.try_get::<[u8; 20], _>("provider")?),
        subject: Subject {
            data_id: DataId(row.try_get("data_id")?),
            contributor: hash("contributor")?,
            content_hash: ContentHash(hash("content_hash")?),
            consent_id: ConsentId(row.try_get::<Option<[u8; 32]>, _>("consent_id")?.map_or(B256::ZERO, B256::from)),
            task_id: u64::try_from(row.try_get::<i64, _>("task_id")?)?,
        },
        metadata_root: hash("metadata_root")?,
        trace_seq: u32::try_from(row.try_get::<i32, _>("trace_seq")?)?,
        next_sequence: u32::try_from(row.try_get::<i32, _>("next_sequence")?)?,
    })
}

/// Writes back heads that moved.
pub async fn advance(tx: &mut Tx<'_>, heads: &[&Head]) -> anyhow::Result<()> {
    sqlx::query(
        "UPDATE record SET metadata_root = new.metadata_root, trace_seq = new.trace_seq, next_sequence = new.next_sequence
         FROM unnest($1::uuid[], $2::bytea[], $3::int[], $4::int[]) AS new (data_id, metadata_root, trace_seq, next_sequence)
         WHERE record.data_id = new.data_id",
    )
    .bind(heads.iter().map(|h| h.subject.data_id.0).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| h.metadata_root.0).collect::<Vec<_>>())
    .bind(heads.iter().map(|h| i32::try_from(h.trace_seq)).collect::<Result<Vec<_>, _>>()?)
    .bind(heads.iter().map(|h| i32::try_from(h.next_sequence)).collect::<Result<Vec<_>, _>>()?)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Leaves of the newest sealed events of these records, which are locked in the order of their ids.
pub async fn tips(tx: &mut Tx<'_>, ids: &BTreeSet<DataId>) -> anyhow::Result<HashMap<DataId, B256>> {
    let rows = sqlx::query("SELECT data_id, tip_leaf FROM record WHERE data_id = ANY($1) ORDER BY data_id FOR UPDATE")
        .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await?;
    let mut tips = HashMap::with_capacity(rows.len());
    for row in &rows {
        if let Some(leaf) = row.try_get::<Option<[u8; 32]>, _>(1)? {
            tips.insert(DataId(row.try_get(0)?), B256::from(leaf));
        }
    }
    Ok(tips)
}

/// Writes the tips that sealing made: of each record's newest event in the batch.
pub async fn set_tips(tx: &mut Tx<'_>, events: &[Event], leaves: &[B256]) -> anyhow::Result<()> {
    let tips: BTreeMap<DataId, B256> = events.iter().map(|event| event.data_id).zip(leaves.iter().copied()).collect();
    sqlx::query(
        "UPDATE record SET tip_leaf = new.leaf FROM unnest($1::uuid[], $2::bytea[]) AS new (data_id, leaf)
         WHERE record.data_id = new.data_id",
    )
    .bind(tips.keys().map(|id| id.0).collect::<Vec<_>>())
    .bind(tips.values().map(|leaf| leaf.0).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// What an upload was answered with, to answer a retry with the same.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Tells a retry from a conflict.
    pub fingerprint: B256,
    /// The gate's word; none of a record that came by the Trace door.
    pub outcome: Option<String>,
    /// The gate's sentence.
    pub detail: Option<String>,
    /// Pseudonym.
    pub contributor: B256,
    /// Of the bytes.
    pub content_hash: ContentHash,
    /// What its acceptance pays.
    pub reward: u128,
}

/// The record of a provider, where there is one.
pub async fn kept(db: &PgPool, provider: Address, data_id: DataId) -> anyhow::Result<Option<Kept>> {
    let row = sqlx::query(
        "SELECT fingerprint, outcome, detail, contributor, content_hash, reward::text FROM record
         WHERE provider = $1 AND data_id = $2",
    )
    .bind(provider.0.0)
    .bind(data_id.0)
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        Ok(Kept {
            fingerprint: B256::from(row.try_get::<[u8; 32], _>(0)?),
            outcome: row.try_get(1)?,
            detail: row.try_get(2)?,
            contributor: B256::from(row.try_get::<[u8; 32], _>(3)?),
            content_hash: ContentHash(B256::from(row.try_get::<[u8; 32], _>(4)?)),
            reward: row.try_get::<&str, _>(5)?.parse()?,
        })
    })
    .transpose()
}

/// A record as its provider sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The provider's id.
    pub source_record_id: String,
    /// `upload` or `trace`.
    pub door: String,
    /// Whose; the provider's own reference.
    pub contributor_reference: String,
    /// Of its newest metadata.
    pub metadata_root: B256,
    /// Trace sequence of its newest metadata.
    pub trace_seq: i32,
    /// Its events: sequence, kind, batch number and index.
    pub events: Vec<SeenEvent>,
    /// Updates that wait or were refused.
    pub updates: Vec<SeenUpdate>,
}

/// An event of a record as its provider sees it.
#[derive(Clone, Debug)]
pub struct SeenEvent {
    /// Position in the record's chain.
    pub sequence: i32,
    /// `EventKind` as a number.
    pub kind: i16,
    /// Unix seconds.
    pub occurred_at: i64,
    /// Leaf, once sealed.
    pub leaf: Option<B256>,
    /// Batch, once sealed.
    pub batch_number: Option<i64>,
    /// Index in the batch, once sealed.
    pub batch_index: Option<i32>,
}

/// An update that is not an event yet.
#[derive(Clone, Debug)]
pub struct SeenUpdate {
    /// Trace sequence.
    pub seq: i32,
    /// `waiting` or `refused`.
    pub state: String,
    /// Why it was refused.
    pub reason: Option<String>,
}

/// A record of a provider with its events and updates.
pub async fn see(db: &PgPool, provider: Address, data_id: DataId) -> anyhow::Result<Option<(Seen, Kept)>> {
    let Some(kept) = kept(db, provider, data_id).await? else { return Ok(None) };
    let row = sqlx::query(
        "SELECT source_record_id, door, coalesce(contributor_reference, ''), metadata_root, trace_seq FROM record WHERE data_id = $1",
    )
    .bind(data_id.0)
    .fetch_one(db)
    .await?;
    let events = sqlx::query(
        "SELECT sequence, kind, occurred_at, leaf, batch_number, batch_index FROM event WHERE data_id = $1 ORDER BY sequence",
    )
    .bind(data_id.0)
    .fetch_all(db)
    .await?;
    let updates = sqlx::query(
        "SELECT seq, state, reason FROM metadata_update
         WHERE provider = $1 AND data_id = $2 AND state <> 'applied' ORDER BY seq",
    )
    .bind(provider.0.0)
    .bind(data_id.0)
    .fetch_all(db)
    .await?;
    let seen = Seen {
        source_record_id: row.try_get(0)?,
        door: row.try_get(1)?,
        contributor_reference: super::register::public_reference(row.try_get(2)?),
        metadata_root: B256::from(row.try_get::<[u8; 32], _>(3)?),
        trace_seq: row.try_get(4)?,
        events: events
            .iter()
            .map(|row| {
                Ok(SeenEvent {
                    sequence: row.try_get(0)?,
                    kind: row.try_get(1)?,
                    occurred_at: row.try_get(2)?,
                    leaf: row.try_get::<Option<[u8; 32]>, _>(3)?.map(B256::from),
                    batch_number: row.try_get(4)?,
                    batch_index: row.try_get(5)?,
                })
            })
            .collect::<sqlx::Result<_>>()?,
        updates: updates
            .iter()
            .map(|row| Ok(SeenUpdate { seq: row.try_get(0)?, state: row.try_get(1)?, reason: row.try_get(2)? }))
            .collect::<sqlx::Result<_>>()?,
    };
    Ok(Some((seen, kept)))
}

/// Records of one contributor after `after`, with their pseudonyms, ascending.
pub async fn of_contributor(
    db: &PgPool,
    provider: Address,
    reference: &str,
    after: Option<Uuid>,
    limit: i64,
) -> sqlx::Result<Vec<(DataId, B256)>> {
    let rows = sqlx::query(
        "SELECT data_id, contributor FROM record
         WHERE provider = $1 AND contributor_reference = $2 AND ($3::uuid IS NULL OR data_id > $3)
         ORDER BY data_id LIMIT $4",
    )
    .bind(provider.0.0)
    .bind(reference)
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| Ok((DataId(row.try_get(0)?), B256::from(row.try_get::<[u8; 32], _>(1)?)))).collect()
}
