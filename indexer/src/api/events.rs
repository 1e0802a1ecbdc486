//! `GET /v1/events`: live updates as Server-Sent Events.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use serde::Deserialize;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, answer::Params};
use crate::{feed::Place, problem::Problem};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);
const HEADER: &str = "Last-Event-ID";

/// Its endpoint.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(events))
}

/// Query of the live updates.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Where to go on, for who can't send the header `Last-Event-ID`, which comes first.
    pub last_event_id: Option<String>,
}

/// Live updates as Server-Sent Events.
///
/// `block`, `batch`, `dataset`, `offer`, `license`, `dispute`, `consent_withdrawal`, `provider`, `task`, `policy`, `reward_claim`,
/// `royalty_claim`, `points_redeemed`, each with the ids to ask for, its block and whether it is final. Final ones have an id:
/// a listener that comes back with it is told everything since. Mined ones have none, come again once they are final, and count
/// for nothing after a `reorg`. The first event says where the tables are. A connection ends after half an hour, or where
/// its reader does not keep up: come back with the last id.
#[utoipa::path(get, path = "/v1/events", tag = "events",
    params(EventsQuery, ("Last-Event-ID" = Option<String>, Header, description = "`id` of the last event that was seen")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 400, body = Problem),
        (status = 503, body = Problem)))]
pub async fn events(
    State(app): State<App>,
    Params(query): Params<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let expected = "the id of an event, as 1234 or 1234-5";
    let header = match headers.get(HEADER).map(|value| value.to_str()) {
        None => None,
        Some(Ok(text)) => Some((HEADER, text)),
        Some(Err(_)) => return Err(Problem::invalid(HEADER, expected, "bytes that are no text")),
    };
    let given = header.or(query.last_event_id.as_deref().map(|id| ("last_event_id", id)));
    let after =
        given.map(|(field, id)| Place::parse(id).ok_or_else(|| Problem::invalid(field, expected, id))).transpose()?;
    let listener = app.feed.listen(after);
    let listener = listener.ok_or_else(|| Problem::unavailable("too many are listening; ask again later"))?;
    let events = stream::unfold(listener, |mut listener| async move {
        let item = listener.next().await?;
        let mut event = Event::default().event(item.event).data(&item.data);
        if let Some(id) = item.id() {
            event = event.id(id).retry(RETRY);
        }
        Some((Ok::<_, Infallible>(event), listener))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}
