//! The fields of trace-v1.0 that are searched and counted: where each stands in metadata, and how its letters are folded.

use alloy::primitives::{Address, B256};
use serde_json::Value;
use tidemark::ids::{ContentHash, SOURCE_RECORD_ID_BYTES_MAX, sha256};

/// Longer texts can't be searched for: an index has to hold them.
pub const TERM_BYTES_MAX: usize = 512;

/// Which letters are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Kept,
    Lower,
    Upper,
    /// A SHA-256 in any form is `sha256:<hex>`; another text is lower case.
    Hash,
}

/// A text of the metadata, by its column in `trace_record`.
#[derive(Debug)]
pub struct Text {
    /// Column.
    pub column: &'static str,
    case: Case,
    /// JSON pointers, the first that is there counts.
    pointers: &'static [&'static str],
}

/// How many of [`TEXTS`] can be searched for: the first ones.
pub const SEARCHED: usize = 11;

/// Every text that is kept beside a record, in the order of the columns.
pub const TEXTS: [Text; 15] = [
    text("mime_type", Case::Lower, &["/file/mime_type", "/mime_type", "/mimetype", "/file/mimetype"]),
    text("media_category", Case::Lower, &["/file/media_category"]),
    text(
        "collection_id",
        Case::Kept,
        &[
            "/asset/collection_id",
            "/collection_id",
            "/provider_payload/asset/collection_id",
            "/provider_payload/collection_id",
        ],
    ),
    text(
        "customer_id",
        Case::Kept,
        &["/asset/customer_id", "/customer_id", "/provider_payload/asset/customer_id", "/provider_payload/customer_id"],
    ),
    text(
        "task_id",
        Case::Kept,
        &["/asset/task_id", "/task_id", "/provider_payload/asset/task_id", "/provider_payload/task_id"],
    ),
    text("anon_id", Case::Kept, &["/contributor/anon_id"]),
    text("kyc_status", Case::Lower, &["/contributor/kyc_status", "/user/kyc_status"]),
    text("kyc_country", Case::Upper, &["/contributor/kyc_country", "/user/kyc_country"]),
    text("geo_region", Case::Upper, &["/contributor/geo_region"]),
    text("tos_hash", Case::Hash, &["/contributor/consent/tos_hash"]),
    text("privacy_policy_hash", Case::Hash, &["/contributor/consent/privacy_policy_hash"]),
    text("tax_status", Case::Lower, &["/contributor/tax_status"]),
    text("account_verification", Case::Lower, &["/contributor/account_verification_status"]),
    text("tos_version", Case::Kept, &["/contributor/consent/tos_version", "/user/tos_accepted/version"]),
    text(
        "privacy_policy_version",
        Case::Kept,
        &["/contributor/consent/privacy_policy_version", "/user/privacy_policy_accepted/version"],
    ),
];

/// Place of `anon_id` in [`TEXTS`]: counted to know contributors, never shown as a distribution.
pub const ANON_ID: &str = "anon_id";

/// Columns whose values are counted.
pub const COUNTED: [&str; 9] = [
    ANON_ID,
    "kyc_status",
    "account_verification",
    "tax_status",
    "tos_version",
    "privacy_policy_version",
    "media_category",
    "mime_type",
    "geo_region",
];

