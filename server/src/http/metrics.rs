//! The metrics page.

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::grpc::FrontEnd;

use super::routes;

/// The text format of Prometheus.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/metrics` and nothing else.
pub(super) fn router(front_end: FrontEnd) -> Router {
    routes::with_fallbacks(Router::new().route("/metrics", get(page))).with_state(front_end)
}

async fn page(State(front_end): State<FrontEnd>) -> impl IntoResponse {
    ([(CONTENT_TYPE, TEXT_FORMAT)], front_end.repository.render_metrics())
}
