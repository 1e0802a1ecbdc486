//! `Idempotency-Key` of a request: its answer, of now or of an earlier try.

use std::sync::Arc;

use alloy::primitives::{Address, B256};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    app::App,
    http::{self, REQUEST_TIME_MAX},
    intake::idempotency::{self, Turn},
    problem::{Kind, Problem},
};

const KEY_BYTES_MAX: usize = 255;
/// Marks an answer that was kept.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The key of a request, where it has one: a structured string, or the same without quotes.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(text) = http::header_text(headers, "idempotency-key")? else { return Ok(None) };
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let key = quoted.unwrap_or(text);
    let is_plain = !key.contains(['"', '\\']) && key.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if !is_plain || !(1..=KEY_BYTES_MAX).contains(&key.len()) {
        let expected =
            format!("a string of 1 to {KEY_BYTES_MAX} characters of ASCII, without quotes or backslashes in it");
        return Err(Problem::field(Kind::HeaderInvalid, "Idempotency-Key", expected, text));
    }
    Ok(Some(key.to_owned()))
}

/// Does the work once for a key; without a key, just does it. The work goes on where the client goes away, so that
/// "under way" is true for as long as it is said.
pub async fn once<T: Serialize + Send + Sync + 'static>(
    app: &Arc<App>,
    provider: Address,
    key: Option<String>,
    fingerprint: B256,
    work: impl Future<Output = Result<(StatusCode, T), Problem>> + Send + 'static,
) -> Result<Response, Problem> {
    let Some(key) = key else {
        let (status, answer) = work.await?;
        return Ok((status, axum::Json(answer)).into_response());
    };
    let holder = match idempotency::begin(&app.db, provider, &key, fingerprint, app.config.idempotency_hours).await? {
        Turn::Done { status, answer } => {
            let mut response = json(status, answer);
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
            return Ok(response);
        }
        Turn::Work(holder) => holder,
    };
    let app = Arc::clone(app);
    let worked = tokio::spawn(async move {
        let done = match tokio::time::timeout(REQUEST_TIME_MAX, work).await {
            Ok(done) => done,
            Err(elapsed) => Err(Problem::unavailable("the service, in time,", elapsed)),
        };
        let kept = match done {
            Ok((status, answer)) => keep(&app, provider, &key, holder, status.as_u16(), &answer).await,
            Err(problem) => Err(problem),
        };
        if kept.is_err()
            && let Err(error) = idempotency::release(&app.db, provider, &key, holder).await
        {
            tracing::warn!(
                cause = tidemark::service::causes(&error),
                "an idempotency key is held until its time is over"
            );
        }
        kept
    });
    worked.await.map_err(Problem::internal)?
}

async fn keep<T: Serialize + Sync>(
    app: &App,
    provider: Address,
    key: &str,
    holder: uuid::Uuid,
    status: u16,
    answer: &T,
) -> Result<Response, Problem> {
    let answer = serde_json::to_string(answer).map_err(Problem::internal)?;
    idempotency::keep(&app.db, provider, key, holder, status, &answer).await?;
    Ok(json(status, answer))
}

fn json(status: u16, answer: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(answer)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_string_with_or_without_quotes() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", HeaderValue::from_static(text));
            key(&headers).map_err(|problem| problem.slug().to_owned())
        };
        assert_eq!(key(&HeaderMap::new()).unwrap(), None);
        assert_eq!(read("\"8e03978e-40d5\""), Ok(Some("8e03978e-40d5".into())));
        assert_eq!(read("8e03978e-40d5"), Ok(Some("8e03978e-40d5".into())));
        for bad in ["\"\"", "\"a", "a\"b", "\"a\\\"b\"", ""] {
            assert_eq!(read(bad), Err("header-invalid".into()), "{bad}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", HeaderValue::from_str(&"x".repeat(256)).unwrap());
        assert_eq!(key(&headers).unwrap_err().slug(), "header-invalid");
    }
}
