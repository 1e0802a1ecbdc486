//! The write side of the Trace API: `records:batch` and `metadata-updates:batch`, with roots recomputed.

use std::{collections::BTreeSet, sync::Arc};

use alloy::primitives::B256;
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use tidemark::{
    canonical::{jcs, metadata_root},
    consent::{SignedConsent, data_type},
    ids::{ContentHash, DataId, sha256},
};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{caller, unix_of};
use crate::{
    app::App,
    http,
    intake::{
        Provider, consent,
        contributor::REFERENCE_BYTES_MAX,
        register::{Registration, Status, register},
        update::{self, Update},
        webhook,
    },
    problem::{Kind, Problem},
};

const BATCH_BYTES_MAX: usize = 25 << 20;
const RECORD_BYTES_MAX: usize = 350 << 10;
const BATCH_ID_BYTES_MAX: usize = 200;
const UPDATES_MAX: u64 = 100;
const CONSENTS_AT_ONCE: usize = 16;

/// One item of `records:batch`.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "the shape for the OpenAPI document; items are read field by field, to name the one that is wrong"
)]
pub struct RegistrationItem {
    /// The provider's own id: trimmed, 1 to 512 bytes, no control characters.
    source_record_id: String,
    /// SHA-256 of the canonical JSON (RFC 8785) of `initial_metadata_json`: 0x and 64 hex digits.
    initial_metadata_root: String,
    /// trace-v1.0, with a content hash under one of its aliases.
    initial_metadata_json: Map<String, Value>,
    /// RFC 3339.
    #[schema(format = DateTime)]
    occurred_at: String,
    /// Extension: the provider's reference to its contributor.
    contributor_ref: Option<String>,
    /// Extension: the contributor's signed consent, with the data type "metadata" (bit 4).
    consent: Option<Map<String, Value>>,
}

/// One item of `metadata-updates:batch`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "as above")]
pub struct UpdateItem {
    /// The record, registered already or not yet.
    #[schema(format = Uuid)]
    data_id: String,
    /// 1 to 100.
    seq: u32,
    /// Root of the state before.
    prev_metadata_root: String,
    /// Root of this state.
    metadata_root: String,
    /// The full state, not a patch, with the record's content hash.
    metadata_json: Map<String, Value>,
    /// RFC 3339.
    #[schema(format = DateTime)]
    occurred_at: String,
}

/// The answer to a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchAnswer {
    /// Of the request that was answered first under this batch id.
    #[schema(value_type = String, format = Uuid)]
    pub request_id: Uuid,
    /// `X-Provider`.
    pub provider: String,
    /// `X-Batch-Id`.
    pub batch_id: String,
    /// `json`.
    pub format: String,
    /// `records` or `metadata_updates`.
    pub kind: String,
    /// Items in the batch.
    pub records: u64,
    /// New ones.
    pub accepted: u64,
    /// Ones that were here already, the same.
    pub duplicates: u64,
    /// Ones that were here already, or do not fit what is here.
    pub conflicts: u64,
    /// Items queued for anchoring.
    pub messages: u64,
    /// In the order of the batch.
    pub items: Vec<ItemAnswer>,
}

/// The answer to one item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ItemAnswer {
    /// Of a registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_record_id: Option<String>,
    /// The record.
    #[schema(value_type = String, format = Uuid)]
    pub data_id: DataId,
    /// Of an update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u32>,
    /// accepted, duplicate or conflict.
    pub status: Status,
    /// Why it is a conflict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A batch's headers.
struct Envelope {
    provider: Provider,
    batch_id: String,
}

