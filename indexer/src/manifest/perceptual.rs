//! The 64-bit perceptual hashes that a record's metadata names, in a table of their own, so that near-duplicates are found.

use alloy::primitives::Address;
use serde_json::Value;
use sqlx::PgConnection;

/// Keyframes of one record that are searched.
const KEYFRAMES_MAX: usize = 64;
const HEX_DIGITS: usize = 16;

/// Which hash of `file.hashes` (trace-v1.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `phash64`.
    Phash,
    /// `dhash64`.
    Dhash,
    /// `ahash64`.
    Ahash,
    /// One of `keyframe_phashes`.
    Keyframe,
}

impl Kind {
    /// All, as numbered in the table.
    pub const ALL: [Self; 4] = [Self::Phash, Self::Dhash, Self::Ahash, Self::Keyframe];

    /// As in metadata, and in queries.
    pub fn name(self) -> &'static str {
        match self {
            Self::Phash => "phash64",
            Self::Dhash => "dhash64",
            Self::Ahash => "ahash64",
            Self::Keyframe => "keyframe_phashes",
        }
    }

    /// Reads [`Kind::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// As it stands in the table.
    pub fn code(self) -> i16 {
        match self {
            Self::Phash => 0,
            Self::Dhash => 1,
            Self::Ahash => 2,
            Self::Keyframe => 3,
        }
    }
}

/// One hash with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which.
    pub kind: Kind,
    /// Among the keyframes, else 0.
    pub position: i16,
    /// Its 64 bits.
    pub hash: u64,
}

/// Sixteen hex digits, in any case.
pub fn parse(text: &str) -> Option<u64> {
    let is_hex = text.len() == HEX_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// The hashes in a record's metadata; anything else there is left alone. What holds U+0000 is not searched, because the migration
/// that filled the table couldn't read it, and all indexers have to agree.
pub fn of_metadata(metadata: &Value) -> Vec<Named> {
    let Some(hashes) = metadata.pointer("/file/hashes") else { return Vec::new() };
    if metadata.to_string().contains("\\u0000") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for kind in [Kind::Phash, Kind::Dhash, Kind::Ahash] {
        if let Some(hash) = hashes.get(kind.name()).and_then(Value::as_str).and_then(parse) {
            found.push(Named { kind, position: 0, hash });
        }
    }
    let frames = hashes.get(Kind::Keyframe.name()).and_then(Value::as_array);
    for (position, frame) in (0i16..).zip(frames.into_iter().flatten().take(KEYFRAMES_MAX)) {
        if let Some(hash) = frame.as_str().and_then(parse) {
            found.push(Named { kind: Kind::Keyframe, position, hash });
        }
    }
    found
}

/// Takes out what the records named.
pub async fn forget(
    connection: &mut PgConnection,
    provider: Address,
    data_ids: &[uuid::Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM perceptual_hash WHERE provider = $1 AND data_id = ANY($2)")
        .bind(provider.as_slice())
        .bind(data_ids)
        .execute(connection)
        .await?;
    Ok(())
}

/// Writes what records name that name nothing yet.
pub async fn insert(
    connection: &mut PgConnection,
    provider: Address,
    named: &[(uuid::Uuid, Named)],
) -> Result<(), sqlx::Error> {
    for named in named.chunks(super::stored::ROWS_PER_STATEMENT) {
        sqlx::query(
            "INSERT INTO perceptual_hash (provider, data_id, kind, position, hash)
             SELECT $1, data_id, kind, position, hash
             FROM unnest($2::uuid[], $3::smallint[], $4::smallint[], $5::bigint[]) AS row (data_id, kind, position, hash)",
        )
        .bind(provider.as_slice())
        .bind(named.iter().map(|(data_id, _)| *data_id).collect::<Vec<_>>())
        .bind(named.iter().map(|(_, named)| named.kind.code()).collect::<Vec<_>>())
        .bind(named.iter().map(|(_, named)| named.position).collect::<Vec<_>>())
        .bind(named.iter().map(|(_, named)| named.hash.cast_signed()).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_sixteen_hex_digits_in_their_place_are_hashes() {
        let metadata = json!({"file": {"hashes": {"phash64": "00FF00ff00ff00ff", "dhash64": "00ff", "ahash64": 7,
            "keyframe_phashes": ["ffffffffffffffff", null, "0000000000000001"]}}});
        let named = |kind, position, hash| Named { kind, position, hash };
        assert_eq!(
            of_metadata(&metadata),
            [
                named(Kind::Phash, 0, 0x00ff_00ff_00ff_00ff),
                named(Kind::Keyframe, 0, u64::MAX),
                named(Kind::Keyframe, 2, 1)
            ]
        );
        for none in [json!({}), json!({"file": {"hashes": ["00ff00ff00ff00ff"]}}), json!({"hashes": {"phash64": "0"}})]
        {
            assert!(of_metadata(&none).is_empty(), "{none}");
        }
        assert_eq!(parse("+0ff00ff00ff00ff"), None);
        assert_eq!(parse("0x00ff00ff00ff00"), None);
    }

    #[test]
    fn what_postgres_cannot_take_apart_is_not_searched_and_keyframes_are_bounded() {
        let metadata = json!({"file": {"hashes": {"phash64": "00ff00ff00ff00ff"}}, "note": "a\u{0}b"});
        assert!(of_metadata(&metadata).is_empty());
        let many = json!({"file": {"hashes": {"keyframe_phashes": vec!["0000000000000001"; 1000]}}});
        assert_eq!(of_metadata(&many).len(), KEYFRAMES_MAX);
    }
}
