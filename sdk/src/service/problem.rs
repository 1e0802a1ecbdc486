//! Errors as RFC 9457 problem documents: 4xx names the caller's field, 5xx is ours and tells nothing secret.

use std::error::Error;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// Characters of the caller's value that are repeated back.
const ACTUAL_CHARS_MAX: usize = 160;
/// Seconds after which a service that can't answer now may be asked again.
const RETRY_AFTER_SECONDS: u64 = 5;
/// Causes behind an error that are logged; wrapped transport errors repeat one another's texts.
const CAUSES_MAX: usize = 8;

/// `application/problem+json`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:tidemark:problem:<slug>`: names the kind of problem, for programs.
    #[serde(rename = "type")]
    #[schema(example = "urn:tidemark:problem:not-found")]
    pub kind: String,
    /// The kind in words.
    pub title: &'static str,
    /// HTTP status.
    pub status: u16,
    /// What happened to this request, and what to do next.
    pub detail: String,
    /// Path of the field, header or parameter, for example `[3].initial_metadata_root`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What should have been there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
}

impl Problem {
    /// A problem of any kind.
    pub fn new(status: StatusCode, slug: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:tidemark:problem:{slug}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            expected: None,
            actual: None,
        }
    }

    /// Names the field, what was expected there and what came; the detail becomes a sentence of them.
    pub fn about(self, field: impl Into<String>, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        let (field, expected) = (field.into(), expected.into());
        let actual = shorten(actual.into());
        let detail = format!("{field}: expected {expected}, got {actual}");
        Self { detail, field: Some(field), expected: Some(expected), actual: Some(actual), ..self }
    }

    /// 400: a parameter or field that can't be read.
    pub fn invalid(field: &str, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "field-invalid", "A field is malformed", "").about(field, expected, actual)
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here", detail)
    }

    /// 503: not now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now", detail)
    }

    /// 500: ours. The cause goes to the log, not to the caller.
    pub fn internal(cause: &(dyn Error + 'static)) -> Self {
        tracing::error!(cause = causes(cause), "a request failed through no fault of the caller");
        let detail = "the fault is on our side, and the log here has its cause; try again later";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Something failed on our side", detail)
    }

    /// The slug at the end of the type.
    pub fn slug(&self) -> &str {
        self.kind.rsplit(':').next().unwrap_or(&self.kind)
    }
}

/// An error with everything behind it, for logs: addresses are cut to scheme and host, as the rest may hold a key.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| (*error).source());
    without_secrets(&chain.take(CAUSES_MAX).map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// `https://user:password@host:1/path?key=1` becomes `https://host:1/…`.
fn without_secrets(text: &str) -> String {
    let mut cut = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        let end = after.find(|c: char| c.is_whitespace() || "()\"'`<>,".contains(c)).unwrap_or(after.len());
        let (url, behind) = after.split_at(end);
        let (authority, path) = url.split_at(url.find(['/', '?', '#']).unwrap_or(url.len()));
        let host = authority.rsplit('@').next().unwrap_or_default();
        cut.extend([before, "://", host, if path.len() > 1 { "/…" } else { path }]);
        rest = behind;
    }
    cut.push_str(rest);
    cut
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(ACTUAL_CHARS_MAX) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
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
        if status == StatusCode::UNAUTHORIZED {
            // RFC 9110 wants a challenge with every 401
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_causes_hold_no_keys_of_addresses() {
        let logged = |text: &str| causes(&std::io::Error::other(text.to_owned()));
        assert_eq!(logged("for url (https://rpc.example/v3/k3y): refused"), "for url (https://rpc.example/…): refused");
        assert_eq!(logged("postgres://me:pass@db:5432/x?y=z, http://a/"), "postgres://db:5432/…, http://a/");
        assert_eq!(logged("connect :// \u{20ac}://"), "connect :// \u{20ac}://");
        assert_eq!(logged("no address"), "no address");
    }

    #[test]
    fn a_problem_says_field_expectation_and_what_came_and_no_more_than_fits() {
        let problem = Problem::invalid("[3].initial_metadata_root", "0x01", "ㅌ".repeat(1000));
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["type"], "urn:tidemark:problem:field-invalid");
        assert_eq!(json["status"], 400);
        assert_eq!(json["field"], "[3].initial_metadata_root");
        assert!(json["actual"].as_str().unwrap().chars().count() <= ACTUAL_CHARS_MAX + 1);
        assert!(serde_json::to_value(Problem::not_found("x")).unwrap().get("field").is_none());
    }
}