/// Register records whose files the provider keeps. Answered once the rows are durable.
///
/// The same X-Batch-Id with the same body gets the same answer; with another body it is refused (409 batch-id-reused).
#[utoipa::path(post, path = "/webhook/v1/data-audit/records:batch",
    params(("X-API-Key" = String, Header, description = "issued to the provider"),
           ("X-Provider" = String, Header, description = "the provider's name"),
           ("X-Batch-Id" = String, Header, description = "stable across retries, at most 200 bytes"),
           ("X-Ingestion-Source" = Option<String>, Header, description = "`backlog` or absent")),
    request_body(content = Vec<RegistrationItem>, description = "at most 25 MiB, each item at most 350 KiB"),
    responses((status = 202, description = "at least one new, none in conflict", body = BatchAnswer),
              (status = 200, description = "all here already", body = BatchAnswer),
              (status = 409, description = "at least one in conflict; the others count", body = BatchAnswer),
              (status = "default", description = "refused as a whole, nothing changed", body = tidemark::service::Problem)))]
pub async fn post_records(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let envelope = envelope(&app, &headers).await?;
    let _permit = app.bodies.acquire().await.map_err(Problem::internal)?;
    let body = http::read_body(body, BATCH_BYTES_MAX).await?;
    let body_hash = sha256(&[b"records", &body]);
    if let Some(response) = replayed(&app, &envelope, body_hash).await? {
        return Ok(response);
    }
    let name = envelope.provider.name.clone();
    let items = parse(body, move |body| registrations(body, &name)).await?;
    let items = check_consents(&app, &envelope.provider, items).await?;

    let mut tx = app.db.begin().await?;
    if let Some((status, answer)) =
        webhook::replay(&mut tx, envelope.provider.account, &envelope.batch_id, body_hash).await?
    {
        return Ok(respond(status, &answer));
    }
    let ids: Vec<(String, DataId)> = items.iter().map(|item| (item.source_record_id.clone(), item.data_id)).collect();
    let statuses = register(&mut tx, &app.storage_key, &envelope.provider, items).await?;
    let items = ids
        .into_iter()
        .zip(statuses)
        .map(|((id, data_id), status)| ItemAnswer {
            source_record_id: Some(id),
            data_id,
            seq: None,
            status,
            reason: None,
        })
        .collect();
    finish(tx, &envelope, body_hash, "records", items).await
}

/// Update metadata with a full new state. An update that comes before its registration, or before the update before
/// it, is kept and applied when the gap closes.
#[utoipa::path(post, path = "/webhook/v1/data-audit/metadata-updates:batch",
    params(("X-API-Key" = String, Header, description = "issued to the provider"),
           ("X-Provider" = String, Header, description = "the provider's name"),
           ("X-Batch-Id" = String, Header, description = "stable across retries, at most 200 bytes"),
           ("X-Ingestion-Source" = Option<String>, Header, description = "`backlog` or absent")),
    request_body(content = Vec<UpdateItem>, description = "at most 25 MiB, each item at most 350 KiB"),
    responses((status = 202, description = "at least one new, none in conflict", body = BatchAnswer),
              (status = 200, description = "all here already", body = BatchAnswer),
              (status = 409, description = "at least one in conflict; the others count", body = BatchAnswer),
              (status = "default", description = "refused as a whole, nothing changed", body = tidemark::service::Problem)))]
pub async fn post_updates(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let envelope = envelope(&app, &headers).await?;
    let _permit = app.bodies.acquire().await.map_err(Problem::internal)?;
    let body = http::read_body(body, BATCH_BYTES_MAX).await?;
    let body_hash = sha256(&[b"metadata_updates", &body]);
    if let Some(response) = replayed(&app, &envelope, body_hash).await? {
        return Ok(response);
    }
    let updates = parse(body, updates).await?;

    let mut tx = app.db.begin().await?;
    if let Some((status, answer)) =
        webhook::replay(&mut tx, envelope.provider.account, &envelope.batch_id, body_hash).await?
    {
        return Ok(respond(status, &answer));
    }
    let ids: Vec<(DataId, u32)> = updates.iter().map(|update| (update.data_id, update.seq)).collect();
    let answers = update::take(&mut tx, envelope.provider.account, updates).await?;
    let items = ids
        .into_iter()
        .zip(answers)
        .map(|((data_id, seq), answer)| ItemAnswer {
            source_record_id: None,
            data_id,
            seq: Some(seq),
            status: answer.status,
            reason: answer.reason,
        })
        .collect();
    finish(tx, &envelope, body_hash, "metadata_updates", items).await
}

