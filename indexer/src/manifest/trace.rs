//! What Trace's search, lists and counts are answered from: rows and sums that follow from what is disclosed of records,
//! changed in the transaction that changes the records. Sums move by differences, so that answers take no longer with more rows.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use alloy::primitives::Address;
use serde_json::Value;
use sqlx::{PgConnection, Row as _};
use tidemark::{event::EventKind, payload::Payload, service::causes};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Files, SettleError, lock_tables,
    record::{self, Seen},
};
use crate::trace::{ANON_ID, COUNTED, SEARCHED, TEXTS, key, size_bytes};

/// Records of one transaction while those from before the tables are taken in.
const FILL_ROWS: i64 = 2_000;
const FILL_PAUSE: Duration = Duration::from_secs(5);

/// A row of `trace_record`, beside its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    number: i64,
    block_number: i64,
    place: i64,
    source_record_id: String,
    content_hash: Vec<u8>,
    size_bytes: Option<i64>,
    /// In the order of [`TEXTS`].
    texts: [Option<String>; TEXTS.len()],
    keys: Keys,
}

/// What a row is found by.
#[derive(Clone, Debug, PartialEq)]
struct Keys {
    content_hash: i64,
    /// Of the first texts.
    texts: [Option<i64>; SEARCHED],
}

impl Keys {
    fn of(provider: Address, content_hash: &[u8], texts: &[Option<String>; TEXTS.len()]) -> Self {
        let mut keys = [None; SEARCHED];
        for ((found_by, text), value) in keys.iter_mut().zip(&TEXTS).zip(texts) {
            *found_by = value.as_ref().map(|value| key(provider, text.column, value.as_bytes()));
        }
        Self { content_hash: key(provider, "content_hash", content_hash), texts: keys }
    }
}

/// A row of `trace_update`.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    data_id: Uuid,
    sequence: i64,
    seq: i64,
    number: i64,
    block_number: i64,
    place: i64,
}