const fn text(column: &'static str, case: Case, pointers: &'static [&'static str]) -> Text {
    Text { column, case, pointers }
}

/// Whether a text can be a key: not empty, not too long, and a text to Postgres.
fn is_term(text: &str) -> bool {
    (1..=TERM_BYTES_MAX).contains(&text.len()) && !text.contains('\0')
}

impl Text {
    /// The text as it is kept and searched; only ASCII letters are folded, so that no version of Unicode changes it. None
    /// where it can't be a key.
    fn fold(&self, text: &str) -> Option<String> {
        let folded = match self.case {
            Case::Kept => text.to_owned(),
            Case::Lower => text.to_ascii_lowercase(),
            Case::Upper => text.to_ascii_uppercase(),
            Case::Hash => ContentHash::parse(text).map_or_else(|_| text.to_ascii_lowercase(), |hash| hash.prefixed()),
        };
        is_term(&folded).then_some(folded)
    }

    /// What metadata has of it.
    pub fn of(&self, metadata: &Value) -> Option<String> {
        let found = self.pointers.iter().find_map(|pointer| match metadata.pointer(pointer)? {
            Value::String(text) => Some(text.clone()),
            // ids of tasks and versions are numbers with some providers
            Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            _ => None,
        })?;
        self.fold(&found)
    }
}

/// What a value of a column is found by: 64 bits of SHA-256. Who finds two values with one key finds both of them, so the value
/// is compared, too.
pub fn key(provider: Address, column: &str, value: &[u8]) -> i64 {
    let digest = sha256(&[provider.as_slice(), column.as_bytes(), b"\0", value]);
    let mut first = [0u8; 8];
    first.copy_from_slice(digest.get(..8).unwrap_or(&[0; 8]));
    i64::from_be_bytes(first)
}

/// `file.size_bytes`, where it counts.
pub fn size_bytes(metadata: &Value) -> Option<i64> {
    metadata.pointer("/file/size_bytes")?.as_i64().filter(|size| *size > 0)
}

/// What somebody searches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The provider's own id, which gives the data id.
    SourceRecordId(String),
    /// SHA-256 of the bytes.
    ContentHash(B256),
    /// A text in this column.
    Text(&'static str, String),
}

/// A field that search knows, by its path in trace-v1.0, an alias of it, or its last word.
#[derive(Clone, Copy, Debug)]
pub enum Field {
    /// See [`Wanted::SourceRecordId`].
    SourceRecordId,
    /// See [`Wanted::ContentHash`].
    ContentHash,
    /// See [`Wanted::Text`].
    Text(&'static str, &'static Text),
}

/// Names of fields, the first of each the one that answers say, and its column.
const NAMES: [(&str, &str, &[&str]); 13] = [
    ("source_record_id", "source_record_id", &["media_id_public", "provider_payload.media_id_public"]),
    ("file.content_sha256", "content_hash", &["content_sha256", "asset.hash", "content_hash", "file.hashes.sha256"]),
    ("file.mime_type", "mime_type", &["mime_type", "mimetype", "file.mimetype"]),
    ("file.media_category", "media_category", &["media_category"]),
    ("asset.collection_id", "collection_id", &["collection_id"]),
    ("asset.customer_id", "customer_id", &["customer_id"]),
    ("asset.task_id", "task_id", &["task_id"]),
    ("contributor.anon_id", "anon_id", &["anon_id"]),
    ("contributor.kyc_status", "kyc_status", &["kyc_status"]),
    ("contributor.kyc_country", "kyc_country", &["kyc_country"]),
    ("contributor.geo_region", "geo_region", &["geo_region"]),
    ("contributor.consent.tos_hash", "tos_hash", &["tos_hash"]),
    ("contributor.consent.privacy_policy_hash", "privacy_policy_hash", &["privacy_policy_hash"]),
];

impl Field {
    /// By any of its names.
    pub fn named(name: &str) -> Option<Self> {
        let is_it = |(path, _, aliases): &&(&str, &str, &[&str])| *path == name || aliases.contains(&name);
        let (path, column, _) = NAMES.iter().find(is_it)?;
        match *column {
            "source_record_id" => Some(Self::SourceRecordId),
            "content_hash" => Some(Self::ContentHash),
            column => TEXTS.iter().find(|text| text.column == column).map(|text| Self::Text(path, text)),
        }
    }

    /// Its path in trace-v1.0.
    pub fn path(self) -> &'static str {
        match self {
            Self::SourceRecordId => "source_record_id",
            Self::ContentHash => "file.content_sha256",
            Self::Text(path, _) => path,
        }
    }

    /// All paths, for who named another one.
    pub fn paths() -> String {
        NAMES.map(|(path, _, _)| path).join(", ")
    }

    /// What a value of it means; what would have been right, where it can be no value of it.
    pub fn wanted(self, value: &str) -> Result<Wanted, &'static str> {
        match self {
            Self::SourceRecordId => {
                let value = value.trim();
                let fits = (1..=SOURCE_RECORD_ID_BYTES_MAX).contains(&value.len());
                match fits && !value.chars().any(char::is_control) {
                    true => Ok(Wanted::SourceRecordId(value.to_owned())),
                    false => Err("1 to 512 bytes without control characters"),
                }
            }
            Self::ContentHash => match ContentHash::parse(value) {
                Ok(hash) => Ok(Wanted::ContentHash(hash.0)),
                Err(_) => Err("a SHA-256: sha256:<64 hex digits>, the digits alone, 0x<digits> or 0x1220<digits>"),
            },
            Self::Text(_, text) => match text.fold(value) {
                Some(folded) => Ok(Wanted::Text(text.column, folded)),
                None => Err("1 to 512 bytes without a NUL"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn column(name: &str, metadata: &Value) -> Option<String> {
        TEXTS.iter().find(|text| text.column == name).unwrap().of(metadata)
    }

    #[test]
    fn each_name_and_alias_finds_its_field_and_nothing_else_does() {
        for (path, column, aliases) in NAMES {
            for name in aliases.iter().copied().chain([path]) {
                let field = Field::named(name).unwrap();
                assert_eq!(field.path(), path);
                if let Field::Text(_, text) = field {
                    assert_eq!(text.column, column);
                }
            }
        }
        for other in ["", "phash64", "file.hashes.phash64", "contributor.tax_status", "mime_type; DROP TABLE record"] {
            assert!(Field::named(other).is_none(), "{other}");
        }
    }

    #[test]
    fn letters_are_folded_alike_in_metadata_and_in_a_search() {
        let hash = "AB".repeat(32);
        let metadata = json!({
            "mimetype": "Video/MP4", "provider_payload": {"task_id": 42, "asset": {"collection_id": "Col-1"}},
            "user": {"kyc_status": "Verified", "kyc_country": "kr"},
            "contributor": {"anon_id": "Anon", "consent": {"tos_hash": format!("0x1220{hash}")}},
        });
        for (name, written, searched) in [
            ("mime_type", "video/mp4", "VIDEO/mp4"),
            ("collection_id", "Col-1", "Col-1"),
            ("task_id", "42", "42"),
            ("kyc_status", "verified", "VERIFIED"),
            ("kyc_country", "KR", "Kr"),
            ("anon_id", "Anon", "Anon"),
            ("tos_hash", &format!("sha256:{}", "ab".repeat(32)), &hash),
        ] {
            assert_eq!(column(name, &metadata).as_deref(), Some(written));
            let wanted = Field::named(name).unwrap().wanted(searched).unwrap();
            assert!(matches!(&wanted, Wanted::Text(_, text) if text == written), "{wanted:?}");
        }
        assert_eq!(Field::named("anon_id").unwrap().wanted("anon").unwrap(), Wanted::Text("anon_id", "anon".into()));
    }

    #[test]
    fn what_no_index_can_hold_is_neither_kept_nor_searched() {
        let long = "x".repeat(TERM_BYTES_MAX + 1);
        for bad in ["", "a\0b", &long] {
            assert_eq!(column("anon_id", &json!({"contributor": {"anon_id": bad}})), None);
            assert!(Field::named("anon_id").unwrap().wanted(bad).is_err());
            assert!(Field::named("source_record_id").unwrap().wanted(bad).is_err());
            assert!(Field::named("content_hash").unwrap().wanted(bad).is_err());
        }
        for other in [json!({"contributor": {"anon_id": ["a"]}}), json!({"contributor": 1}), json!(null)] {
            assert_eq!(column("anon_id", &other), None);
        }
    }

    #[test]
    fn a_size_counts_above_zero() {
        for (size, counted) in [(json!(5), Some(5)), (json!(0), None), (json!(-1), None), (json!("5"), None)] {
            assert_eq!(size_bytes(&json!({"file": {"size_bytes": size}})), counted);
        }
    }

    #[test]
    fn what_is_searched_has_a_key_of_its_provider_column_and_value() {
        for (_, column, _) in NAMES {
            let is_text = TEXTS.iter().take(SEARCHED).any(|text| text.column == column);
            assert!(is_text || ["source_record_id", "content_hash"].contains(&column), "{column}");
        }
        let (one, other) = (Address::repeat_byte(1), Address::repeat_byte(2));
        let keys =
            [key(one, "a", b"b"), key(other, "a", b"b"), key(one, "b", b"b"), key(one, "a", b"c"), key(one, "ab", b"")];
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), keys.len());
        assert_eq!(keys[0], key(one, "a", b"b"));
    }

    #[test]
    fn what_is_counted_is_kept() {
        assert!(COUNTED.iter().all(|column| TEXTS.iter().any(|text| text.column == *column)));
    }
}
