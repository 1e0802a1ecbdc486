//! Errors as RFC 9457 problem documents: 4xx names the caller's field, 5xx is ours and tells nothing secret.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem, for programs.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The same in words.
    pub title: &'static str,
    /// HTTP status.
    pub status: u16,
    /// What happened to this request, and what to do next.
    pub detail: String,
    /// Which field or parameter is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What it should look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
}

/// Bytes of the caller's value that are repeated back.
const ACTUAL_CHARS_MAX: usize = 80;

impl Problem {
    /// A problem of any kind.
    pub fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, title, status: status.as_u16(), detail, field: None, expected: None, actual: None }
    }

    /// 400: a parameter or field that can't be read.
    pub fn invalid(field: &str, expected: impl Into<String>, actual: impl AsRef<str>) -> Self {
        let expected = expected.into();
        let actual: String = actual.as_ref().chars().take(ACTUAL_CHARS_MAX).collect();
        Self {
            field: Some(field.to_owned()),
            detail: format!("{field}: expected {expected}, got {actual:?}"),
            expected: Some(expected),
            actual: Some(actual),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid-field", "A field can't be read", "")
        }
    }

    /// 404: well-formed, and not here at the block that the answer names.
    pub fn unknown(field: &str, what: impl Into<String>) -> Self {
        Self {
            field: Some(field.to_owned()),
            ..Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing here", what)
        }
    }

    /// 500: ours. The cause goes to the log, not to the caller.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes = vec![cause.to_string()];
        let mut next = cause.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        tracing::error!(cause = causes.join(": "), "a request failed through no fault of the caller");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The indexer failed",
            "the fault is the indexer's; its log has the cause; try again later",
        )
    }

    /// 503: not now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now", detail)
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => Self::unavailable("all database connections are busy; try again later"),
            error => Self::internal(&error),
        }
    }
}

impl From<crate::read::ReadError> for Problem {
    fn from(error: crate::read::ReadError) -> Self {
        match error {
            crate::read::ReadError::Sql(error) => error.into(),
            error => Self::internal(&error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
