//! HTTP errors as RFC 9457 `application/problem+json`.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

/// What went wrong, as a client sees it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:tidemark:problem:<slug>`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this type.
    pub title: &'static str,
    /// HTTP status.
    pub status: u16,
    /// One sentence on this very case.
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

/// The types of problems: slug, status, title.
macro_rules! kinds {
    ($($name:ident = $status:ident, $slug:literal, $title:literal;)*) => {
        /// A type of problem.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $(
                #[doc = $title]
                $name,
            )*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Kind] = &[$(Kind::$name),*];

            /// Slug, status and title.
            pub fn parts(self) -> (&'static str, StatusCode, &'static str) {
                match self {
                    $(Kind::$name => ($slug, StatusCode::$status, $title),)*
                }
            }
        }
    };
}

kinds! {
    ApiKeyMissing = UNAUTHORIZED, "api-key-missing", "An API key is needed";
    ApiKeyUnknown = UNAUTHORIZED, "api-key-unknown", "The API key is not known, or revoked";
    ApiKeyOfOther = FORBIDDEN, "api-key-not-for-provider", "The API key belongs to another provider";
    ProviderUnknown = FORBIDDEN, "provider-unknown", "The provider is not known here";
    TokenWrong = UNAUTHORIZED, "token-wrong", "The bearer token is missing or wrong";
    HeaderInvalid = BAD_REQUEST, "header-invalid", "A header is missing or malformed";
    BodyTooLarge = PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large";
    RecordTooLarge = PAYLOAD_TOO_LARGE, "record-too-large", "A record is too large";
    MediaTypeUnsupported = UNSUPPORTED_MEDIA_TYPE, "media-type-unsupported", "The media type is not supported";
    BodyInvalid = BAD_REQUEST, "body-invalid", "The body can't be read";
    FieldMissing = BAD_REQUEST, "field-missing", "A field is missing";
    FieldInvalid = BAD_REQUEST, "field-invalid", "A field is malformed";
    MetadataRootWrong = UNPROCESSABLE_ENTITY, "metadata-root-wrong", "A metadata root is not that of its metadata";
    ContentHashesDisagree = UNPROCESSABLE_ENTITY, "content-hashes-disagree", "Aliases of the content hash disagree";
    DuplicateInBatch = UNPROCESSABLE_ENTITY, "duplicate-in-batch", "A batch names a record twice";
    BatchIdReused = CONFLICT, "batch-id-reused", "The batch id was used for another body";
    ConsentInvalid = UNPROCESSABLE_ENTITY, "consent-invalid", "The consent does not cover the submission";
    PolicyUnpublished = UNPROCESSABLE_ENTITY, "policy-unpublished", "The consent's policy is not published on chain";
    ConsentWithdrawn = CONFLICT, "consent-withdrawn", "The consent was withdrawn";
    ConsentUnknown = NOT_FOUND, "consent-unknown", "The consent is not known here";
    SignatureInvalid = UNPROCESSABLE_ENTITY, "signature-invalid", "A signature is missing, malformed or of another key";
    TaskUnknown = UNPROCESSABLE_ENTITY, "task-unknown", "The task is not on chain, or of another provider";
    TaskClosed = CONFLICT, "task-closed", "The task is closed";
    BudgetExceeded = CONFLICT, "budget-exceeded", "The task's budget is used up";
    RecordConflict = CONFLICT, "record-conflict", "The record exists with other content";
    RecordUnknown = NOT_FOUND, "record-unknown", "The record is not known here";
    BatchRefused = UNPROCESSABLE_ENTITY, "batch-refused", "The batch is not what was submitted";
    BatchNumberTaken = CONFLICT, "batch-number-taken", "Another batch was signed under this number";
    VersionRefused = UNPROCESSABLE_ENTITY, "version-refused", "The dataset version is not what its members say";
    VersionTaken = CONFLICT, "version-taken", "Another content was signed under this version";
    NotFound = NOT_FOUND, "not-found", "There is nothing here";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here";
    NotAcceptable = NOT_ACCEPTABLE, "not-acceptable", "Only raw blocks are served";
    Internal = INTERNAL_SERVER_ERROR, "internal", "Something failed on our side";
    Unavailable = SERVICE_UNAVAILABLE, "unavailable", "A part we depend on does not answer; try again later";
}

impl Problem {
    /// A problem of a type.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (slug, status, title) = kind.parts();
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

    /// About one field: the detail says path, expectation and what came.
    pub fn field(kind: Kind, field: impl Into<String>, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        let (field, expected, actual) = (field.into(), expected.into(), shorten(actual.into()));
        let detail = format!("{field}: expected {expected}, got {actual}");
        Self { field: Some(field), expected: Some(expected), actual: Some(actual), ..Self::new(kind, detail) }
    }

    /// The slug at the end of the type.
    pub fn slug(&self) -> &str {
        self.kind.rsplit(':').next().unwrap_or(&self.kind)
    }

    /// Our own fault: logged in full, told in general.
    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        let error: anyhow::Error = error.into();
        tracing::error!(error = format!("{error:#}"), "request failed");
        Self::new(Kind::Internal, "the request failed on our side and changed nothing; it is logged")
    }

    /// A part we need does not answer: logged in full.
    pub fn unavailable(part: &str, error: impl Into<anyhow::Error>) -> Self {
        let error: anyhow::Error = error.into();
        tracing::warn!(part, error = format!("{error:#}"), "a part does not answer");
        Self::new(Kind::Unavailable, format!("{part} does not answer"))
    }
}

/// What a client sent, short enough to be told back.
fn shorten(text: String) -> String {
    match text.char_indices().nth(160) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, axum::http::HeaderValue::from_static("2"));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, axum::http::HeaderValue::from_static("ApiKey"));
        }
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Self::unavailable("the database", error),
            error => Self::internal(error),
        }
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self::internal(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_field_expectation_and_what_came_and_no_more_than_fits() {
        let problem = Problem::field(Kind::MetadataRootWrong, "[3].initial_metadata_root", "0x01", "y".repeat(1000));
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["type"], "urn:tidemark:problem:metadata-root-wrong");
        assert_eq!(json["status"], 422);
        assert_eq!(json["field"], "[3].initial_metadata_root");
        assert_eq!(json["expected"], "0x01");
        assert!(json["actual"].as_str().unwrap().len() < 200);
        let plain = serde_json::to_value(Problem::new(Kind::NotFound, "x")).unwrap();
        assert!(plain.get("field").is_none());
    }

    #[test]
    fn every_type_has_its_own_slug() {
        let mut slugs: Vec<_> = Kind::ALL.iter().map(|kind| kind.parts().0).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }
}
