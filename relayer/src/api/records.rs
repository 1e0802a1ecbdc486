//! What became of records and batches, for the provider that sent them.

use std::{collections::BTreeMap, sync::Arc};

use alloy::primitives::B256;
use axum::{
    Extension, Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use tidemark::{batch::Header, event::EventKind, ids::DataId};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{gate::allowed, segment};
use crate::{
    anchor::follow::{Carrier, carriers},
    app::App,
    batch,
    intake::{
        check::{self, CheckView},
        contents,
        erase::{self, Erasure},
        key::Scope,
        provider::Caller,
        record,
    },
    problem::{Kind, Problem},
};

const PAGE: i64 = 100;
const PAGE_MAX: i64 = 1000;

/// A record.
#[derive(Serialize, ToSchema)]
pub struct RecordView {
    #[schema(value_type = String, format = Uuid)]
    data_id: DataId,
    source_record_id: String,
    /// `upload` or `trace`.
    door: String,
    contributor_ref: String,
    /// Per-record pseudonym.
    #[schema(value_type = String)]
    contributor: B256,
    content_hash: String,
    /// The gate's word; none of a record that came by the Trace door.
    outcome: Option<String>,
    detail: Option<String>,
    /// Payment-token units, decimal digits.
    reward: String,
    /// Of the newest metadata.
    #[schema(value_type = String)]
    metadata_root: B256,
    /// Trace sequence of the newest metadata.
    trace_seq: i32,
    events: Vec<EventView>,
    /// Updates that wait or were refused.
    updates: Vec<UpdateView>,
    /// What was found of its metadata's attestations and policies.
    checks: Vec<CheckView>,
    /// Where an erasure was asked for: what was private of the record is on its way out, or gone.
    erasure: Option<Erasure>,
}

/// An event and how far it is.
#[derive(Serialize, ToSchema)]
pub struct EventView {
    sequence: i32,
    /// registered, accepted, rejected, metadata_updated, consent_withdrawn, erased.
    kind: String,
    /// pending, sealed, signed, submitted, mined, final.
    state: String,
    /// Unix seconds.
    occurred_at: i64,
    #[schema(value_type = Option<String>)]
    leaf: Option<B256>,
    batch_number: Option<i64>,
    index: Option<i32>,
    /// From the leaf to the batch's root, as MerkleProof.sol takes it; as soon as the event is sealed.
    #[schema(value_type = Option<Vec<String>>)]
    proof: Option<Vec<B256>>,
    #[schema(value_type = Option<String>)]
    transaction: Option<B256>,
    block_number: Option<i64>,
}

/// An update that is not an event.
#[derive(Serialize, ToSchema)]
pub struct UpdateView {
    seq: i32,
    /// waiting or refused.
    state: String,
    reason: Option<String>,
}

fn data_id(text: &str) -> Result<DataId, Problem> {
    text.parse().map_err(|_| Problem::field(Kind::FieldInvalid, "data_id", "a UUID", text))
}

/// A record of the caller: its events with batch and transaction, and updates that wait.
#[utoipa::path(get, path = "/v1/records/{data_id}",
    params(("data_id" = String, Path, description = "UUID"),
           ("X-API-Key" = String, Header, description = "issued to the provider, with the scope `read`")),
    responses((status = 200, description = "found", body = RecordView),
              (status = "default", description = "record-unknown", body = tidemark::service::Problem)))]
