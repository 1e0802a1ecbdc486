//! Near-duplicates by perceptual hash.

use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    App,
    answer::{Params, answer, data_id, snapshot},
};
use crate::{
    manifest::perceptual::{self, Kind},
    problem::Problem,
    read::{self, Answer, SimilarList, Wanted, page::PageQuery},
};

const DISTANCE_DEFAULT: u32 = 8;

/// Its endpoints.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(similar))
}

/// Query of the search.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct SimilarQuery {
    /// 16 hex digits; or give `data_id`.
    pub hash: Option<String>,
    /// UUID of a record whose hash is taken, itself included in what is found; or give `hash`.
    pub data_id: Option<String>,
    /// phash64, dhash64, ahash64 or keyframe_phashes; phash64 where left out.
    pub kind: Option<String>,
    /// Bits that may differ, 0 to 11; 8 where left out.
    pub distance: Option<u32>,
    /// Account or name of a provider: its records only.
    pub provider: Option<String>,
    /// Rows, 1 to 1000; 100 where left out.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl SimilarQuery {
    fn kind(&self) -> Result<Kind, Problem> {
        let name = self.kind.as_deref().unwrap_or(Kind::Phash.name());
        Kind::parse(name).ok_or_else(|| Problem::invalid("kind", Kind::ALL.map(Kind::name).join(", "), name))
    }

    fn distance(&self) -> Result<u32, Problem> {
        let distance = self.distance.unwrap_or(DISTANCE_DEFAULT);
        let max = read::DISTANCE_MAX;
        match distance <= max {
            true => Ok(distance),
            false => Err(Problem::invalid("distance", format!("0 to {max}"), distance.to_string())),
        }
    }
}

/// Records whose disclosed metadata names a hash within so many bits, nearest first.
///
/// Searched are `file.hashes.phash64`, `dhash64`, `ahash64` and the first 64 of `keyframe_phashes`. An erased record is not found.
#[utoipa::path(get, path = "/v1/similar", tag = "records", params(SimilarQuery),
    responses((status = 200, body = Answer<SimilarList>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn similar(
    State(app): State<App>,
    Params(query): Params<SimilarQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (kind, distance_max) = (query.kind()?, query.distance()?);
    let id = query.data_id.as_deref().map(data_id).transpose()?;
    let given = match (&query.hash, id) {
        (Some(text), None) => {
            Some(perceptual::parse(text).ok_or_else(|| Problem::invalid("hash", "16 hex digits", text))?)
        }
        (None, Some(_)) => None,
        (None, None) => return Err(Problem::invalid("hash", "16 hex digits, or a data_id", "neither")),
        (Some(_), Some(_)) => return Err(Problem::invalid("hash", "16 hex digits or a data_id", "both")),
    };
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let provider = match &query.provider {
        None => None,
        Some(provider) => Some(super::accounts::known(&mut snapshot, provider).await?),
    };
    let hash = match (given, id) {
        (Some(hash), _) => hash,
        (None, Some(id)) => read::hash_of(&mut snapshot, id, kind).await?.ok_or_else(|| {
            let detail = format!("the disclosed metadata of record {id} names no {}", kind.name());
            Problem::unknown("data_id", detail)
        })?,
        (None, None) => return Err(Problem::invalid("hash", "16 hex digits, or a data_id", "neither")),
    };
    let found = read::similar(&mut snapshot, Wanted { kind, hash, distance_max }, provider, &page).await?;
    answer(&headers, at, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_and_distance_are_bounded() {
        assert_eq!(SimilarQuery::default().distance().unwrap(), 8);
        let far = SimilarQuery { distance: Some(12), kind: Some("md5".into()), ..Default::default() };
        assert_eq!(far.distance().unwrap_err().field.as_deref(), Some("distance"));
        assert_eq!(far.kind().unwrap_err().field.as_deref(), Some("kind"));
    }
}
