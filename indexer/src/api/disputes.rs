//! Disputes: challenges of verdicts and how they ended.

use axum::{extract::State, http::HeaderMap, response::Response};
use serde::Deserialize;

use super::{
    App,
    answer::{Params, Segments, answer, snapshot, token_id},
};
use crate::{
    problem::Problem,
    read::{self, Answer, DisputeFilter, DisputeList, DisputeState, DisputeView, page::PageQuery},
};

/// Query of the list of disputes.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DisputesQuery {
    /// Account or name of a provider: disputes over its attestor's verdicts.
    pub provider: Option<String>,
    /// Number of one of its batches; only with `provider`.
    pub batch: Option<u64>,
    /// open, upheld, rejected or lapsed.
    pub state: Option<String>,
    /// Rows, 1 to 1000; 100 where left out.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl DisputesQuery {
    fn state(&self) -> Result<Option<DisputeState>, Problem> {
        let state = self.state.as_deref().map(|name| {
            DisputeState::parse(name).ok_or_else(|| Problem::invalid("state", "open, upheld, rejected or lapsed", name))
        });
        state.transpose()
    }

    /// A number means nothing without whose batch it is.
    fn check(&self) -> Result<(), Problem> {
        match (&self.provider, self.batch) {
            (None, Some(batch)) => {
                let expected = "account or name of a provider, as batches are counted per provider";
                Err(Problem::invalid("provider", expected, format!("none, with batch {batch}")))
            }
            _ => Ok(()),
        }
    }
}

/// Final disputes, newest first.
#[utoipa::path(get, path = "/v1/disputes", tag = "disputes", params(DisputesQuery),
    responses((status = 200, body = Answer<DisputeList>), (status = 304), (status = 400, body = Problem)))]
pub async fn disputes(
    State(app): State<App>,
    Params(query): Params<DisputesQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    query.check()?;
    let state = query.state()?;
    let page = PageQuery { limit: query.limit, cursor: query.cursor }.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let provider = match &query.provider {
        None => None,
        Some(provider) => Some(super::accounts::known(&mut snapshot, provider).await?),
    };
    let filter = DisputeFilter { provider, batch: query.batch, state };
    let disputes = read::disputes(&mut snapshot, &filter, &page).await?;
    answer(&headers, at, disputes)
}

/// One dispute.
#[utoipa::path(get, path = "/v1/disputes/{id}", tag = "disputes",
    params(("id" = String, Path, description = "in decimal")),
    responses((status = 200, body = Answer<DisputeView>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn dispute(
    State(app): State<App>,
    Segments(id): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = token_id("id", &id)?;
    let (mut snapshot, at) = snapshot(&app).await?;
    match read::dispute(&mut snapshot, id).await? {
        Some(dispute) => answer(&headers, at, dispute),
        None => Err(Problem::unknown("id", format!("no dispute {id} is final up to block {}", at.block_number))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(provider: Option<&str>, batch: Option<u64>, state: Option<&str>) -> DisputesQuery {
        let text = |text: Option<&str>| text.map(Into::into);
        DisputesQuery { provider: text(provider), batch, state: text(state), limit: None, cursor: None }
    }

    #[test]
    fn a_batch_is_one_of_a_provider_and_a_state_is_one_of_four() {
        assert_eq!(query(None, Some(1), None).check().unwrap_err().field.as_deref(), Some("provider"));
        assert!(query(Some("numo"), Some(1), None).check().is_ok() && query(None, None, None).check().is_ok());
        assert_eq!(query(None, None, Some("closed")).state().unwrap_err().field.as_deref(), Some("state"));
        assert_eq!(query(None, None, Some("lapsed")).state().unwrap(), Some(DisputeState::Lapsed));
        assert_eq!(query(None, None, None).state().unwrap(), None);
    }
}