pub async fn get_record(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Caller>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<RecordView>, Problem> {
    let provider = allowed(&app, &caller, &headers, Scope::Read, false).await?;
    let id = data_id(&segment("data_id", id)?)?;
    let Some((seen, kept)) = record::see(&app.db, provider.account, id).await? else {
        return Err(Problem::field(Kind::RecordUnknown, "data_id", "a record of this provider", id.to_string()));
    };
    let numbers: Vec<i64> = seen.events.iter().filter_map(|event| event.batch_number).collect();
    let carriers = carriers_by_number(&app, provider.account, &numbers).await?;
    let states = batch::states(&app.db, provider.account, &numbers).await?;
    let checks = check::of_record(&app.db, provider.account, id).await?;
    let mut events = Vec::with_capacity(seen.events.len());
    for event in seen.events {
        let carrier = event.batch_number.and_then(|number| carriers.get(&number));
        let state = event.batch_number.and_then(|number| states.get(&number));
        let proof = match event.batch_number.zip(event.batch_index) {
            Some((number, index)) => {
                let tree = app.trees.of_batch(&app.db, provider.account, number).await?;
                usize::try_from(index).ok().and_then(|index| tree.proof(index))
            }
            None => None,
        };
        events.push(EventView {
            sequence: event.sequence,
            kind: kind_name(event.kind).into(),
            state: state.map_or("pending", String::as_str).to_owned(),
            occurred_at: event.occurred_at,
            leaf: event.leaf,
            batch_number: event.batch_number,
            index: event.batch_index,
            proof,
            transaction: carrier.map(|carrier| carrier.hash),
            block_number: carrier.and_then(|carrier| carrier.block_number),
        });
    }
    Ok(Json(RecordView {
        data_id: id,
        source_record_id: seen.source_record_id,
        door: seen.door,
        contributor_ref: seen.contributor_reference,
        contributor: kept.contributor,
        content_hash: kept.content_hash.prefixed(),
        outcome: kept.outcome,
        detail: kept.detail,
        reward: kept.reward.to_string(),
        metadata_root: seen.metadata_root,
        trace_seq: seen.trace_seq,
        events,
        updates: seen
            .updates
            .into_iter()
            .map(|update| UpdateView { seq: update.seq, state: update.state, reason: update.reason })
            .collect(),
        checks,
        erasure: erase::state(&app.db, Some(provider.account), id).await?,
    }))
}

/// Erase what is private of a record: its metadata and salts, its file and key, updates, and its contributor's secret where
/// that has no other record. What was anchored stays, and so do the proofs. Asking again tells how far it is.
#[utoipa::path(post, path = "/v1/records/{data_id}/erasure",
    params(("data_id" = String, Path, description = "UUID"), ("X-API-Key" = String, Header, description = "issued to the provider")),
    responses((status = 202, description = "under way: nothing more can happen to the record", body = Erasure),
              (status = 200, description = "done", body = Erasure),
              (status = "default", description = "record-unknown", body = tidemark::service::Problem)))]
pub async fn post_erasure(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Caller>>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<(StatusCode, Json<Erasure>), Problem> {
    let provider = allowed(&app, &caller, &headers, Scope::Withdrawals, false).await?;
    let id = data_id(&segment("data_id", id)?)?;
    let Some(erasure) = erase::ask(&app.db, Some(provider.account), id).await? else {
        return Err(Problem::field(Kind::RecordUnknown, "data_id", "a record of this provider", id.to_string()));
    };
    let status = if erasure.erased_at.is_some() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(erasure)))
}

fn kind_name(kind: i16) -> &'static str {
    u8::try_from(kind).ok().and_then(EventKind::from_u8).map_or("unknown", EventKind::name)
}

async fn carriers_by_number(
    app: &App,
    provider: alloy::primitives::Address,
    numbers: &[i64],
) -> Result<BTreeMap<i64, Carrier>, Problem> {
    let found = carriers(&app.db, provider, numbers).await?;
    Ok(found.into_iter().map(|carrier| (carrier.number, carrier)).collect())
}

/// A page.
#[derive(Deserialize, IntoParams)]
pub struct Page {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 1000; 100 where absent.
    limit: Option<i64>,
}

/// The length of a page.
pub(super) fn page_limit(limit: Option<i64>) -> Result<i64, Problem> {
    let limit = limit.unwrap_or(PAGE);
    if (1..=PAGE_MAX).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::field(Kind::FieldInvalid, "limit", format!("1 to {PAGE_MAX}"), limit.to_string()))
}

/// Where a page begins whose rows are numbered.
pub(super) fn cursor_number<T: std::str::FromStr + Default + PartialOrd>(cursor: Option<&str>) -> Result<T, Problem> {
    let Some(cursor) = cursor else { return Ok(T::default()) };
    let number = cursor.parse().ok().filter(|from: &T| *from >= T::default());
    number.ok_or_else(|| Problem::field(Kind::FieldInvalid, "cursor", "a next_cursor", cursor))
}

