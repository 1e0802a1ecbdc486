//! What every HTTP service does the same way: problem documents, log, API page, connections to
//! Postgres, start and stop. Feature `service`.

mod metrics;
mod pool;
mod problem;
mod run;

pub use metrics::{SECONDS_BUCKETS, metrics};
pub use pool::pool_options;
pub use problem::{Problem, causes};
pub use run::{serve_until_stopped, start_log};

use axum::{
    http::header,
    response::{Html, IntoResponse},
};

/// A page that shows `openapi.json` beside it, and loads nothing from elsewhere.
pub async fn docs() -> impl IntoResponse {
    let policy = "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(include_str!("docs.html")))
}
