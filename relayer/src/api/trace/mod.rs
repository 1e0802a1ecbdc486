//! The write side of the Trace API: registrations, metadata updates and policies, with roots recomputed.

pub mod body;
pub mod item;
pub mod policy;

use std::sync::Arc;

use alloy::primitives::B256;
use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tidemark::{
    consent::data_type,
    ids::{DataId, sha256},
};
use utoipa::ToSchema;
use uuid::Uuid;

use self::{
    body::{Columns, Format, Place},
    item::Read,
};
use super::gate::allowed;
use crate::{
    app::App,
    http,
    intake::{
        Provider, Tx, check,
        check::Finding,
        consent,
        key::Scope,
        provider::Caller,
        register::{Registration, Status, register},
        update, webhook,
    },
    problem::{Kind, Problem},
};

/// The largest batch, inflated.
pub const BATCH_BYTES_MAX: usize = 25 << 20;
const RECORD_BYTES_MAX: usize = 350 << 10;
const BATCH_ID_BYTES_MAX: usize = 200;
const CONSENTS_AT_ONCE: usize = 16;

/// Trace's columns of a registration, and those of our extensions.
pub const BATCH_COLUMNS: Columns = Columns {
    needed: &["data_id", "source_record_id", "initial_metadata_root", "initial_metadata_json", "occurred_at"],
    optional: &["contributor_ref", "consent"],
};
/// Trace's columns of an update.
pub const UPDATE_COLUMNS: Columns = Columns {
    needed: &["data_id", "seq", "prev_metadata_root", "metadata_root", "metadata_json", "occurred_at"],
    optional: &[],
};

/// Which endpoint, whatever the form of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Records,
    DataIds,
    Updates,
}

impl Door {
    /// As in the answer.
    fn kind(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::DataIds => "data_ids",
            Self::Updates => "metadata_updates",
        }
    }
}

/// One item of `records:batch` and of the registrations of `data-ids:batch…`.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "the shape for the OpenAPI document; items are read field by field, to name the one that is wrong"
)]
pub struct RegistrationItem {
    /// Needed by `data-ids:batch`, and then the one that provider and `source_record_id` give.
    #[schema(format = Uuid)]
    data_id: Option<String>,
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

/// One item of `metadata-updates:batch…`.
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
    /// json, ndjson, csv or txt.
    pub format: String,
    /// records, data_ids or metadata_updates.
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
struct Envelope<'a> {
    provider: &'a Provider,
    batch_id: String,
    door: Door,
    format: Format,
    is_compressed: bool,
}

/// An endpoint: what all of them have in common is said once.
macro_rules! endpoint {
    ($(#[$doc:meta])* $name:ident, $path:literal, $door:ident, $format:ident, $mime:literal, $item:ty, $body:literal) => {
        $(#[$doc])*
        #[utoipa::path(post, path = $path,
            params(("X-API-Key" = String, Header, description = "issued to the provider, with the scope `records`"),
                   ("X-Provider" = String, Header, description = "the provider's name"),
                   ("X-Batch-Id" = String, Header, description = "stable across retries, at most 200 bytes"),
                   ("X-Ingestion-Source" = Option<String>, Header,
                    description = "`backlog`, which the NDJSON, CSV and text forms need, or absent"),
                   ("Content-Encoding" = Option<String>, Header, description = "`gzip`, which NDJSON needs, or absent")),
            request_body(content = $item, content_type = $mime, description = $body),
            responses((status = 202, description = "at least one new, none in conflict", body = BatchAnswer),
                      (status = 200, description = "all here already", body = BatchAnswer),
                      (status = 409, description = "at least one in conflict; the others count", body = BatchAnswer),
                      (status = "default", description = "refused as a whole, nothing changed", body = tidemark::service::Problem)))]
        pub async fn $name(
            State(app): State<Arc<App>>,
            Extension(caller): Extension<Arc<Caller>>,
            headers: HeaderMap,
            body: Body,
        ) -> Result<Response, Problem> {
            take(&app, &caller, &headers, body, Door::$door, Format::$format).await
        }
    };
}

