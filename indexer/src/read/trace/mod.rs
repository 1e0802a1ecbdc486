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
    trace::Wanted,
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

/// Which rows of one provider `t`; `{before}` and `{limit}` are the page.
const REGISTRATIONS: &str = "SELECT x.provider, x.data_id, x.number, x.block_number, x.place, 0::bigint AS seq
     FROM trace_record AS x WHERE x.provider = t.provider AND (x.block_number, x.place) < ($1, $2)";
const UPDATES: &str = "SELECT x.provider, x.data_id, x.number, x.block_number, x.place, x.seq
     FROM trace_update AS x WHERE x.provider = t.provider AND (x.block_number, x.place) < ($1, $2)";
const ORDER: &str = "ORDER BY x.block_number DESC, x.place DESC LIMIT $3";

/// One page, of one provider or of all: each provider's page by an index, then the newest of those.
pub async fn receipts(
    connection: &mut PgConnection,
    listed: &Listed,
    provider: Option<Address>,
    page: TracePage,
) -> Result<(Vec<TraceReceipt>, Option<String>), ReadError> {
    let one = provider.as_ref().map(|provider| provider.as_slice());
    let (mut providers, mut ids) = (Vec::new(), Vec::new());
    let source = match listed {
        Listed::Search(Wanted::SourceRecordId(id)) => {
            (providers, ids) = places_of(connection, id, one).await?;
            "(SELECT * FROM unnest($5::bytea[], $6::uuid[]) AS given (provider, data_id)) AS t".to_owned()
        }
        _ => "(SELECT provider FROM trace_total WHERE $4::bytea IS NULL OR provider = $4) AS t".to_owned(),
    };
    let inner = match listed {
        Listed::Feed => format!("({REGISTRATIONS} {ORDER}) UNION ALL ({UPDATES} {ORDER})"),
        Listed::Recent => format!("{REGISTRATIONS} {ORDER}"),
        Listed::Search(Wanted::SourceRecordId(_)) => format!("{REGISTRATIONS} AND x.data_id = t.data_id {ORDER}"),
        Listed::Search(Wanted::ContentHash(_)) => format!("{REGISTRATIONS} AND x.content_hash = $7 {ORDER}"),
        // the column is one of ours
        Listed::Search(Wanted::Text(column, _)) => format!("{REGISTRATIONS} AND x.{column} = $8 {ORDER}"),
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
        .bind(providers)
        .bind(ids)
        .bind(hash)
        .bind(text)
        .fetch_all(connection)
        .await?;
    let mut items = rows.iter().map(receipt).collect::<Result<Vec<_>, _>>()?;
    let place = |item: &TraceReceipt| page::Place(item.place.0, item.place.1.to_string());
    let next_cursor = page::cut(&mut items, page.limit, place);
    Ok((items, next_cursor))
}

/// Which data id a source record id gives with each provider that has records.
async fn places_of(
    connection: &mut PgConnection,
    id: &str,
    one: Option<&[u8]>,
) -> Result<(Vec<Vec<u8>>, Vec<Uuid>), ReadError> {
    let mut places = (Vec::new(), Vec::new());
    for (address, name) in provider_names(connection, one).await? {
        if let Ok(data_id) = DataId::new(&name, id) {
            places.0.push(address.to_vec());
            places.1.push(data_id.0);
        }
    }
    Ok(places)
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
