//! Groups as their readers see them; sums are over the rows that are left, so that what is erased is in none of them.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, Row, postgres::PgRow};
use utoipa::ToSchema;

use crate::{
    manifest::stored::digits,
    read::{ReadError, hash_text, hex0x, number, page, rfc3339, trace::prefixed},
};

/// Values of one distribution; the most frequent ones.
const VALUES_MAX: i64 = 100;

/// Records by value.
type Distribution = BTreeMap<String, u64>;

/// What is known of a group from the start.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GroupProfile {
    /// `sg_…`: whoever knows it may read the group.
    pub group_id: String,
    /// As asked for.
    pub title: Option<String>,
    /// As asked for.
    pub description: Option<String>,
    /// source_record or hash.
    pub manifest_kind: String,
    /// pending, processing, complete or failed.
    pub status: String,
    /// Why it failed.
    pub error: Option<String>,
    /// Items that were sent.
    pub submitted_items: u64,
    /// Different ones of them.
    pub unique_items: u64,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub computed_at: Option<String>,
    /// The final block that its rows are true at.
    pub computed_at_block: Option<u64>,
    /// Its hash.
    pub computed_at_block_hash: Option<String>,
    #[serde(skip)]
    matched_receipts: u64,
}

/// Counts over the records of a complete group.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GroupSummary {
    /// Different records.
    pub records_in_set: u64,
    /// Items that were sent.
    pub submitted_items: u64,
    /// Different ones of them.
    pub unique_items: u64,
    /// Of them, with a record.
    pub matched_items: u64,
    /// Of them, without one.
    pub missing_items: u64,
    /// Rows with a record.
    pub matched_receipts: u64,
    /// Rows that were there when the group was computed, and were erased since.
    pub erased_receipts: u64,
    /// Of 100 records, with `kyc_status` verified.
    pub kyc_verified_percent: f64,
    /// Different values.
    pub distinct_media_categories: u64,
    /// Different values.
    pub distinct_tos_versions: u64,
    /// Sum of sizes above zero.
    #[schema(value_type = u64)]
    pub total_size_bytes: u128,
    /// Over the records that have one, rounded down.
    #[schema(value_type = u64)]
    pub average_size_bytes: u128,
    /// By provider's name.
    pub source_distribution: Distribution,
    /// By `file.media_category`.
    pub media_category_coverage: Distribution,
    /// By `file.mime_type`.
    pub mime_distribution: Distribution,
    /// By version.
    pub tos_versions: Distribution,
    /// By version.
    pub privacy_policy_versions: Distribution,
    /// By `contributor.kyc_status`.
    pub kyc_status: Distribution,
    /// By `contributor.geo_region`.
    pub geo_distribution: Distribution,
    /// By registered, accepted, rejected or withdrawn.
    pub lifecycle_status: Distribution,
    /// Records whose metadata has each of these.
    pub metadata_presence: Distribution,
}

/// A group with its counts, once they are there.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GroupView {
    /// Its id.
    pub group_id: String,
    /// What is known from the start.
    pub profile: GroupProfile,
    /// None until it is complete.
    pub summary: Option<GroupSummary>,
}

/// One row of a group.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GroupItem {
    /// From 0, in the order of the request.
    pub position: u64,
    /// source_record or hash.
    pub input_type: String,
    /// What was asked for.
    pub input: String,
    /// The provider's name.
    pub provider: Option<String>,
    /// The provider's own id.
    pub source_record_id: Option<String>,
    /// Which record.
    pub data_id: Option<String>,
    /// `sha256:…`.
    pub asset_hash: Option<String>,
    /// matched or missing.
    pub status: &'static str,
    /// registered, accepted, rejected or withdrawn, when the group was computed.
    pub lifecycle_status: Option<String>,
    /// As the newest metadata said then.
    pub mime_type: Option<String>,
    /// As the newest metadata said then.
    pub media_category: Option<String>,
    /// As the newest metadata said then.
    pub kyc_status: Option<String>,
    /// As the newest metadata said then.
    pub tos_version: Option<String>,
    /// As the newest metadata said then.
    pub privacy_policy_version: Option<String>,
    /// The transaction that anchored the registration.
    pub tx_hash: Option<String>,
}

