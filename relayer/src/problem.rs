//! The types of problems that this crate answers with, and what of our own failures a client gets to see.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tidemark::service::{self, causes};

/// A problem document; `?` makes one of our own failures.
#[derive(Clone, Debug)]
pub struct Problem(pub service::Problem);

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
    ApiKeyUnknown = UNAUTHORIZED, "api-key-unknown", "The API key is not known, revoked or expired";
    ApiKeyOfOther = FORBIDDEN, "api-key-not-for-provider", "The API key belongs to another provider";
    RequestSignatureInvalid = UNAUTHORIZED, "request-signature-invalid", "The request is not signed by its provider";
    ScopeMissing = FORBIDDEN, "scope-missing", "The API key is not for this";
    BacklogFull = SERVICE_UNAVAILABLE, "backlog-full", "Too much waits for the chain";
    RateLimited = TOO_MANY_REQUESTS, "rate-limited", "There were too many requests";
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
    IdempotencyKeyBusy = CONFLICT, "idempotency-key-busy", "The first request with this key is under way";
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY, "idempotency-key-reused", "The key was used for another request";
    DataIdWrong = UNPROCESSABLE_ENTITY, "data-id-wrong", "A data id is not that of its record";
    PersonalData = UNPROCESSABLE_ENTITY, "personal-data", "What becomes public tells who a person is";
    AttestationInvalid = UNPROCESSABLE_ENTITY, "attestation-invalid", "The provider's attestation does not hold";
    PolicyUnknown = UNPROCESSABLE_ENTITY, "policy-unknown", "The metadata names a policy that was not registered";
    ConsentInvalid = UNPROCESSABLE_ENTITY, "consent-invalid", "The consent does not cover the submission";
    PolicyUnpublished = UNPROCESSABLE_ENTITY, "policy-unpublished", "The policy is not published on chain";
    ConsentWithdrawn = CONFLICT, "consent-withdrawn", "The consent was withdrawn";
    ConsentUnknown = NOT_FOUND, "consent-unknown", "The consent is not known here";
    SignatureInvalid = UNPROCESSABLE_ENTITY, "signature-invalid", "A signature is missing, malformed or of another key";
    TaskUnknown = UNPROCESSABLE_ENTITY, "task-unknown", "The task is not final on chain, or of another provider";
    TaskClosed = CONFLICT, "task-closed", "The task is closed";
    BudgetExceeded = CONFLICT, "budget-exceeded", "The task's budget is used up";
    RecordConflict = CONFLICT, "record-conflict", "The record exists with other content";
    RecordUnknown = NOT_FOUND, "record-unknown", "The record is not known here";
    BatchRefused = UNPROCESSABLE_ENTITY, "batch-refused", "The batch is not what was submitted";
    BatchNumberTaken = CONFLICT, "batch-number-taken", "Another batch was signed under this number";
    VersionRefused = UNPROCESSABLE_ENTITY, "version-refused", "The dataset version is not what its members say";
    NotFound = NOT_FOUND, "not-found", "There is nothing here";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method-not-allowed", "The method is not allowed here";
    NotAcceptable = NOT_ACCEPTABLE, "not-acceptable", "Only raw blocks are served";
}

impl Problem {
    /// A problem of a type.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let (slug, status, title) = kind.parts();
        Self(service::Problem::new(status, slug, title, detail))
    }

    /// About one field: the detail says path, expectation and what came.
    pub fn field(kind: Kind, field: impl Into<String>, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        Self(Self::new(kind, "").0.about(field, expected, actual))
    }

    /// The same with another sentence.
    pub fn saying(self, detail: impl Into<String>) -> Self {
        Self(service::Problem { detail: detail.into(), ..self.0 })
    }

    /// Our own fault: logged in full, told in general.
    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        let error: anyhow::Error = error.into();
        Self(service::Problem::internal(error.as_ref()))
    }

    /// A part we need does not answer: logged in full.
    pub fn unavailable(part: &str, error: impl Into<anyhow::Error>) -> Self {
        let error: anyhow::Error = error.into();
        tracing::warn!(part, cause = causes(error.as_ref()), "a part does not answer");
        Self(service::Problem::unavailable(format!("{part} does not answer; try again later")))
    }

    /// The slug at the end of the type.
    pub fn slug(&self) -> &str {
        self.0.slug()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let is_for_a_while = self.0.status == StatusCode::SERVICE_UNAVAILABLE;
        let mut response = self.0.into_response();
        if is_for_a_while {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => {
                Self::unavailable("the database", error)
            }
            error => Self::internal(error),
        }
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<sqlx::Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_does_not_answer_is_503_through_whatever_hands() {
        let gone = || sqlx::Error::PoolTimedOut;
        assert_eq!(Problem::from(gone()).0.status, 503);
        assert_eq!(Problem::from(anyhow::Error::from(gone()).context("look a key up")).0.status, 503);
        assert_eq!(Problem::from(anyhow::anyhow!("a bug")).0.status, 500);
    }

    #[test]
    fn every_type_has_its_own_slug() {
        let mut slugs: Vec<_> = Kind::ALL.iter().map(|kind| kind.parts().0).collect();
        slugs.sort_unstable();
        slugs.dedup();
        assert_eq!(slugs.len(), Kind::ALL.len());
    }
}
