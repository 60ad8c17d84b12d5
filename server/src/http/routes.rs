//! The routes of KServe v2 over HTTP: health and metadata are served; the others are known and answer 501.

use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use proto::inference::model_metadata_response::TensorMetadata;
use serde_json::{Value, json};

use crate::error::InferError;
use crate::grpc::{self, FrontEnd};

/// Routes that belong to the protocol and are not built yet.
const NOT_BUILT: [(Methods, &str); 30] = [
    (Methods::Get, "/v2/models/stats"),
    (Methods::Get, "/v2/models/{model}/config"),
    (Methods::Get, "/v2/models/{model}/versions/{version}/config"),
    (Methods::Get, "/v2/models/{model}/stats"),
    (Methods::Get, "/v2/models/{model}/versions/{version}/stats"),
    (Methods::Post, "/v2/models/{model}/infer"),
    (Methods::Post, "/v2/models/{model}/versions/{version}/infer"),
    (Methods::Post, "/v2/models/{model}/generate"),
    (Methods::Post, "/v2/models/{model}/versions/{version}/generate"),
    (Methods::Post, "/v2/models/{model}/generate_stream"),
    (Methods::Post, "/v2/models/{model}/versions/{version}/generate_stream"),
    (Methods::Both, "/v2/models/{model}/trace/setting"),
    (Methods::Both, "/v2/trace/setting"),
    (Methods::Both, "/v2/logging"),
    (Methods::Post, "/v2/repository/index"),
    (Methods::Post, "/v2/repository/{repository}/index"),
    (Methods::Post, "/v2/repository/models/{model}/load"),
    (Methods::Post, "/v2/repository/models/{model}/unload"),
    (Methods::Post, "/v2/repository/{repository}/models/{model}/load"),
    (Methods::Post, "/v2/repository/{repository}/models/{model}/unload"),
    (Methods::Get, "/v2/systemsharedmemory/status"),
    (Methods::Get, "/v2/systemsharedmemory/region/{region}/status"),
    (Methods::Post, "/v2/systemsharedmemory/region/{region}/register"),
    (Methods::Post, "/v2/systemsharedmemory/region/{region}/unregister"),
    (Methods::Post, "/v2/systemsharedmemory/unregister"),
    (Methods::Get, "/v2/cudasharedmemory/status"),
    (Methods::Get, "/v2/cudasharedmemory/region/{region}/status"),
    (Methods::Post, "/v2/cudasharedmemory/region/{region}/register"),
    (Methods::Post, "/v2/cudasharedmemory/region/{region}/unregister"),
    (Methods::Post, "/v2/cudasharedmemory/unregister"),
];

#[derive(Clone, Copy)]
enum Methods {
    Get,
    Post,
    Both,
}

/// All routes of the protocol.
pub(super) fn router(front_end: FrontEnd) -> Router {
    let mut router = Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{model}", get(model_metadata))
        .route("/v2/models/{model}/versions/{version}", get(version_metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(version_ready));
    for (methods, path) in NOT_BUILT {
        router = router.route(path, not_built_route(methods));
    }
    with_fallbacks(router).with_state(front_end)
}

/// Answers for unknown paths and wrong methods.
pub(super) fn with_fallbacks(router: Router<FrontEnd>) -> Router<FrontEnd> {
    router.fallback(not_found).method_not_allowed_fallback(wrong_method)
}

fn not_built_route(methods: Methods) -> MethodRouter<FrontEnd> {
    match methods {
        Methods::Get => get(not_built),
        Methods::Post => post(not_built),
        Methods::Both => get(not_built).post(not_built),
    }
}

async fn not_built(method: Method, uri: Uri) -> Response {
    let text = format!("{method} {} is not built yet; the same is served over gRPC where it is served at all", uri.path());
    error(StatusCode::NOT_IMPLEMENTED, &text)
}

async fn not_found(uri: Uri) -> Response {
    error(StatusCode::NOT_FOUND, &format!("Not Found: there is nothing at '{}'", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, &format!("Method Not Allowed: '{}' does not take {method}", uri.path()))
}

/// The process answers, so it is alive; on its way out it says so.
async fn live(State(front_end): State<FrontEnd>) -> StatusCode {
    if front_end.lifecycle.is_stopping() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

async fn ready(State(front_end): State<FrontEnd>) -> StatusCode {
    if front_end.lifecycle.is_stopping() {
        StatusCode::SERVICE_UNAVAILABLE
    } else if front_end.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::BAD_REQUEST
    }
}

async fn server_metadata(State(front_end): State<FrontEnd>) -> Response {
    if let Err(error) = front_end.lifecycle.refuse_when_stopping() {
        return refused(&error);
    }
    let description = front_end.describe();
    let body = json!({
        "name": description.name,
        "version": description.version,
        "extensions": description.extensions,
    });
    Json(body).into_response()
}

async fn model_metadata(State(front_end): State<FrontEnd>, Path(model): Path<String>) -> Response {
    metadata(&front_end, &model, "")
}

async fn version_metadata(State(front_end): State<FrontEnd>, Path((model, version)): Path<(String, String)>) -> Response {
    metadata(&front_end, &model, &version)
}

/// Tensors as JSON.
fn tensors(tensors: &[TensorMetadata]) -> Vec<Value> {
    let described =
        tensors.iter().map(|tensor| json!({ "name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape }));
    described.collect()
}

fn metadata(front_end: &FrontEnd, model: &str, version: &str) -> Response {
    let found = front_end.lifecycle.refuse_when_stopping().and_then(|()| grpc::model_metadata(front_end, model, version));
    match found {
        Ok(found) => Json(json!({
            "name": found.name,
            "versions": found.versions,
            "platform": found.platform,
            "inputs": tensors(&found.inputs),
            "outputs": tensors(&found.outputs),
        }))
        .into_response(),
        Err(error) => refused(&error),
    }
}

async fn model_ready(State(front_end): State<FrontEnd>, Path(model): Path<String>) -> Response {
    readiness(&front_end, &model, "")
}

async fn version_ready(State(front_end): State<FrontEnd>, Path((model, version)): Path<(String, String)>) -> Response {
    readiness(&front_end, &model, &version)
}

fn readiness(front_end: &FrontEnd, model: &str, version: &str) -> Response {
    let is_ready = front_end.lifecycle.refuse_when_stopping().and_then(|()| front_end.is_model_ready(model, version));
    match is_ready {
        Ok(true) => StatusCode::OK.into_response(),
        Ok(false) => error(StatusCode::BAD_REQUEST, "Model version not ready"),
        Err(error) => refused(&error),
    }
}

fn refused(problem: &InferError) -> Response {
    let code = StatusCode::from_u16(grpc::http_code(problem)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    error(code, &problem.to_string())
}

fn error(code: StatusCode, text: &str) -> Response {
    (code, Json(json!({ "error": text }))).into_response()
}
