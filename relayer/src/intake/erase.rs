//! Erasure: a record's private parts go from tables and content store; leaves, proofs and money stay as they were anchored.
//!
//! ```text
//!  asked ─► its batches are signed ─► draft (disclosures without it, in the store)
//!        ─► scrub (one transaction: rows blanked, batch points to the draft, Erased event, files to delete) ─► erasing
//!        ─► remove (old disclosures, ciphertext, sealed key) ─► erased
//! ```
//!
//! The attestor reads disclosures before it signs, so nothing goes before that. Each step may be cut off and repeated.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc, time::Duration};

use alloy::primitives::Address;
use anyhow::{Context, ensure};
use cid::Cid;
use serde::Serialize;
use sqlx::{PgPool, Row};
use tidemark::{
    ids::DataId,
    manifest::{Disclosure, encode_disclosures},
    payload::{Moved, Payload},
    service::causes,
    store::{Store, cid_of},
};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Tx,
    event::{self, NewEvent, Subject},
    record, unix_now,
};
use crate::app::App;

/// Records erased together, so that a batch that holds many of them is written anew once.
const RECORDS_PER_ROUND: i64 = 100;
const FILES_PER_ROUND: i64 = 1_000;
/// After a round that failed.
const PAUSE: Duration = Duration::from_secs(10);

/// How far an erasure is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Erasure {
    /// The record.
    #[schema(value_type = String, format = Uuid)]
    pub data_id: DataId,
    /// erasing, or erased: then nothing private is left here or in the content store.
    pub state: &'static str,
    /// Unix seconds.
    pub asked_at: i64,
    /// Unix seconds.
    pub erased_at: Option<i64>,
}

/// Asks for a record's erasure, of one provider where given; asking twice changes nothing. None where there is no such record.
pub async fn ask(db: &PgPool, provider: Option<Address>, id: DataId) -> sqlx::Result<Option<Erasure>> {
    sqlx::query(
        "UPDATE record SET erasure = 'asked', erasure_asked_at = now()
         WHERE data_id = $1 AND ($2::bytea IS NULL OR provider = $2) AND erasure IS NULL",
    )
    .bind(id.0)
    .bind(provider.map(|provider| provider.0.0))
    .execute(db)
    .await?;
    state(db, provider, id).await
}

/// How far a record's erasure is; none where nobody asked for it.
pub async fn state(db: &PgPool, provider: Option<Address>, id: DataId) -> sqlx::Result<Option<Erasure>> {
    let row = sqlx::query(
        "SELECT erasure = 'erased', extract(epoch FROM erasure_asked_at)::bigint, extract(epoch FROM erased_at)::bigint
         FROM record WHERE data_id = $1 AND ($2::bytea IS NULL OR provider = $2) AND erasure IS NOT NULL",
    )
    .bind(id.0)
    .bind(provider.map(|provider| provider.0.0))
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        let state = if row.try_get(0)? { "erased" } else { "erasing" };
        Ok(Erasure { data_id: id, state, asked_at: row.try_get(1)?, erased_at: row.try_get(2)? })
    })
    .transpose()
}

/// Those of these records whose erasure was asked for: nothing more happens to them.
pub async fn among(tx: &mut Tx<'_>, ids: &BTreeSet<DataId>) -> sqlx::Result<BTreeSet<DataId>> {
    let found: Vec<Uuid> =
        sqlx::query_scalar("SELECT data_id FROM record WHERE data_id = ANY($1) AND erasure IS NOT NULL")
            .bind(uuids(ids))
            .fetch_all(&mut **tx)
            .await?;
    Ok(found.into_iter().map(DataId).collect())
}

