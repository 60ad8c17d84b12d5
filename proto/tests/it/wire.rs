//! The wire form: payloads are not copied, and names and numbers are those that clients speak.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use prost_reflect::DescriptorPool;
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};

#[test]
fn decoded_payloads_are_slices_of_the_received_buffer() {
    let request = ModelInferRequest {
        model_name: "m".to_owned(),
        inputs: vec![InferInputTensor {
            name: "A".to_owned(),
            datatype: "UINT8".to_owned(),
            shape: vec![1000],
            ..Default::default()
        }],
        raw_input_contents: vec![Bytes::from(vec![7; 1000]), Bytes::new(), Bytes::from(vec![9; 70_000])],
        ..Default::default()
    };
    let received = Bytes::from(request.encode_to_vec());
    let buffer = received.as_ptr_range();
    let decoded = ModelInferRequest::decode(received.clone()).unwrap();
    assert_eq!(decoded, request);
    for payload in decoded.raw_input_contents.iter().filter(|payload| !payload.is_empty()) {
        let slice = payload.as_ptr_range();
        assert!(buffer.start <= slice.start && slice.end <= buffer.end, "{slice:?} is not in {buffer:?}");
    }

    let response = ModelInferResponse { raw_output_contents: vec![Bytes::from(vec![1; 5000])], ..Default::default() };
    let received = Bytes::from(response.encode_to_vec());
    let decoded = ModelInferResponse::decode(received.clone()).unwrap();
    assert!(received.as_ptr_range().contains(&decoded.raw_output_contents[0].as_ptr()));
}

#[test]
fn a_request_has_the_bytes_of_the_protocol() {
    let parameter = InferParameter { parameter_choice: Some(ParameterChoice::Uint64Param(300)) };
    let request = ModelInferRequest {
        model_name: "m".to_owned(),
        model_version: "1".to_owned(),
        id: "x".to_owned(),
        parameters: BTreeMap::from([("priority".to_owned(), parameter)]),
        inputs: vec![InferInputTensor {
            name: "A".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, -1],
            ..Default::default()
        }],
        outputs: vec![],
        raw_input_contents: vec![Bytes::from_static(b"\x00\x01")],
    };
    let mut expected = Vec::new();
    expected.extend(b"\x0a\x01m\x12\x011\x1a\x01x");
    expected.extend(b"\x22\x0f\x0a\x08priority\x12\x03\x28\xac\x02");
    expected.extend(b"\x2a\x16\x0a\x01A\x12\x04FP32\x1a\x0b\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");
    expected.extend(b"\x3a\x02\x00\x01");
    assert_eq!(request.encode_to_vec(), expected);
    assert_eq!(ModelInferRequest::decode(expected.as_slice()).unwrap(), request);
}

#[test]
fn the_service_has_its_twenty_methods() {
    let pool = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let service = pool.get_service_by_name("inference.GRPCInferenceService").unwrap();
    let methods: Vec<String> = service.methods().map(|method| method.name().to_owned()).collect();
    let expected = "ServerLive ServerReady ModelReady ServerMetadata ModelMetadata ModelInfer ModelStreamInfer ModelConfig \
                    ModelStatistics RepositoryIndex RepositoryModelLoad RepositoryModelUnload SystemSharedMemoryStatus \
                    SystemSharedMemoryRegister SystemSharedMemoryUnregister CudaSharedMemoryStatus CudaSharedMemoryRegister \
                    CudaSharedMemoryUnregister TraceSetting LogSettings";
    assert_eq!(methods, expected.split_whitespace().collect::<Vec<_>>());
    for method in service.methods() {
        let streams = method.name() == "ModelStreamInfer";
        assert_eq!(method.is_client_streaming(), streams, "{}", method.name());
        assert_eq!(method.is_server_streaming(), streams, "{}", method.name());
    }
}
