//! A trustless gateway: raw blocks by CID, for readers that check each block themselves.

use std::sync::Arc;

use axum::{
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tidemark::store::StoreError;
use utoipa::IntoParams;

use super::segment;
use crate::{
    app::App,
    http,
    problem::{Kind, Problem},
};

const RAW: &str = "application/vnd.ipld.raw";

/// In which form.
#[derive(Deserialize, IntoParams)]
pub struct Format {
    /// `raw`, the only one; or `Accept: application/vnd.ipld.raw`.
    format: Option<String>,
}

/// One block of the content store, as IPFS trustless gateways serve it.
#[utoipa::path(get, path = "/ipfs/{cid}", params(("cid" = String, Path, description = "CIDv1"), Format),
    responses((status = 200, description = "the block", body = Vec<u8>, content_type = "application/vnd.ipld.raw"),
              (status = "default", description = "not-found, not-acceptable, field-invalid", body = tidemark::service::Problem)))]
pub async fn get_block(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    text: Result<Path<String>, PathRejection>,
    format: Result<Query<Format>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(Format { format }) = format.map_err(|error| Problem::new(Kind::FieldInvalid, error.body_text()))?;
    let accepts = http::header_text(&headers, "accept")?.is_some_and(|accept| accept.contains(RAW));
    match format.as_deref() {
        Some("raw") => {}
        None if accepts => {}
        other => {
            let actual = other.unwrap_or("none");
            return Err(Problem::field(Kind::NotAcceptable, "format", format!("format=raw or Accept: {RAW}"), actual));
        }
    }
    let text = segment("cid", text)?;
    let cid: cid::Cid = text.parse().map_err(|_| Problem::field(Kind::FieldInvalid, "cid", "a CID", text.clone()))?;
    let block = app.store.get_block(&cid).await.map_err(|error| match error {
        StoreError::NotFound { .. } => Problem::field(Kind::NotFound, "cid", "a block of this store", cid.to_string()),
        error => Problem::unavailable("the content store", error),
    })?;
    let headers = [
        (header::CONTENT_TYPE, RAW.to_owned()),
        // it never changes, but it may be erased, and caches then forget it within a day
        (header::CACHE_CONTROL, "public, max-age=86400, immutable".into()),
        (header::ETAG, format!("\"{cid}.raw\"")),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
    ];
    Ok((headers, block).into_response())
}
