//! Near-duplicates by perceptual hash: all within so many bits of Hamming distance, found through indexes.
//!
//! Multi-index hashing (Norouzi, Punjani, Fleet, "Fast exact search in Hamming space with multi-index hashing", 2014): where two
//! hashes of 64 bits differ in at most k, one of their four bands of 16 bits differs in at most k / 4. So each band is asked
//! for exactly by every value that close, and what is found is held against the whole hash.

use alloy::primitives::Address;
use serde::Serialize;
use sqlx::{PgConnection, Row};
use tidemark::ids::{ContentHash, DataId};
use utoipa::ToSchema;

use super::{
    ProviderRef, ReadError, address_text, bound_time,
    page::{Page, Place, cut},
    rfc3339_u64,
};
use crate::manifest::{
    perceptual::Kind,
    stored::{self, digits},
};

/// The largest distance: beyond it every band would be asked for by 697 values.
pub const DISTANCE_MAX: u32 = 11;
const BANDS: u32 = 4;
const BAND_BITS: u32 = 16;

/// One record that is near.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SimilarRecord {
    /// Bits in which its nearest hash differs.
    pub distance: u32,
    /// Which record.
    pub data_id: String,
    /// Whose.
    pub provider: ProviderRef,
    /// Its nearest hash: 16 hex digits.
    pub hash: String,
    /// Among its keyframes, else 0.
    pub position: i16,
    /// registered, accepted, rejected or withdrawn.
    pub status: String,
    /// SHA-256 of its bytes, `sha256:…`.
    pub content_hash: String,
    /// RFC 3339, as the provider says.
    pub registered_at: String,
}

/// Records by distance.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SimilarList {
    /// What was searched for: 16 hex digits.
    pub hash: String,
    /// Which of the hashes.
    pub kind: String,
    /// Bits that may differ.
    pub distance_max: u32,
    /// Nearest first.
    pub records: Vec<SimilarRecord>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// What is searched for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Which of the hashes.
    pub kind: Kind,
    /// Its 64 bits.
    pub hash: u64,
    /// Bits that may differ, at most [`DISTANCE_MAX`].
    pub distance_max: u32,
}

/// Values of one band that differ from `value` in at most `bits` of 16 bits, up to 2.
fn neighbours(value: i64, bits: u32) -> Vec<i64> {
    let mut found = vec![value];
    if bits >= 1 {
        found.extend((0..BAND_BITS).map(|a| value ^ (1 << a)));
    }
    if bits >= 2 {
        found.extend((0..BAND_BITS).flat_map(|a| (0..a).map(move |b| value ^ (1 << a) ^ (1 << b))));
    }
    found
}

impl Wanted {
    /// What each band is asked for, the highest first.
    pub fn bands(&self) -> [Vec<i64>; 4] {
        let bits = self.distance_max / BANDS;
        [3u32, 2, 1, 0].map(|band| neighbours(((self.hash >> (band * BAND_BITS)) & 0xffff).cast_signed(), bits))
    }
}

