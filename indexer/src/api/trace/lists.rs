//! Search, counts, feed, recent registrations, and what has a content hash.

use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;
use tidemark::ids::ContentHash;

use super::{FEED_LIMIT, SEARCH_LIMIT, page, provider};
use crate::{
    api::{
        App,
        answer::{Params, Segments, answer, snapshot},
    },
    problem::Problem,
    read::{
        Answer,
        trace::{self, Listed, Stats, TracePage, TraceReceipts},
    },
    trace::{Field, Wanted},
};

/// `?field=&value=&provider=&limit=&cursor=`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SearchQuery {
    /// Path of a searchable field of trace-v1.0, one of its aliases, or its last word.
    #[param(required = true, example = "contributor.kyc_country")]
    field: Option<String>,
    /// What the field has to be, exactly. Letters count in ids alone; a content hash may have any form.
    #[param(required = true, example = "KR")]
    value: Option<String>,
    /// A provider's name or account; all where left out.
    provider: Option<String>,
    /// Rows, from 1; 100 where left out, and never more than 1000.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// `?provider=&limit=&cursor=`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// A provider's name or account; all where left out.
    provider: Option<String>,
    /// Rows, from 1, and never more than 1000; where left out 50, and 100 of assets.
    #[param(value_type = Option<u32>)]
    limit: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// `?provider=`.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatsQuery {
    /// A provider's name or account; all where left out.
    provider: Option<String>,
}

async fn list(
    app: &App,
    headers: &HeaderMap,
    listed: Listed,
    asked: Option<&str>,
    page: TracePage,
    echo: impl FnOnce(&mut TraceReceipts),
) -> Result<Response, Problem> {
    let (mut snapshot, at) = snapshot(app).await?;
    let provider = provider(&mut snapshot, asked, at.block_number).await?;
    let address = provider.as_ref().map(|(address, _)| *address);
    let (items, next_cursor) = trace::receipts(&mut snapshot, &listed, address, page).await?;
    let mut body = TraceReceipts {
        field: None,
        value: None,
        asset_hash: None,
        provider: provider.map(|(_, name)| name),
        count: items.len(),
        items,
        next_cursor,
    };
    echo(&mut body);
    answer(headers, at, body)
}

/// Registrations by one exact field of their newest metadata, newest first.
///
/// Only what is disclosed is seen, and what is erased is not.
#[utoipa::path(get, path = "/api/v1/data-audit/search", tag = "trace", params(SearchQuery),
    responses((status = 200, body = Answer<TraceReceipts>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn search(
    State(app): State<App>,
    Params(query): Params<SearchQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let named = query.field.as_deref().unwrap_or_default();
    let unknown = || Problem::invalid("field", format!("one of {}", Field::paths()), named);
    let field = Field::named(named).ok_or_else(unknown)?;
    let value = query.value.as_deref().unwrap_or_default();
    let wanted = field.wanted(value).map_err(|expected| Problem::invalid("value", expected, value))?;
    let page = page(query.limit.as_deref(), SEARCH_LIMIT, query.cursor.as_deref())?;
    let compared = match &wanted {
        Wanted::SourceRecordId(text) | Wanted::Text(_, text) => text.clone(),
        Wanted::ContentHash(hash) => ContentHash(*hash).prefixed(),
    };
    let echo = |body: &mut TraceReceipts| {
        body.field = Some(field.path());
        body.value = Some(compared);
    };
    list(&app, &headers, Listed::Search(wanted), query.provider.as_deref(), page, echo).await
}

/// Counts and distributions over the newest state of all records, or of one provider's.
#[utoipa::path(get, path = "/api/v1/data-audit/stats", tag = "trace", params(StatsQuery),
    responses((status = 200, body = Answer<Stats>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn stats(
    State(app): State<App>,
    Params(query): Params<StatsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (mut snapshot, at) = snapshot(&app).await?;
    let provider = provider(&mut snapshot, query.provider.as_deref(), at.block_number).await?;
    let stats = trace::stats(&mut snapshot, provider).await?;
    answer(&headers, at, stats)
}

/// Registrations and updates, newest first.
#[utoipa::path(get, path = "/api/v1/data-audit/feed", tag = "trace", params(ListQuery),
    responses((status = 200, body = Answer<TraceReceipts>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn feed(
    State(app): State<App>,
    Params(query): Params<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let page = page(query.limit.as_deref(), FEED_LIMIT, query.cursor.as_deref())?;
    list(&app, &headers, Listed::Feed, query.provider.as_deref(), page, |_| ()).await
}

/// Registrations, newest first.
#[utoipa::path(get, path = "/api/v1/data-audit/recent", tag = "trace", params(ListQuery),
    responses((status = 200, body = Answer<TraceReceipts>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn recent(
    State(app): State<App>,
    Params(query): Params<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let page = page(query.limit.as_deref(), FEED_LIMIT, query.cursor.as_deref())?;
    list(&app, &headers, Listed::Recent, query.provider.as_deref(), page, |_| ()).await
}

/// Every registration of a content hash, newest first.
#[utoipa::path(get, path = "/api/v1/data-audit/assets/{hash}", tag = "trace",
    params(("hash" = String, Path, description = "SHA-256 of the bytes: `sha256:<hex>`, bare hex, `0x<hex>` or `0x1220<hex>`"),
        ListQuery),
    responses((status = 200, body = Answer<TraceReceipts>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn assets(
    State(app): State<App>,
    Segments(hash): Segments<String>,
    Params(query): Params<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = Field::ContentHash.wanted(&hash).map_err(|expected| Problem::invalid("hash", expected, &hash))?;
    let page = page(query.limit.as_deref(), SEARCH_LIMIT, query.cursor.as_deref())?;
    let prefixed = ContentHash::parse(&hash).map(|hash| hash.prefixed()).ok();
    let echo = |body: &mut TraceReceipts| body.asset_hash = prefixed;
    list(&app, &headers, Listed::Search(wanted), query.provider.as_deref(), page, echo).await
}