async fn envelope(app: &App, headers: &HeaderMap) -> Result<Envelope, Problem> {
    let provider = caller(app, headers, true).await?;
    let batch_id = match http::header_text(headers, "x-batch-id")? {
        Some(id) if id.len() <= BATCH_ID_BYTES_MAX => id.to_owned(),
        Some(id) => {
            let (expected, actual) = (format!("at most {BATCH_ID_BYTES_MAX} bytes"), format!("{} bytes", id.len()));
            return Err(Problem::field(Kind::HeaderInvalid, "X-Batch-Id", expected, actual));
        }
        None => {
            return Err(Problem::field(
                Kind::HeaderInvalid,
                "X-Batch-Id",
                "an id that is stable across retries",
                "none",
            ));
        }
    };
    match http::header_text(headers, "x-ingestion-source")? {
        None | Some("backlog") => {}
        Some(other) => {
            return Err(Problem::field(
                Kind::HeaderInvalid,
                "X-Ingestion-Source",
                "`backlog`, or no such header",
                other,
            ));
        }
    }
    let unsupported = |name: &str, expected: &str, actual: &str| {
        Err(Problem::field(Kind::MediaTypeUnsupported, name, expected, actual))
    };
    match http::header_text(headers, "content-type")? {
        Some(mime) if !is_json(mime) => return unsupported("Content-Type", "application/json", mime),
        _ => {}
    }
    match http::header_text(headers, "content-encoding")? {
        Some(encoding) if encoding != "identity" => return unsupported("Content-Encoding", "none", encoding),
        _ => {}
    }
    Ok(Envelope { provider, batch_id })
}

fn is_json(mime: &str) -> bool {
    mime.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// The kept answer, looked up before the body is parsed.
async fn replayed(app: &App, envelope: &Envelope, body_hash: B256) -> Result<Option<Response>, Problem> {
    let mut tx = app.db.begin().await?;
    let kept = webhook::replay(&mut tx, envelope.provider.account, &envelope.batch_id, body_hash).await?;
    Ok(kept.map(|(status, answer): (u16, BatchAnswer)| respond(status, &answer)))
}

async fn finish(
    mut tx: crate::intake::Tx<'_>,
    envelope: &Envelope,
    body_hash: B256,
    kind: &str,
    items: Vec<ItemAnswer>,
) -> Result<Response, Problem> {
    let count = |status| items.iter().filter(|item| item.status == status).count() as u64;
    let (accepted, duplicates, conflicts) =
        (count(Status::Accepted), count(Status::Duplicate), count(Status::Conflict));
    let answer = BatchAnswer {
        request_id: Uuid::new_v4(),
        provider: envelope.provider.name.clone(),
        batch_id: envelope.batch_id.clone(),
        format: "json".into(),
        kind: kind.into(),
        records: items.len() as u64,
        accepted,
        duplicates,
        conflicts,
        messages: accepted,
        items,
    };
    let status = status_of(accepted, conflicts);
    webhook::keep(&mut tx, envelope.provider.account, &envelope.batch_id, body_hash, status.as_u16(), &answer).await?;
    tx.commit().await?;
    metrics::counter!("trace_items_total", "kind" => kind.to_owned(), "status" => "accepted").increment(accepted);
    metrics::counter!("trace_items_total", "kind" => kind.to_owned(), "status" => "conflict").increment(conflicts);
    Ok(respond(status.as_u16(), &answer))
}

fn status_of(accepted: u64, conflicts: u64) -> StatusCode {
    match (accepted, conflicts) {
        (_, 1..) => StatusCode::CONFLICT,
        (1.., 0) => StatusCode::ACCEPTED,
        (0, 0) => StatusCode::OK,
    }
}

fn respond(status: u16, answer: &BatchAnswer) -> Response {
    (StatusCode::from_u16(status).unwrap_or(StatusCode::OK), Json(answer)).into_response()
}

/// Parses off the async threads: canonical JSON and hashes of up to 25 MiB.
async fn parse<T: Send + 'static>(
    body: bytes::Bytes,
    work: impl FnOnce(&[u8]) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(move || work(&body)).await.map_err(Problem::internal)?
}

