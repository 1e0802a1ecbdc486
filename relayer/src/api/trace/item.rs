//! One item of a batch: read field by field, to name the one that is wrong, with roots recomputed.

use std::collections::BTreeSet;

use alloy::primitives::B256;
use serde_json::{Map, Value};
use tidemark::{
    canonical::jcs_value,
    consent::SignedConsent,
    ids::{ContentHash, DataId, sha256},
};

use super::body::Place;
use crate::{
    api::unix_of,
    intake::{
        check::Claims, contributor::REFERENCE_BYTES_MAX, personal, provider::Settings, register::Registration,
        update::Update,
    },
    problem::{Kind, Problem},
};

const UPDATES_MAX: u64 = 100;

/// An item that can be taken, and what its metadata claims of itself.
pub struct Read<T> {
    /// Where it stands.
    pub place: Place,
    /// Checked on its own.
    pub item: T,
    /// Not checked yet.
    pub claims: Claims,
}

/// The fields of an item that were not read yet.
#[derive(Debug)]
pub struct Item {
    /// Where it stands.
    pub place: Place,
    /// An item is an object.
    pub fields: Map<String, Value>,
}

impl Item {
    fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.place)
    }

    fn invalid(&self, name: &str, expected: &str, actual: impl Into<String>) -> Problem {
        Problem::field(Kind::FieldInvalid, self.path(name), expected, actual)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    fn need(&mut self, name: &str, expected: &str) -> Result<Value, Problem> {
        let path = self.path(name);
        self.take(name).ok_or_else(|| Problem::field(Kind::FieldMissing, path, expected, "none"))
    }

    fn text(&mut self, name: &str, expected: &str) -> Result<String, Problem> {
        match self.need(name, expected)? {
            Value::String(text) => Ok(text),
            other => Err(self.invalid(name, expected, kind_of(&other))),
        }
    }

    fn root(&mut self, name: &str) -> Result<B256, Problem> {
        let expected = "a SHA-256: 0x and 64 hex digits, not all zero";
        let text = self.text(name, expected)?;
        match ContentHash::parse(&text) {
            Ok(root) if !root.is_zero() => Ok(root.0),
            _ => Err(self.invalid(name, expected, text)),
        }
    }

    fn time(&mut self, name: &str) -> Result<u64, Problem> {
        let expected = "an RFC 3339 time from 1970 on";
        let text = self.text(name, expected)?;
        unix_of(&text).ok_or_else(|| self.invalid(name, expected, text))
    }

    /// An object and its canonical form, whose hash must be the root that came with it.
    fn metadata(
        &mut self,
        name: &str,
        root_name: &str,
        root: B256,
        personal: &mut personal::Search,
    ) -> Result<(Value, String), Problem> {
        let metadata = match self.need(name, "an object (trace-v1.0)")? {
            metadata @ Value::Object(_) => metadata,
            other => return Err(self.invalid(name, "an object (trace-v1.0)", kind_of(&other))),
        };
        let canonical = jcs_value(&metadata)
            .map_err(|error| self.invalid(name, "JSON with a canonical form", error.to_string()))?;
        let canonical = String::from_utf8(canonical).map_err(Problem::internal)?;
        let computed = sha256(&[canonical.as_bytes()]);
        if computed != root {
            let expected = format!("{computed}, the SHA-256 of {name} in canonical form (RFC 8785)");
            return Err(Problem::field(Kind::MetadataRootWrong, self.path(root_name), expected, root.to_string()));
        }
        personal.check(&metadata, &self.path(name))?;
        Ok((metadata, canonical))
    }

    fn data_id(&mut self) -> Result<DataId, Problem> {
        let text = self.text("data_id", "a UUID")?;
        text.parse().map_err(|_| self.invalid("data_id", "a UUID", text.clone()))
    }
}

