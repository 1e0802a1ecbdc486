//! Errors as RFC 9457 problem documents: 4xx is the caller's to mend, 5xx is ours and tells nothing secret.

use std::error::Error;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{audit::AuditError, chain::ChainFault, check::Refusal};

/// Characters of the caller's value that are repeated back.
const ACTUAL_CHARS_MAX: usize = 80;
/// Seconds after which an overloaded or cut-off custodian may be asked again.
const RETRY_AFTER_SECONDS: u64 = 5;

/// `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem, for programs.
    #[serde(rename = "type")]
    #[schema(example = "license-inactive")]
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

impl Problem {
    /// A problem of any kind.
    pub fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { kind, title, status: status.as_u16(), detail, field: None, expected: None, actual: None }
    }

    /// 400: a parameter that can't be read.
    pub fn parameter(field: &str, expected: &str, actual: &str) -> Self {
        let actual: String = actual.chars().take(ACTUAL_CHARS_MAX).collect();
        let detail = format!("{field}: expected {expected}, got {actual:?}");
        Self {
            field: Some(field.into()),
            expected: Some(expected.into()),
            actual: Some(actual),
            ..Self::new(StatusCode::BAD_REQUEST, "parameter-invalid", "A parameter can't be read", detail)
        }
    }

    /// 400: a body that is not what the endpoint takes.
    pub fn body(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "body-invalid", "The body is not a release request", detail)
    }

    /// 503: all places are taken.
    pub fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many requests at once", "ask again in a few seconds")
    }

    /// 500: ours. The cause goes to the log, not to the caller.
    pub fn internal(cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(cause = causes(cause), "a request failed through no fault of the caller");
        let detail = "the fault is the custodian's; its log has the cause; try again later";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "The custodian failed", detail)
    }
}

/// An error with what is behind it, for logs.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(StatusCode::FORBIDDEN, refusal.kind(), "The key is not released", refusal.to_string())
    }
}

impl From<ChainFault> for Problem {
    fn from(fault: ChainFault) -> Self {
        tracing::error!(cause = causes(&fault), "the chain could not be read");
        let (kind, title) = match fault {
            ChainFault::Stale { .. } => ("chain-stale", "The custodian's node has fallen behind"),
            _ => ("chain-unreachable", "The custodian can't read the chain now"),
        };
        let detail = "nothing is released without a fresh look at the chain; ask again in a few seconds";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, title, detail)
    }
}

impl From<AuditError> for Problem {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Row { .. } | AuditError::Url | AuditError::Migrate(_) => Self::internal(&error),
            AuditError::Sql { .. } => {
                tracing::error!(cause = causes(&error), "the audit list could not be used");
                let detail = "nothing is released without its entry in the audit list; ask again in a few seconds";
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "database-unreachable",
                    "The custodian can't use its database now",
                    detail,
                )
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}