/// $1 kind, $2 hash, $3 distance, $4 to $7 values of the bands, $8 provider, $9 to $11 the place before, $12 rows.
pub const SIMILAR: &str = "
    SELECT near.distance, near.data_id, near.provider, p.name, near.hash, near.position, r.status, r.content_hash,
        r.registered_at::text
    FROM (
        SELECT DISTINCT ON (provider, data_id) provider, data_id, hash, position,
            bit_count((hash # $2)::bit(64)) AS distance
        FROM perceptual_hash
        WHERE ((kind = $1 AND ((hash >> 48) & 65535) = ANY($4)) OR (kind = $1 AND ((hash >> 32) & 65535) = ANY($5))
                OR (kind = $1 AND ((hash >> 16) & 65535) = ANY($6)) OR (kind = $1 AND (hash & 65535) = ANY($7)))
            AND bit_count((hash # $2)::bit(64)) <= $3 AND ($8::bytea IS NULL OR provider = $8)
        ORDER BY provider, data_id, bit_count((hash # $2)::bit(64)), position
    ) AS near
    JOIN record AS r ON (r.provider, r.data_id) = (near.provider, near.data_id)
    JOIN provider AS p ON p.address = near.provider
    WHERE $9::bigint IS NULL OR (near.distance, near.provider::bytea, near.data_id) > ($9, $10, $11)
    ORDER BY near.distance, near.provider::bytea, near.data_id LIMIT $12";

/// Records that are near, nearest first.
pub async fn similar(
    connection: &mut PgConnection,
    wanted: Wanted,
    provider: Option<Address>,
    page: &Page,
) -> Result<SimilarList, ReadError> {
    bound_time(connection).await?;
    let after = page.after.as_ref().and_then(|place| {
        let (provider, data_id) = place.1.split_once('/')?;
        Some((place.0, provider.parse::<Address>().ok()?, data_id.parse::<uuid::Uuid>().ok()?))
    });
    let [a, b, c, d] = wanted.bands();
    let rows = sqlx::query(SIMILAR)
        .bind(wanted.kind.code())
        .bind(wanted.hash.cast_signed())
        .bind(i64::from(wanted.distance_max))
        .bind(a)
        .bind(b)
        .bind(c)
        .bind(d)
        .bind(provider.as_ref().map(|provider| provider.as_slice()))
        .bind(after.as_ref().map(|after| after.0))
        .bind(after.as_ref().map(|after| after.1.as_slice()))
        .bind(after.as_ref().map(|after| after.2))
        .bind(i64::from(page.limit) + 1)
        .fetch_all(connection)
        .await?;
    let records = rows.iter().map(|row| {
        Ok(SimilarRecord {
            distance: stored::count(row, 0)?,
            data_id: row.try_get::<uuid::Uuid, _>(1)?.to_string(),
            provider: ProviderRef { address: address_text(row, 2)?, name: row.try_get(3)? },
            hash: hex::encode(row.try_get::<i64, _>(4)?.to_be_bytes()),
            position: row.try_get(5)?,
            status: row.try_get(6)?,
            content_hash: ContentHash(stored::hash(row, 7)?).prefixed(),
            registered_at: rfc3339_u64(digits(row, 8)?),
        })
    });
    let mut records = records.collect::<Result<Vec<_>, sqlx::Error>>()?;
    let next_cursor = cut(&mut records, page.limit, |record| {
        Place(i64::from(record.distance), format!("{}/{}", record.provider.address, record.data_id))
    });
    Ok(SimilarList {
        hash: hex::encode(wanted.hash.to_be_bytes()),
        kind: wanted.kind.name().to_owned(),
        distance_max: wanted.distance_max,
        records,
        next_cursor,
    })
}

/// A hash that a record's metadata names: the first of that kind, of whoever proved the record.
pub async fn hash_of(connection: &mut PgConnection, data_id: DataId, kind: Kind) -> Result<Option<u64>, ReadError> {
    let Some(owner) = super::record::owner(connection, data_id).await? else { return Ok(None) };
    let hash: Option<i64> = sqlx::query_scalar(
        "SELECT hash FROM perceptual_hash WHERE provider = $1 AND data_id = $2 AND kind = $3 ORDER BY position LIMIT 1",
    )
    .bind(owner.as_slice())
    .bind(data_id.0)
    .bind(kind.code())
    .fetch_optional(connection)
    .await?;
    Ok(hash.map(i64::cast_unsigned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_band_is_asked_for_by_every_value_that_close_and_each_once() {
        for (bits, count) in [(0, 1), (1, 17), (2, 137)] {
            let mut found = neighbours(0xabcd, bits);
            assert!(found.iter().all(|value| (value ^ 0xabcd).count_ones() <= bits && (0..=0xffff).contains(value)));
            found.sort_unstable();
            found.dedup();
            assert_eq!(found.len(), count);
        }
    }

    #[test]
    fn whatever_is_near_shares_a_band_with_one_of_the_values() {
        // a cheap generator, so that a failure repeats
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for distance_max in 0..=DISTANCE_MAX {
            for _ in 0..200 {
                let hash = next();
                let mut other = hash;
                for _ in 0..distance_max {
                    other ^= 1 << (next() % 64);
                }
                let bands = Wanted { kind: Kind::Phash, hash, distance_max }.bands();
                let met = [48u32, 32, 16, 0]
                    .iter()
                    .zip(&bands)
                    .any(|(shift, values)| values.contains(&((other >> shift) & 0xffff).cast_signed()));
                assert!(met, "{hash:x} {other:x} within {distance_max}");
            }
        }
    }
}
