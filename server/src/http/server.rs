//! The HTTP listeners.

use std::io;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;

use crate::grpc::{FrontEnd, Phase};

use super::{metrics, routes};

/// Serves the HTTP routes on `listener` until the phase is [`Phase::Closed`], so that probes are answered to
/// the end.
///
/// # Errors
/// The listener failed for good; a failing connection is none.
pub async fn serve(front_end: FrontEnd, listener: TcpListener) -> io::Result<()> {
    let router = routes::router(front_end.clone());
    serve_router(router, front_end, listener).await
}

/// Serves the metrics page on `listener` until the phase is [`Phase::Closed`].
///
/// # Errors
/// The listener failed for good; a failing connection is none.
pub async fn serve_metrics(front_end: FrontEnd, listener: TcpListener) -> io::Result<()> {
    let router = metrics::router(front_end.clone());
    serve_router(router, front_end, listener).await
}

async fn serve_router(router: Router, front_end: FrontEnd, listener: TcpListener) -> io::Result<()> {
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!("unable to set TCP_NODELAY on an HTTP connection: {error}");
        }
    });
    let lifecycle = front_end.lifecycle.clone();
    axum::serve(listener, router).with_graceful_shutdown(async move { lifecycle.reached(Phase::Closed).await }).await
}
