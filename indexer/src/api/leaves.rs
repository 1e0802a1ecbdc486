//! What was anchored: rows of valid, final batches and their proofs. Caches may keep them for ever.

use axum::{extract::State, http::HeaderMap, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    answer::{Params, Segments, fixed, number, snapshot},
    chain::find,
};
use crate::{
    problem::Problem,
    read::{self, BatchLeaves, Fixed, LeafProof, page::PageQuery},
};

/// Its endpoints.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(leaves)).routes(routes!(leaf))
}

/// Rows of a valid batch's manifest in index order.
///
/// Never changes, whatever is erased later: strong ETag, `Cache-Control: immutable`. `at` is the block that anchored the batch.
#[utoipa::path(get, path = "/v1/batches/{provider}/{number}/leaves", tag = "batches",
    params(("provider" = String, Path, description = "account or name"), ("number" = u64, Path), PageQuery),
    responses((status = 200, body = Fixed<BatchLeaves>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn leaves(
    State(app): State<App>,
    Segments((provider, batch_number)): Segments<(String, String)>,
    Params(query): Params<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (page, batch_number) = (query.page()?, number("number", &batch_number)?);
    let (mut snapshot, at) = snapshot(&app).await?;
    let address = find(&mut snapshot, &at, &provider).await?;
    match read::leaves(&mut snapshot, address, batch_number, &page).await? {
        Some((at, leaves)) => fixed(&headers, at, leaves),
        None => Err(not_valid(&at, batch_number)),
    }
}

fn not_valid(at: &read::At, batch_number: u64) -> Problem {
    let detail = format!("batch {batch_number} is not final and valid up to block {}", at.block_number);
    Problem::unknown("number", detail)
}

/// One row of a valid batch's manifest with its inclusion proof.
///
/// Never changes, whatever is erased later: strong ETag, `Cache-Control: immutable`. `types`, `value`, `leaf`, `proof` and
/// `batch.root` are what `StandardMerkleTree.verify` of @openzeppelin/merkle-tree takes.
#[utoipa::path(get, path = "/v1/batches/{provider}/{number}/leaves/{index}", tag = "batches",
    params(("provider" = String, Path, description = "account or name"), ("number" = u64, Path), ("index" = u32, Path)),
    responses((status = 200, body = Fixed<LeafProof>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn leaf(
    State(app): State<App>,
    Segments((provider, batch_number, index)): Segments<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (batch_number, index) = (number("number", &batch_number)?, number("index", &index)?);
    let (mut snapshot, at) = snapshot(&app).await?;
    let address = find(&mut snapshot, &at, &provider).await?;
    match read::leaf(&mut snapshot, address, batch_number, index).await? {
        Some((at, leaf)) => fixed(&headers, at, leaf),
        None => Err(not_valid(&at, batch_number).at("index")),
    }
}
