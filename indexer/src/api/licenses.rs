//! Licences beyond one by its id: by holder, held against the custodian's conditions, and who got what of the sale.

use alloy::primitives::Address;
use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    answer::{Params, Segments, address, answer, snapshot, token_id},
};
use crate::{
    problem::Problem,
    read::{self, Answer, LicenseCheck, LicenseFilter, LicenseList, SaleRoyalties, page::PageQuery},
};

/// Its endpoints.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(licenses)).routes(routes!(check)).routes(routes!(royalties))
}

/// Query of the list of licences.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LicensesQuery {
    /// Account that holds them.
    pub holder: Option<String>,
    /// Token id of a dataset, in decimal.
    pub ip_id: Option<String>,
    /// `active`: neither revoked nor expired; all where left out.
    pub status: Option<String>,
    /// Rows, 1 to 1000; 100 where left out.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl LicensesQuery {
    fn filter(&self) -> Result<LicenseFilter, Problem> {
        let only_active = match self.status.as_deref() {
            None => false,
            Some("active") => true,
            Some(other) => return Err(Problem::invalid("status", "active, or left out", other)),
        };
        Ok(LicenseFilter {
            holder: self.holder.as_deref().map(|holder| address("holder", holder)).transpose()?,
            ip_id: self.ip_id.as_deref().map(|ip_id| token_id("ip_id", ip_id)).transpose()?,
            only_active,
        })
    }
}

/// Licences, newest first; those of one holder, or of one dataset.
#[utoipa::path(get, path = "/v1/licenses", tag = "licences", params(LicensesQuery),
    responses((status = 200, body = Answer<LicenseList>), (status = 304), (status = 400, body = Problem)))]
pub async fn licenses(
    State(app): State<App>,
    Params(query): Params<LicensesQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let filter = query.filter()?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let licenses = read::licenses(&mut snapshot, &at, &filter, &page).await?;
    answer(&headers, at, licenses)
}

/// Query of a licence's check.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct CheckQuery {
    /// Account that wants to use it; left out, nobody is held against the holder.
    pub holder: Option<String>,
    /// Excluded members of a page, 1 to 1000; 100 where left out.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Whether a licence may be used now, by the conditions that a custodian holds it against, with each reason why not.
///
/// Expiry is held against the newest mirrored block, and mined revocations, transfers and withdrawals count already, as a
/// custodian reads the newest block; `not_final` names them.
#[utoipa::path(get, path = "/v1/licenses/{license_id}/check", tag = "licences",
    params(("license_id" = String, Path, description = "token id in decimal"), CheckQuery),
    responses((status = 200, body = Answer<LicenseCheck>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn check(
    State(app): State<App>,
    Segments(license_id): Segments<String>,
    Params(query): Params<CheckQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let license_id = token_id("license_id", &license_id)?;
    let holder: Option<Address> = query.holder.as_deref().map(|holder| address("holder", holder)).transpose()?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    match read::check(&mut snapshot, &app.chain.deployment, license_id, holder, &page).await? {
        Some(check) => answer(&headers, at, check),
        None => Err(unknown(license_id, &at)),
    }
}

fn unknown(license_id: alloy::primitives::U256, at: &read::At) -> Problem {
    Problem::unknown("license_id", format!("no licence {license_id} is final up to block {}", at.block_number))
}

/// What each member of the sold version got of the sale, in manifest order.
#[utoipa::path(get, path = "/v1/licenses/{license_id}/royalties", tag = "licences",
    params(("license_id" = String, Path, description = "token id in decimal"), PageQuery),
    responses((status = 200, body = Answer<SaleRoyalties>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn royalties(
    State(app): State<App>,
    Segments(license_id): Segments<String>,
    Params(query): Params<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (license_id, page) = (token_id("license_id", &license_id)?, query.page()?);
    let (mut snapshot, at) = snapshot(&app).await?;
    match read::royalties(&mut snapshot, license_id, &page).await? {
        Some(royalties) => answer(&headers, at, royalties),
        None => Err(unknown(license_id, &at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let query = |holder: Option<&str>, ip_id: Option<&str>, status: Option<&str>| {
            let text = |text: Option<&str>| text.map(Into::into);
            LicensesQuery { holder: text(holder), ip_id: text(ip_id), status: text(status), limit: None, cursor: None }
        };
        let wrong = |query: LicensesQuery| query.filter().unwrap_err().field.clone().unwrap();
        assert_eq!(wrong(query(Some("0x12"), None, None)), "holder");
        assert_eq!(wrong(query(None, Some("1x"), None)), "ip_id");
        assert_eq!(wrong(query(None, None, Some("revoked"))), "status");
        let filter = query(Some(&format!("0x{}", "ab".repeat(20))), Some("7"), Some("active")).filter().unwrap();
        assert!(filter.only_active && filter.holder == Some(Address::repeat_byte(0xab)));
    }
}
