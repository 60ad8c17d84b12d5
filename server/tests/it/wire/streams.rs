//! `ModelStreamInfer`: order, final flags, errors, flow control, and clients that leave.

use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::{ModelInferResponse, ModelStreamInferResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::*;

async fn zoo() -> Served {
    let many = config(
        "sleep",
        &[("INPUT0", "FP32", "1")],
        &[("OUTPUT0", "FP32", "1")],
        "instance_group [ { count: 4 kind: KIND_CPU } ]",
    );
    Served::start(&[
        ("floats", &[1], identity("FP32", "")),
        ("sleep", &[1], many),
        ("repeat", &[1], repeat()),
        ("producer", &[1], producer()),
    ])
    .await
}

/// Sends all messages, closes this side, and collects what comes until the stream ends.
async fn converse(served: &Served, messages: Vec<ModelInferRequest>) -> (Vec<ModelStreamInferResponse>, Option<Status>) {
    converse_with(served, Request::new(tokio_stream::iter(messages))).await
}

async fn converse_with(
    served: &Served,
    request: Request<tokio_stream::Iter<std::vec::IntoIter<ModelInferRequest>>>,
) -> (Vec<ModelStreamInferResponse>, Option<Status>) {
    let mut replies = served.client().await.model_stream_infer(request).await.unwrap().into_inner();
    let mut got = Vec::new();
    loop {
        match patient(replies.message()).await {
            Ok(Some(reply)) => got.push(reply),
            Ok(None) => return (got, None),
            Err(status) => return (got, Some(status)),
        }
    }
}

fn response(reply: &ModelStreamInferResponse) -> &ModelInferResponse {
    reply.infer_response.as_ref().unwrap()
}

fn final_flags(replies: &[ModelStreamInferResponse]) -> Vec<bool> {
    replies.iter().map(|reply| flag(response(reply), "triton_final_response").unwrap()).collect()
}

fn ids(replies: &[ModelStreamInferResponse]) -> Vec<&str> {
    replies.iter().map(|reply| response(reply).id.as_str()).collect()
}

fn with_empty_final(message: ModelInferRequest) -> ModelInferRequest {
    with_parameter(message, "triton_enable_empty_final_response", ParameterChoice::BoolParam(true))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_responses_come_in_request_order() {
    let served = zoo().await;
    let mut messages = vec![one("sleep", "0", 0.2), one("sleep", "1", 0.0), one("sleep", "2", 0.1)];
    messages.extend((3..40u8).map(|number| one("floats", &number.to_string(), f32::from(number))));
    let (replies, end) = converse(&served, messages).await;
    assert!(end.is_none());
    let expected: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    assert_eq!(ids(&replies), expected);
    assert!(final_flags(&replies).into_iter().all(|last| last));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decoupled_responses_end_with_a_flag_only_if_asked() {
    let served = zoo().await;
    let (replies, _) = converse(&served, vec![repeat_request("r", &[4, 5, 6])]).await;
    assert_eq!(final_flags(&replies), [false; 3]);
    let outputs: Vec<_> = replies.iter().map(|reply| response(reply).raw_output_contents[0].to_vec()).collect();
    assert_eq!(outputs, [ints(&[4]), ints(&[5]), ints(&[6])]);
    let (replies, _) = converse(&served, vec![with_empty_final(repeat_request("r", &[4]))]).await;
    assert_eq!(final_flags(&replies), [false, true]);
    let last = response(&replies[1]);
    assert_eq!((last.id.as_str(), last.model_name.as_str(), last.model_version.as_str()), ("r", "repeat", "1"));
    assert!(last.outputs.is_empty());
    let (replies, end) = converse(&served, vec![repeat_request("none", &[])]).await;
    assert!(replies.is_empty() && end.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decoupled_responses_do_not_wait_behind_others() {
    let served = zoo().await;
    let (messages, requests) = mpsc::channel(4);
    messages.send(one("sleep", "slow", 50.0)).await.unwrap();
    messages.send(repeat_request("fast", &[1])).await.unwrap();
    let stream = ReceiverStream::new(requests);
    let mut replies = served.client().await.model_stream_infer(stream).await.unwrap().into_inner();
    assert_eq!(response(&patient(replies.message()).await.unwrap().unwrap()).id, "fast");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_does_not_end_the_stream() {
    let served = zoo().await;
    let mut wrong_shape = repeat_request("shape", &[1]);
    wrong_shape.inputs[1].shape = vec![2];
    wrong_shape.raw_input_contents[1] = Bytes::from(ints(&[0, 0]));
    let mut short = one("floats", "short", 1.0);
    short.raw_input_contents[0] = Bytes::from_static(b"abc");
    let unknown = one("nobody", "unknown", 1.0);
    let messages = vec![one("floats", "before", 1.0), unknown, short, wrong_shape, one("floats", "after", 2.0)];
    let (replies, end) = converse(&served, messages).await;
    assert!(end.is_none());
    let by_id: BTreeMap<&str, &ModelStreamInferResponse> = ids(&replies).into_iter().zip(&replies).collect();
    assert_eq!(by_id.len(), 5);
    let code = |id: &str| response(by_id[id]).parameters["alcedo_status_code"].parameter_choice.clone();
    for (id, model, text) in [
        ("unknown", "nobody", "Request for unknown model: 'nobody' is not found"),
        ("short", "floats", "[request id: short] input byte size mismatch"),
        ("shape", "repeat", "expected IN and DELAY shape to match, got [1] and [2]"),
    ] {
        assert!(by_id[id].error_message.contains(text), "{}", by_id[id].error_message);
        assert_eq!(response(by_id[id]).model_name, model);
        assert_eq!(code(id), Some(ParameterChoice::StringParam("INVALID_ARGUMENT".to_owned())));
    }
    assert!(by_id["before"].error_message.is_empty() && by_id["after"].error_message.is_empty());
    assert!(final_flags(&replies).into_iter().all(|last| last));
    let ordinary: Vec<_> = ids(&replies).into_iter().filter(|id| *id != "shape").collect();
    assert_eq!(ordinary, ["before", "unknown", "short", "after"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_triton_grpc_error_the_first_error_ends_the_stream() {
    let served = zoo().await;
    let messages = vec![one("floats", "before", 1.0), one("nobody", "bad", 1.0), one("floats", "after", 1.0)];
    let mut request = Request::new(tokio_stream::iter(messages));
    request.metadata_mut().insert("triton_grpc_error", "true".parse().unwrap());
    let (replies, end) = converse_with(&served, request).await;
    assert_eq!(ids(&replies), ["before"]);
    assert_refused(end.map_or(Ok(()), Err), Code::InvalidArgument, "'nobody' is not found");
}

/// Opens a stream on which a producer begins to send a million responses, and reads the first.
async fn flood(served: &Served) -> (Streaming<ModelStreamInferResponse>, mpsc::Sender<ModelInferRequest>) {
    let (messages, requests) = mpsc::channel(4);
    messages.send(producer_request("flood", 1_000_000)).await.unwrap();
    let stream = ReceiverStream::new(requests);
    let mut replies = served.client().await.model_stream_infer(stream).await.unwrap().into_inner();
    assert_eq!(response(&patient(replies.message()).await.unwrap().unwrap()).id, "flood");
    (replies, messages)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_the_producer_that_it_held_back() {
    let served = zoo().await;
    let (replies, messages) = flood(&served).await;
    // The producer's only instance is busy; when another request is answered, the first client's leaving was noticed.
    drop((replies, messages));
    let (replies, end) = converse(&served, vec![producer_request("next", 2)]).await;
    assert!(end.is_none());
    assert_eq!(final_flags(&replies), [false, true]);
    served.wait_under_way(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_than_are_held_at_once_are_all_answered() {
    let served = zoo().await;
    let messages: Vec<_> = (0..3000u16).map(|number| one("nobody", &number.to_string(), 1.0)).collect();
    let (replies, end) = converse(&served, messages).await;
    assert!(end.is_none());
    assert!(ids(&replies).into_iter().eq((0..3000).map(|number| number.to_string())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_server_finishes_what_runs_and_ends_the_stream() {
    let served = zoo().await;
    let (messages, requests) = mpsc::channel(4);
    messages.send(one("sleep", "runs", 0.2)).await.unwrap();
    let stream = ReceiverStream::new(requests);
    let mut replies = served.client().await.model_stream_infer(stream).await.unwrap().into_inner();
    served.wait_under_way(1).await;
    served.front_end.lifecycle.drain();
    served.front_end.lifecycle.stop();
    assert_eq!(response(&patient(replies.message()).await.unwrap().unwrap()).id, "runs");
    let end = patient(replies.message()).await;
    assert_refused(end, Code::Unavailable, "GRPC server is shutting down and has stopped accepting new requests.");
    drop(messages);
    patient(served.grpc_task).await.unwrap().unwrap();
}
