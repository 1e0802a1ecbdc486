//! The web pages, server-rendered: what the API says, in words, for people without a tool.
//!
//! No scripts, no assets, one small style sheet in the page. Each page is one snapshot and names its block. Handlers read
//! through [`crate::read`] and have SQL of their own only for what no API answer needs.

mod batch;
mod dataset;
mod dispute;
mod format;
mod home;
mod layout;
mod license;
mod provider;
pub mod receipt;
mod record;
pub mod search;
mod settlement;

use axum::{
    Router,
    extract::{
        DefaultBodyLimit, FromRequestParts,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use maud::html;
use sqlx::{Postgres, Transaction};

use self::layout::Page;
use crate::{
    api::{self, App},
    problem::Problem,
    read::{At, ReadError},
};

/// Bytes of a form: 200 data ids and their separators fit twice.
const FORM_BYTES_MAX: usize = 16 * 1024;

/// All pages.
pub fn router() -> Router<App> {
    Router::new()
        .route("/", get(home::page))
        .route("/search", get(search::page))
        .route("/data/{data_id}", get(record::page))
        .route("/batches/{provider}/{number}", get(batch::page))
        .route("/datasets/{ip_id}", get(dataset::page))
        .route("/licenses/{id}", get(license::page))
        .route("/providers/{name}", get(provider::page))
        .route("/receipt", get(receipt::page).post(receipt::form))
        .route("/settlement", get(settlement::page))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
}

/// What is no page and no endpoint: a page for people, a problem document for programs.
pub async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    let problem = Problem::unknown("path", format!("There is nothing at {}; /docs lists the API's paths.", uri.path()));
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") { Failure(problem).into_response() } else { problem.into_response() }
}

/// One snapshot, and the block that it is true at.
async fn open(app: &App) -> Result<(Transaction<'static, Postgres>, At), Failure> {
    Ok(api::snapshot(app).await?)
}

/// Segments of a path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Failure))]
struct Path<T>(T);

/// Parameters of a query.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Failure))]
struct Query<T>(T);

/// A problem as a page.
struct Failure(Problem);

impl Failure {
    fn unknown(field: &str, what: impl Into<String>) -> Self {
        Self(Problem::unknown(field, what))
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self(error.into())
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self(error.into())
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Self(Problem::invalid("address", "a link of this site", rejection.body_text()))
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self(Problem::invalid("address", "a link of this site", rejection.body_text()))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(problem) = self;
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = html! {
            p class="lead" { (problem.detail) }
            @if status == StatusCode::NOT_FOUND {
                p {
                    "What was sent to the chain a moment ago appears here once its block is read, and counts once that block "
                    "is final. If you came by a link, it may be cut off."
                }
            }
            p { a href="/" { "Search the explorer" } }
        };
        layout::with_status(status, &Page { title: problem.title.to_owned(), at: None, body })
    }
}