endpoint!(
    /// Register records whose files the provider keeps. Answered once the rows are durable.
    ///
    /// The same X-Batch-Id with the same body gets the same answer; with another body it is refused (409
    /// batch-id-reused).
    post_records, "/webhook/v1/data-audit/records:batch", Records, Json, "application/json", Vec<RegistrationItem>,
    "at most 25 MiB when inflated, each item at most 350 KiB"
);
endpoint!(
    /// Register records and say which data id each has: one that is not that of its record is refused.
    post_data_ids, "/webhook/v1/data-audit/data-ids:batch", DataIds, Json, "application/json", Vec<RegistrationItem>,
    "as `records:batch`, with `data_id` in each item"
);
endpoint!(
    /// Register a backlog of records, as compressed NDJSON.
    post_data_ids_ndjson, "/webhook/v1/data-audit/data-ids:batch-ndjson", DataIds, Ndjson, "application/x-ndjson",
    RegistrationItem, "an item of `data-ids:batch` a line; at most 25 MiB when inflated"
);
endpoint!(
    /// Register a backlog of records, as CSV.
    post_data_ids_csv, "/webhook/v1/data-audit/data-ids:batch-csv", DataIds, Csv, "text/csv", String,
    "columns data_id,source_record_id,initial_metadata_root,initial_metadata_json,occurred_at in any order, and \
     optionally contributor_ref and consent; RFC 4180, UTF-8"
);
endpoint!(
    /// Register a backlog of records, as text.
    post_data_ids_txt, "/webhook/v1/data-audit/data-ids:batch-txt", DataIds, Txt, "text/plain", RegistrationItem,
    "an item of `data-ids:batch` a line, UTF-8"
);
endpoint!(
    /// Update metadata with a full new state. An update that comes before its registration, or before the update before
    /// it, is kept and applied when the gap closes.
    post_updates, "/webhook/v1/data-audit/metadata-updates:batch", Updates, Json, "application/json", Vec<UpdateItem>,
    "at most 25 MiB when inflated, each item at most 350 KiB"
);
endpoint!(
    /// Update a backlog of metadata, as compressed NDJSON.
    post_updates_ndjson, "/webhook/v1/data-audit/metadata-updates:batch-ndjson", Updates, Ndjson, "application/x-ndjson",
    UpdateItem, "an item of `metadata-updates:batch` a line; at most 25 MiB when inflated"
);
endpoint!(
    /// Update a backlog of metadata, as CSV.
    post_updates_csv, "/webhook/v1/data-audit/metadata-updates:batch-csv", Updates, Csv, "text/csv", String,
    "columns data_id,seq,prev_metadata_root,metadata_root,metadata_json,occurred_at in any order; RFC 4180, UTF-8"
);
endpoint!(
    /// Update a backlog of metadata, as text.
    post_updates_txt, "/webhook/v1/data-audit/metadata-updates:batch-txt", Updates, Txt, "text/plain", UpdateItem,
    "an item of `metadata-updates:batch` a line, UTF-8"
);

async fn take(
    app: &App,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
    door: Door,
    format: Format,
) -> Result<Response, Problem> {
    let envelope = envelope(app, caller, headers, door, format).await?;
    let _permit = app.bodies.acquire().await.map_err(Problem::internal)?;
    let (body, body_hash) = read(&envelope, http::read_body(body, BATCH_BYTES_MAX).await?).await?;
    if let Some(response) = replayed(app, &envelope, body_hash).await? {
        return Ok(response);
    }
    match door {
        Door::Records | Door::DataIds => take_registrations(app, caller, &envelope, body, body_hash).await,
        Door::Updates => take_updates(app, caller, &envelope, body, body_hash).await,
    }
}

async fn take_registrations(
    app: &App,
    caller: &Caller,
    envelope: &Envelope<'_>,
    body: Bytes,
    body_hash: B256,
) -> Result<Response, Problem> {
    let (name, settings) = (envelope.provider.name.clone(), caller.settings.clone());
    let (format, must_name_id) = (envelope.format, envelope.door == Door::DataIds);
    let read = off_thread(move || {
        body::items(format, BATCH_COLUMNS, &body, item::registrations(&name, &settings, must_name_id))
    });
    let (items, claims): (Vec<_>, Vec<_>) =
        read.await?.into_iter().map(|Read { place, item, claims }| ((place, item), claims)).unzip();
    let findings = check::check(&app.db, &app.keys, caller, claims).await?;
    let items = check_consents(app, envelope.provider, items).await?;

    let mut tx = app.db.begin().await?;
    if let Some((status, answer)) =
        webhook::replay(&mut tx, envelope.provider.account, &envelope.batch_id, body_hash).await?
    {
        return Ok(respond(status, &answer));
    }
    let ids: Vec<(String, DataId)> = items.iter().map(|item| (item.source_record_id.clone(), item.data_id)).collect();
    let answers = register(&mut tx, &app.storage_key, envelope.provider, items).await?;
    let items = ids
        .into_iter()
        .zip(answers)
        .map(|((id, data_id), answer)| ItemAnswer {
            // answers are kept: what an erased record was called is not brought back by them
            source_record_id: answer.reason.is_none().then_some(id),
            data_id,
            seq: None,
            status: answer.status,
            reason: answer.reason,
        })
        .collect();
    finish(tx, envelope, body_hash, items, &findings).await
}

