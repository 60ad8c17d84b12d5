//! Models without a configuration, and configurations with holes.

use super::*;

/// A folder of a tiny model as Hugging Face lays it out.
fn hub(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tests/fixtures").join(name).canonicalize().unwrap()
}

fn text(repository: &Repository, model: &str) -> InferResponse {
    let contents = b"\x05\x00\x00\x00hello";
    let request = InferRequest {
        inputs: vec![InputTensor {
            name: "TEXT".to_owned(),
            datatype: Ok(DataType::Bytes),
            shape: vec![1, 1],
            contents: Bytes::from_static(contents),
        }],
        ..request(0)
    };
    let (sender, receiver) = sync_channel(4);
    let handle = repository.resolve(model, LATEST).unwrap();
    handle.submit(request, Responder::new(Box::new(Answers(sender)), Cancellation::default()));
    answer(&receiver).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_hub_model_is_served_as_it_is() {
    let disk = Disk::new();
    for (model, fixture) in [("sentences", "bert-pooling"), ("classes", "bert-classifier")] {
        std::fs::create_dir(disk.path().join(model)).unwrap();
        std::os::unix::fs::symlink(hub(fixture), disk.path().join(model).join("1")).unwrap();
    }
    let repository = disk.open(ControlMode::Explicit, &["sentences"]);
    repository.load_startup().await.unwrap();
    let index = short_index(&repository).await;
    let expected = [
        "classes",
        "classes.encoder",
        "classes.tokenizer",
        "sentences:1=READY",
        "sentences.encoder:1=READY",
        "sentences.tokenizer:1=READY",
    ];
    assert_eq!(index, expected);
    let response = text(&repository, "sentences");
    assert_eq!(response.outputs.iter().map(|output| &*output.name).collect::<Vec<_>>(), ["EMBEDDING"]);
    assert_eq!(text(&repository, "sentences.tokenizer").outputs[0].tensor.shape().rank(), 2);
    repository.load("classes", plain()).await.unwrap();
    let config = Arc::clone(&repository.resolve("classes", LATEST).unwrap().config);
    assert!(config.outputs[0].labels.as_ref().is_some_and(|labels| !labels.is_empty()));
    assert_eq!(&*text(&repository, "classes").outputs[0].name, "LOGITS");
    repository.unload("classes", true).await.unwrap();
    assert!(!repository.model_ready("classes.encoder", LATEST) && repository.model_ready("sentences", LATEST));

    let root = hub("bert-pooling");
    let single = open(&[&root], ControlMode::None, &[]);
    single.load_startup().await.unwrap();
    assert_eq!(text(&single, "bert-pooling").outputs, response.outputs);
    let configs = server::repository::read_directory(&root, None, true).unwrap();
    assert_eq!(
        configs.iter().map(|config| &*config.name).collect::<Vec<_>>(),
        ["bert-pooling", "bert-pooling.tokenizer", "bert-pooling.encoder"]
    );

    let plain_only =
        Repository::new(RepositoryOptions { auto_complete: false, ..RepositoryOptions::new(vec![disk.path().to_owned()]) });
    let failures = plain_only.load_startup().await.unwrap_err().failures;
    assert!(failures[0].1.contains("has no configuration") && failures.len() == 2, "{failures:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_configuration_is_completed_from_the_models_files() {
    let disk = Disk::new();
    std::fs::create_dir(disk.path().join("m")).unwrap();
    std::os::unix::fs::symlink(hub("bert-classifier"), disk.path().join("m/1")).unwrap();
    disk.write("m/config.pbtxt", "instance_group { count: 2 }");
    disk.write("m/configs/small.pbtxt", "backend: \"candle\" max_batch_size: 3");
    let repository = disk.open(ControlMode::None, &[]);
    repository.load_startup().await.unwrap();
    let config = Arc::clone(&repository.resolve("m", LATEST).unwrap().config);
    assert!(config.max_batch_rows.is_some() && config.instance_groups[0].count == 2);
    assert_eq!(&*config.outputs[0].name, "LOGITS");
    let options =
        RepositoryOptions { config_name: Some("small".to_owned()), ..RepositoryOptions::new(vec![disk.path().to_owned()]) };
    let named = Repository::new(options);
    named.load_startup().await.unwrap();
    let config = Arc::clone(&named.resolve("m", LATEST).unwrap().config);
    assert_eq!(config.max_batch_rows.map(std::num::NonZeroUsize::get), Some(3));
}

fn bytes(name: &str, texts: &[&str]) -> InputTensor {
    let element = |text: &&str| [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat();
    let contents: Vec<u8> = texts.iter().flat_map(element).collect();
    let shape = vec![i64::try_from(texts.len()).unwrap(), 1];
    InputTensor { name: name.to_owned(), datatype: Ok(DataType::Bytes), shape, contents: contents.into() }
}

fn integers(name: &str, values: &[i64]) -> InputTensor {
    let contents: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shape = vec![1, i64::try_from(values.len()).unwrap()];
    InputTensor { name: name.to_owned(), datatype: Ok(DataType::Int64), shape, contents: contents.into() }
}

fn ask(repository: &Repository, model: &str, inputs: Vec<InputTensor>) -> InferResponse {
    let (sender, receiver) = sync_channel(4);
    let handle = repository.resolve(model, LATEST).unwrap();
    handle.submit(InferRequest { inputs, ..request(0) }, Responder::new(Box::new(Answers(sender)), Cancellation::default()));
    answer(&receiver).unwrap()
}

/// Name and shape of each output.
fn shapes(response: &InferResponse) -> Vec<(String, Vec<usize>)> {
    response.outputs.iter().map(|output| (output.name.to_string(), output.tensor.shape().sizes().to_vec())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_task_of_a_directory_is_served_as_it_is() {
    let disk = Disk::new();
    for (model, fixture) in [("tokens", "bert-tokens"), ("reranker", "bert-reranker"), ("image", "vit-labels")] {
        std::fs::create_dir(disk.path().join(model)).unwrap();
        std::os::unix::fs::symlink(hub(&format!("families/{fixture}")), disk.path().join(model).join("1")).unwrap();
    }
    let repository = disk.open(ControlMode::None, &[]);
    repository.load_startup().await.unwrap();

    // Token classification gives the places of the tokens as well, in characters.
    let tokens = ask(&repository, "tokens", vec![bytes("TEXT", &["the x x", "x"])]);
    let labels = repository.resolve("tokens.encoder", LATEST).unwrap().config.outputs[0].labels.as_ref().unwrap().len();
    assert_eq!(shapes(&tokens), [("LOGITS".to_owned(), vec![2, 5, labels]), ("OFFSETS".to_owned(), vec![2, 5, 2])]);
    let offsets: Vec<i64> =
        tokens.outputs[1].tensor.bytes().as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
    assert_eq!(offsets, [0, 0, 0, 3, 4, 5, 6, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let logits = tokens.outputs[0].tensor.bytes().as_chunks::<4>().0;
    assert!(logits[8 * labels..].iter().all(|bytes| *bytes == [0; 4]), "there is no token there");
    assert!(logits[..5 * labels].iter().any(|bytes| *bytes != [0; 4]));

    // A reranker takes pairs, and the ensemble gives what the encoder makes of their tokens.
    let pair = ask(&repository, "reranker", vec![bytes("TEXT", &["x"]), bytes("TEXT_PAIR", &["the"])]);
    let given = vec![
        integers("input_ids", &[2, 42, 3, 5, 3]),
        integers("attention_mask", &[1; 5]),
        integers("token_type_ids", &[0, 0, 0, 1, 1]),
    ];
    assert_eq!(shapes(&pair), [("LOGITS".to_owned(), vec![1, 1])]);
    assert_eq!(pair.outputs, ask(&repository, "reranker.encoder", given).outputs);
    let alone = ask(&repository, "reranker", vec![bytes("TEXT", &["x"])]);
    assert_ne!(alone.outputs[0].tensor, pair.outputs[0].tensor);

    let config = Arc::clone(&repository.resolve("image", LATEST).unwrap().config);
    let shape: Vec<i64> = [1].into_iter().chain(config.inputs[0].dims.to_wire()).collect();
    let pixels = vec![0; usize::try_from(shape.iter().product::<i64>()).unwrap() * 4];
    let name = config.inputs[0].name.to_string();
    assert_eq!(name, "pixel_values");
    let image = InputTensor { name, datatype: Ok(DataType::Fp32), shape, contents: pixels.into() };
    let answer = ask(&repository, "image", vec![image]);
    let labels = config.outputs[0].labels.as_ref().unwrap().len();
    assert_eq!(shapes(&answer), [("LOGITS".to_owned(), vec![1, labels])]);
}