/// A page of a group.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GroupItems {
    /// Which group.
    pub group_id: String,
    /// The final block that its rows are true at.
    pub computed_at_block: Option<u64>,
    /// In order.
    pub items: Vec<GroupItem>,
    /// How many are on this page.
    pub count: usize,
    /// Of the next page.
    pub next_cursor: Option<String>,
}

/// What is known of a group from the start; none where there is no such group.
pub async fn profile(connection: &mut PgConnection, group_id: &str) -> Result<Option<GroupProfile>, ReadError> {
    let row = sqlx::query(
        "SELECT group_id, title, description, manifest_kind, status, error, submitted_items, unique_items,
             extract(epoch FROM created_at)::bigint, extract(epoch FROM computed_at)::bigint, block_number, block_hash,
             coalesce(matched_receipts, 0)
         FROM local.scoped_group WHERE group_id = $1",
    )
    .bind(group_id)
    .fetch_optional(connection)
    .await?;
    let profile = row.map(|row| {
        let block: Option<i64> = row.try_get(10)?;
        Ok(GroupProfile {
            group_id: row.try_get(0)?,
            title: row.try_get(1)?,
            description: row.try_get(2)?,
            manifest_kind: row.try_get(3)?,
            status: row.try_get(4)?,
            error: row.try_get(5)?,
            submitted_items: number(&row, 6)?,
            unique_items: number(&row, 7)?,
            created_at: rfc3339(row.try_get(8)?),
            computed_at: row.try_get::<Option<i64>, _>(9)?.map(rfc3339),
            computed_at_block: block.and_then(|block| u64::try_from(block).ok()),
            computed_at_block_hash: row.try_get::<Option<Vec<u8>>, _>(11)?.map(|hash| hex0x(&hash)),
            matched_receipts: number(&row, 12)?,
        })
    });
    Ok(profile.transpose().map_err(|error: sqlx::Error| error)?)
}

/// A group with its counts.
pub async fn group(connection: &mut PgConnection, group_id: &str) -> Result<Option<GroupView>, ReadError> {
    let Some(profile) = profile(connection, group_id).await? else { return Ok(None) };
    let summary = match profile.status.as_str() {
        "complete" => Some(summary(connection, &profile).await?),
        _ => None,
    };
    Ok(Some(GroupView { group_id: profile.group_id.clone(), profile, summary }))
}

