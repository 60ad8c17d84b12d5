//! Shared memory over the wire: a region's life, and tensors of all sizes in it, on calls and streams.

use std::fs::File;
use std::os::unix::fs::FileExt;

use proto::inference::{
    ModelStreamInferResponse, SystemSharedMemoryRegisterRequest, SystemSharedMemoryStatusRequest,
    SystemSharedMemoryUnregisterRequest,
};
use server::shared_memory::Allowed;
use tempfile::NamedTempFile;

use super::*;

/// An object that two processes could share, removed after the test.
struct Object {
    file: NamedTempFile,
    key: String,
}

impl Object {
    fn new(bytes: u64) -> Self {
        let file = tempfile::Builder::new().prefix("alcedo-wire-").tempfile_in("/dev/shm").unwrap();
        file.as_file().set_len(bytes).unwrap();
        let key = format!("/{}", file.path().file_name().unwrap().to_string_lossy());
        Self { file, key }
    }

    fn file(&self) -> &File {
        self.file.as_file()
    }

    fn floats(&self, offset: u64, count: usize) -> Vec<f32> {
        let mut bytes = vec![0; count * 4];
        self.file().read_exact_at(&mut bytes, offset).unwrap();
        bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }
}

async fn sharing() -> Served {
    let regions = Regions::new(Allowed { system: true, cuda: true });
    let served = Served::unloaded_sharing(&[("floats", &[1], identity("FP32", ""))], regions).await;
    served.front_end.repository.load_startup().await.unwrap();
    served
}

fn register(name: &str, object: &Object, byte_size: u64) -> SystemSharedMemoryRegisterRequest {
    SystemSharedMemoryRegisterRequest { name: name.to_owned(), key: object.key.clone(), offset: 0, byte_size }
}

/// `count` floats of the region's beginning, and the place behind them for the answer.
fn placed(region: &str, id: &str, count: usize) -> ModelInferRequest {
    let bytes = i64::try_from(count * 4).unwrap();
    let place = |offset| {
        let texts = [("shared_memory_region", ParameterChoice::StringParam(region.to_owned()))];
        let numbers = [("shared_memory_byte_size", bytes), ("shared_memory_offset", offset)];
        texts.into_iter().chain(numbers.map(|(name, number)| (name, ParameterChoice::Int64Param(number)))).collect::<Vec<_>>()
    };
    let mut message = request("floats", id, &[]);
    let parameters = place(0).into_iter();
    let parameters = parameters.map(|(name, value)| (name.to_owned(), InferParameter { parameter_choice: Some(value) }));
    let shape = [i64::try_from(count).unwrap()];
    message.inputs.push(InferInputTensor { parameters: parameters.collect(), ..input("INPUT0", "FP32", &shape) });
    with_output(message, "OUTPUT0", &place(bytes))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_of_all_sizes_lie_in_shared_memory() {
    let served = sharing().await;
    let mut client = served.client().await;
    // Beyond 1 MiB, copies are made by threads of their own.
    for count in [0, 1, 1000, 1_000_000] {
        let bytes = u64::try_from(count * 4).unwrap();
        let object = Object::new(2 * bytes + 4);
        client.system_shared_memory_register(register("r", &object, 2 * bytes + 4)).await.unwrap();
        let mut answered = 0;
        for turn in 0..2u16 {
            let values: Vec<f32> = (0..count).map(|at| f32::from(turn) + at as f32).collect();
            object.file().write_all_at(&floats(&values), 0).unwrap();
            let answers: Vec<ModelInferResponse> = if turn == 0 {
                vec![patient(client.model_infer(placed("r", "unary", count))).await.unwrap().into_inner()]
            } else {
                let messages = vec![placed("r", "first", count), placed("r", "second", count)];
                let mut replies = client.model_stream_infer(tokio_stream::iter(messages)).await.unwrap().into_inner();
                let mut answers = Vec::new();
                while let Some(reply) = patient(replies.message()).await.unwrap() {
                    let ModelStreamInferResponse { error_message, infer_response } = reply;
                    assert_eq!(error_message, "");
                    answers.push(infer_response.unwrap());
                }
                assert_eq!(answers.iter().map(|answer| answer.id.as_str()).collect::<Vec<_>>(), ["first", "second"]);
                answers
            };
            for answer in &answers {
                assert_eq!(answer.raw_output_contents, [Bytes::new()]);
            }
            assert_eq!(object.floats(bytes, count), values, "{count} floats, turn {turn}");
            answered += answers.len();
        }
        assert_eq!(answered, 3);
        client.system_shared_memory_unregister(SystemSharedMemoryUnregisterRequest { name: "r".to_owned() }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_lives_from_its_registration_on() {
    let served = sharing().await;
    let mut client = served.client().await;
    let object = Object::new(64);
    assert_refused(client.model_infer(placed("r", "", 1)).await, Code::NotFound, "Unable to find shared memory region: 'r'");
    client.system_shared_memory_register(register("r", &object, 64)).await.unwrap();
    let again = client.system_shared_memory_register(register("r", &object, 64)).await;
    assert_refused(again, Code::AlreadyExists, "shared memory region 'r' already in manager");
    let about = |name: &str| SystemSharedMemoryStatusRequest { name: name.to_owned() };
    let regions = client.system_shared_memory_status(about("")).await.unwrap().into_inner().regions;
    assert_eq!((regions.len(), regions["r"].key.as_str(), regions["r"].byte_size), (1, object.key.as_str(), 64));
    client.model_infer(placed("r", "", 8)).await.unwrap();
    object.file().set_len(48).unwrap();
    let shrunk = "shared memory region 'r' has become shorter than it was registered: 64 bytes of its object are needed, 48 are";
    assert_refused(client.model_infer(placed("r", "", 8)).await, Code::InvalidArgument, shrunk);
    client.model_infer(placed("r", "", 6)).await.unwrap();
    client.system_shared_memory_unregister(SystemSharedMemoryUnregisterRequest::default()).await.unwrap();
    let gone = client.system_shared_memory_status(about("r")).await;
    assert_refused(gone, Code::NotFound, "Unable to find system shared memory region: 'r'");
}
