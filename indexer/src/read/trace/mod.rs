//! Trace's lists: search, feed, recent registrations, assets by hash; pages over one index each, newest first.

mod policy;
mod stats;

pub use policy::{PolicyDocument, PolicyList, PolicyRole, policies, policy};
pub use stats::{Stats, stats};

use alloy::primitives::{Address, B256};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, Row, postgres::PgRow};
use tidemark::ids::{ContentHash, DataId};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{ReadError, hash_text, hex0x, number, page, rfc3339, rfc3339_u64};
use crate::{
    manifest::stored::{self, digits},
    trace::{Wanted, key},
};

/// A page of a Trace list.
#[derive(Clone, Copy, Debug)]
pub struct TracePage {
    /// Rows.
    pub limit: u32,
    /// Rows older than this place: block, and place in it.
    pub before: Option<(i64, i64)>,
}

/// What a list is of.
#[derive(Clone, Debug)]
pub enum Listed {
    /// Registrations and updates.
    Feed,
    /// Registrations.
    Recent,
    /// Registrations of what a search is for.
    Search(Wanted),
}

/// One registration or update, as Trace's lists show it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TraceReceipt {
    /// DataRegistered or MetadataUpdated.
    pub event_type: &'static str,
    /// 0 for the registration, then the provider's own 1 to 100.
    pub seq: u64,
    /// Which record.
    pub data_id: String,
    /// The provider's name.
    pub provider: String,
    /// The provider's own id.
    pub source_record_id: String,
    /// `sha256:…`.
    pub asset_hash: String,
    /// Of the record's newest metadata.
    pub mime_type: Option<String>,
    /// Of the record's newest metadata.
    pub media_category: Option<String>,
    /// registered, accepted, rejected or withdrawn.
    pub status: String,
    /// RFC 3339, as the provider says.
    pub occurred_at: String,
    /// RFC 3339: the block that anchored it.
    pub ingested_at: String,
    /// The anchoring transaction.
    pub tx_hash: String,
    /// The leaf.
    pub event_hash: String,
    /// Always `final`: what is mined shows at its own address.
    pub state: &'static str,
    #[serde(skip)]
    place: (i64, i64),
}

/// A page of registrations and updates.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TraceReceipts {
    /// What was searched for, by its path in trace-v1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'static str>,
    /// The value that was compared, after letters were folded and forms of a hash made one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The content hash whose records these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asset_hash: Option<String>,
    /// Whose alone; none where all providers' were asked for.
    pub provider: Option<String>,
    /// Newest first.
    pub items: Vec<TraceReceipt>,
    /// How many are on this page.
    pub count: usize,
    /// Of the next page.
    pub next_cursor: Option<String>,
}

/// Which rows of one provider `t`, on this page.
const REGISTRATIONS: &str = "SELECT x.provider, x.data_id, x.number, x.block_number, x.place, 0::bigint AS seq
     FROM trace_record AS x WHERE (x.block_number, x.place) < ($1, $2) AND";
const UPDATES: &str = "SELECT x.provider, x.data_id, x.number, x.block_number, x.place, x.seq
     FROM trace_update AS x WHERE (x.block_number, x.place) < ($1, $2) AND";
const OF_PROVIDER: &str = "x.provider = t.provider";
const ORDER: &str = "ORDER BY x.block_number DESC, x.place DESC LIMIT $3";

