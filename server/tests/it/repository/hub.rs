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