async fn check_consents(
    app: &App,
    provider: &Provider,
    items: Vec<Registration>,
) -> Result<Vec<Registration>, Problem> {
    futures::stream::iter(items.into_iter().enumerate())
        .map(|(at, mut item)| async move {
            if let Some((id, consent)) = &mut item.consent {
                let field = format!("[{at}].consent");
                let times = [item.occurred_at];
                *id =
                    consent::check(&app.chain, &app.db, provider, consent, data_type::METADATA, &times, &field).await?;
            }
            Ok(item)
        })
        .buffered(CONSENTS_AT_ONCE)
        .try_collect()
        .await
}

/// Items of a batch, each read as an object.
fn items(body: &[u8]) -> Result<Vec<Item>, Problem> {
    let raw: Vec<&RawValue> = serde_json::from_slice(body)
        .map_err(|error| Problem::new(Kind::BodyInvalid, format!("expected a JSON array of objects: {error}")))?;
    if raw.is_empty() {
        return Err(Problem::field(Kind::BodyInvalid, "body", "at least one item", "none"));
    }
    raw.into_iter()
        .enumerate()
        .map(|(at, raw)| {
            let length = raw.get().len();
            if length > RECORD_BYTES_MAX {
                let expected = format!("at most {RECORD_BYTES_MAX} bytes");
                return Err(Problem::field(
                    Kind::RecordTooLarge,
                    format!("[{at}]"),
                    expected,
                    format!("{length} bytes"),
                ));
            }
            match serde_json::from_str(raw.get()) {
                Ok(Value::Object(fields)) => Ok(Item { at, fields }),
                Ok(other) => Err(Problem::field(Kind::FieldInvalid, format!("[{at}]"), "an object", kind_of(&other))),
                Err(error) => Err(Problem::new(Kind::BodyInvalid, format!("[{at}]: {error}"))),
            }
        })
        .collect()
}

struct Item {
    at: usize,
    fields: Map<String, Value>,
}