async fn take_updates(
    app: &App,
    caller: &Caller,
    envelope: &Envelope<'_>,
    body: Bytes,
    body_hash: B256,
) -> Result<Response, Problem> {
    let (format, settings) = (envelope.format, caller.settings.clone());
    let read = off_thread(move || body::items(format, UPDATE_COLUMNS, &body, item::updates(&settings))).await?;
    let (updates, claims): (Vec<_>, Vec<_>) = read.into_iter().map(|Read { item, claims, .. }| (item, claims)).unzip();
    let findings = check::check(&app.db, &app.keys, caller, claims).await?;

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
    finish(tx, envelope, body_hash, items, &findings).await
}

async fn envelope<'a>(
    app: &App,
    caller: &'a Caller,
    headers: &HeaderMap,
    door: Door,
    format: Format,
) -> Result<Envelope<'a>, Problem> {
    let provider = allowed(app, caller, headers, Scope::Records, true).await?;
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
        Some("backlog") => {}
        None if format == Format::Json => {}
        None => return Err(Problem::field(Kind::HeaderInvalid, "X-Ingestion-Source", "`backlog`", "none")),
        Some(other) => {
            return Err(Problem::field(
                Kind::HeaderInvalid,
                "X-Ingestion-Source",
                "`backlog`, or for JSON no such header",
                other,
            ));
        }
    }
    let is_compressed = format.check(headers)?;
    Ok(Envelope { provider, batch_id, door, format, is_compressed })
}

/// The body as it is meant, and its hash: the same content has the same one, however it was compressed.
async fn read(envelope: &Envelope<'_>, body: Bytes) -> Result<(Bytes, B256), Problem> {
    let (door, format, is_compressed) = (envelope.door, envelope.format, envelope.is_compressed);
    off_thread(move || {
        let body = if is_compressed { body::inflate(&body)? } else { body };
        let form = match format {
            Format::Json => String::new(),
            other => format!("-{}\n", other.name()),
        };
        let hash = sha256(&[door.kind().as_bytes(), form.as_bytes(), &body]);
        Ok((body, hash))
    })
    .await
}

/// The kept answer, looked up before the body is parsed.
async fn replayed(app: &App, envelope: &Envelope<'_>, body_hash: B256) -> Result<Option<Response>, Problem> {
    let mut tx = app.db.begin().await?;
    let kept = webhook::replay(&mut tx, envelope.provider.account, &envelope.batch_id, body_hash).await?;
    Ok(kept.map(|(status, answer): (u16, BatchAnswer)| respond(status, &answer)))
}

async fn finish(
    mut tx: Tx<'_>,
    envelope: &Envelope<'_>,
    body_hash: B256,
    items: Vec<ItemAnswer>,
    findings: &[Option<Finding>],
) -> Result<Response, Problem> {
    let found = items.iter().zip(findings).filter(|(item, _)| item.status == Status::Accepted);
    check::keep(&mut tx, envelope.provider.account, found.filter_map(|(_, finding)| finding.as_ref())).await?;
    let count = |status| items.iter().filter(|item| item.status == status).count() as u64;
    let (accepted, duplicates, conflicts) =
        (count(Status::Accepted), count(Status::Duplicate), count(Status::Conflict));
    let answer = BatchAnswer {
        request_id: Uuid::new_v4(),
        provider: envelope.provider.name.clone(),
        batch_id: envelope.batch_id.clone(),
        format: envelope.format.name().into(),
        kind: envelope.door.kind().into(),
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
    let kind = envelope.door.kind();
    metrics::counter!("trace_items_total", "kind" => kind, "status" => "accepted").increment(accepted);
    metrics::counter!("trace_items_total", "kind" => kind, "status" => "conflict").increment(conflicts);
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

/// Away from the async threads: inflating, canonical JSON and hashes of up to 25 MiB.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?
}

async fn check_consents(
    app: &App,
    provider: &Provider,
    items: Vec<(Place, Registration)>,
) -> Result<Vec<Registration>, Problem> {
    futures::stream::iter(items)
        .map(|(place, mut item)| async move {
            if let Some((id, consent)) = &mut item.consent {
                let field = format!("{place}.consent");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_whether_anything_is_new_or_in_conflict() {
        assert_eq!(status_of(1, 0), StatusCode::ACCEPTED);
        assert_eq!(status_of(0, 0), StatusCode::OK);
        assert_eq!(status_of(5, 1), StatusCode::CONFLICT);
    }
}
