//! `ModelInfer`: one request, one response.

use proto::inference::{ModelInferRequest, ModelInferResponse};
use tonic::{Request, Response, Status};

use crate::clock;
use crate::error::InferError;
use crate::observe::trace;
use crate::request::{Cancellation, Parameters, Responder};

use super::answer::{CancelOnDrop, UnarySink};
use super::deadline::Deadline;
use super::front_end::FrontEnd;
use super::shared::SharedTensors;
use super::{decode, encode, forward, status};

/// Runs one request, no longer than its client waits. Dropping the future cancels it.
pub(super) async fn infer(
    front_end: &FrontEnd,
    request: Request<ModelInferRequest>,
) -> Result<Response<ModelInferResponse>, Status> {
    let headers = Headers {
        deadline: Deadline::of(&request),
        forwarded: front_end.forwarding.parameters(request.metadata()),
        traceparent: forward::traceparent(request.metadata()),
    };
    let message = request.into_inner();
    let model = message.model_name.clone();
    let answered = match headers.deadline {
        None => answer(front_end, message, headers).await,
        Some(deadline) => match tokio::time::timeout(deadline.left(clock::now()), answer(front_end, message, headers)).await {
            Ok(answered) => answered.map_err(|error| deadline.reason(error, clock::now())),
            Err(_) => Err(InferError::DeadlineExceeded),
        },
    };
    answered.map(Response::new).map_err(|error| status::infer_status(&model, &error))
}

/// What the headers of a call say.
struct Headers {
    deadline: Option<Deadline>,
    forwarded: Result<Parameters, InferError>,
    traceparent: Option<String>,
}

async fn answer(
    front_end: &FrontEnd,
    mut message: ModelInferRequest,
    headers: Headers,
) -> Result<ModelInferResponse, InferError> {
    let received_at = clock::now();
    let _under_way = front_end.lifecycle.admit()?;
    let parameters = std::mem::take(&mut message.parameters);
    let deadline = headers.deadline.map(Deadline::at);
    let head = decode::head(parameters, &headers.forwarded?, &message.model_version, deadline)?;
    let handle = front_end.resolve(&message.model_name, head.version)?;
    if handle.config.decoupled {
        return Err(InferError::DecoupledUnary);
    }
    let mut body = decode::body(message, head, received_at)?;
    let shared = SharedTensors::find(&front_end.regions, body.places)?;
    shared.fetch(&mut body.request).await?;
    let (sink, answer) = UnarySink::new();
    let cancellation = Cancellation::default();
    let guard = CancelOnDrop::new(cancellation.clone());
    let span = trace::request(&handle.config.name, handle.version, &body.request.id, headers.traceparent.as_deref());
    handle.submit(body.request, Responder::new(Box::new(sink), cancellation).within(span));
    let mut response = answer.await.map_err(|_| InferError::Abandoned)??;
    guard.disarm();
    encode::apply_classes(&mut response, &handle.config, &body.classes)?;
    let response = shared.deliver(response).await?;
    Ok(encode::response(*response, &shared))
}