async fn summary(connection: &mut PgConnection, profile: &GroupProfile) -> Result<GroupSummary, ReadError> {
    let row = sqlx::query(
        "SELECT count(DISTINCT (provider, data_id)), count(DISTINCT input), count(*),
             coalesce(round(100.0 * count(*) FILTER (WHERE kyc_status = 'verified') / nullif(count(*), 0), 2), 0)::float8,
             count(DISTINCT media_category), count(DISTINCT tos_version), coalesce(sum(size_bytes), 0)::text,
             coalesce(floor(avg(size_bytes)), 0)::text, count(mime_type), count(media_category), count(kyc_status),
             count(geo_region), count(tos_version), count(privacy_policy_version), count(size_bytes)
         FROM local.scoped_item WHERE group_id = $1 AND data_id IS NOT NULL",
    )
    .bind(&profile.group_id)
    .fetch_one(&mut *connection)
    .await?;
    let names = [
        "mime_type",
        "media_category",
        "kyc_status",
        "geo_region",
        "tos_version",
        "privacy_policy_version",
        "size_bytes",
    ];
    let presence = names.iter().enumerate().map(|(at, name)| Ok(((*name).to_owned(), number(&row, 8 + at)?)));
    let (matched_items, matched_receipts) = (number(&row, 1)?, number(&row, 2)?);
    let mut by = async |column: &'static str| distribution(connection, &profile.group_id, column).await;
    Ok(GroupSummary {
        records_in_set: number(&row, 0)?,
        submitted_items: profile.submitted_items,
        unique_items: profile.unique_items,
        matched_items,
        missing_items: profile.unique_items.saturating_sub(matched_items),
        matched_receipts,
        erased_receipts: profile.matched_receipts.saturating_sub(matched_receipts),
        kyc_verified_percent: row.try_get(3)?,
        distinct_media_categories: number(&row, 4)?,
        distinct_tos_versions: number(&row, 5)?,
        total_size_bytes: digits(&row, 6)?,
        average_size_bytes: digits(&row, 7)?,
        source_distribution: by("provider_name").await?,
        media_category_coverage: by("media_category").await?,
        mime_distribution: by("mime_type").await?,
        tos_versions: by("tos_version").await?,
        privacy_policy_versions: by("privacy_policy_version").await?,
        kyc_status: by("kyc_status").await?,
        geo_distribution: by("geo_region").await?,
        lifecycle_status: by("lifecycle_status").await?,
        metadata_presence: presence.collect::<Result<_, sqlx::Error>>()?,
    })
}

/// Rows by a column of ours.
async fn distribution(
    connection: &mut PgConnection,
    group_id: &str,
    column: &'static str,
) -> Result<Distribution, ReadError> {
    let (value, join) = match column {
        "provider_name" => ("p.name", "JOIN provider AS p ON p.address = i.provider"),
        column => (column, ""),
    };
    let sql = format!(
        "SELECT {value}, count(*) FROM local.scoped_item AS i {join}
         WHERE group_id = $1 AND data_id IS NOT NULL AND {value} IS NOT NULL
         GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $2"
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(group_id).bind(VALUES_MAX).fetch_all(connection).await?;
    let values = rows.iter().map(|row| Ok((row.try_get(0)?, number(row, 1)?)));
    Ok(values.collect::<Result<_, sqlx::Error>>()?)
}

fn item(row: &PgRow) -> Result<GroupItem, sqlx::Error> {
    let data_id: Option<uuid::Uuid> = row.try_get(5)?;
    let tx_hash: Option<Vec<u8>> = row.try_get(13)?;
    Ok(GroupItem {
        position: number(row, 0)?,
        input_type: row.try_get(1)?,
        input: row.try_get(2)?,
        provider: row.try_get(3)?,
        source_record_id: row.try_get(4)?,
        status: if data_id.is_some() { "matched" } else { "missing" },
        data_id: data_id.map(|id| id.to_string()),
        asset_hash: row.try_get::<Option<Vec<u8>>, _>(6)?.map(|hash| prefixed(&hash)),
        lifecycle_status: row.try_get(7)?,
        mime_type: row.try_get(8)?,
        media_category: row.try_get(9)?,
        kyc_status: row.try_get(10)?,
        tos_version: row.try_get(11)?,
        privacy_policy_version: row.try_get(12)?,
        tx_hash: tx_hash.map(|_| hash_text(row, 13)).transpose()?,
    })
}

/// Rows after a position, and the cursor of the page after.
pub async fn items(
    connection: &mut PgConnection,
    group_id: &str,
    after: i64,
    limit: u32,
) -> Result<(Vec<GroupItem>, Option<String>), ReadError> {
    let rows = sqlx::query(
        "SELECT i.position, g.manifest_kind, i.input, p.name, i.source_record_id, i.data_id, i.asset_hash,
             i.lifecycle_status, i.mime_type, i.media_category, i.kyc_status, i.tos_version, i.privacy_policy_version,
             i.tx_hash
         FROM local.scoped_item AS i JOIN local.scoped_group AS g USING (group_id)
         LEFT JOIN provider AS p ON p.address = i.provider
         WHERE i.group_id = $1 AND i.position > $2 ORDER BY i.position LIMIT $3",
    )
    .bind(group_id)
    .bind(after)
    .bind(i64::from(limit) + 1)
    .fetch_all(connection)
    .await?;
    let mut items = rows.iter().map(item).collect::<Result<Vec<_>, _>>()?;
    let place = |item: &GroupItem| page::Place(i64::try_from(item.position).unwrap_or(i64::MAX), "0".into());
    let next_cursor = page::cut(&mut items, limit, place);
    Ok((items, next_cursor))
}

const COLUMNS: [&str; 12] = [
    "input_type",
    "provider",
    "source_record_id",
    "data_id",
    "asset_hash",
    "status",
    "mime_type",
    "media_category",
    "kyc_status",
    "tos_version",
    "privacy_policy_version",
    "tx_hash",
];

/// A cell that no spreadsheet takes for a formula.
fn harmless(cell: &str) -> String {
    match cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']) {
        true => format!("'{cell}"),
        false => cell.to_owned(),
    }
}

