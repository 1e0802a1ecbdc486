//! What was told to a provider's webhook, and what was not taken.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    gate::allowed,
    records::{cursor_number, page_limit, query},
};
use crate::{
    app::App,
    intake::{key::Scope, provider::Caller},
    outbox::{self, deliver::message_name},
    problem::{Kind, Problem},
};

/// Which messages.
#[derive(Deserialize, IntoParams)]
pub struct MessageQuery {
    /// waiting, delivered or dead.
    state: Option<String>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 1000; 100 where absent.
    limit: Option<i64>,
}

/// The caller's webhook and its messages.
#[derive(Serialize, ToSchema)]
pub struct Webhooks {
    /// Where messages go; none where no webhook is set.
    url: Option<String>,
    messages: Vec<MessageView>,
    /// Where the next page begins; none on the last.
    next_cursor: Option<String>,
}

/// A message and how far it is.
#[derive(Serialize, ToSchema)]
pub struct MessageView {
    /// For `tidemark-relayer webhook replay --from`.
    id: i64,
    /// The `webhook-id` that it is sent with, each time.
    webhook_id: String,
    /// batch.sealed, batch.signed, batch.submitted, batch.mined or batch.final.
    r#type: String,
    batch_number: i64,
    /// waiting, delivered or dead.
    state: String,
    attempts: i32,
    /// HTTP status of the last answer.
    last_status: Option<i16>,
    /// Why the last attempt was in vain.
    last_error: Option<String>,
    /// Unix seconds.
    created_at: i64,
    /// Unix seconds; of what waits.
    next_attempt_at: Option<i64>,
    /// Unix seconds; when it was delivered or given up on.
    ended_at: Option<i64>,
}

/// Messages to the caller's webhook, ascending by id; what is done with is kept for a while only.
#[utoipa::path(get, path = "/v1/webhooks",
    params(MessageQuery, ("X-API-Key" = String, Header, description = "issued to the provider")),
    responses((status = 200, description = "ascending by id", body = Webhooks),
              (status = "default", description = "refused", body = tidemark::service::Problem)))]
pub async fn get_webhooks(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Arc<Caller>>,
    headers: HeaderMap,
    page: Result<Query<MessageQuery>, QueryRejection>,
) -> Result<Json<Webhooks>, Problem> {
    let provider = allowed(&app, &caller, &headers, Scope::Read, false).await?;
    let MessageQuery { state, cursor, limit } = query(page)?;
    let limit = page_limit(limit)?;
    let from = cursor_number(cursor.as_deref())?;
    let states = ["waiting", "delivered", "dead"];
    if let Some(state) = state.as_deref().filter(|state| !states.contains(state)) {
        return Err(Problem::field(Kind::FieldInvalid, "state", states.join(", "), state));
    }
    let url = outbox::endpoint(&app.db, provider).await?;
    let found = outbox::list(&app.db, provider.account, state.as_deref(), from, limit).await?;
    let is_full = i64::try_from(found.len()).is_ok_and(|count| count == limit);
    let next_cursor = found.last().filter(|_| is_full).map(|message| message.id.saturating_add(1).to_string());
    let messages = found
        .into_iter()
        .map(|message| MessageView {
            id: message.id,
            webhook_id: message_name(message.message),
            r#type: format!("batch.{}", message.batch_state),
            batch_number: message.number,
            state: message.state,
            attempts: message.attempts,
            last_status: message.last_status,
            last_error: message.last_error,
            created_at: message.created_at,
            next_attempt_at: message.next_attempt_at,
            ended_at: message.ended_at,
        })
        .collect();
    Ok(Json(Webhooks { url, messages, next_cursor }))
}
