//! Royalties: what each member got of one sale.

use alloy::primitives::U256;
use serde::Serialize;
use sqlx::{PgConnection, Row};
use utoipa::ToSchema;

use super::{
    ReadError, hash_text, number,
    page::{Page, Place, cut},
};

/// A member's part of one sale.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RoyaltyPart {
    /// Place in the members manifest.
    pub position: u64,
    /// Which record.
    pub data_id: String,
    /// Its pseudonym.
    pub contributor: String,
    /// Its weight in the version.
    pub weight: String,
    /// `points` or `wallet`.
    pub paid_in: String,
    /// Payment-token units.
    pub amount: String,
}

/// One sale split over the members of the sold version.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SaleRoyalties {
    /// The licence that was sold.
    pub license_id: String,
    /// Dataset.
    pub ip_id: String,
    /// Its version.
    pub version: u64,
    /// Payment-token units paid.
    pub price: String,
    /// To the provider.
    pub provider_share: String,
    /// To members whose royalties are points; the sum of their amounts.
    pub points_share: String,
    /// To members with a wallet: their amounts are rounded down, as the contract does, and what is left stays in it.
    pub wallet_share: String,
    /// `waiting` for the members manifest, `posted` to the ledger, or `invalid` as that is; no member is known unless posted.
    pub points_state: String,
    /// Height of the sale.
    pub block_number: u64,
    /// The sale.
    pub tx_hash: String,
    /// In manifest order, those that got nothing included.
    pub members: Vec<RoyaltyPart>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// The members' parts of a sale. A wallet's part is what the sale added to `RoyaltyPool`'s accumulator times its weight:
/// floor(weight · after / 2^128) − floor(weight · before / 2^128), each sale adding floor(share · 2^128 / wallet weight).
pub async fn royalties(
    connection: &mut PgConnection,
    license_id: U256,
    page: &Page,
) -> Result<Option<SaleRoyalties>, ReadError> {
    let row = sqlx::query(
        "SELECT s.ip_id::text, s.version, s.price::text, s.provider_share::text, s.points_share::text,
             s.wallet_share::text, s.points_state, s.block_number, s.tx_hash,
             (SELECT coalesce(sum(CASE WHEN v.total_weight > v.points_weight
                     THEN div(before.wallet_share * 340282366920938463463374607431768211456, v.total_weight - v.points_weight) ELSE 0 END), 0)
                 FROM sale AS before WHERE (before.ip_id, before.version) = (s.ip_id, s.version)
                     AND (before.block_number, before.log_index) < (s.block_number, s.log_index))::text,
             (CASE WHEN v.total_weight > v.points_weight
                 THEN div(s.wallet_share * 340282366920938463463374607431768211456, v.total_weight - v.points_weight) ELSE 0 END)::text
         FROM sale AS s JOIN dataset_version AS v USING (ip_id, version) WHERE s.license_id = $1::text::numeric",
    )
    .bind(license_id.to_string())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (ip_id, version): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
    let members = sqlx::query(
        "SELECT m.position, m.data_id, m.contributor, m.weight::text,
             CASE WHEN m.payee = decode(repeat('00', 20), 'hex') THEN 'points' ELSE 'wallet' END,
             (CASE WHEN m.payee = decode(repeat('00', 20), 'hex') THEN coalesce(part.amount, 0)
                 ELSE least(div(m.weight * ($4::text::numeric + $5::text::numeric), 340282366920938463463374607431768211456), 79228162514264337593543950335)
                     - least(div(m.weight * $4::text::numeric, 340282366920938463463374607431768211456), 79228162514264337593543950335) END)::numeric(78, 0)::text
         FROM (
             SELECT * FROM dataset_member WHERE ip_id = $1::text::numeric AND version = $2 AND ($6::bigint IS NULL OR position > $6)
             ORDER BY position LIMIT $7
         ) AS m
         LEFT JOIN LATERAL (
             SELECT amount FROM royalty_part AS part WHERE part.license_id = $3::text::numeric
                 AND (part.ip_id, part.version, part.position) = (m.ip_id, m.version, m.position)
         ) AS part ON TRUE
         ORDER BY m.position",
    )
    .bind(&ip_id)
    .bind(version)
    .bind(license_id.to_string())
    .bind(row.try_get::<String, _>(9)?)
    .bind(row.try_get::<String, _>(10)?)
    .bind(page.after.as_ref().map(|place| place.0))
    .bind(i64::from(page.limit) + 1)
    .fetch_all(connection)
    .await?;
    let members = members.iter().map(|row| {
        Ok(RoyaltyPart {
            position: number(row, 0)?,
            data_id: row.try_get::<uuid::Uuid, _>(1)?.to_string(),
            contributor: hash_text(row, 2)?,
            weight: row.try_get(3)?,
            paid_in: row.try_get(4)?,
            amount: row.try_get(5)?,
        })
    });
    let mut members = members.collect::<Result<Vec<_>, sqlx::Error>>()?;
    let next_cursor = cut(&mut members, page.limit, |member| {
        Place(i64::try_from(member.position).unwrap_or(i64::MAX), String::new())
    });
    Ok(Some(SaleRoyalties {
        license_id: license_id.to_string(),
        ip_id,
        version: number(&row, 1)?,
        price: row.try_get(2)?,
        provider_share: row.try_get(3)?,
        points_share: row.try_get(4)?,
        wallet_share: row.try_get(5)?,
        points_state: row.try_get(6)?,
        block_number: number(&row, 7)?,
        tx_hash: hash_text(&row, 8)?,
        members,
        next_cursor,
    }))
}