/// Where an event stands on the chain: the batch's log, then the event's index.
fn place(seen: &Seen) -> i64 {
    (seen.log_index << 32) | i64::from(seen.event.index)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A record's row and its updates; none where it is erased, or its registration is not disclosed.
pub type Rows = Option<(Row, Vec<Update>)>;

/// From a record's events in sequence order.
pub fn rows_of(provider: Address, seen: &[Seen]) -> Rows {
    if seen.iter().any(|seen| seen.event.kind == EventKind::Erased) {
        return None;
    }
    let first = seen.first()?;
    let Some(Payload::Registered { source_record_id, metadata, .. }) = &first.payload else { return None };
    let mut newest: &Value = metadata;
    let mut updates = Vec::new();
    for seen in seen.iter().filter(|seen| seen.event.kind == EventKind::MetadataUpdated) {
        let Some(Payload::MetadataUpdated { seq, metadata, .. }) = &seen.payload else { continue };
        newest = metadata;
        updates.push(Update {
            data_id: seen.event.data_id.0,
            sequence: i64::from(seen.event.sequence),
            seq: i64::from(*seq),
            number: signed(seen.number),
            block_number: seen.block_number,
            place: place(seen),
        });
    }
    let content_hash = seen.last()?.event.content_hash.0.to_vec();
    let texts = TEXTS.each_ref().map(|text| text.of(newest));
    let row = Row {
        number: signed(first.number),
        block_number: first.block_number,
        place: place(first),
        source_record_id: source_record_id.trim().to_owned(),
        size_bytes: size_bytes(newest),
        keys: Keys::of(provider, &content_hash, &texts),
        content_hash,
        texts,
    };
    Some((row, updates))
}

/// How sums move.
#[derive(Debug, Default, PartialEq)]
struct Change {
    /// By column and value.
    counts: BTreeMap<(&'static str, String), i64>,
    records: i64,
    size_records: i64,
    size_total: i128,
}

impl Change {
    fn add(&mut self, row: &Row, by: i64) {
        self.records += by;
        if let Some(size) = row.size_bytes {
            self.size_records += by;
            self.size_total += i128::from(size) * i128::from(by);
        }
        for (text, value) in TEXTS.iter().zip(&row.texts) {
            let Some(value) = value else { continue };
            if COUNTED.contains(&text.column) {
                *self.counts.entry((text.column, value.clone())).or_default() += by;
            }
        }
    }
}

/// Puts what follows from these records in place of what followed before.
pub async fn replace(
    connection: &mut PgConnection,
    provider: Address,
    rows: &[(Uuid, &Rows)],
) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = rows.iter().map(|(id, _)| *id).collect();
    let before = read(connection, provider, &ids).await?;
    change(connection, provider, rows, Some(&before)).await
}

/// Writes what follows from records that are new.
pub async fn insert(
    connection: &mut PgConnection,
    provider: Address,
    rows: &[(Uuid, &Rows)],
) -> Result<(), sqlx::Error> {
    change(connection, provider, rows, None).await
}

/// `before` is what stands there; none where nothing does.
async fn change(
    connection: &mut PgConnection,
    provider: Address,
    rows: &[(Uuid, &Rows)],
    before: Option<&HashMap<Uuid, Row>>,
) -> Result<(), sqlx::Error> {
    let mut change = Change::default();
    let (mut gone, mut written, mut updates) = (Vec::new(), Vec::new(), Vec::new());
    for (id, rows) in rows {
        let (old, new) = (before.and_then(|before| before.get(id)), rows.as_ref().map(|(row, _)| row));
        updates.extend(rows.iter().flat_map(|(_, updates)| updates));
        if old == new {
            continue;
        }
        if let Some(old) = old {
            change.add(old, -1);
        }
        match new {
            Some(new) => {
                change.add(new, 1);
                written.push((*id, new));
            }
            None => gone.push(*id),
        }
    }
    if !gone.is_empty() {
        // updates and rows of scoped groups go with it
        sqlx::query("DELETE FROM trace_record WHERE provider = $1 AND data_id = ANY($2)")
            .bind(provider.as_slice())
            .bind(gone)
            .execute(&mut *connection)
            .await?;
    }
    write(connection, provider, if before.is_some() { UPSERT } else { INSERT }, &written).await?;
    write_updates(connection, provider, &updates).await?;
    apply(connection, provider, change).await
}

async fn read(
    connection: &mut PgConnection,
    provider: Address,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Row>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT data_id, number, block_number, place, source_record_id, content_hash, size_bytes, mime_type, media_category,
             collection_id, customer_id, task_id, anon_id, kyc_status, kyc_country, geo_region, tos_hash,
             privacy_policy_hash, tax_status, account_verification, tos_version, privacy_policy_version
         FROM trace_record WHERE provider = $1 AND data_id = ANY($2)",
    )
    .bind(provider.as_slice())
    .bind(ids)
    .fetch_all(connection)
    .await?;
    let rows = rows.iter().map(|row| {
        let mut texts = [const { None }; TEXTS.len()];
        for (at, text) in texts.iter_mut().enumerate() {
            *text = row.try_get(7 + at)?;
        }
        let content_hash: Vec<u8> = row.try_get(5)?;
        let read = Row {
            number: row.try_get(1)?,
            block_number: row.try_get(2)?,
            place: row.try_get(3)?,
            source_record_id: row.try_get(4)?,
            size_bytes: row.try_get(6)?,
            keys: Keys::of(provider, &content_hash, &texts),
            content_hash,
            texts,
        };
        Ok((row.try_get(0)?, read))
    });
    rows.collect()
}