/// How many erasures are not done, and the age of the oldest in seconds.
pub async fn backlog(db: &PgPool) -> sqlx::Result<(i64, Option<i64>)> {
    let row = sqlx::query(
        "SELECT count(*), extract(epoch FROM now() - min(erasure_asked_at))::bigint FROM record
         WHERE erasure IN ('asked', 'erasing')",
    )
    .fetch_one(db)
    .await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

fn uuids(ids: &BTreeSet<DataId>) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

/// Erases what was asked for, until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        let pause = match round(&app.db, &app.store).await {
            Ok(()) => app.config.poll(),
            Err(error) => {
                tracing::warn!(cause = causes(error.as_ref()), "erasures have to wait");
                PAUSE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn round(db: &PgPool, store: &Store) -> anyhow::Result<()> {
    let providers: Vec<[u8; 20]> =
        sqlx::query_scalar("SELECT DISTINCT provider FROM record WHERE erasure IN ('asked', 'erasing')")
            .fetch_all(db)
            .await?;
    for provider in providers.into_iter().map(Address::from) {
        // what a store does not delete of one provider's holds up nobody else's
        if let Err(error) = erase_of(db, store, provider).await {
            tracing::warn!(%provider, cause = causes(error.as_ref()), "erasures of a provider have to wait");
        }
    }
    Ok(())
}

async fn erase_of(db: &PgPool, store: &Store, provider: Address) -> anyhow::Result<()> {
    // one process at a time, for as long as this transaction is open; it changes nothing itself
    let mut alone = db.begin().await?;
    let is_alone: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended($1, 2))")
        .bind(provider.to_string())
        .fetch_one(&mut *alone)
        .await?;
    if !is_alone {
        return Ok(());
    }
    let due = due(db, provider).await?;
    if !due.is_empty() {
        let drafts = draft(db, store, provider, &due).await?;
        scrub(db, provider, &due, &drafts).await?;
    }
    remove(db, store, provider).await?;
    alone.commit().await?;
    Ok(())
}

/// Records that were asked for and whose events are all in signed batches.
pub async fn due(db: &PgPool, provider: Address) -> sqlx::Result<BTreeSet<DataId>> {
    let found: Vec<Uuid> = sqlx::query_scalar(
        "SELECT r.data_id FROM record r WHERE r.provider = $1 AND r.erasure = 'asked' AND NOT EXISTS (
             SELECT FROM event e LEFT JOIN batch b ON b.provider = e.provider AND b.number = e.batch_number
             WHERE e.data_id = r.data_id AND coalesce(b.state, 'sealed') = 'sealed')
         ORDER BY r.erasure_asked_at LIMIT $2",
    )
    .bind(provider.0.0)
    .bind(RECORDS_PER_ROUND)
    .fetch_all(db)
    .await?;
    Ok(found.into_iter().map(DataId).collect())
}

/// A batch's disclosures, written anew without the records that go.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Which batch.
    pub number: i64,
    /// The file that goes.
    pub old: String,
    /// The file that stays.
    pub new: Cid,
}

/// Writes the disclosures of these records' batches anew. Each file is noted for removal before it is there, and the note
/// goes with the transaction that points to it: a crash leaves no file that nobody knows of.
pub async fn draft(
    db: &PgPool,
    store: &Store,
    provider: Address,
    ids: &BTreeSet<DataId>,
) -> anyhow::Result<Vec<Draft>> {
    let batches = sqlx::query(
        "SELECT DISTINCT ON (b.number) b.number, b.disclosures_cid, e.data_id
         FROM event e JOIN batch b ON b.provider = e.provider AND b.number = e.batch_number
         WHERE e.provider = $1 AND e.data_id = ANY($2) ORDER BY b.number",
    )
    .bind(provider.0.0)
    .bind(uuids(ids))
    .fetch_all(db)
    .await?;
    let mut drafts = Vec::with_capacity(batches.len());
    for row in &batches {
        let number: i64 = row.try_get(0)?;
        let old: String = row.try_get::<Option<String>, _>(1)?.context("a signed batch without disclosures")?;
        let kept = disclosures(db, provider, number, ids).await?;
        let encoded = tokio::task::spawn_blocking(move || encode_disclosures(&kept)).await??;
        let new = cid_of(&encoded);
        note_file(db, row.try_get(2)?, &new.to_string(), provider, number).await?;
        store.put(&encoded).await.context("store disclosures without what is erased")?;
        drafts.push(Draft { number, old, new });
    }
    Ok(drafts)
}

/// What a batch still discloses, but for these records.
async fn disclosures(
    db: &PgPool,
    provider: Address,
    number: i64,
    without: &BTreeSet<DataId>,
) -> anyhow::Result<Vec<Disclosure>> {
    let rows = sqlx::query(
        "SELECT batch_index, salt, payload FROM event
         WHERE provider = $1 AND batch_number = $2 AND payload IS NOT NULL AND data_id <> ALL($3) ORDER BY batch_index",
    )
    .bind(provider.0.0)
    .bind(number)
    .bind(uuids(without))
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            let index = u32::try_from(row.try_get::<i32, _>(0)?)?;
            Ok(Disclosure { index, salt: row.try_get(1)?, payload: row.try_get(2)? })
        })
        .collect()
}

async fn note_file(db: &PgPool, id: Uuid, cid: &str, provider: Address, number: i64) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO store_removal (data_id, cid, provider, number) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(id)
    .bind(cid)
    .bind(provider.0.0)
    .bind(number)
    .execute(db)
    .await?;
    Ok(())
}