fn lines(items: &[GroupItem], with_names: bool) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    if with_names {
        writer.write_record(COLUMNS)?;
    }
    for item in items {
        let optional = |cell: &Option<String>| cell.clone().unwrap_or_default();
        let cells = [
            item.input_type.clone(),
            optional(&item.provider),
            optional(&item.source_record_id),
            optional(&item.data_id),
            optional(&item.asset_hash),
            item.status.to_owned(),
            optional(&item.mime_type),
            optional(&item.media_category),
            optional(&item.kyc_status),
            optional(&item.tos_version),
            optional(&item.privacy_policy_version),
            optional(&item.tx_hash),
        ];
        writer.write_record(cells.map(|cell| harmless(&cell)))?;
    }
    writer.into_inner().map_err(|error| error.into_error().into())
}

/// Why an export broke off.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The tables.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file.
    #[error("write CSV")]
    Csv(#[from] csv::Error),
}

/// The next lines of a group's file after a position, names of columns first, and the position to go on after.
pub async fn csv_rows(pool: &PgPool, group_id: &str, after: i64) -> Result<(Vec<u8>, Option<i64>), ExportError> {
    let mut connection = pool.acquire().await.map_err(ReadError::from)?;
    let (items, next) = items(&mut connection, group_id, after, page::LIMIT_MAX).await?;
    let last = items.last().and_then(|item| i64::try_from(item.position).ok());
    Ok((lines(&items, after < 0)?, next.and(last)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(source_record_id: &str, mime_type: Option<&str>) -> GroupItem {
        GroupItem {
            position: 0,
            input_type: "source_record".into(),
            input: source_record_id.into(),
            provider: Some("numo".into()),
            source_record_id: Some(source_record_id.into()),
            data_id: None,
            asset_hash: None,
            status: "missing",
            lifecycle_status: None,
            mime_type: mime_type.map(Into::into),
            media_category: None,
            kyc_status: None,
            tos_version: None,
            privacy_policy_version: None,
            tx_hash: None,
        }
    }

    #[test]
    fn no_cell_of_an_export_is_a_formula_and_none_breaks_its_line() {
        let file = lines(&[item("=1+1", Some("@SUM(A1)")), item("a,\"b\"\nc", None), item("-2", Some("a=b"))], true);
        let file = String::from_utf8(file.unwrap()).unwrap();
        let mut reader = csv::Reader::from_reader(file.as_bytes());
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), COLUMNS);
        let rows: Vec<_> = reader.records().map(|row| row.unwrap()).collect();
        assert_eq!((&rows[0][2], &rows[0][6]), ("'=1+1", "'@SUM(A1)"));
        assert_eq!(&rows[1][2], "a,\"b\"\nc");
        assert_eq!((&rows[2][2], &rows[2][6]), ("'-2", "a=b"));
        assert!(lines(&[], false).unwrap().is_empty());
    }
}
