//! The error catalogue over the wire: for each situation the code and the text that clients match on.

use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::{
    InferTensorContents, ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelStatisticsRequest,
    RepositoryIndexRequest, RepositoryModelLoadRequest, SystemSharedMemoryRegisterRequest, TraceSettingRequest,
};
use tonic::Code;

use super::*;

const RID: &str = "[request id: <id_unknown>] ";

async fn zoo() -> Served {
    let two_dims = config("identity", &[("INPUT0", "INT32", "-1, -1")], &[("OUTPUT0", "INT32", "-1, -1")], "");
    Served::start(&[
        ("add_sub", &[1], add_sub("")),
        ("batched", &[1], identity("FP32", "max_batch_size: 8")),
        ("batched_sum", &[1], add_sub("max_batch_size: 8")),
        ("floats", &[1], identity("FP32", "")),
        ("texts", &[1], identity("STRING", "")),
        ("two_dims", &[1], two_dims),
        ("repeat", &[1], repeat()),
    ])
    .await
}

fn versioned(version: &str) -> ModelInferRequest {
    ModelInferRequest { model_version: version.to_owned(), ..one("floats", "", 1.0) }
}

fn raw(model: &str, datatype: &str, shape: &[i64], contents: Vec<u8>) -> ModelInferRequest {
    request(model, "", &[("INPUT0", datatype, shape, contents)])
}

fn typed(contents: InferTensorContents) -> ModelInferRequest {
    let mut message = one("floats", "", 1.0);
    message.raw_input_contents.clear();
    message.inputs[0].contents = Some(contents);
    message
}