/// What a JSON value is, in words.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Names under which trace-v1.0 knows the content hash.
const CONTENT_HASH_ALIASES: [&str; 4] = ["/file/content_sha256", "/asset/hash", "/content_hash", "/file/hashes/sha256"];

/// The content hash of metadata: one alias at least, and all that are there agree.
fn content_hash(metadata: &Value, path: &str) -> Result<ContentHash, Problem> {
    let mut found: Option<(String, ContentHash)> = None;
    for alias in CONTENT_HASH_ALIASES {
        let Some(value) = metadata.pointer(alias).filter(|value| !value.is_null()) else { continue };
        let field = format!("{path}{}", alias.replace('/', "."));
        let expected = "sha256:<64 hex digits>";
        let Value::String(text) = value else {
            return Err(Problem::field(Kind::FieldInvalid, field, expected, kind_of(value)));
        };
        let hash =
            ContentHash::parse(text).map_err(|_| Problem::field(Kind::FieldInvalid, field.clone(), expected, text))?;
        match &found {
            Some((first, other)) if *other != hash => {
                let expected = format!("{}, as {first} says", other.prefixed());
                return Err(Problem::field(Kind::ContentHashesDisagree, field, expected, hash.prefixed()));
            }
            Some(_) => {}
            None => found = Some((field, hash)),
        }
    }
    found.map(|(_, hash)| hash).ok_or_else(|| {
        let expected = "file.content_sha256 (or asset.hash, content_hash, file.hashes.sha256)";
        Problem::field(Kind::FieldMissing, format!("{path}.file.content_sha256"), expected, "none")
    })
}