/// One page, of one provider or of all: each provider's page by an index, then the newest of those.
pub async fn receipts(
    connection: &mut PgConnection,
    listed: &Listed,
    provider: Option<Address>,
    page: TracePage,
) -> Result<(Vec<TraceReceipt>, Option<String>), ReadError> {
    // what one query costs is known here; a compiler would take longer than it
    sqlx::query("SET LOCAL jit = off").execute(&mut *connection).await?;
    let one = provider.as_ref().map(|provider| provider.as_slice());
    let mut places = Places::default();
    if let Listed::Search(wanted) = listed {
        places = Places::of(wanted, &provider_names(connection, one).await?);
    }
    let source = match listed {
        Listed::Search(_) => "unnest($5::bytea[], $6::uuid[], $7::bigint[]) AS t (provider, data_id, key)",
        _ => "(SELECT provider FROM trace_total WHERE $4::bytea IS NULL OR provider = $4) AS t",
    };
    // columns are ours; the value is compared with those rows only that its key has found
    let (inner, same) = match listed {
        Listed::Feed => {
            (format!("({REGISTRATIONS} {OF_PROVIDER} {ORDER}) UNION ALL ({UPDATES} {OF_PROVIDER} {ORDER})"), "")
        }
        Listed::Recent => (format!("{REGISTRATIONS} {OF_PROVIDER} {ORDER}"), ""),
        Listed::Search(Wanted::SourceRecordId(_)) => {
            (format!("{REGISTRATIONS} {OF_PROVIDER} AND x.data_id = t.data_id {ORDER}"), "")
        }
        Listed::Search(Wanted::ContentHash(_)) => {
            (format!("{REGISTRATIONS} x.content_hash_key = t.key {ORDER}"), "WHERE r.content_hash = $8")
        }
        Listed::Search(Wanted::Text(column, _)) => {
            (format!("{REGISTRATIONS} x.{column}_key = t.key {ORDER}"), &*format!("WHERE r.{column} = $9"))
        }
    };
    let sql = format!(
        "SELECT p.name, f.data_id, r.source_record_id, f.seq, f.block_number, f.place, e.content_hash,
             e.occurred_at::text, b.block_time, b.tx_hash, e.leaf, r.mime_type, r.media_category, c.status
         FROM (
             SELECT x.* FROM {source} CROSS JOIN LATERAL ({inner}) AS x
             {ORDER}
         ) AS f
         JOIN provider AS p ON p.address = f.provider
         JOIN trace_record AS r ON r.provider = f.provider AND r.data_id = f.data_id
         JOIN record AS c ON c.provider = f.provider AND c.data_id = f.data_id
         JOIN batch AS b ON b.provider = f.provider AND b.number = f.number
         JOIN event AS e ON e.provider = f.provider AND e.number = f.number AND e.index = f.place & 4294967295
         {same}
         ORDER BY f.block_number DESC, f.place DESC"
    );
    let (block, place) = page.before.unwrap_or((i64::MAX, i64::MAX));
    let (hash, text) = match listed {
        Listed::Search(Wanted::ContentHash(hash)) => (Some(hash.as_slice()), None),
        Listed::Search(Wanted::Text(_, text)) => (None, Some(text.as_str())),
        _ => (None, None),
    };
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(block)
        .bind(place)
        .bind(i64::from(page.limit) + 1)
        .bind(one)
        .bind(places.providers)
        .bind(places.ids)
        .bind(places.keys)
        .bind(hash)
        .bind(text)
        .fetch_all(connection)
        .await?;
    let mut items = rows.iter().map(receipt).collect::<Result<Vec<_>, _>>()?;
    let place = |item: &TraceReceipt| page::Place(item.place.0, item.place.1.to_string());
    let next_cursor = page::cut(&mut items, page.limit, place);
    Ok((items, next_cursor))
}

/// Where each provider's rows of a search are.
#[derive(Default)]
struct Places {
    providers: Vec<Vec<u8>>,
    /// What a source record id gives with the provider's name.
    ids: Vec<Option<Uuid>>,
    /// What any other value is found by.
    keys: Vec<Option<i64>>,
}

impl Places {
    fn of(wanted: &Wanted, providers: &[(Address, String)]) -> Self {
        let mut places = Self::default();
        for (address, name) in providers {
            let (id, key) = match wanted {
                Wanted::SourceRecordId(id) => (DataId::new(name, id).ok().map(|id| id.0), None),
                Wanted::ContentHash(hash) => (None, Some(key(*address, "content_hash", hash.as_slice()))),
                Wanted::Text(column, text) => (None, Some(key(*address, column, text.as_bytes()))),
            };
            places.providers.push(address.to_vec());
            places.ids.push(id);
            places.keys.push(key);
        }
        places
    }
}

/// Providers that have records in Trace's lists, by name.
pub(crate) async fn provider_names(
    connection: &mut PgConnection,
    one: Option<&[u8]>,
) -> Result<Vec<(Address, String)>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT p.address, p.name FROM trace_total AS t JOIN provider AS p ON p.address = t.provider
         WHERE $1::bytea IS NULL OR p.address = $1 ORDER BY p.name",
    )
    .bind(one)
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok((stored::address(row, 0)?, row.try_get(1)?))).collect()
}

fn receipt(row: &PgRow) -> Result<TraceReceipt, sqlx::Error> {
    let seq = number(row, 3)?;
    let hash: Vec<u8> = row.try_get(6)?;
    Ok(TraceReceipt {
        event_type: if seq == 0 { "DataRegistered" } else { "MetadataUpdated" },
        seq,
        data_id: row.try_get::<Uuid, _>(1)?.to_string(),
        provider: row.try_get(0)?,
        source_record_id: row.try_get(2)?,
        asset_hash: prefixed(&hash),
        mime_type: row.try_get(11)?,
        media_category: row.try_get(12)?,
        status: row.try_get(13)?,
        occurred_at: rfc3339_u64(digits(row, 7)?),
        ingested_at: rfc3339(row.try_get(8)?),
        tx_hash: hash_text(row, 9)?,
        event_hash: hash_text(row, 10)?,
        state: "final",
        place: (row.try_get(4)?, row.try_get(5)?),
    })
}

/// 32 bytes as Trace writes a content hash.
pub(crate) fn prefixed(hash: &[u8]) -> String {
    B256::try_from(hash).map_or_else(|_| hex0x(hash), |hash| ContentHash(hash).prefixed())
}