macro_rules! insert {
    () => {
        "INSERT INTO trace_record (provider, data_id, number, block_number, place, source_record_id, content_hash, size_bytes, mime_type, media_category,
             collection_id, customer_id, task_id, anon_id, kyc_status, kyc_country, geo_region, tos_hash,
             privacy_policy_hash, tax_status, account_verification, tos_version, privacy_policy_version,
             content_hash_key, mime_type_key, media_category_key, collection_id_key, customer_id_key, task_id_key,
             anon_id_key, kyc_status_key, kyc_country_key, geo_region_key, tos_hash_key, privacy_policy_hash_key)
         SELECT $1, row.* FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bytea[], $8::bigint[], $9::text[],
             $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::text[], $17::text[],
             $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[], $24::bigint[],
             $25::bigint[], $26::bigint[], $27::bigint[], $28::bigint[], $29::bigint[], $30::bigint[], $31::bigint[],
             $32::bigint[], $33::bigint[], $34::bigint[], $35::bigint[]) AS row"
    };
}
const INSERT: &str = insert!();
const UPSERT: &str = concat!(
    insert!(),
    " ON CONFLICT (provider, data_id) DO UPDATE SET
             number = excluded.number, block_number = excluded.block_number, place = excluded.place, source_record_id
             = excluded.source_record_id, content_hash = excluded.content_hash, size_bytes = excluded.size_bytes,
             mime_type = excluded.mime_type, media_category = excluded.media_category, collection_id =
             excluded.collection_id, customer_id = excluded.customer_id, task_id = excluded.task_id, anon_id =
             excluded.anon_id, kyc_status = excluded.kyc_status, kyc_country = excluded.kyc_country, geo_region =
             excluded.geo_region, tos_hash = excluded.tos_hash, privacy_policy_hash = excluded.privacy_policy_hash,
             tax_status = excluded.tax_status, account_verification = excluded.account_verification, tos_version =
             excluded.tos_version, privacy_policy_version = excluded.privacy_policy_version, content_hash_key =
             excluded.content_hash_key, mime_type_key = excluded.mime_type_key, media_category_key =
             excluded.media_category_key, collection_id_key = excluded.collection_id_key, customer_id_key =
             excluded.customer_id_key, task_id_key = excluded.task_id_key, anon_id_key = excluded.anon_id_key,
             kyc_status_key = excluded.kyc_status_key, kyc_country_key = excluded.kyc_country_key, geo_region_key =
             excluded.geo_region_key, tos_hash_key = excluded.tos_hash_key, privacy_policy_hash_key =
             excluded.privacy_policy_hash_key"
);

async fn write(
    connection: &mut PgConnection,
    provider: Address,
    sql: &'static str,
    rows: &[(Uuid, &Row)],
) -> Result<(), sqlx::Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut query = sqlx::query(sql)
        .bind(provider.as_slice())
        .bind(rows.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.number).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.block_number).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.place).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.source_record_id.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.content_hash.as_slice()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.size_bytes).collect::<Vec<_>>());
    for at in 0..TEXTS.len() {
        query = query.bind(rows.iter().map(|(_, row)| row.texts.get(at)?.as_deref()).collect::<Vec<_>>());
    }
    query = query.bind(rows.iter().map(|(_, row)| row.keys.content_hash).collect::<Vec<_>>());
    for at in 0..SEARCHED {
        query = query.bind(rows.iter().map(|(_, row)| *row.keys.texts.get(at)?).collect::<Vec<_>>());
    }
    query.execute(connection).await?;
    Ok(())
}

/// Updates never change; those that are here stay.
async fn write_updates(
    connection: &mut PgConnection,
    provider: Address,
    updates: &[&Update],
) -> Result<(), sqlx::Error> {
    if updates.is_empty() {
        return Ok(());
    }
    let all = |of: fn(&Update) -> i64| updates.iter().map(|update| of(update)).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO trace_update (provider, data_id, sequence, seq, number, block_number, place)
         SELECT $1, row.* FROM unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
             AS row
         ON CONFLICT DO NOTHING",
    )
    .bind(provider.as_slice())
    .bind(updates.iter().map(|update| update.data_id).collect::<Vec<_>>())
    .bind(all(|update| update.sequence))
    .bind(all(|update| update.seq))
    .bind(all(|update| update.number))
    .bind(all(|update| update.block_number))
    .bind(all(|update| update.place))
    .execute(connection)
    .await?;
    Ok(())
}

