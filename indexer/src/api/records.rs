//! Records: timeline and proofs.

use axum::{extract::State, http::HeaderMap, response::Response};

use super::{
    App,
    answer::{Segments, answer, data_id, snapshot},
};
use crate::{
    problem::Problem,
    read::{self, Answer, RecordProofs, RecordView},
};

/// A record with everything that happened to it.
///
/// Events that are anchored but not final come last and say `mined`.
#[utoipa::path(get, path = "/v1/records/{data_id}", tag = "records",
    params(("data_id" = String, Path, description = "UUID of the record")),
    responses((status = 200, body = Answer<RecordView>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn record(
    State(app): State<App>,
    Segments(id): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = data_id(&id)?;
    let (mut snapshot, at) = snapshot(&app).await?;
    match read::record(&mut snapshot, id).await? {
        Some(record) => answer(&headers, at, record),
        None => Err(unknown(id, at.block_number)),
    }
}

fn unknown(id: tidemark::ids::DataId, block: u64) -> Problem {
    Problem::unknown("data_id", format!("no anchored event up to block {block} speaks of record {id}"))
}

/// Every final event of a record with its inclusion proof.
///
/// `types`, `value`, `leaf`, `proof` and `batch.root` are what `StandardMerkleTree.verify` of @openzeppelin/merkle-tree takes.
#[utoipa::path(get, path = "/v1/records/{data_id}/proofs", tag = "records",
    params(("data_id" = String, Path, description = "UUID of the record")),
    responses((status = 200, body = Answer<RecordProofs>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn proofs(
    State(app): State<App>,
    Segments(id): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = data_id(&id)?;
    let (mut snapshot, at) = snapshot(&app).await?;
    match read::proofs(&mut snapshot, id).await? {
        Some(proofs) => answer(&headers, at, proofs),
        None => Err(unknown(id, at.block_number)),
    }
}
