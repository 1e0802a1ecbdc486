//! The web pages, server-rendered. (Stub: another engineer's module.)

use axum::Router;

use crate::{api::App, problem::Problem};

/// Pages for people; merged beside the API.
pub fn router() -> Router<App> {
    Router::new()
}

/// What a path that is not there answers.
pub async fn not_found() -> Problem {
    Problem::unknown("path", "no such path; /docs lists them all")
}
