//! The metrics page.

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::grpc::FrontEnd;
use crate::observe::metrics;

use super::routes;

/// `/metrics` and nothing else.
pub(super) fn router(front_end: FrontEnd) -> Router {
    routes::with_fallbacks(Router::new().route("/metrics", get(page))).with_state(front_end)
}

async fn page(State(front_end): State<FrontEnd>) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], front_end.render_metrics())
}