/// The query of a request.
pub(super) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(query)| query).map_err(|error| Problem::new(Kind::FieldInvalid, error.body_text()))
}

/// Records of one contributor.
#[derive(Serialize, ToSchema)]
pub struct ContributorRecords {
    records: Vec<ContributorRecord>,
    /// Where the next page begins; none on the last.
    next_cursor: Option<String>,
}

/// One of them, with the pseudonym that is its points account.
#[derive(Serialize, ToSchema)]
pub struct ContributorRecord {
    #[schema(value_type = String, format = Uuid)]
    data_id: DataId,
    #[schema(value_type = String)]
    contributor: B256,
}

/// Which records, and so which points accounts, are of one contributor of the caller.
#[utoipa::path(get, path = "/v1/contributors/{contributor_ref}/records",
    params(("contributor_ref" = String, Path, description = "the provider's own reference"), Page,
           ("X-API-Key" = String, Header, description = "issued to the provider, with the scope `read`")),
    responses((status = 200, description = "ascending by data_id", body = ContributorRecords),
              (status = "default", description = "refused", body = tidemark::service::Problem)))]
pub async fn get_contributor_records(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Caller>>,
    headers: HeaderMap,
    reference: Result<Path<String>, PathRejection>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<ContributorRecords>, Problem> {
    let provider = allowed(&app, &caller, &headers, Scope::Read, false).await?;
    let reference = segment("contributor_ref", reference)?;
    let page = query(page)?;
    let limit = page_limit(page.limit)?;
    let after: Option<Uuid> = page
        .cursor
        .as_deref()
        .map(|cursor| cursor.parse().map_err(|_| Problem::field(Kind::FieldInvalid, "cursor", "a next_cursor", cursor)))
        .transpose()?;
    // no stored reference holds a control character, and Postgres takes no NUL
    let found = match reference.chars().any(char::is_control) {
        true => Vec::new(),
        false => record::of_contributor(&app.db, provider.account, &reference, after, limit).await?,
    };
    let is_full = i64::try_from(found.len()).is_ok_and(|count| count == limit);
    let next_cursor = found.last().filter(|_| is_full).map(|(id, _)| id.to_string());
    let records = found.into_iter().map(|(data_id, contributor)| ContributorRecord { data_id, contributor }).collect();
    Ok(Json(ContributorRecords { records, next_cursor }))
}

/// Which batches.
#[derive(Deserialize, IntoParams)]
pub struct BatchQuery {
    /// sealed, signed, submitted, mined or final.
    state: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 1000; 100 where absent.
    limit: Option<i64>,
}

/// Batches of the caller.
#[derive(Serialize, ToSchema)]
pub struct Batches {
    batches: Vec<BatchView>,
    /// Where the next page begins; none on the last.
    next_cursor: Option<String>,
}

/// A batch and how far it is.
#[derive(Serialize, ToSchema)]
pub struct BatchView {
    number: i64,
    /// sealed, signed, submitted, mined, final.
    state: String,
    event_count: i32,
    /// Unix seconds.
    sealed_at: i64,
    /// What was signed, once it is.
    #[schema(value_type = Option<Object>)]
    header: Option<Header>,
    #[schema(value_type = Option<String>)]
    transaction: Option<B256>,
    block_number: Option<i64>,
    gas_used: Option<i64>,
    /// Why the last step failed; it is tried again.
    error: Option<String>,
}

/// Batches of the caller, ascending by number.
#[utoipa::path(get, path = "/v1/batches",
    params(BatchQuery, ("X-API-Key" = String, Header, description = "issued to the provider, with the scope `read`")),
    responses((status = 200, description = "ascending by number", body = Batches),
              (status = "default", description = "refused", body = tidemark::service::Problem)))]