/// Blanks the records' rows, points their batches to the drafts, adds the Erased events and notes the files that go, all
/// in one transaction.
pub async fn scrub(db: &PgPool, provider: Address, ids: &BTreeSet<DataId>, drafts: &[Draft]) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    let mut heads = record::lock(&mut tx, ids).await?;
    for draft in drafts {
        let done = sqlx::query(
            "UPDATE batch SET disclosures_cid = $4
             WHERE provider = $1 AND number = $2 AND disclosures_cid = $3 AND state <> 'sealed'",
        )
        .bind(provider.0.0)
        .bind(draft.number)
        .bind(&draft.old)
        .bind(draft.new.to_string())
        .execute(&mut *tx)
        .await?;
        ensure!(done.rows_affected() == 1, "batch {} was written anew by somebody else meanwhile", draft.number);
        sqlx::query("DELETE FROM store_removal WHERE provider = $1 AND cid = $2")
            .bind(provider.0.0)
            .bind(draft.new.to_string())
            .execute(&mut *tx)
            .await?;
    }
    let mut moved = note_removals(&mut tx, provider, ids, drafts).await?;
    blank(&mut tx, provider, ids).await?;
    let mut events = Vec::with_capacity(heads.len());
    for (id, head) in &mut heads {
        let payload = Payload::Erased { disclosures: moved.remove(id).unwrap_or_default() };
        let subject = Subject { task_id: 0, ..head.subject.clone() };
        events.push(NewEvent::new(&subject, head.next_sequence, unix_now(), &payload)?);
    }
    event::insert(&mut tx, provider, &events).await?;
    tx.commit().await?;
    tracing::info!(%provider, records = ids.len(), batches = drafts.len(), "records scrubbed");
    Ok(())
}

/// Notes the files that go with these records; gives for each record where its batches' disclosures are now.
async fn note_removals(
    tx: &mut Tx<'_>,
    provider: Address,
    ids: &BTreeSet<DataId>,
    drafts: &[Draft],
) -> anyhow::Result<BTreeMap<DataId, Vec<Moved>>> {
    let by_number: BTreeMap<i64, &Draft> = drafts.iter().map(|draft| (draft.number, draft)).collect();
    let rows = sqlx::query(
        "SELECT data_id, batch_number, CASE WHEN kind = 0 THEN payload END FROM event
         WHERE provider = $1 AND data_id = ANY($2) ORDER BY data_id, sequence",
    )
    .bind(provider.0.0)
    .bind(uuids(ids))
    .fetch_all(&mut **tx)
    .await?;
    let mut moved: BTreeMap<DataId, Vec<Moved>> = BTreeMap::new();
    let mut files: BTreeSet<(Uuid, String, Option<i64>)> = BTreeSet::new();
    for row in &rows {
        let id: Uuid = row.try_get(0)?;
        let number = row.try_get::<Option<i64>, _>(1)?;
        let draft = number.and_then(|number| by_number.get(&number));
        let draft = draft.with_context(|| format!("record {id} has an event that came meanwhile"))?;
        if files.insert((id, draft.old.clone(), Some(draft.number))) {
            let place = Moved { number: u64::try_from(draft.number)?, cid: draft.new };
            moved.entry(DataId(id)).or_default().push(place);
        }
        let registered = row.try_get::<Option<&str>, _>(2)?.map(serde_json::from_str::<Payload>).transpose()?;
        if let Some(Payload::Registered { delivery: Some(delivery), .. }) = registered {
            files.insert((id, delivery.key_cid.to_string(), None));
            files.insert((id, delivery.ciphertext_cid.to_string(), None));
        }
    }
    sqlx::query(
        "INSERT INTO store_removal (provider, data_id, cid, number)
         SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::bigint[]) ON CONFLICT DO NOTHING",
    )
    .bind(provider.0.0)
    .bind(files.iter().map(|(id, ..)| *id).collect::<Vec<_>>())
    .bind(files.iter().map(|(_, cid, _)| cid.as_str()).collect::<Vec<_>>())
    .bind(files.iter().map(|(.., number)| *number).collect::<Vec<_>>())
    .execute(&mut **tx)
    .await?;
    Ok(moved)
}

