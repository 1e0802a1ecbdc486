//! Problem documents of this service: those of every service, and what a failing read becomes.

use std::ops::Deref;

use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};
use tidemark::service;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, schema::Schema},
};

use crate::read::ReadError;

/// Postgres's code of a query that took longer than it may.
const QUERY_CANCELED: &str = "57014";

/// A [`service::Problem`] that failures of the database turn into.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(transparent)]
pub struct Problem(service::Problem);

impl Problem {
    /// A problem of any kind.
    pub fn new(status: StatusCode, slug: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self(service::Problem::new(status, slug, title, detail))
    }

    /// 400: a parameter or field that can't be read.
    pub fn invalid(field: &str, expected: impl Into<String>, actual: impl AsRef<str>) -> Self {
        Self(service::Problem::invalid(field, expected, actual.as_ref()))
    }

    /// 404: well-formed, and not here at the block that the answer names.
    pub fn unknown(field: &str, detail: impl Into<String>) -> Self {
        Self(service::Problem::not_found(detail)).at(field)
    }

    /// 503: not now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self(service::Problem::unavailable(detail))
    }

    /// 500: ours. The cause goes to the log, not to the caller.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        Self(service::Problem::internal(cause))
    }

    /// Names the field and keeps the detail.
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Names the field, what was expected there and what came, and keeps the detail.
    pub fn compared(
        mut self,
        field: impl Into<String>,
        expected: impl Into<String>,
        actual: impl Into<String>,
    ) -> Self {
        let detail = std::mem::take(&mut self.0.detail);
        Self(service::Problem { detail, ..self.0.about(field, expected, actual) })
    }
}

impl Deref for Problem {
    type Target = service::Problem;

    fn deref(&self) -> &service::Problem {
        &self.0
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut => Self::unavailable("all database connections are busy; try again later"),
            sqlx::Error::Database(error) if error.code().as_deref() == Some(QUERY_CANCELED) => {
                Self::unavailable("too much has to be looked through for this; ask for less")
            }
            error => Self::internal(&error),
        }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Sql(error) => error.into(),
            error => Self::internal(&error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl PartialSchema for Problem {
    fn schema() -> RefOr<Schema> {
        service::Problem::schema()
    }
}

impl ToSchema for Problem {}