impl Item {
    fn path(&self, name: &str) -> String {
        format!("[{}].{name}", self.at)
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

    /// An object and its canonical form's hash, which must be the root that came with it.
    fn metadata(&mut self, name: &str, root_name: &str, root: B256) -> Result<Value, Problem> {
        let metadata = match self.need(name, "an object (trace-v1.0)")? {
            metadata @ Value::Object(_) => metadata,
            other => return Err(self.invalid(name, "an object (trace-v1.0)", kind_of(&other))),
        };
        let computed = metadata_root(&metadata)
            .map_err(|error| self.invalid(name, "JSON with a canonical form", error.to_string()))?;
        if computed != root {
            let expected = format!("{computed}, the SHA-256 of {name} in canonical form (RFC 8785)");
            return Err(Problem::field(Kind::MetadataRootWrong, self.path(root_name), expected, root.to_string()));
        }
        Ok(metadata)
    }
}

fn kind_of(value: &Value) -> &'static str {
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
pub(super) fn reference(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = (1..=REFERENCE_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

fn registrations(body: &[u8], provider_name: &str) -> Result<Vec<Registration>, Problem> {
    let mut seen = BTreeSet::new();
    items(body)?
        .into_iter()
        .map(|mut item| {
            let expected = "1 to 512 bytes without control characters";
            let id = item.text("source_record_id", expected)?.trim().to_owned();
            let data_id =
                DataId::new(provider_name, &id).map_err(|_| item.invalid("source_record_id", expected, id.clone()))?;
            if !seen.insert(id.clone()) {
                let path = item.path("source_record_id");
                return Err(Problem::field(Kind::DuplicateInBatch, path, "each id once in a batch", id));
            }
            let root = item.root("initial_metadata_root")?;
            let metadata = item.metadata("initial_metadata_json", "initial_metadata_root", root)?;
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
            Ok(Registration {
                source_record_id: id,
                data_id,
                metadata_root: root,
                metadata,
                content_hash,
                occurred_at,
                contributor,
                consent,
            })
        })
        .collect()
}

fn updates(body: &[u8]) -> Result<Vec<Update>, Problem> {
    let mut seen = BTreeSet::new();
    items(body)?
        .into_iter()
        .map(|mut item| {
            let text = item.text("data_id", "a UUID")?;
            let data_id: DataId = text.parse().map_err(|_| item.invalid("data_id", "a UUID", text.clone()))?;
            let value = item.need("seq", "1 to 100")?;
            let seq =
                value.as_u64().filter(|seq| (1..=UPDATES_MAX).contains(seq)).and_then(|seq| u32::try_from(seq).ok());
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
            let metadata = item.metadata("metadata_json", "metadata_root", root)?;
            let path = item.path("metadata_json");
            let content_hash = content_hash(&metadata, &path)?;
            let canonical = jcs(&metadata).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let metadata =
                canonical.ok_or_else(|| item.invalid("metadata_json", "JSON with a canonical form", "none"))?;
            let occurred_at = item.time("occurred_at")?;
            Ok(Update { data_id, seq, prev_metadata_root, metadata_root: root, content_hash, metadata, occurred_at })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HASH: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn metadata() -> Value {
        json!({"schema_version": "trace-v1.0", "file": {"content_sha256": HASH, "size_bytes": 3}})
    }

    fn item(id: &str, metadata: Value) -> Value {
        let root = metadata_root(&metadata).unwrap();
        json!({"source_record_id": id, "initial_metadata_root": root, "initial_metadata_json": metadata,
               "occurred_at": "2026-11-21T00:00:00Z"})
    }

    fn read(items: &Value) -> Result<Vec<Registration>, Problem> {
        registrations(&serde_json::to_vec(items).unwrap(), "numo")
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
            assert_eq!(registrations(body.as_bytes(), "numo").unwrap_err().slug(), "body-invalid", "{body:?}");
        }
        let large =
            json!({"file": {"content_sha256": HASH}, "provider_payload": {"text": "x".repeat(RECORD_BYTES_MAX)}});
        let problem = refused(json!([item("a", metadata()), item("b", large)]), "record-too-large", "[1]");
        assert_eq!(problem.0.status, 413);
        let deep = format!("[{}{}]", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(registrations(deep.as_bytes(), "numo").unwrap_err().slug(), "body-invalid");
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
        let read = |items: Value| updates(&serde_json::to_vec(&items).unwrap());
        assert_eq!(read(update(json!(100))).unwrap()[0].seq, 100);
        for seq in [json!(0), json!(101), json!(-1), json!(1.5), json!("1")] {
            assert_eq!(read(update(seq)).unwrap_err().0.field.as_deref(), Some("[0].seq"));
        }
        let mut wrong = update(json!(1));
        wrong[0]["metadata_root"] = json!(format!("0x{}", "2".repeat(64)));
        assert_eq!(read(wrong).unwrap_err().slug(), "metadata-root-wrong");
        let mut wrong = update(json!(1));
        wrong[0]["data_id"] = json!("no-uuid");
        assert_eq!(read(wrong).unwrap_err().0.field.as_deref(), Some("[0].data_id"));
        let mut twice = update(json!(1));
        let copy = twice[0].clone();
        twice.as_array_mut().unwrap().push(copy);
        assert_eq!(read(twice).unwrap_err().slug(), "duplicate-in-batch");
    }

    #[test]
    fn the_status_says_whether_anything_is_new_or_in_conflict() {
        assert_eq!(status_of(1, 0), StatusCode::ACCEPTED);
        assert_eq!(status_of(0, 0), StatusCode::OK);
        assert_eq!(status_of(5, 1), StatusCode::CONFLICT);
    }
}