/// A reference to a contributor that can be stored: 1 to 512 bytes, no control characters.
pub fn reference(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = (1..=REFERENCE_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

/// Items of `records:batch`; of `data-ids:batch` where the data id must be named.
pub fn registrations(
    provider_name: &str,
    settings: &Settings,
    must_name_id: bool,
) -> impl FnMut(Item) -> Result<Read<Registration>, Problem> {
    let (mut seen, mut personal) = (BTreeSet::new(), personal::Search::default());
    move |mut item| {
        let expected = "1 to 512 bytes without control characters";
        let id = item.text("source_record_id", expected)?.trim().to_owned();
        let data_id =
            DataId::new(provider_name, &id).map_err(|_| item.invalid("source_record_id", expected, id.clone()))?;
        personal::check_text(&id, &item.path("source_record_id"))?;
        if must_name_id {
            let named = item.data_id()?;
            if named != data_id {
                let expected = format!("{data_id}, which provider and source_record_id give");
                return Err(Problem::field(Kind::DataIdWrong, item.path("data_id"), expected, named.to_string()));
            }
        }
        if !seen.insert(id.clone()) {
            let path = item.path("source_record_id");
            return Err(Problem::field(Kind::DuplicateInBatch, path, "each id once in a batch", id));
        }
        let root = item.root("initial_metadata_root")?;
        let (metadata, canonical) =
            item.metadata("initial_metadata_json", "initial_metadata_root", root, &mut personal)?;
        let path = item.path("initial_metadata_json");
        let content_hash = content_hash(&metadata, &path)?;
        let occurred_at = item.time("occurred_at")?;
        let contributor = match item.take("contributor_ref") {
            Some(value) => {
                let text = value.as_str().and_then(reference);
                Some(text.ok_or_else(|| item.invalid("contributor_ref", expected, kind_of(&value)))?)
            }
            None => metadata.pointer("/contributor/anon_id").and_then(Value::as_str).and_then(reference),
        };
        let consent = match item.take("consent") {
            Some(value) => {
                let consent: SignedConsent = serde_json::from_value(value)
                    .map_err(|error| item.invalid("consent", "a signed consent", error.to_string()))?;
                // its id is set where it is checked
                Some((Default::default(), consent))
            }
            None => None,
        };
        let claims = Claims::read(settings, data_id, 0, &metadata, path);
        let registration = Registration {
            source_record_id: id,
            data_id,
            metadata_root: root,
            metadata: canonical,
            content_hash,
            occurred_at,
            contributor,
            consent,
        };
        Ok(Read { place: item.place, item: registration, claims })
    }
}

/// Items of `metadata-updates:batch`.
pub fn updates(settings: &Settings) -> impl FnMut(Item) -> Result<Read<Update>, Problem> {
    let (mut seen, mut personal) = (BTreeSet::new(), personal::Search::default());
    move |mut item| {
        let data_id = item.data_id()?;
        let value = item.need("seq", "1 to 100")?;
        let seq = value.as_u64().filter(|seq| (1..=UPDATES_MAX).contains(seq)).and_then(|seq| u32::try_from(seq).ok());
        let seq = seq.ok_or_else(|| item.invalid("seq", "1 to 100", value.to_string()))?;
        if !seen.insert((data_id, seq)) {
            let actual = format!("{data_id}, {seq}");
            return Err(Problem::field(
                Kind::DuplicateInBatch,
                item.path("seq"),
                "each data_id and seq once in a batch",
                actual,
            ));
        }
        let prev_metadata_root = item.root("prev_metadata_root")?;
        let root = item.root("metadata_root")?;
        let (metadata, canonical) = item.metadata("metadata_json", "metadata_root", root, &mut personal)?;
        let path = item.path("metadata_json");
        let content_hash = content_hash(&metadata, &path)?;
        let claims = Claims::read(settings, data_id, seq, &metadata, path);
        let occurred_at = item.time("occurred_at")?;
        let update = Update {
            data_id,
            seq,
            prev_metadata_root,
            metadata_root: root,
            content_hash,
            metadata: canonical,
            occurred_at,
        };
        Ok(Read { place: item.place, item: update, claims })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemark::canonical::metadata_root;

    use super::{
        super::{BATCH_COLUMNS, RECORD_BYTES_MAX, UPDATE_COLUMNS, body},
        *,
    };
    use crate::intake::provider::{Attestations, Policies};

    const HASH: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn metadata() -> Value {
        json!({"schema_version": "trace-v1.0", "file": {"content_sha256": HASH, "size_bytes": 3}})
    }

    fn item(id: &str, metadata: Value) -> Value {
        let root = metadata_root(&metadata).unwrap();
        json!({"source_record_id": id, "initial_metadata_root": root, "initial_metadata_json": metadata,
               "occurred_at": "2026-11-21T00:00:00Z"})
    }

    fn settings() -> Settings {
        Settings { attestation: Attestations::None, key_url: None, policies: Policies::Record, signed_requests: false }
    }

    fn parse(body: &[u8], must_name_id: bool) -> Result<Vec<Registration>, Problem> {
        let settings = settings();
        let mut read = registrations("numo", &settings, must_name_id);
        body::items(body::Format::Json, BATCH_COLUMNS, body, |item| Ok(read(item)?.item))
    }

    fn read(items: &Value) -> Result<Vec<Registration>, Problem> {
        parse(&serde_json::to_vec(items).unwrap(), false)
    }

    fn refused(items: Value, slug: &str, field: &str) -> Problem {
        let problem = read(&items).unwrap_err();
        assert_eq!((problem.slug(), problem.0.field.as_deref()), (slug, Some(field)), "{problem:?}");
        problem
    }

    #[test]
    fn a_good_item_is_read_and_its_id_does_not_depend_on_space_around_it() {
        let read = read(&json!([item(" Rec-1 ", metadata())])).unwrap();
        assert_eq!(read[0].data_id, DataId::new("numo", "Rec-1").unwrap());
        assert_eq!(read[0].source_record_id, "Rec-1");
        assert_eq!(read[0].content_hash.prefixed(), HASH);
        assert_eq!(read[0].occurred_at, 1_795_219_200);
        assert_eq!(read[0].contributor, None);
    }

    #[test]
    fn a_root_that_is_missing_zero_malformed_or_wrong_is_named_by_its_path() {
        let field = "[1].initial_metadata_root";
        let with = |root: Value| {
            let mut bad = item("b", metadata());
            bad["initial_metadata_root"] = root;
            json!([item("a", metadata()), bad])
        };
        refused(with(Value::Null), "field-missing", field);
        refused(with(json!(format!("0x{}", "0".repeat(64)))), "field-invalid", field);
        refused(with(json!("0x12")), "field-invalid", field);
        refused(with(json!(12)), "field-invalid", field);
        let problem = refused(with(json!(format!("0x{}", "1".repeat(64)))), "metadata-root-wrong", field);
        assert!(problem.0.expected.unwrap().starts_with(&metadata_root(&metadata()).unwrap().to_string()));
        assert_eq!(problem.0.actual.unwrap(), format!("0x{}", "1".repeat(64)));
        assert_eq!(problem.0.status, 422);
    }

    #[test]
    fn aliases_of_the_content_hash_must_agree_in_whatever_form() {
        let agreeing = json!({"file": {"content_sha256": HASH.to_uppercase().replace("SHA256", "sha256"), "hashes": {"sha256": &HASH[7..]}},
                              "asset": {"hash": format!("0x{}", &HASH[7..])}, "content_hash": format!("0x1220{}", &HASH[7..])});
        assert_eq!(read(&json!([item("a", agreeing)])).unwrap()[0].content_hash.prefixed(), HASH);
        let disagreeing = json!({"file": {"content_sha256": HASH}, "asset": {"hash": HASH.replace('a', "b")}});
        refused(json!([item("a", disagreeing)]), "field-invalid", "[0].initial_metadata_json.asset.hash");
        let disagreeing = json!({"file": {"content_sha256": HASH}, "content_hash": HASH[7..].replace('a', "b")});
        refused(json!([item("a", disagreeing)]), "content-hashes-disagree", "[0].initial_metadata_json.content_hash");
        let none = json!({"file": {"size_bytes": 3}});
        refused(json!([item("a", none)]), "field-missing", "[0].initial_metadata_json.file.content_sha256");
        refused(
            json!([item("a", json!({"content_hash": 5}))]),
            "field-invalid",
            "[0].initial_metadata_json.content_hash",
        );
    }

    #[test]
    fn a_batch_names_each_record_once_and_each_id_must_be_one() {
        refused(json!([item("a", metadata()), item("a ", metadata())]), "duplicate-in-batch", "[1].source_record_id");
        refused(json!([item("", metadata())]), "field-invalid", "[0].source_record_id");
        refused(json!([item(&"x".repeat(513), metadata())]), "field-invalid", "[0].source_record_id");
        refused(json!([item("a\nb", metadata())]), "field-invalid", "[0].source_record_id");
        let mut late = item("a", metadata());
        late["occurred_at"] = json!("yesterday");
        refused(json!([late]), "field-invalid", "[0].occurred_at");
        let mut text = item("a", metadata());
        text["initial_metadata_json"] = json!("{}");
        refused(json!([text]), "field-invalid", "[0].initial_metadata_json");
        refused(json!([5]), "field-invalid", "[0]");
    }

    #[test]
    fn what_is_no_array_of_bounded_objects_is_refused() {
        for body in ["", "{}", "[", "null", "\u{1}", "[]"] {
            assert_eq!(parse(body.as_bytes(), false).unwrap_err().slug(), "body-invalid", "{body:?}");
        }
        let large =
            json!({"file": {"content_sha256": HASH}, "provider_payload": {"text": "x".repeat(RECORD_BYTES_MAX)}});
        let problem = refused(json!([item("a", metadata()), item("b", large)]), "record-too-large", "[1]");
        assert_eq!(problem.0.status, 413);
        let deep = format!("[{}{}]", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(parse(deep.as_bytes(), false).unwrap_err().slug(), "body-invalid");
    }

    #[test]
    fn a_contributor_is_the_reference_or_the_anonymous_id_or_none() {
        let mut named = item("a", json!({"file": {"content_sha256": HASH}, "contributor": {"anon_id": "anon-7"}}));
        assert_eq!(read(&json!([named])).unwrap()[0].contributor.as_deref(), Some("anon-7"));
        named["contributor_ref"] = json!("user-7");
        assert_eq!(read(&json!([named])).unwrap()[0].contributor.as_deref(), Some("user-7"));
        named["contributor_ref"] = json!("a\u{1}");
        refused(json!([named]), "field-invalid", "[0].contributor_ref");
        named["contributor_ref"] = Value::Null;
        named["consent"] = json!({"contributor": "0x00"});
        refused(json!([named]), "field-invalid", "[0].consent");
    }

    #[test]
    fn an_update_has_a_sequence_from_1_to_100_and_a_root_that_is_its_own() {
        let update = |seq: Value| {
            json!([{"data_id": "7b0e1bd0-4ac3-5a0b-9f4e-6d1f6a1d2c3e", "seq": seq, "prev_metadata_root": format!("0x{}", "1".repeat(64)),
                    "metadata_root": metadata_root(&metadata()).unwrap(), "metadata_json": metadata(),
                    "occurred_at": "2026-11-21T00:00:00Z"}])
        };
        let read = |items: Value| {
            let text = serde_json::to_vec(&items).unwrap();
            body::items(body::Format::Json, UPDATE_COLUMNS, &text, updates(&settings()))
        };
        assert_eq!(read(update(json!(100))).ok().unwrap()[0].item.seq, 100);
        for seq in [json!(0), json!(101), json!(-1), json!(1.5), json!("1")] {
            assert_eq!(read(update(seq)).err().unwrap().0.field.as_deref(), Some("[0].seq"));
        }
        let mut wrong = update(json!(1));
        wrong[0]["metadata_root"] = json!(format!("0x{}", "2".repeat(64)));
        assert_eq!(read(wrong).err().unwrap().slug(), "metadata-root-wrong");
        let mut wrong = update(json!(1));
        wrong[0]["data_id"] = json!("no-uuid");
        assert_eq!(read(wrong).err().unwrap().0.field.as_deref(), Some("[0].data_id"));
        let mut twice = update(json!(1));
        let copy = twice[0].clone();
        twice.as_array_mut().unwrap().push(copy);
        assert_eq!(read(twice).err().unwrap().slug(), "duplicate-in-batch");
    }

    #[test]
    fn a_data_id_that_must_be_named_is_the_one_that_follows() {
        let named = |id: Value| {
            let mut item = item("a", metadata());
            item["data_id"] = id;
            parse(&serde_json::to_vec(&json!([item])).unwrap(), true)
        };
        let right = DataId::new("numo", "a").unwrap();
        assert_eq!(named(json!(right)).unwrap()[0].data_id, right);
        for (id, slug) in [
            (Value::Null, "field-missing"),
            (json!("x"), "field-invalid"),
            (json!(DataId::new("oto", "a").unwrap()), "data-id-wrong"),
        ] {
            let problem = named(id).unwrap_err();
            assert_eq!((problem.slug(), problem.0.field.as_deref()), (slug, Some("[0].data_id")));
        }
        let problem = named(json!(DataId::new("oto", "a").unwrap())).unwrap_err();
        assert!(problem.0.expected.unwrap().starts_with(&right.to_string()));
    }

    #[test]
    fn personal_data_in_what_becomes_public_is_named_by_its_path() {
        let mut personal = metadata();
        personal["provider_payload"] = json!({"user": {"email": "x"}});
        let path = "[1].initial_metadata_json.provider_payload.user.email";
        refused(json!([item("a", metadata()), item("b", personal)]), "personal-data", path);
        refused(json!([item("kim@example.com", metadata())]), "personal-data", "[0].source_record_id");
    }
}
