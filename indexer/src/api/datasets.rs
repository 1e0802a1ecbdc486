//! Datasets, their members, and licences.

use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;
use tidemark::consent::purpose;

use super::{
    App,
    answer::{Params, Segments, address, answer, data_id, number, snapshot, token_id},
};
use crate::{
    problem::Problem,
    read::{self, Answer, DatasetFilter, DatasetList, DatasetView, LicenseView, MemberProof, page::PageQuery},
};

/// Query of the catalogue.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DatasetsQuery {
    /// Account or name of a provider.
    pub provider: Option<String>,
    /// What every member of the newest version consented to: train, evaluate, fine_tune, redistribute, commercial; several
    /// with commas.
    pub purpose: Option<String>,
    /// `file.media_category` of its members' disclosed metadata, as audio, image or video: the newest version's first 100
    /// members are looked into.
    pub modality: Option<String>,
    /// Token that it is sold in: 20 bytes as hex.
    pub token: Option<String>,
    /// Payment-token units: there is an open offer, for the purposes asked for, that costs no more.
    pub price_max: Option<String>,
    /// `true`: there is an open offer that the chain sells, for the purposes asked for.
    pub for_sale: Option<bool>,
    /// Members of the newest version, at least.
    pub members_min: Option<u64>,
    /// Rows, 1 to 1000; 100 where left out.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

const MODALITY_CHARS_MAX: usize = 64;

impl DatasetsQuery {
    fn purposes(&self) -> Result<u32, Problem> {
        let names = self.purpose.iter().flat_map(|names| names.split(','));
        let bit = |name: &str| purpose::NAMES.iter().find(|(_, known)| *known == name).map(|(bit, _)| *bit);
        names
            .map(|name| bit(name).ok_or_else(|| Problem::invalid("purpose", known_purposes(), name)))
            .try_fold(0, |all, bit| Ok(all | bit?))
    }

    fn price_max(&self) -> Result<Option<u128>, Problem> {
        self.price_max.as_deref().map(|price| number("price_max", price)).transpose()
    }

    fn modality(&self) -> Result<Option<String>, Problem> {
        let fits = |text: &str| text.len() <= MODALITY_CHARS_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
        match &self.modality {
            Some(text) if !fits(text) => {
                let expected = format!("at most {MODALITY_CHARS_MAX} ASCII characters");
                Err(Problem::invalid("modality", expected, text))
            }
            modality => Ok(modality.clone()),
        }
    }
}

fn known_purposes() -> String {
    purpose::NAMES.map(|(_, name)| name).join(", ")
}

/// The catalogue: datasets, newest first, each with its newest version. All filters have to hold.
#[utoipa::path(get, path = "/v1/datasets", tag = "datasets", params(DatasetsQuery),
    responses((status = 200, body = Answer<DatasetList>), (status = 304), (status = 400, body = Problem)))]
pub async fn datasets(
    State(app): State<App>,
    Params(query): Params<DatasetsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut filter = DatasetFilter {
        provider: None,
        purposes: query.purposes()?,
        token: query.token.as_deref().map(|token| address("token", token)).transpose()?,
        members_min: query.members_min,
        for_sale: query.for_sale.unwrap_or_default(),
        price_max: query.price_max()?,
        modality: query.modality()?,
    };
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    if let Some(provider) = &query.provider {
        filter.provider = Some(super::accounts::known(&mut snapshot, provider).await?);
    }
    let datasets = read::datasets(&mut snapshot, &filter, &page).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_the_catalogue_are_read_or_named() {
        let query = DatasetsQuery { purpose: Some("train,commercial".into()), ..Default::default() };
        assert_eq!(query.purposes().unwrap(), purpose::TRAIN | purpose::COMMERCIAL);
        assert_eq!(DatasetsQuery::default().purposes().unwrap(), 0);
        for wrong in ["", "train,", "Train", "train;commercial"] {
            let query = DatasetsQuery { purpose: Some(wrong.into()), ..Default::default() };
            assert_eq!(query.purposes().unwrap_err().field.as_deref(), Some("purpose"), "{wrong}");
        }
        let query = DatasetsQuery { price_max: Some("1e9".into()), modality: Some("a b".into()), ..Default::default() };
        assert_eq!(query.price_max().unwrap_err().field.as_deref(), Some("price_max"));
        assert_eq!(query.modality().unwrap_err().field.as_deref(), Some("modality"));
    }
}
