//! `GET /v1/events`: live updates as Server-Sent Events.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio::sync::mpsc;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, answer::Params};
use crate::{
    feed::{Item, Place},
    problem::Problem,
};

const KEEP_ALIVE: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(2);
/// Events that wait for a reader beside what its connection holds, and how long it may take none.
const AHEAD: usize = 64;
const STALL_MAX: Duration = Duration::from_secs(30);
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
    let (send, told) = mpsc::channel(AHEAD);
    let heard = stream::unfold(listener, |mut listener| async move { Some((listener.next().await?, listener)) });
    tokio::spawn(tell(heard, send, STALL_MAX));
    let events = stream::unfold(told, |mut told| async move {
        let item = told.recv().await?;
        let mut event = Event::default().event(item.event).data(&item.data);
        if let Some(id) = item.id() {
            event = event.id(id).retry(RETRY);
        }
        Some((Ok::<_, Infallible>(event), told))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// Hands on what a listener hears, until it ends, its reader is gone, or takes nothing for a while. Apart from the connection,
/// which is asked for nothing while its reader does not read: so a place is given up whatever the other side does.
async fn tell(heard: impl Stream<Item = Arc<Item>>, send: mpsc::Sender<Arc<Item>>, stall_max: Duration) {
    let mut heard = pin!(heard);
    loop {
        let item = tokio::select! {
            () = send.closed() => return,
            item = heard.next() => item,
        };
        let Some(item) = item else { return };
        if !matches!(tokio::time::timeout(stall_max, send.send(item)).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_given_up_when_its_reader_stops_reading_or_is_gone() {
        let item = || Arc::new(Item { place: None, event: "block", data: "{}".into() });
        let within = Duration::from_secs(20);
        let (send, mut told) = mpsc::channel(2);
        let telling = tokio::spawn(tell(stream::repeat_with(item), send, Duration::from_millis(20)));
        tokio::time::timeout(within, telling).await.expect("nobody reads, and it goes on").unwrap();
        assert!(told.recv().await.is_some() && told.recv().await.is_some());
        assert!(told.recv().await.is_none(), "it ends with what was on its way");

        let (send, told) = mpsc::channel(2);
        let telling = tokio::spawn(tell(stream::pending(), send, within));
        drop(told);
        tokio::time::timeout(within, telling).await.expect("nobody is there, and it waits").unwrap();
    }
}
