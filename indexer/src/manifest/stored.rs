//! Events as they stand in the tables: written in bulk, read back as the leaf's fields.

use alloy::primitives::{Address, B256};
use sqlx::{PgConnection, Row, postgres::PgRow};
use tidemark::{
    event::{Event, EventKind},
    ids::{ConsentId, ContentHash, DataId},
};

use super::disclosed::Checked;

/// Events inserted by one statement.
pub const ROWS_PER_STATEMENT: usize = 5_000;

/// An event with its batch number and leaf.
#[derive(Clone, Debug)]
pub struct StoredEvent {
    /// Batch.
    pub number: u64,
    /// Leaf fields.
    pub event: Event,
    /// Its hash.
    pub leaf: B256,
}

/// A column that does not hold what its constraint says; the database was written by something else.
pub fn corrupt(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(format!("{what} is out of range").into())
}

/// A 20-byte column.
pub fn address(row: &PgRow, at: usize) -> Result<Address, sqlx::Error> {
    let bytes: Vec<u8> = row.try_get(at)?;
    Address::try_from(bytes.as_slice()).map_err(|_| corrupt("an address"))
}

/// A 32-byte column.
pub fn hash(row: &PgRow, at: usize) -> Result<B256, sqlx::Error> {
    let bytes: Vec<u8> = row.try_get(at)?;
    B256::try_from(bytes.as_slice()).map_err(|_| corrupt("a hash"))
}

/// A non-negative integer column.
pub fn count<T: TryFrom<i64>>(row: &PgRow, at: usize) -> Result<T, sqlx::Error> {
    T::try_from(row.try_get::<i64, _>(at)?).map_err(|_| corrupt("a number"))
}

/// A numeric column read as text.
pub fn digits<T: std::str::FromStr>(row: &PgRow, at: usize) -> Result<T, sqlx::Error> {
    row.try_get::<String, _>(at)?.parse().map_err(|_| corrupt("a number"))
}

/// From the columns of `event` in the order of the SELECTs below, starting at `at`.
pub fn event(row: &PgRow, at: usize) -> Result<StoredEvent, sqlx::Error> {
    let kind = row.try_get::<i16, _>(at + 4)?;
    let kind = u8::try_from(kind).ok().and_then(EventKind::from_u8).ok_or_else(|| corrupt("event.kind"))?;
    Ok(StoredEvent {
        number: count(row, at)?,
        event: Event {
            index: count(row, at + 1)?,
            data_id: DataId(row.try_get(at + 2)?),
            sequence: count(row, at + 3)?,
            kind,
            contributor: hash(row, at + 5)?,
            content_hash: ContentHash(hash(row, at + 6)?),
            consent_id: ConsentId(hash(row, at + 7)?),
            commitment: hash(row, at + 8)?,
            previous: hash(row, at + 9)?,
            occurred_at: digits(row, at + 10)?,
            task_id: digits(row, at + 11)?,
            reward: digits(row, at + 12)?,
            payee: address(row, at + 13)?,
        },
        leaf: hash(row, at + 14)?,
    })
}

/// Writes the events of a valid batch.
pub async fn insert_events(
    connection: &mut PgConnection,
    provider: Address,
    number: i64,
    events: &[Event],
    leaves: &[B256],
) -> Result<(), sqlx::Error> {
    for (events, leaves) in events.chunks(ROWS_PER_STATEMENT).zip(leaves.chunks(ROWS_PER_STATEMENT)) {
        let all = |of: fn(&Event) -> &[u8]| events.iter().map(of).collect::<Vec<_>>();
        let texts = |of: fn(&Event) -> String| events.iter().map(of).collect::<Vec<_>>();
        sqlx::query(
            "INSERT INTO event
                 (provider, number, index, data_id, sequence, kind, contributor, content_hash, consent_id, commitment,
                  previous, occurred_at, task_id, reward, payee, leaf)
             SELECT $1, $2, index, data_id, sequence, kind, contributor, content_hash, consent_id, commitment,
                  previous, occurred_at::numeric, task_id::numeric, reward::numeric, payee, leaf
             FROM unnest($3::bigint[], $4::uuid[], $5::bigint[], $6::smallint[], $7::bytea[], $8::bytea[], $9::bytea[],
                  $10::bytea[], $11::bytea[], $12::text[], $13::text[], $14::text[], $15::bytea[], $16::bytea[])
                 AS row (index, data_id, sequence, kind, contributor, content_hash, consent_id, commitment,
                  previous, occurred_at, task_id, reward, payee, leaf)",
        )
        .bind(provider.as_slice())
        .bind(number)
        .bind(events.iter().map(|event| i64::from(event.index)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.data_id.0).collect::<Vec<_>>())
        .bind(events.iter().map(|event| i64::from(event.sequence)).collect::<Vec<_>>())
        .bind(events.iter().map(|event| event.kind as i16).collect::<Vec<_>>())
        .bind(all(|event| event.contributor.as_slice()))
        .bind(all(|event| event.content_hash.0.as_slice()))
        .bind(all(|event| event.consent_id.0.as_slice()))
        .bind(all(|event| event.commitment.as_slice()))
        .bind(all(|event| event.previous.as_slice()))
        .bind(texts(|event| event.occurred_at.to_string()))
        .bind(texts(|event| event.task_id.to_string()))
        .bind(texts(|event| event.reward.to_string()))
        .bind(all(|event| event.payee.as_slice()))
        .bind(leaves.iter().map(|leaf| leaf.as_slice()).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Which disclosures of a batch are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// None: the batch is let in now.
    None,
    /// Perhaps some, and those stay.
    Perhaps,
}

macro_rules! insert_disclosures {
    () => {
        "INSERT INTO disclosure (provider, number, index, salt, payload, fault)
             SELECT $1, $2, index, salt, payload::json, fault
             FROM unnest($3::bigint[], $4::bytea[], $5::text[], $6::text[]) AS row (index, salt, payload, fault)"
    };
}

/// Writes checked disclosures by event index.
pub async fn insert_disclosures(
    connection: &mut PgConnection,
    provider: Address,
    number: i64,
    there: There,
    disclosures: &[(u32, Checked)],
) -> Result<(), sqlx::Error> {
    for chunk in disclosures.chunks(ROWS_PER_STATEMENT) {
        sqlx::query(match there {
            There::None => insert_disclosures!(),
            There::Perhaps => concat!(insert_disclosures!(), " ON CONFLICT DO NOTHING"),
        })
        .bind(provider.as_slice())
        .bind(number)
        .bind(chunk.iter().map(|(index, _)| i64::from(*index)).collect::<Vec<_>>())
        .bind(chunk.iter().map(|(_, checked)| checked.salt.as_slice()).collect::<Vec<_>>())
        .bind(chunk.iter().map(|(_, checked)| checked.payload.as_deref()).collect::<Vec<_>>())
        .bind(
            chunk
                .iter()
                .map(|(_, checked)| checked.fault.as_ref().map(|fault| fault.replace('\0', "")))
                .collect::<Vec<_>>(),
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Deletes what was disclosed of erased records.
pub async fn erase(
    connection: &mut PgConnection,
    provider: Address,
    data_ids: &[uuid::Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM disclosure AS d USING event AS e
         WHERE (d.provider, d.number, d.index) = (e.provider, e.number, e.index)
           AND e.provider = $1 AND e.data_id = ANY($2)",
    )
    .bind(provider.as_slice())
    .bind(data_ids)
    .execute(connection)
    .await?;
    Ok(())
}
