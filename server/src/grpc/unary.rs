//! `ModelInfer`: one request, one response.

use proto::inference::{ModelInferRequest, ModelInferResponse};
use tonic::{Request, Response, Status};

use crate::clock;
use crate::error::InferError;
use crate::request::{Cancellation, Responder};

use super::answer::{CancelOnDrop, UnarySink};
use super::front_end::FrontEnd;
use super::{decode, encode, status};

/// Runs one request. Dropping the future cancels it.
pub(super) async fn infer(
    front_end: &FrontEnd,
    request: Request<ModelInferRequest>,
) -> Result<Response<ModelInferResponse>, Status> {
    let received_at = clock::now();
    let deadline = decode::parse_timeout(request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok()));
    let mut message = request.into_inner();
    let model = message.model_name.clone();
    let answer = async {
        let _under_way = front_end.lifecycle.admit()?;
        let parameters = std::mem::take(&mut message.parameters);
        let head = decode::head(parameters, &message.model_version, deadline)?;
        let handle = front_end.resolve(&message.model_name, head.version)?;
        if handle.config.decoupled {
            return Err(InferError::DecoupledUnary);
        }
        let body = decode::body(message, head, received_at)?;
        let (sink, answer) = UnarySink::new();
        let cancellation = Cancellation::default();
        let guard = CancelOnDrop::new(cancellation.clone());
        handle.submit(body.request, Responder::new(Box::new(sink), cancellation));
        let mut response = answer.await.map_err(|_| InferError::Abandoned)??;
        guard.disarm();
        encode::apply_classes(&mut response, &handle.config, &body.classes)?;
        Ok(encode::response(*response))
    };
    answer.await.map(Response::new).map_err(|error| status::infer_status(&model, &error))
}
