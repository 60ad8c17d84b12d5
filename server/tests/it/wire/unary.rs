//! `ModelInfer` and the RPCs that describe the server and its models.

use std::time::Duration;

use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::{
    InferTensorContents, ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ModelStatisticsRequest,
    RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest, ServerMetadataRequest,
};
use tonic::{Code, Request};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_has_id_version_and_raw_outputs() {
    let served = Served::start(&[("add_sub", &[1, 3], add_sub("version_policy { all { } }"))]).await;
    let mut client = served.client().await;
    let response = client.model_infer(add_sub_request("add_sub", "mine")).await.unwrap().into_inner();
    assert_eq!((response.model_name.as_str(), response.model_version.as_str(), response.id.as_str()), ("add_sub", "3", "mine"));
    let names: Vec<_> = response.outputs.iter().map(|output| (output.name.as_str(), output.shape.as_slice())).collect();
    assert_eq!(names, [("OUTPUT0", &[4][..]), ("OUTPUT1", &[4])]);
    assert_eq!(response.raw_output_contents, [ints(&[2, 4, 6, 8]), ints(&[0; 4])]);
    assert!(response.outputs.iter().all(|output| output.contents.is_none()));
    let exact = ModelInferRequest { model_version: "1".to_owned(), ..add_sub_request("add_sub", "") };
    let exact = with_output(exact, "OUTPUT1", &[]);
    let response = client.model_infer(exact).await.unwrap().into_inner();
    assert_eq!((response.model_version.as_str(), response.outputs.len()), ("1", 1));
    assert_eq!(response.raw_output_contents, [ints(&[0; 4])]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_contents_give_the_same_answer_as_raw_ones() {
    let served = Served::start(&[("texts", &[1], identity("STRING", "")), ("numbers", &[1], identity("INT8", ""))]).await;
    let mut client = served.client().await;
    let mut typed = request("texts", "", &[("INPUT0", "BYTES", &[2], Vec::new())]);
    typed.raw_input_contents.clear();
    typed.inputs[0].contents =
        Some(InferTensorContents { bytes_contents: vec![Bytes::from_static(b"a\0b"), Bytes::new()], ..Default::default() });
    let response = client.model_infer(typed).await.unwrap().into_inner();
    assert_eq!(response.raw_output_contents[0].as_ref(), b"\x03\0\0\0a\0b\0\0\0\0");
    let mut typed = request("numbers", "", &[("INPUT0", "INT8", &[2], Vec::new())]);
    typed.raw_input_contents.clear();
    typed.inputs[0].contents = Some(InferTensorContents { int_contents: vec![-1, 5], ..Default::default() });
    let response = client.model_infer(typed).await.unwrap().into_inner();
    assert_eq!(response.raw_output_contents[0].as_ref(), [255, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_come_with_labels() {
    let output =
        "output [ { name: \"OUTPUT0\" data_type: TYPE_FP32 dims: [ 3 ] label_filename: \"labels.txt\" } ] max_batch_size: 4";
    let model = config("identity", &[("INPUT0", "FP32", "3")], &[], output);
    let served = Served::start(&[("classes", &[1], model)]).await;
    let scores = request("classes", "", &[("INPUT0", "FP32", &[2, 3], floats(&[0.5, 2.0, 1.0, 7.0, 0.0, 8.0]))]);
    let wanted = with_output(scores, "OUTPUT0", &[("classification", ParameterChoice::Int64Param(2))]);
    let response = served.client().await.model_infer(wanted).await.unwrap().into_inner();
    assert_eq!((response.outputs[0].datatype.as_str(), response.outputs[0].shape.as_slice()), ("BYTES", &[2, 2][..]));
    let text = String::from_utf8_lossy(&response.raw_output_contents[0]).into_owned();
    for class in ["2.000000:1:one", "1.000000:2:two", "8.000000:2:two", "7.000000:0:zero"] {
        assert!(text.contains(class), "{class} in {text:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_the_instance() {
    let served = Served::start(&[("sleep", &[1], sleep())]).await;
    let mut client = served.client().await;
    // Fifty seconds on the only instance, then nobody waits for it.
    let mut leaving = client.clone();
    let call = tokio::spawn(async move { leaving.model_infer(one("sleep", "leaves", 50.0)).await });
    served.wait_under_way(1).await;
    call.abort();
    let mut deadline = Request::new(one("sleep", "deadline", 50.0));
    deadline.set_timeout(Duration::from_millis(20));
    // This client calls its own deadline "cancelled", and may be the first to notice it.
    let code = patient(client.model_infer(deadline)).await.unwrap_err().code();
    assert!(matches!(code, Code::DeadlineExceeded | Code::Cancelled), "{code:?}");
    let response = patient(client.model_infer(one("sleep", "stays", 0.0))).await.unwrap().into_inner();
    assert_eq!(response.id, "stays");
    served.wait_under_way(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_keep_their_own_rows() {
    let served = Served::start(&[("batch", &[1], identity("FP32", "max_batch_size: 8 dynamic_batching { }"))]).await;
    let client = served.client().await;
    let calls: Vec<_> = (0..300u16)
        .map(|number| {
            let mut client = client.clone();
            tokio::spawn(async move {
                let row = floats(&[f32::from(number); 3]);
                let message = request("batch", &number.to_string(), &[("INPUT0", "FP32", &[1, 3], row.clone())]);
                let response = client.model_infer(message).await.unwrap().into_inner();
                assert_eq!((response.id, response.raw_output_contents), (number.to_string(), vec![Bytes::from(row)]));
            })
        })
        .collect();
    for call in calls {
        patient(call).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_config_and_statistics_describe_a_model() {
    let served = Served::start(&[("add_sub", &[1, 2], add_sub("max_batch_size: 4 version_policy { all { } }"))]).await;
    let mut client = served.client().await;
    let about = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(about.name, "the server");
    assert!(about.extensions.iter().any(|extension| extension == "statistics"));
    assert!(!about.extensions.iter().any(|extension| extension.contains("shared_memory")));
    let named = |version: &str| ModelMetadataRequest { name: "add_sub".to_owned(), version: version.to_owned() };
    let metadata = client.model_metadata(named("")).await.unwrap().into_inner();
    assert_eq!((metadata.versions, metadata.platform.as_str()), (vec!["1".to_owned(), "2".to_owned()], "builtin"));
    assert_eq!((metadata.inputs[0].datatype.as_str(), metadata.inputs[0].shape.as_slice()), ("INT32", &[-1, 4][..]));
    assert_eq!(client.model_metadata(named("1")).await.unwrap().into_inner().versions, ["1"]);
    let asked = ModelConfigRequest { name: "add_sub".to_owned(), version: String::new() };
    let config = client.model_config(asked).await.unwrap().into_inner().config.unwrap();
    assert_eq!((config.name.as_str(), config.max_batch_size, config.instance_group.len()), ("add_sub", 4, 1));
    let rows = ints(&[1; 8]);
    let message = request("add_sub", "", &[("INPUT0", "INT32", &[2, 4], rows.clone()), ("INPUT1", "INT32", &[2, 4], rows)]);
    client.model_infer(message).await.unwrap();
    let asked = ModelStatisticsRequest { name: "add_sub".to_owned(), version: "2".to_owned() };
    let statistics = client.model_statistics(asked).await.unwrap().into_inner().model_stats;
    assert_eq!((statistics.len(), statistics[0].inference_count, statistics[0].execution_count), (1, 2, 1));
    assert_eq!(statistics[0].inference_stats.unwrap().success.unwrap().count, 1);
    assert_eq!(statistics[0].batch_stats[0].batch_size, 2);
    let everything = client.model_statistics(ModelStatisticsRequest::default()).await.unwrap().into_inner().model_stats;
    assert_eq!(everything.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_come_and_go() {
    let served = Served::start(&[("model", &[1], identity("FP32", ""))]).await;
    let mut client = served.client().await;
    let index = client.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner();
    assert_eq!(index.models.iter().map(|model| model.state.as_str()).collect::<Vec<_>>(), ["READY"]);
    let unload = RepositoryModelUnloadRequest { model_name: "model".to_owned(), ..Default::default() };
    client.repository_model_unload(unload).await.unwrap();
    let asked = || ModelReadyRequest { name: "model".to_owned(), version: String::new() };
    assert!(!client.model_ready(asked()).await.unwrap().into_inner().ready);
    assert_refused(client.model_infer(one("model", "", 1.0)).await, Code::NotFound, "'model' has no available versions");
    let load = RepositoryModelLoadRequest { model_name: "model".to_owned(), ..Default::default() };
    client.repository_model_load(load).await.unwrap();
    assert!(client.model_ready(asked()).await.unwrap().into_inner().ready);
    client.model_infer(one("model", "", 1.0)).await.unwrap();
}
