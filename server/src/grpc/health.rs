//! `grpc.health.v1`: the server ("" or its service name), the process ("liveness") and every model by its name.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::error::InferError;
use crate::request::VersionChoice;

use super::front_end::FrontEnd;
use super::lifecycle::Phase;
use super::status;

/// Service name that asks whether the process is alive, ready or not.
const LIVENESS: &str = "liveness";

/// The inference service; its health is that of the server.
const INFERENCE_SERVICE: &str = "inference.GRPCInferenceService";

/// Answers health checks.
pub(super) struct HealthService {
    front_end: FrontEnd,
}

impl HealthService {
    pub(super) fn new(front_end: FrontEnd) -> Self {
        Self { front_end }
    }
}

/// The status of a service; `None` where there is none of that name.
fn serving_status(front_end: &FrontEnd, service: &str) -> Option<ServingStatus> {
    let is_serving = match service {
        LIVENESS => true,
        "" | INFERENCE_SERVICE => front_end.is_ready(),
        model => {
            if matches!(front_end.repository.versions(model), Err(InferError::UnknownModel { .. })) {
                return None;
            }
            front_end.lifecycle.phase() == Phase::Serving && front_end.repository.model_ready(model, VersionChoice::Latest)
        }
    };
    Some(if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing })
}

fn reply(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: i32::from(status) }
}

/// Sends the status of a service now and after each change, until the client leaves or the server stops.
async fn watch(front_end: FrontEnd, service: String, replies: mpsc::Sender<Result<HealthCheckResponse, Status>>) {
    // Subscribed before the first look, so that no change falls between.
    let mut models = front_end.repository.subscribe();
    let mut phases = front_end.lifecycle.subscribe();
    let mut sent = None;
    loop {
        let is_stopping = *phases.borrow_and_update() >= Phase::Stopping;
        models.borrow_and_update();
        // An unknown service is not refused: a model of that name may be loaded later.
        let now = serving_status(&front_end, &service).unwrap_or(ServingStatus::ServiceUnknown);
        if sent.replace(now) != Some(now) && replies.send(Ok(reply(now))).await.is_err() {
            return;
        }
        if is_stopping {
            // The client has left already if this cannot be sent.
            let _ = replies.send(Err(status::infer_status("", &InferError::ServerExiting))).await;
            return;
        }
        let is_alive = tokio::select! {
            changed = models.changed() => changed.is_ok(),
            changed = phases.changed() => changed.is_ok(),
            () = replies.closed() => false,
        };
        if !is_alive {
            return;
        }
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match serving_status(&self.front_end, &service) {
            Some(status) => Ok(Response::new(reply(status))),
            None => Err(status::unknown_service(&service)),
        }
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (replies, receiver) = mpsc::channel(1);
        tokio::spawn(watch(self.front_end.clone(), request.into_inner().service, replies));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