async fn apply(connection: &mut PgConnection, provider: Address, change: Change) -> Result<(), sqlx::Error> {
    let Change { mut counts, records, size_records, size_total } = change;
    counts.retain(|_, by| *by != 0);
    let contributors = count(connection, provider, &counts, ANON_ID).await?;
    counts.retain(|(field, _), _| *field != ANON_ID);
    count(connection, Address::ZERO, &counts, ANON_ID).await?;
    if (records, size_records, size_total, contributors) == (0, 0, 0, 0) {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO trace_total (provider, records, contributors, size_records, size_total) VALUES ($1, 0, 0, 0, 0)
         ON CONFLICT DO NOTHING",
    )
    .bind(provider.as_slice())
    .execute(&mut *connection)
    .await?;
    sqlx::query(
        "UPDATE trace_total SET records = records + $2, contributors = contributors + $3,
             size_records = size_records + $4, size_total = size_total + $5::numeric
         WHERE provider = $1",
    )
    .bind(provider.as_slice())
    .bind(records)
    .bind(contributors)
    .bind(size_records)
    .bind(size_total.to_string())
    .execute(&mut *connection)
    .await?;
    // no trace of what is gone: an indexer that starts later has no such row either
    sqlx::query("DELETE FROM trace_total WHERE provider = $1 AND records = 0")
        .bind(provider.as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

/// Moves counts; says how many values of the field `watched` are more or less than before.
async fn count(
    connection: &mut PgConnection,
    provider: Address,
    counts: &BTreeMap<(&'static str, String), i64>,
    watched: &str,
) -> Result<i64, sqlx::Error> {
    if counts.is_empty() {
        return Ok(0);
    }
    let mut fields: Vec<&str> = counts.keys().map(|(field, _)| *field).collect();
    let mut values: Vec<&str> = counts.keys().map(|(_, value)| value.as_str()).collect();
    let mut by: Vec<i64> = counts.values().copied().collect();
    // most values of a batch are new: their rows are written once, and only the other ones are looked for
    let appeared: Vec<(String, String)> = sqlx::query_as(
        "INSERT INTO trace_count (provider, field, value, records)
         SELECT $1, field, value, by FROM unnest($2::text[], $3::text[], $4::bigint[]) AS row (field, value, by)
         WHERE by > 0 ON CONFLICT DO NOTHING RETURNING field, value::text",
    )
    .bind(provider.as_slice())
    .bind(&fields)
    .bind(&values)
    .bind(&by)
    .fetch_all(&mut *connection)
    .await?;
    let new: HashSet<(&str, &str)> = appeared.iter().map(|(field, value)| (field.as_str(), value.as_str())).collect();
    let appeared = i64::try_from(new.iter().filter(|(field, _)| *field == watched).count()).unwrap_or(i64::MAX);
    let others = counts.iter().filter(|((field, value), _)| !new.contains(&(*field, value.as_str())));
    (fields, values, by) = (Vec::new(), Vec::new(), Vec::new());
    for ((field, value), moved) in others {
        fields.push(field);
        values.push(value);
        by.push(*moved);
    }
    if by.is_empty() {
        return Ok(appeared);
    }
    sqlx::query(
        "UPDATE trace_count AS c SET records = c.records + row.by
         FROM unnest($2::text[], $3::text[], $4::bigint[]) AS row (field, value, by)
         WHERE c.provider = $1 AND c.field = row.field AND c.value = row.value",
    )
    .bind(provider.as_slice())
    .bind(&fields)
    .bind(&values)
    .bind(&by)
    .execute(&mut *connection)
    .await?;
    if by.iter().all(|by| *by > 0) {
        return Ok(appeared);
    }
    let vanished: i64 = sqlx::query_scalar(
        "WITH vanished AS (
             DELETE FROM trace_count AS c USING unnest($2::text[], $3::text[]) AS row (field, value)
             WHERE c.provider = $1 AND c.field = row.field AND c.value = row.value AND c.records = 0 RETURNING c.field)
         SELECT count(*) FROM vanished WHERE field = $4",
    )
    .bind(provider.as_slice())
    .bind(&fields)
    .bind(&values)
    .bind(watched)
    .fetch_one(connection)
    .await?;
    Ok(appeared - vanished)
}

/// Takes in the records from before these tables, beside everything else.
pub async fn fill(files: &Files, stop: &CancellationToken) {
    loop {
        let pause = match fill_some(files).await {
            Ok(0) => return,
            Ok(records) => {
                tracing::info!(records, "older records were taken into the tables of search");
                Duration::ZERO
            }
            Err(error) => {
                tracing::warn!(error = causes(&error), "older records could not be taken in: trying again");
                FILL_PAUSE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn fill_some(files: &Files) -> Result<usize, SettleError> {
    let mut transaction = files.pool.begin().await?;
    lock_tables(&mut transaction).await?;
    let rows = sqlx::query(
        "DELETE FROM trace_fill AS f USING (
             SELECT provider, data_id FROM trace_fill ORDER BY provider, data_id LIMIT $1) AS next
         WHERE (f.provider, f.data_id) = (next.provider, next.data_id) RETURNING f.provider, f.data_id",
    )
    .bind(FILL_ROWS)
    .fetch_all(&mut *transaction)
    .await?;
    let mut by_provider = BTreeMap::<Address, Vec<Uuid>>::new();
    for row in &rows {
        by_provider.entry(super::stored::address(row, 0)?).or_default().push(row.try_get(1)?);
    }
    for (provider, ids) in by_provider {
        record::refresh(&mut transaction, provider, &ids).await?;
    }
    transaction.commit().await?;
    Ok(rows.len())
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use serde_json::json;
    use tidemark::{
        event::Event,
        ids::{ConsentId, ContentHash, DataId},
    };

    use super::*;

    fn seen(sequence: u32, kind: EventKind, payload: Option<Payload>) -> Seen {
        let event = Event {
            index: 7 + sequence,
            data_id: DataId::from_bytes([1; 16]),
            sequence,
            kind,
            contributor: B256::ZERO,
            content_hash: ContentHash::of(b"x"),
            consent_id: ConsentId::ZERO,
            commitment: B256::ZERO,
            previous: B256::ZERO,
            occurred_at: 100,
            task_id: 0,
            reward: 0,
            payee: Address::ZERO,
        };
        Seen { number: 3, block_number: 20, log_index: 2, event, payload }
    }

    fn registered(metadata: Value) -> Seen {
        let payload = Payload::Registered {
            source_record_id: " a ".into(),
            metadata_root: B256::ZERO,
            metadata,
            purposes: 0,
            delivery: None,
        };
        seen(0, EventKind::Registered, Some(payload))
    }

    fn updated(seq: u32, metadata: Value) -> Seen {
        let (prev_metadata_root, metadata_root) = (B256::ZERO, B256::ZERO);
        let payload = Payload::MetadataUpdated { seq, prev_metadata_root, metadata_root, metadata };
        seen(seq, EventKind::MetadataUpdated, Some(payload))
    }

    fn of(anon_id: &str, size: i64) -> Value {
        json!({"contributor": {"anon_id": anon_id, "kyc_status": "verified"}, "file": {"size_bytes": size}})
    }

    #[test]
    fn a_record_s_row_has_its_newest_metadata_and_the_place_of_its_registration() {
        let (row, updates) =
            rows_of(Address::ZERO, &[registered(of("a", 5)), updated(1, of("b", 6)), updated(2, of("c", 7))]).unwrap();
        assert_eq!((row.block_number, row.place, row.number), (20, (2 << 32) | 7, 3));
        assert_eq!((row.source_record_id.as_str(), row.size_bytes), ("a", Some(7)));
        assert!(row.texts.contains(&Some("c".into())) && !row.texts.contains(&Some("a".into())));
        let places: Vec<_> = updates.iter().map(|update| (update.sequence, update.seq, update.place)).collect();
        assert_eq!(places, [(1, 1, (2 << 32) | 8), (2, 2, (2 << 32) | 9)]);
    }

    #[test]
    fn what_is_erased_or_not_disclosed_has_no_row() {
        assert!(rows_of(Address::ZERO, &[registered(of("a", 5)), seen(1, EventKind::Erased, None)]).is_none());
        assert!(rows_of(Address::ZERO, &[seen(0, EventKind::Registered, None), updated(1, of("a", 5))]).is_none());
        assert!(rows_of(Address::ZERO, &[]).is_none());
    }

    #[test]
    fn what_was_added_and_taken_away_again_moves_nothing() {
        let (one, _) = rows_of(Address::ZERO, &[registered(of("a", 5))]).unwrap();
        let (other, _) = rows_of(Address::ZERO, &[registered(of("b", 9))]).unwrap();
        let mut change = Change::default();
        change.add(&one, -1);
        change.add(&other, 1);
        assert_eq!((change.records, change.size_records, change.size_total), (0, 0, 4));
        assert_eq!(change.counts[&("anon_id", "a".to_owned())], -1);
        assert_eq!(change.counts[&("kyc_status", "verified".to_owned())], 0);
        change.add(&other, -1);
        change.add(&one, 1);
        assert!(change.counts.values().all(|by| *by == 0) && change.size_total == 0);
    }
}
