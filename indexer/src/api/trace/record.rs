//! The Trace API's read side (facts: GET data-ids, GET metadatas), for clients that know Trace.

use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::{
    App,
    answer::{Segments, answer, data_id, snapshot},
};
use crate::{
    problem::Problem,
    read::{self, Answer, EventView, RecordView},
};

/// One event as Trace shows it: a registration or a full new state.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TraceEvent {
    /// DataRegistered or MetadataUpdated.
    pub event_type: &'static str,
    /// 0 for the registration, then the provider's own 1 to 100.
    pub seq: u32,
    /// Which record.
    pub data_id: String,
    /// The provider's own id.
    pub source_record_id: Option<String>,
    /// `sha256:…`.
    pub asset_hash: String,
    /// Root before; none at the registration.
    pub prev_metadata_root: Option<String>,
    /// SHA-256(JCS(metadata_json)).
    pub metadata_root: Option<String>,
    /// Full state; null once erased.
    pub metadata_json: Option<Value>,
    /// RFC 3339, as the provider says.
    pub occurred_at: String,
    /// RFC 3339: the block that anchored it.
    pub ingested_at: String,
    /// The anchoring transaction.
    pub tx_hash: String,
    /// The leaf.
    pub event_hash: String,
    /// `final` or `mined`.
    pub state: String,
}

/// What Trace calls a profile.
#[derive(Debug, Serialize, ToSchema)]
pub struct TraceProfile {
    /// Which record.
    pub data_id: String,
    /// The provider's name.
    pub provider: String,
    /// The provider's own id.
    pub source_record_id: Option<String>,
    /// `sha256:…`.
    pub asset_hash: String,
    /// From the newest metadata.
    pub mime_type: Option<String>,
    /// From the newest metadata.
    pub media_category: Option<String>,
    /// registered, accepted, rejected, withdrawn or erased.
    pub status: String,
    /// RFC 3339.
    pub registered_at: String,
    /// Newest `seq`.
    pub latest_seq: u32,
}

/// Profile and newest event.
#[derive(Debug, Serialize, ToSchema)]
pub struct TraceRecord {
    /// Which record.
    pub data_id: String,
    /// The provider's name.
    pub provider: String,
    /// The profile.
    pub profile: TraceProfile,
    /// The newest registration or update.
    pub latest_event: TraceEvent,
    /// RFC 3339: the block that anchored the newest event.
    pub ingested_at: String,
    /// Its transaction.
    pub tx_hash: String,
}

/// Append-only history from seq 0.
#[derive(Debug, Serialize, ToSchema)]
pub struct TraceHistory {
    /// Which record.
    pub data_id: String,
    /// The provider's name.
    pub provider: String,
    /// The provider's own id.
    pub source_record_id: Option<String>,
    /// Oldest first.
    pub metadatas: Vec<TraceEvent>,
}

fn text_at(payload: Option<&Value>, field: &str) -> Option<String> {
    payload?.get(field)?.as_str().map(str::to_owned)
}

/// The events that Trace knows, oldest first. Where an update is undisclosed its `seq` is counted.
fn trace_events(record: &RecordView) -> Vec<TraceEvent> {
    let mut events = Vec::<TraceEvent>::new();
    for event in &record.events {
        let Some(event_type) = read::trace_event_type(&event.kind) else { continue };
        let counted = events.last().map_or(0, |before| before.seq + 1);
        events.push(trace_event(record, event, event_type, counted));
    }
    events
}

fn trace_event(record: &RecordView, event: &EventView, event_type: &'static str, counted: u32) -> TraceEvent {
    let payload = event.payload.as_ref();
    let seq = payload.and_then(|payload| payload.get("seq")).and_then(Value::as_u64);
    TraceEvent {
        event_type,
        seq: seq.and_then(|seq| u32::try_from(seq).ok()).unwrap_or(counted),
        data_id: record.data_id.clone(),
        source_record_id: record.source_record_id.clone(),
        asset_hash: event.content_hash.clone(),
        prev_metadata_root: text_at(payload, "prev_metadata_root"),
        metadata_root: text_at(payload, "metadata_root"),
        metadata_json: payload.and_then(|payload| payload.get("metadata")).cloned(),
        occurred_at: event.occurred_at.clone(),
        ingested_at: event.block_time.clone(),
        tx_hash: event.tx_hash.clone(),
        event_hash: event.leaf.clone(),
        state: event.state.clone(),
    }
}

async fn read(app: &App, id: &str) -> Result<(read::At, RecordView, Vec<TraceEvent>), Problem> {
    let id = data_id(id)?;
    let (mut snapshot, at) = snapshot(app).await?;
    let unknown = || {
        Problem::unknown("data_id", format!("no anchored event up to block {} speaks of record {id}", at.block_number))
    };
    let record = read::record(&mut snapshot, id).await?.ok_or_else(unknown)?;
    let events = trace_events(&record);
    Ok((at, record, events))
}

/// Profile and newest event of a record, as Trace answers.
#[utoipa::path(get, path = "/api/v1/data-audit/data-ids/{data_id}", tag = "trace",
    params(("data_id" = String, Path, description = "UUID of the record")),
    responses((status = 200, body = Answer<TraceRecord>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn profile(
    State(app): State<App>,
    Segments(id): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (at, record, mut events) = read(&app, &id).await?;
    let registered_at = events.first().map(|event| event.occurred_at.clone()).unwrap_or_default();
    let Some(latest_event) = events.pop() else {
        return Err(Problem::unknown("data_id", format!("record {id} has no registration")));
    };
    let file = |field: &str| record.metadata.as_ref()?.pointer(&format!("/file/{field}"))?.as_str().map(str::to_owned);
    let profile = TraceProfile {
        data_id: record.data_id.clone(),
        provider: record.provider.name.clone(),
        source_record_id: record.source_record_id.clone(),
        asset_hash: record.content_hash.clone(),
        mime_type: file("mime_type"),
        media_category: file("media_category"),
        status: record.status.clone(),
        registered_at,
        latest_seq: latest_event.seq,
    };
    let body = TraceRecord {
        data_id: record.data_id,
        provider: record.provider.name,
        profile,
        ingested_at: latest_event.ingested_at.clone(),
        tx_hash: latest_event.tx_hash.clone(),
        latest_event,
    };
    answer(&headers, at, body)
}

/// The append-only metadata history of a record, as Trace answers.
#[utoipa::path(get, path = "/api/v1/data-audit/data-ids/{data_id}/metadatas", tag = "trace",
    params(("data_id" = String, Path, description = "UUID of the record")),
    responses((status = 200, body = Answer<TraceHistory>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn metadatas(
    State(app): State<App>,
    Segments(id): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (at, record, metadatas) = read(&app, &id).await?;
    let body = TraceHistory {
        data_id: record.data_id,
        provider: record.provider.name,
        source_record_id: record.source_record_id,
        metadatas,
    };
    answer(&headers, at, body)
}
