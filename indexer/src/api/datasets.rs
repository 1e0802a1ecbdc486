//! Datasets, their members, and licences.

use axum::{extract::State, http::HeaderMap, response::Response};

use super::{
    App,
    answer::{Params, Segments, answer, data_id, number, snapshot, token_id},
};
use crate::{
    problem::Problem,
    read::{self, Answer, DatasetList, DatasetView, LicenseView, MemberProof, page::PageQuery},
};

/// Datasets, newest first, each with its newest version.
#[utoipa::path(get, path = "/v1/datasets", tag = "datasets", params(PageQuery),
    responses((status = 200, body = Answer<DatasetList>), (status = 304), (status = 400, body = Problem)))]
pub async fn datasets(
    State(app): State<App>,
    Params(query): Params<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let page = query.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let datasets = read::datasets(&mut snapshot, &page).await?;
    answer(&headers, at, datasets)
}

/// One dataset with all versions and offers.
#[utoipa::path(get, path = "/v1/datasets/{ip_id}", tag = "datasets",
    params(("ip_id" = String, Path, description = "token id in decimal")),
    responses((status = 200, body = Answer<DatasetView>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn dataset(
    State(app): State<App>,
    Segments(ip_id): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let ip_id = token_id("ip_id", &ip_id)?;
    let (mut snapshot, at) = snapshot(&app).await?;
    match read::dataset(&mut snapshot, ip_id).await? {
        Some(dataset) => answer(&headers, at, dataset),
        None => Err(Problem::unknown("ip_id", format!("no dataset {ip_id} up to block {}", at.block_number))),
    }
}

/// A member of a dataset version with its proof, as custodians and `claimRoyalty` take it.
#[utoipa::path(get, path = "/v1/datasets/{ip_id}/versions/{version}/members/{data_id}", tag = "datasets",
    params(("ip_id" = String, Path, description = "token id in decimal"), ("version" = u32, Path),
        ("data_id" = String, Path, description = "UUID of the record")),
    responses((status = 200, body = Answer<MemberProof>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn member(
    State(app): State<App>,
    Segments((ip_id, version, id)): Segments<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (ip_id, version, id) = (token_id("ip_id", &ip_id)?, number("version", &version)?, data_id(&id)?);
    let (mut snapshot, at) = snapshot(&app).await?;
    match read::member_proof(&mut snapshot, ip_id, version, id).await? {
        Some(member) => answer(&headers, at, member),
        None => Err(Problem::unknown("data_id", format!("{id} is no member of version {version} of dataset {ip_id}"))),
    }
}

/// One licence, with its status at the block of the answer.
#[utoipa::path(get, path = "/v1/licenses/{license_id}", tag = "licences",
    params(("license_id" = String, Path, description = "token id in decimal")),
    responses((status = 200, body = Answer<LicenseView>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn license(
    State(app): State<App>,
    Segments(license_id): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let license_id = token_id("license_id", &license_id)?;
    let (mut snapshot, at) = snapshot(&app).await?;
    match read::license(&mut snapshot, &at, license_id).await? {
        Some(license) => answer(&headers, at, license),
        None => Err(Problem::unknown("license_id", format!("no licence {license_id} up to block {}", at.block_number))),
    }
}
