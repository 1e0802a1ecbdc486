//! Licences: terms, money, holders, and whether one holds now.

use alloy::primitives::U256;
use serde::Serialize;
use sqlx::{PgConnection, Row, postgres::PgRow};
use tidemark::consent::purpose;
use utoipa::ToSchema;

use super::{At, ProviderRef, ReadError, address_text, hash_text, number, rfc3339, rfc3339_u64};
use crate::manifest::stored::digits;

const TRANSFERS_MAX: i64 = 1_000;

/// Terms of an offer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TermsView {
    /// Payment-token units.
    pub price: String,
    /// Seconds from the sale.
    pub duration_seconds: String,
    /// Bits of Consent.purposes.
    pub purposes: u32,
    /// The same by name.
    pub purpose_names: Vec<&'static str>,
    /// How many may use it.
    pub seats: u64,
    /// The members' part of the price in basis points.
    pub contributor_bps: i32,
    /// Whether it may be passed on.
    pub transferable: bool,
    /// Whether models may be trained.
    pub ai_training: bool,
    /// The provider's part of a resale in basis points (ERC-2981).
    pub resale_bps: i32,
    /// SHA-256 of the legal text.
    pub legal_hash: String,
    /// Where it is.
    pub legal_uri: String,
}

/// One change of hands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LicenseTransfer {
    /// None where it was minted.
    pub from: Option<String>,
    /// The new holder.
    pub to: String,
    /// RFC 3339.
    pub block_time: String,
    /// The transfer.
    pub tx_hash: String,
}

/// A licence.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LicenseView {
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
    /// Why it was revoked.
    pub revocation_cause: Option<String>,
    /// RFC 3339.
    pub revoked_at: Option<String>,
    /// What it was sold under.
    pub terms: TermsView,
    /// Who paid.
    pub buyer: String,
    /// Payment-token units paid.
    pub price: String,
    /// To the provider.
    pub provider_share: String,
    /// To the points treasury, for members without a wallet.
    pub points_share: String,
    /// To members with a wallet.
    pub wallet_share: String,
    /// `waiting`, `posted` or `invalid`: whether the points share is in the ledger.
    pub points_state: String,
    /// Height of the sale.
    pub block_number: u64,
    /// The sale.
    pub tx_hash: String,
    /// Oldest first; the first is the mint.
    pub transfers: Vec<LicenseTransfer>,
}

/// From ten columns: price, duration, purposes, seats, contributor_bps, transferable, ai_training, resale_bps, legal_hash,
/// legal_uri.
pub(super) fn terms(row: &PgRow, at: usize) -> Result<TermsView, sqlx::Error> {
    let purposes: u32 = crate::manifest::stored::count(row, at + 2)?;
    Ok(TermsView {
        price: row.try_get(at)?,
        duration_seconds: row.try_get(at + 1)?,
        purposes,
        purpose_names: purpose::names(purposes),
        seats: number(row, at + 3)?,
        contributor_bps: row.try_get(at + 4)?,
        transferable: row.try_get(at + 5)?,
        ai_training: row.try_get(at + 6)?,
        resale_bps: row.try_get(at + 7)?,
        legal_hash: hash_text(row, at + 8)?,
        legal_uri: row.try_get(at + 9)?,
    })
}

/// What `LicenseRegistry.verify` says, from the tables.
pub(super) fn status(revoked: bool, ends_at: u64, now: i64) -> &'static str {
    if revoked {
        "revoked"
    } else if u64::try_from(now).unwrap_or_default() >= ends_at {
        "expired"
    } else {
        "active"
    }
}

/// One licence at the block of the answer.
pub async fn license(
    connection: &mut PgConnection,
    at: &At,
    license_id: U256,
) -> Result<Option<LicenseView>, ReadError> {
    let row = sqlx::query(
        "SELECT o.price::text, o.duration::text, o.purposes, o.seats, o.contributor_bps, o.transferable, o.ai_training,
             o.resale_bps, o.legal_hash, o.legal_uri,
             l.holder, l.ip_id::text, d.name, l.version, d.provider, p.name, l.offer_id, l.starts_at::text,
             l.ends_at::text, l.revocation_cause, l.revoked_at, s.buyer, s.price::text, s.provider_share::text,
             s.points_share::text, s.wallet_share::text, s.points_state, l.block_number, l.tx_hash
         FROM license AS l JOIN sale AS s USING (license_id) JOIN offer AS o ON o.offer_id = l.offer_id
         JOIN dataset AS d ON d.ip_id = l.ip_id JOIN provider AS p ON p.address = d.provider
         WHERE l.license_id = $1::text::numeric",
    )
    .bind(license_id.to_string())
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let transfers = sqlx::query(
        "SELECT sender, recipient, block_time, tx_hash FROM license_transfer WHERE license_id = $1::text::numeric
         ORDER BY block_number, log_index LIMIT $2",
    )
    .bind(license_id.to_string())
    .bind(TRANSFERS_MAX)
    .fetch_all(connection)
    .await?;
    let transfers = transfers.iter().map(|row| {
        Ok(LicenseTransfer {
            from: super::some_address(crate::manifest::stored::address(row, 0)?),
            to: address_text(row, 1)?,
            block_time: rfc3339(row.try_get(2)?),
            tx_hash: hash_text(row, 3)?,
        })
    });
    let ends_at: u64 = digits(&row, 18)?;
    let revoked_at: Option<i64> = row.try_get(20)?;
    Ok(Some(LicenseView {
        license_id: license_id.to_string(),
        status: status(revoked_at.is_some(), ends_at, at.unix_seconds).to_owned(),
        holder: address_text(&row, 10)?,
        ip_id: row.try_get(11)?,
        dataset_name: row.try_get(12)?,
        version: number(&row, 13)?,
        provider: ProviderRef { address: address_text(&row, 14)?, name: row.try_get(15)? },
        offer_id: number(&row, 16)?,
        starts_at: rfc3339_u64(digits(&row, 17)?),
        ends_at: rfc3339_u64(ends_at),
        revocation_cause: row.try_get(19)?,
        revoked_at: revoked_at.map(rfc3339),
        terms: terms(&row, 0)?,
        buyer: address_text(&row, 21)?,
        price: row.try_get(22)?,
        provider_share: row.try_get(23)?,
        points_share: row.try_get(24)?,
        wallet_share: row.try_get(25)?,
        points_state: row.try_get(26)?,
        block_number: number(&row, 27)?,
        tx_hash: hash_text(&row, 28)?,
        transfers: transfers.collect::<Result<_, sqlx::Error>>()?,
    }))
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn a_licence_ends_with_its_last_second_and_a_revoked_one_is_not_merely_expired() {
        assert_eq!(status(false, 100, 99), "active");
        assert_eq!(status(false, 100, 100), "expired");
        assert_eq!(status(true, 100, 200), "revoked");
        assert_eq!(status(false, u64::MAX, i64::MAX), "active");
    }
}