pub async fn get_batches(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Caller>>,
    headers: HeaderMap,
    page: Result<Query<BatchQuery>, QueryRejection>,
) -> Result<Json<Batches>, Problem> {
    let provider = allowed(&app, &caller, &headers, Scope::Read, false).await?;
    let BatchQuery { state, cursor, limit } = query(page)?;
    let limit = page_limit(limit)?;
    let states = ["sealed", "signed", "submitted", "mined", "final"];
    if let Some(state) = state.as_deref().filter(|state| !states.contains(state)) {
        return Err(Problem::field(Kind::FieldInvalid, "state", states.join(", "), state));
    }
    let from = cursor_number(cursor.as_deref())?;
    let found = batch::list(&app.db, provider.account, state.as_deref(), from, limit).await?;
    let numbers: Vec<i64> = found.iter().map(|batch| batch.number).collect();
    let carriers = carriers_by_number(&app, provider.account, &numbers).await?;
    let is_full = i64::try_from(found.len()).is_ok_and(|count| count == limit);
    let next_cursor = found.last().filter(|_| is_full).map(|batch| batch.number.saturating_add(1).to_string());
    let batches = found
        .into_iter()
        .map(|batch| {
            let carrier = carriers.get(&batch.number);
            BatchView {
                number: batch.number,
                state: batch.state,
                event_count: batch.event_count,
                sealed_at: batch.sealed_at,
                header: batch.header,
                transaction: carrier.map(|carrier| carrier.hash),
                block_number: carrier.and_then(|carrier| carrier.block_number),
                gas_used: carrier.and_then(|carrier| carrier.gas_used),
                error: batch.error,
            }
        })
        .collect();
    Ok(Json(Batches { batches, next_cursor }))
}

/// What is in a batch.
#[derive(Serialize, ToSchema)]
pub struct BatchRecords {
    records: Vec<BatchRecord>,
    /// Where the next page begins; none on the last.
    next_cursor: Option<String>,
}

/// One event of a batch, and the record that it is of.
#[derive(Serialize, ToSchema)]
pub struct BatchRecord {
    /// Position in the batch.
    index: i32,
    #[schema(value_type = String, format = Uuid)]
    data_id: DataId,
    /// Position in the record's chain.
    sequence: i32,
    /// registered, accepted, rejected, metadata_updated, consent_withdrawn, erased.
    kind: &'static str,
}

/// The events of a batch of the caller, with their records, ascending by index.
#[utoipa::path(get, path = "/v1/batches/{number}/records",
    params(("number" = u64, Path, description = "the batch's number"), Page,
           ("X-API-Key" = String, Header, description = "issued to the provider")),
    responses((status = 200, description = "ascending by index", body = BatchRecords),
              (status = "default", description = "not-found", body = tidemark::service::Problem)))]
pub async fn get_batch_records(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Caller>>,
    headers: HeaderMap,
    number: Result<Path<String>, PathRejection>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<BatchRecords>, Problem> {
    let provider = allowed(&app, &caller, &headers, Scope::Read, false).await?;
    let text = segment("number", number)?;
    let number: i64 = text
        .parse()
        .ok()
        .filter(|number| *number >= 0)
        .ok_or_else(|| Problem::field(Kind::FieldInvalid, "number", "a batch number", text.clone()))?;
    let Page { cursor, limit } = query(page)?;
    let limit = page_limit(limit)?;
    let found = contents::list(&app.db, provider.account, number, cursor_number(cursor.as_deref())?, limit).await?;
    if found.is_empty() && batch::states(&app.db, provider.account, &[number]).await?.is_empty() {
        return Err(Problem::field(Kind::NotFound, "number", "a sealed batch of this provider", text));
    }
    let is_full = i64::try_from(found.len()).is_ok_and(|count| count == limit);
    let next_cursor = found.last().filter(|_| is_full).map(|entry| entry.index.saturating_add(1).to_string());
    let records = found
        .into_iter()
        .map(|entry| BatchRecord {
            index: entry.index,
            data_id: entry.data_id,
            sequence: entry.sequence,
            kind: kind_name(entry.kind),
        })
        .collect();
    Ok(Json(BatchRecords { records, next_cursor }))
}