/// Blanks salts, payloads and what the record says of itself, counts the Erased event in, drops updates, and the secrets of
/// contributors that have no other record.
async fn blank(tx: &mut Tx<'_>, provider: Address, ids: &BTreeSet<DataId>) -> sqlx::Result<()> {
    sqlx::query("UPDATE event SET salt = NULL, payload = NULL WHERE provider = $1 AND data_id = ANY($2)")
        .bind(provider.0.0)
        .bind(uuids(ids))
        .execute(&mut **tx)
        .await?;
    for statement in [
        "DELETE FROM metadata_update WHERE provider = $1 AND data_id = ANY($2)",
        "DELETE FROM metadata_check WHERE provider = $1 AND data_id = ANY($2)",
    ] {
        sqlx::query(statement).bind(provider.0.0).bind(uuids(ids)).execute(&mut **tx).await?;
    }
    let references: Vec<String> = sqlx::query_scalar(
        "UPDATE record AS r SET erasure = 'erasing', next_sequence = r.next_sequence + 1, contributor_reference = NULL,
             source_record_id = r.data_id::text, fingerprint = $2, metadata_root = $2, detail = NULL
         FROM (SELECT data_id, contributor_reference AS reference FROM record WHERE data_id = ANY($1)) AS before
         WHERE r.data_id = before.data_id RETURNING before.reference",
    )
    .bind(uuids(ids))
    .bind(record::ERASED.0)
    .fetch_all(&mut **tx)
    .await?;
    sqlx::query(
        "DELETE FROM contributor c WHERE c.provider = $1 AND c.reference = ANY($2) AND NOT EXISTS (
             SELECT FROM record r WHERE r.provider = c.provider AND r.contributor_reference = c.reference)",
    )
    .bind(provider.0.0)
    .bind(references)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Deletes the files that were noted, and ends the erasures that have none left.
pub async fn remove(db: &PgPool, store: &Store, provider: Address) -> anyhow::Result<()> {
    let rows = sqlx::query(
        "SELECT DISTINCT s.cid, b.disclosures_cid FROM store_removal s
         LEFT JOIN batch b ON b.provider = s.provider AND b.number = s.number
         WHERE s.provider = $1 ORDER BY s.cid LIMIT $2",
    )
    .bind(provider.0.0)
    .bind(FILES_PER_ROUND)
    .fetch_all(db)
    .await?;
    let mut failed = None;
    for row in &rows {
        let (cid, kept): (&str, Option<&str>) = (row.try_get(0)?, row.try_get(1)?);
        match remove_file(store, cid, kept).await {
            Ok(()) => {
                sqlx::query("DELETE FROM store_removal WHERE provider = $1 AND cid = $2")
                    .bind(provider.0.0)
                    .bind(cid)
                    .execute(db)
                    .await?;
            }
            Err(error) => {
                let text: String = causes(error.as_ref()).chars().take(500).collect();
                sqlx::query("UPDATE store_removal SET error = $3 WHERE provider = $1 AND cid = $2")
                    .bind(provider.0.0)
                    .bind(cid)
                    .bind(text)
                    .execute(db)
                    .await?;
                failed = Some(error);
            }
        }
    }
    finish(db, provider).await?;
    match failed {
        Some(error) => Err(error.context("a file can't be deleted from the content store")),
        None => Ok(()),
    }
}

async fn remove_file(store: &Store, cid: &str, kept: Option<&str>) -> anyhow::Result<()> {
    if kept == Some(cid) {
        return Ok(());
    }
    let kept: Option<Cid> = kept.map(str::parse).transpose()?;
    Ok(store.delete_beside(&cid.parse()?, kept.as_ref()).await?)
}

/// Takes records that have no file left out of kept answers too, what the provider calls them and reasons with their roots;
/// then they are erased.
async fn finish(db: &PgPool, provider: Address) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "SELECT r.data_id FROM record r WHERE r.provider = $1 AND r.erasure = 'erasing'
         AND NOT EXISTS (SELECT FROM store_removal s WHERE s.data_id = r.data_id)",
    )
    .bind(provider.0.0)
    .fetch_all(db)
    .await?;
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE webhook_batch SET answer = jsonb_set(answer, '{items}', (
             SELECT jsonb_agg(CASE WHEN item ->> 'data_id' = ANY($2) THEN item - 'source_record_id' - 'reason' ELSE item END
                              ORDER BY place)
             FROM jsonb_array_elements(answer -> 'items') WITH ORDINALITY AS items (item, place)))
         WHERE provider = $1 AND EXISTS (
             SELECT FROM jsonb_array_elements(answer -> 'items') AS item
             WHERE item ->> 'data_id' = ANY($2) AND (item ? 'source_record_id' OR item ? 'reason'))",
    )
    .bind(provider.0.0)
    .bind(ids.iter().map(Uuid::to_string).collect::<Vec<_>>())
    .execute(db)
    .await?;
    sqlx::query(
        "DELETE FROM idempotency WHERE provider = $1 AND EXISTS (
             SELECT FROM unnest($2::text[]) AS id WHERE answer LIKE '%' || id || '%')",
    )
    .bind(provider.0.0)
    .bind(ids.iter().map(Uuid::to_string).collect::<Vec<_>>())
    .execute(db)
    .await?;
    let done = sqlx::query(
        "UPDATE record SET erasure = 'erased', erased_at = now() WHERE data_id = ANY($1) AND erasure = 'erasing'",
    )
    .bind(ids)
    .execute(db)
    .await?;
    metrics::counter!("records_erased_total").increment(done.rows_affected());
    Ok(())
}
