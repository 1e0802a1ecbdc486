//! Licences as a list: of one holder, of one dataset, or all.

use alloy::primitives::{Address, U256};
use serde::Serialize;
use sqlx::{PgConnection, Row};
use utoipa::ToSchema;

use super::{
    At, ProviderRef, ReadError, address_text, hash_text,
    license::status,
    number,
    page::{Page, Place, cut},
    rfc3339_u64,
};
use crate::manifest::stored::digits;

/// A licence in a list; `/v1/licenses/{license_id}` has the rest.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LicenseSummary {
    /// The ERC-721 token id.
    pub license_id: String,
    /// `active`, `expired` or `revoked` at the block of the answer.
    pub status: String,
    /// Who holds it.
    pub holder: String,
    /// Dataset.
    pub ip_id: String,
    /// Its name.
    pub dataset_name: String,
    /// Its version.
    pub version: u64,
    /// Who sold it.
    pub provider: ProviderRef,
    /// The offer it was sold under.
    pub offer_id: u64,
    /// RFC 3339.
    pub starts_at: String,
    /// RFC 3339; digits where it never ends.
    pub ends_at: String,
    /// Payment-token units paid.
    pub price: String,
    /// Height of the sale.
    pub block_number: u64,
    /// The sale.
    pub tx_hash: String,
}

/// Licences, newest first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LicenseList {
    /// Newest first.
    pub licenses: Vec<LicenseSummary>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// Which licences.
#[derive(Clone, Debug, Default)]
pub struct LicenseFilter {
    /// Of who holds them now.
    pub holder: Option<Address>,
    /// Of one dataset.
    pub ip_id: Option<U256>,
    /// Neither revoked nor expired at the block of the answer.
    pub only_active: bool,
}

/// Licences at the block of the answer, newest first.
pub async fn licenses(
    connection: &mut PgConnection,
    at: &At,
    filter: &LicenseFilter,
    page: &Page,
) -> Result<LicenseList, ReadError> {
    let rows = sqlx::query(
        "SELECT l.license_id::text, l.revoked_at IS NOT NULL, l.ends_at::text, l.holder, l.ip_id::text, d.name, l.version,
             d.provider, p.name, l.offer_id, l.starts_at::text, s.price::text, l.block_number, l.tx_hash
         FROM license AS l JOIN sale AS s USING (license_id) JOIN dataset AS d ON d.ip_id = l.ip_id
         JOIN provider AS p ON p.address = d.provider
         WHERE ($1::bytea IS NULL OR l.holder = $1) AND ($2::text IS NULL OR l.ip_id = $2::text::numeric)
             AND (NOT $3 OR (l.revoked_at IS NULL AND l.ends_at > $4))
             AND ($5::bigint IS NULL OR (l.block_number, l.license_id) < ($5, $6::text::numeric))
         ORDER BY l.block_number DESC, l.license_id DESC LIMIT $7",
    )
    .bind(filter.holder.as_ref().map(|holder| holder.as_slice()))
    .bind(filter.ip_id.map(|ip_id| ip_id.to_string()))
    .bind(filter.only_active)
    .bind(at.unix_seconds)
    .bind(page.after.as_ref().map(|place| place.0))
    .bind(page.after.as_ref().map(|place| place.1.parse::<U256>().unwrap_or_default().to_string()))
    .bind(i64::from(page.limit) + 1)
    .fetch_all(connection)
    .await?;
    let licenses = rows.iter().map(|row| {
        let ends_at: u64 = digits(row, 2)?;
        Ok(LicenseSummary {
            license_id: row.try_get(0)?,
            status: status(row.try_get(1)?, ends_at, at.unix_seconds).to_owned(),
            holder: address_text(row, 3)?,
            ip_id: row.try_get(4)?,
            dataset_name: row.try_get(5)?,
            version: number(row, 6)?,
            provider: ProviderRef { address: address_text(row, 7)?, name: row.try_get(8)? },
            offer_id: number(row, 9)?,
            starts_at: rfc3339_u64(digits(row, 10)?),
            ends_at: rfc3339_u64(ends_at),
            price: row.try_get(11)?,
            block_number: number(row, 12)?,
            tx_hash: hash_text(row, 13)?,
        })
    });
    let mut licenses = licenses.collect::<Result<Vec<_>, sqlx::Error>>()?;
    let next_cursor = cut(&mut licenses, page.limit, |license| {
        Place(i64::try_from(license.block_number).unwrap_or(i64::MAX), license.license_id.clone())
    });
    Ok(LicenseList { licenses, next_cursor })
}
