//! `/openapi.json`, and a page that shows it without asking any other server for a script.

use std::sync::Arc;

use axum::{Router, http::header, response::IntoResponse, routing::get};

use super::App;

/// Document and page.
pub fn router(document: utoipa::openapi::OpenApi) -> Router<App> {
    let json: Arc<str> = document.to_json().unwrap_or_else(|_| "{}".into()).into();
    Router::new()
        .route(
            "/openapi.json",
            get(
                move || async move { ([(header::CONTENT_TYPE, "application/json")], json.to_string()).into_response() },
            ),
        )
        .route("/docs", get(tidemark::service::docs))
}