/// A request, its code and a part of its text, where `[rid]` stands for the tag of a request without an id.
type Situation = (ModelInferRequest, Code, &'static str);

const INVALID: Code = Code::InvalidArgument;

/// Model, version and parameters: what comes before the tensors.
fn lookups() -> Vec<Situation> {
    let int = InferTensorContents { int_contents: vec![1], ..Default::default() };
    let flag = ParameterChoice::BoolParam(true);
    let reserved = "parameter keys starting with 'triton_' are reserved for Triton usage";
    let not_a_number = "failed to get model version from specified version string 'x' (details: not an integer), version \
        should be an integral value > 0";
    let not_positive = "invalid model version specified '0' , version should be an integral value > 0";
    let wrong_timeout = "invalid value type for 'timeout' parameter, expected int64_param.";
    vec![
        (one("nobody", "", 1.0), INVALID, "Request for unknown model: 'nobody' is not found"),
        (versioned("9"), Code::NotFound, "Request for unknown model: 'floats' version 9 is not found"),
        (versioned("x"), INVALID, not_a_number),
        (versioned("0"), INVALID, not_positive),
        (with_parameter(one("floats", "", 1.0), "triton_x", flag.clone()), INVALID, reserved),
        // Parameters come before the lookup, the lookup before the tensors.
        (with_parameter(one("nobody", "", 1.0), "timeout", flag), INVALID, wrong_timeout),
        (
            ModelInferRequest { model_name: "nobody".to_owned(), ..typed(int) },
            INVALID,
            "Request for unknown model: 'nobody' is not found",
        ),
        (
            repeat_request("", &[1]),
            Code::Unimplemented,
            "ModelInfer RPC doesn't support models with decoupled transaction policy",
        ),
    ]
}

/// Which inputs and outputs there are.
fn names() -> Vec<Situation> {
    let part = |name: &'static str| (name, "INT32", &[4i64][..], ints(&[1; 4]));
    let twice = with_output(add_sub_request("add_sub", ""), "OUTPUT0", &[]);
    let region = [
        ("shared_memory_region", ParameterChoice::StringParam("r".to_owned())),
        ("shared_memory_byte_size", ParameterChoice::Int64Param(4)),
    ];
    let too_few = "[rid]expected 2 inputs but got 1 inputs for model 'add_sub'. Got input(s) ['INPUT0'], but missing required \
        input(s) ['INPUT1']. Please provide all required input(s).";
    let none = "[rid]expected 2 inputs but got 0 inputs for model 'add_sub'. Got input(s) [], but missing required input(s) \
        ['INPUT0','INPUT1']. Please provide all required input(s).";
    let shared = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.";
    vec![
        (request("add_sub", "", &[part("INPUT0")]), INVALID, too_few),
        (request("add_sub", "", &[]), INVALID, none),
        (
            request("add_sub", "", &[part("INPUT0"), part("INPUTX")]),
            INVALID,
            "unexpected inference input 'INPUTX' for model 'add_sub'",
        ),
        (with_output(add_sub_request("add_sub", ""), "X", &[]), INVALID, "unexpected inference output 'X' for model 'add_sub'"),
        (request("add_sub", "", &[part("INPUT0"), part("INPUT0")]), INVALID, "[rid]input 'INPUT0' already exists in request"),
        (with_output(twice, "OUTPUT0", &[]), INVALID, "[rid]output 'OUTPUT0' already exists in request"),
        (with_output(one("floats", "", 1.0), "OUTPUT0", &region), Code::Unimplemented, shared),
    ]
}

/// Datatypes and shapes.
fn shapes() -> Vec<Situation> {
    let mut rows = vec![("INPUT0", "INT32", &[1i64, 4][..], ints(&[1; 4]))];
    rows.push(("INPUT1", "INT32", &[2, 4], ints(&[1; 8])));
    let table: [(ModelInferRequest, &'static str); 10] = [
        (
            raw("batched", "FP32", &[], floats(&[1.0])),
            "[rid]input 'INPUT0' has no shape but model requires batch dimension for 'batched'",
        ),
        (request("batched_sum", "", &rows), "[rid]input 'INPUT1' batch size does not match other inputs for 'batched_sum'"),
        (raw("batched", "FP32", &[9, 1], floats(&[1.0; 9])), "[rid]inference request batch-size must be <= 8 for 'batched'"),
        (
            raw("floats", "INT32", &[1], ints(&[1])),
            "[rid]inference input 'INPUT0' data-type is 'INT32', but model 'floats' expects 'FP32'",
        ),
        (
            raw("two_dims", "INT32", &[1, 2, 3], ints(&[1; 6])),
            "[rid]unexpected shape for input 'INPUT0' for model 'two_dims'. Expected [-1,-1], got [1,2,3]. ",
        ),
        (
            raw("batched", "FP32", &[1], floats(&[1.0])),
            "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension",
        ),
        (
            raw("floats", "FP32", &[-1], Vec::new()),
            "[rid]All input dimensions should be specified for input 'INPUT0' for model 'floats', got [-1]",
        ),
        (raw("floats", "FP32", &[-2], Vec::new()), "contains an invalid dimension"),
        (raw("two_dims", "INT32", &[1 << 32, 1 << 32], Vec::new()), "causes total element count to exceed maximum size of"),
        (raw("floats", "FP32", &[i64::MAX], Vec::new()), "byte size overflow for input 'INPUT0'"),
    ];
    table.into_iter().map(|(message, text)| (message, INVALID, text)).collect()
}

/// Contents, raw and typed.
fn contents() -> Vec<Situation> {
    let fp32 = InferTensorContents { fp32_contents: vec![1.0], ..Default::default() };
    let int = InferTensorContents { int_contents: vec![1], ..Default::default() };
    let mut both = one("floats", "", 1.0);
    both.inputs[0].contents = Some(fp32);
    let table: [(ModelInferRequest, &'static str); 7] = [
        (
            raw("floats", "FP32", &[8], vec![0; 40]),
            "[rid]input byte size mismatch for input 'INPUT0' for model 'floats'. Expected 32, got 40",
        ),
        (
            raw("texts", "BYTES", &[3], b"\x01\0\0\0a".to_vec()),
            "[rid]expected 3 string elements for inference input 'INPUT0' for model 'texts', got 1",
        ),
        (
            raw("texts", "BYTES", &[1], b"\x01\0\0\0a\x01\0\0\0b".to_vec()),
            "[rid]unexpected number of string elements 2 for inference input 'INPUT0' for model 'texts', expecting 1",
        ),
        (
            raw("texts", "BYTES", &[2], b"\x01\0\0\0a\x01\0".to_vec()),
            "[rid]incomplete string length indicator for inference input 'INPUT0' for model 'texts', expecting 4 bytes but \
                only 2 bytes available. ",
        ),
        (typed(InferTensorContents::default()), "unable to find data for input tensor 'INPUT0' for model 'floats' in request."),
        (both, "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'floats'"),
        (
            typed(int),
            "unexpected explicit tensor data for input tensor 'INPUT0' for model 'floats' of type 'INT32', expected datatype \
                'FP32'",
        ),
    ];
    table.into_iter().map(|(message, text)| (message, INVALID, text)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_situation_has_its_code_and_text() {
    let served = zoo().await;
    let mut client = served.client().await;
    for (message, code, text) in [lookups(), names(), shapes(), contents()].concat() {
        let status = client.model_infer(message).await.expect_err(text);
        assert_eq!(status.code(), code, "{text}: {status:?}");
        let expected = text.replace("[rid]", RID);
        assert!(status.message().contains(&expected), "expected {expected:?}, got {:?}", status.message());
        // A good request in between still answers.
        client.model_infer(one("floats", "", 1.0)).await.unwrap();
    }
    let mut named = one("batched", "mine", 1.0);
    named.inputs[0].shape = vec![9, 1];
    assert_refused(client.model_infer(named).await, Code::InvalidArgument, "[request id: mine] ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_calls_refuse_with_the_same_words() {
    let served = zoo().await;
    let mut client = served.client().await;
    let unknown = "Request for unknown model: 'nobody' is not found";
    let asked = ModelMetadataRequest { name: "nobody".to_owned(), version: String::new() };
    assert_refused(client.model_metadata(asked).await, Code::InvalidArgument, unknown);
    let asked = ModelConfigRequest { name: "nobody".to_owned(), version: String::new() };
    assert_refused(client.model_config(asked).await, Code::InvalidArgument, unknown);
    let asked = ModelMetadataRequest { name: "floats".to_owned(), version: "9".to_owned() };
    assert_refused(client.model_metadata(asked).await, Code::NotFound, "'floats' version 9 is not found");
    let asked = ModelStatisticsRequest { name: "nobody".to_owned(), version: String::new() };
    assert_refused(client.model_statistics(asked).await, Code::InvalidArgument, "requested model 'nobody' is not available");
    let asked = ModelStatisticsRequest { name: "floats".to_owned(), version: "9".to_owned() };
    let text = "requested model version is not available for model 'floats'";
    assert_refused(client.model_statistics(asked).await, Code::InvalidArgument, text);
    let asked = RepositoryIndexRequest { repository_name: "r".to_owned(), ready: false };
    let text = "'repository_name' specification is not supported";
    assert_refused(client.repository_index(asked).await, Code::Unimplemented, text);
    let asked = RepositoryModelLoadRequest { model_name: "nobody".to_owned(), ..Default::default() };
    let text = "failed to load 'nobody', failed to poll from model repository";
    assert_refused(client.repository_model_load(asked).await, Code::Internal, text);
    let asked = SystemSharedMemoryRegisterRequest::default();
    let text = "Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.";
    assert_refused(client.system_shared_memory_register(asked).await, Code::Unimplemented, text);
    let asked = TraceSettingRequest::default();
    assert_refused(client.trace_setting(asked).await, Code::Unimplemented, "TraceSetting");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_very_long_name_still_gets_its_error() {
    let served = zoo().await;
    let message = ModelInferRequest { model_name: "n".repeat(1 << 20), ..Default::default() };
    let text = "Request for unknown model: 'nnn";
    assert_refused(served.client().await.model_infer(message).await, Code::InvalidArgument, text);
}
