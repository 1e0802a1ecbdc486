//! Trace's counts: a few rows that move with the records, so that the answer takes no longer with more of them.

use std::collections::BTreeMap;

use alloy::primitives::Address;
use serde::Serialize;
use sqlx::{PgConnection, Row};
use utoipa::ToSchema;

use super::{PolicyDocument, policy::active};
use crate::{
    manifest::stored::digits,
    read::{ReadError, number},
};

/// Values of one distribution; the most frequent ones.
const VALUES_MAX: i64 = 100;

/// Records by value.
pub type Distribution = BTreeMap<String, u64>;

/// Trace's statistics: of all providers, or of one.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Stats {
    /// Records of all providers.
    pub total_records: u64,
    /// Different `contributor.anon_id` of each provider, added up.
    pub total_contributors: u64,
    /// Whose alone the rest is; none where it is of all.
    pub provider: Option<String>,
    /// Records of the provider.
    pub provider_records: Option<u64>,
    /// Different `contributor.anon_id` of the provider.
    pub provider_contributors: Option<u64>,
    /// Records by `contributor.kyc_status`.
    pub kyc_status: Distribution,
    /// Records by `contributor.account_verification_status`.
    pub account_verification: Distribution,
    /// Records by `contributor.tax_status`.
    pub tax_status: Distribution,
    /// Records by `contributor.consent.tos_version`.
    pub tos_versions: Distribution,
    /// Records by `contributor.consent.privacy_policy_version`.
    pub privacy_policy_versions: Distribution,
    /// Records by `file.media_category`.
    pub media_category_coverage: Distribution,
    /// Records by `file.mime_type`.
    pub mime_distribution: Distribution,
    /// Records by `contributor.geo_region`.
    pub geo_distribution: Distribution,
    /// Distributions with more than 100 values, of which the most frequent are shown.
    pub truncated_distributions: Vec<&'static str>,
    /// Sum of `file.size_bytes` above zero.
    #[schema(value_type = u64)]
    pub total_size_bytes: u128,
    /// Records with a size above zero.
    pub size_record_count: u64,
    /// Sum over count, rounded down.
    #[schema(value_type = u64)]
    pub average_size_bytes: u128,
    /// The provider's terms of service that its newest records name.
    pub active_tos_version: Option<String>,
    /// `sha256:…` of them.
    pub active_tos_hash: Option<String>,
    /// Where they are.
    pub active_tos_uri: Option<String>,
    /// The same of its privacy policy.
    pub active_privacy_policy_version: Option<String>,
    /// `sha256:…` of it.
    pub active_privacy_policy_hash: Option<String>,
    /// Where it is.
    pub active_privacy_policy_uri: Option<String>,
    /// Reserved, 0.
    pub shard_count: u32,
}

/// Of all providers, or of one.
pub async fn stats(connection: &mut PgConnection, provider: Option<(Address, String)>) -> Result<Stats, ReadError> {
    let row = sqlx::query(
        "SELECT coalesce(sum(records), 0)::bigint, coalesce(sum(contributors), 0)::bigint,
             coalesce(sum(records) FILTER (WHERE provider = $1), 0)::bigint,
             coalesce(sum(contributors) FILTER (WHERE provider = $1), 0)::bigint,
             coalesce(sum(size_records) FILTER (WHERE $1 IS NULL OR provider = $1), 0)::bigint,
             coalesce(sum(size_total) FILTER (WHERE $1 IS NULL OR provider = $1), 0)::text
         FROM trace_total",
    )
    .bind(provider.as_ref().map(|(address, _)| address.to_vec()))
    .fetch_one(&mut *connection)
    .await?;
    let mut stats = Stats {
        total_records: number(&row, 0)?,
        total_contributors: number(&row, 1)?,
        size_record_count: number(&row, 4)?,
        total_size_bytes: digits(&row, 5)?,
        ..Stats::default()
    };
    stats.average_size_bytes = stats.total_size_bytes.checked_div(u128::from(stats.size_record_count)).unwrap_or(0);
    let scope = provider.as_ref().map_or(Address::ZERO, |(address, _)| *address);
    distributions(connection, scope, &mut stats).await?;
    let Some((address, name)) = provider else { return Ok(stats) };
    stats.provider = Some(name);
    stats.provider_records = Some(number(&row, 2)?);
    stats.provider_contributors = Some(number(&row, 3)?);
    let parts = |found: Option<PolicyDocument>| match found {
        Some(found) => (Some(found.version), Some(found.hash), Some(found.uri)),
        None => (None, None, None),
    };
    let [tos, privacy] = active(connection, address).await?;
    (stats.active_tos_version, stats.active_tos_hash, stats.active_tos_uri) = parts(tos);
    (stats.active_privacy_policy_version, stats.active_privacy_policy_hash, stats.active_privacy_policy_uri) =
        parts(privacy);
    Ok(stats)
}

async fn distributions(connection: &mut PgConnection, scope: Address, stats: &mut Stats) -> Result<(), ReadError> {
    for (field, name) in [
        ("kyc_status", "kyc_status"),
        ("account_verification", "account_verification"),
        ("tax_status", "tax_status"),
        ("tos_version", "tos_versions"),
        ("privacy_policy_version", "privacy_policy_versions"),
        ("media_category", "media_category_coverage"),
        ("mime_type", "mime_distribution"),
        ("geo_region", "geo_distribution"),
    ] {
        let rows = sqlx::query(
            "SELECT value, records FROM trace_count WHERE provider = $1 AND field = $2 AND field <> 'anon_id'
             ORDER BY records DESC, value LIMIT $3",
        )
        .bind(scope.as_slice())
        .bind(field)
        .bind(VALUES_MAX + 1)
        .fetch_all(&mut *connection)
        .await?;
        let mut values = rows
            .iter()
            .map(|row| Ok((row.try_get::<String, _>(0)?, number(row, 1)?)))
            .collect::<Result<Vec<_>, sqlx::Error>>()?;
        if rows.len() > usize::try_from(VALUES_MAX).unwrap_or_default() {
            values.pop();
            stats.truncated_distributions.push(name);
        }
        let distribution = match field {
            "kyc_status" => &mut stats.kyc_status,
            "account_verification" => &mut stats.account_verification,
            "tax_status" => &mut stats.tax_status,
            "tos_version" => &mut stats.tos_versions,
            "privacy_policy_version" => &mut stats.privacy_policy_versions,
            "media_category" => &mut stats.media_category_coverage,
            "mime_type" => &mut stats.mime_distribution,
            _ => &mut stats.geo_distribution,
        };
        distribution.extend(values);
    }
    Ok(())
}
