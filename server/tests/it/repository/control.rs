//! Start-up, loads and unloads by name, and what they say when they fail.

use server::observe::host::HostReading;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_model_is_loaded_at_startup() {
    let disk = Disk::new();
    disk.model("a", &["1", "3", "02", "0", "x"], &identity(""));
    disk.model("b", &["1", "2", "7"], &identity("version_policy { specific { versions: [1, 7, 9] } }"));
    disk.model("c.builtin", &["5"], &identity("").replace("backend: \"builtin\"", ""));
    let repository = disk.open(ControlMode::None, &[]);
    assert!(!repository.is_startup_done() && !repository.is_ready());
    assert_eq!(short_index(&repository).await, ["a", "b", "c.builtin"]);
    assert!(matches!(repository.resolve("a", LATEST), Err(InferError::UnknownModel { .. })));
    repository.load_startup().await.unwrap();
    assert!(repository.is_startup_done() && repository.is_ready());
    assert_eq!(short_index(&repository).await, ["a:3=READY", "b:1=READY", "b:7=READY", "c.builtin:5=READY"]);
    assert_eq!(infer(&repository, "a", LATEST, 1), Ok(3));
    assert_eq!(infer(&repository, "b", VersionChoice::Exact(1), 2), Ok(1));
    assert_eq!(infer(&repository, "c.builtin", LATEST, 3), Ok(5));
    assert_eq!(repository.versions("b"), Ok(vec![1, 7]));
    assert!(repository.model_ready("b", VersionChoice::Exact(7)));
    assert!(!repository.model_ready("b", VersionChoice::Exact(2)) && !repository.model_ready("nobody", LATEST));
    assert_eq!(repository.load("a", plain()).await, Err(ControlError::NotExplicit));
    assert_eq!(repository.unload("a", false).await, Err(ControlError::NotExplicit));
}

#[tokio::test(flavor = "multi_thread")]
async fn models_come_and_go_in_explicit_mode() {
    let disk = Disk::new();
    disk.model("a", &["1"], &identity("metric_tags { key: \"team\" value: \"search\" }"));
    disk.model("b", &["1"], &identity(""));
    let repository = disk.open(ControlMode::Explicit, &["a"]);
    repository.load_startup().await.unwrap();
    assert_eq!(short_index(&repository).await, ["a:1=READY", "b"]);
    repository.load("b", plain()).await.unwrap();
    assert_eq!(infer(&repository, "b", LATEST, 5), Ok(1));
    repository.unload("a", false).await.unwrap();
    assert!(repository.is_ready(), "an unloaded start-up model does not take readiness away");
    let error = |version| repository.resolve("a", version).map(drop).unwrap_err().to_string();
    assert_eq!(error(LATEST), "Request for unknown model: 'a' has no available versions");
    assert_eq!(error(VersionChoice::Exact(1)), "Request for unknown model: 'a' version 1 is not at ready state");
    assert_eq!(error(VersionChoice::Exact(2)), "Request for unknown model: 'a' version 2 is not found");
    until(&repository, async || short_index(&repository).await == ["a:1=UNAVAILABLE unloaded", "b:1=READY"]).await;
    let page = repository.render_metrics(&HostReading::default(), 0);
    assert!(
        page.contains("nv_inference_request_failure{_team=\"search\",model=\"a\",reason=\"BACKEND\",version=\"1\"} 0\n"),
        "{page}"
    );
    assert!(!page.contains("nv_inference_request_success{_team"), "{page}");
    assert!(page.contains("nv_inference_request_success{model=\"b\",version=\"1\"} 1\n"), "{page}");
    repository.unload("nobody", true).await.unwrap();
    repository.load("a", plain()).await.unwrap();
    assert_eq!(infer(&repository, "a", LATEST, 6), Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn control_calls_say_what_is_wrong() {
    let disk = Disk::new();
    disk.model("none", &[], &identity(""));
    disk.model("gpu", &["1"], &identity("instance_group { kind: KIND_GPU }"));
    disk.model("other", &["1"], &identity("name: \"another\""));
    disk.model("typo", &["1"], "backend: \"builtin\"\nmax_batch_sise: 1");
    disk.model("specific", &["1", "4"], &identity("version_policy { specific { versions: 2 } }"));
    disk.model(
        "kind",
        &["1", "2"],
        &identity("version_policy { all { } } parameters { key: \"model.2\" value { string_value: \"x\" } }"),
    );
    std::fs::create_dir(disk.path().join("bare")).unwrap();
    let repository = disk.open(ControlMode::Explicit, &[]);
    repository.load_startup().await.unwrap();
    let cases = [
        ("", "Model name cannot be empty. Please enter a valid name to deploy."),
        ("  ", "Model name cannot be empty. Please enter a valid name to deploy."),
        ("a/b", "invalid model name 'a/b', model name must not contain path traversal characters"),
        ("..", "invalid model name '..', model name must not contain path traversal characters"),
        (".", "failed to load '.', failed to poll from model repository"),
        ("...", "failed to load '...', failed to poll from model repository"),
        ("nobody", "failed to load 'nobody', failed to poll from model repository"),
        ("none", "load failed for model 'none': at least one version must be available under the version policy of model 'none'"),
        ("gpu", "load failed for model 'gpu': version 1 is at UNAVAILABLE state: "),
        (
            "other",
            "failed to load 'other', failed to poll from model repository: unexpected directory name 'other' for model 'another'",
        ),
        ("typo", "failed to load 'typo', failed to poll from model repository: typo/config.pbtxt:2:1"),
        (
            "specific",
            "load failed for model 'specific': at least one version must be available under the version policy of model 'specific'; it has 1, 4",
        ),
        ("kind", "load failed for model 'kind': version 2 is at UNAVAILABLE state: unknown builtin model 'x' for model 'kind'"),
        ("bare", "failed to load 'bare', failed to poll from model repository: model 'bare' has no configuration"),
    ];
    for (name, expected) in cases {
        let error = repository.load(name, plain()).await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{name}: {error}");
    }
    let index = short_index(&repository).await;
    let has = |start: &str| assert!(index.iter().any(|line| line.starts_with(start)), "{start} in {index:?}");
    has("kind:1=UNAVAILABLE not loaded, because another version");
    has("kind:2=UNAVAILABLE unknown builtin model 'x'");
    has("typo=UNAVAILABLE typo/config.pbtxt:2:1");
    assert!(!index.iter().any(|line| line.starts_with("nobody")), "{index:?}");
    assert!(matches!(repository.resolve("typo", LATEST), Err(InferError::UnknownModel { .. })));
    assert!(matches!(repository.resolve("kind", LATEST), Err(InferError::NoAvailableVersions { .. })));
    let statistics = |model: &str, version| repository.statistics(model, version).unwrap_err().to_string();
    assert_eq!(statistics("nobody", LATEST), "requested model 'nobody' is not available");
    repository.unload("kind", false).await.unwrap();
    repository.unload("typo", false).await.unwrap();
    assert!(short_index(&repository).await.contains(&"typo".to_owned()), "what failed is forgotten by an unload");
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_are_those_of_ready_versions() {
    let disk = Disk::new();
    disk.model("a", &["1", "2"], &identity("version_policy { all { } }"));
    disk.model("b", &["1"], &identity(""));
    let repository = disk.open(ControlMode::Explicit, &["*"]);
    repository.load_startup().await.unwrap();
    infer(&repository, "a", VersionChoice::Exact(2), 1).unwrap();
    let rows = |model: &str, version| {
        let found = repository.statistics(model, version).unwrap();
        found.iter().map(|row| (row.model.clone(), row.version, row.statistics.snapshot().success.count)).collect::<Vec<_>>()
    };
    assert_eq!(rows("", LATEST), [("a".to_owned(), 1, 0), ("a".to_owned(), 2, 1), ("b".to_owned(), 1, 0)]);
    assert_eq!(rows("a", LATEST).len(), 2);
    assert_eq!(rows("a", VersionChoice::Exact(2)), [("a".to_owned(), 2, 1)]);
    let error = repository.statistics("a", VersionChoice::Exact(3)).unwrap_err().to_string();
    assert_eq!(error, "requested model version is not available for model 'a'");
    repository.unload("b", false).await.unwrap();
    assert_eq!(rows("", LATEST).len(), 2);
    assert!(repository.statistics("b", LATEST).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_in_two_repositories_is_not_loaded() {
    let (left, right) = (Disk::new(), Disk::new());
    left.model("a", &["1"], &identity(""));
    left.model("left", &["1"], &identity(""));
    right.model("a", &["2"], &identity(""));
    right.model("right", &["1"], &identity(""));
    let repository = open(&[left.path(), right.path()], ControlMode::None, &[]);
    let error = repository.load_startup().await.unwrap_err();
    assert_eq!(
        error.failures,
        [(
            "a".to_owned(),
            "failed to load 'a', failed to poll from model repository: model appears in two or more repositories".to_owned()
        )]
    );
    assert!(repository.is_startup_done() && !repository.is_ready());
    assert_eq!(
        short_index(&repository).await,
        ["a=UNAVAILABLE model appears in two or more repositories", "left:1=READY", "right:1=READY"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_about_the_startup_set() {
    let disk = Disk::new();
    disk.model("good", &["1"], &identity(""));
    disk.model("bad", &["1"], &identity("instance_group { kind: KIND_GPU }"));
    let repository = disk.open(ControlMode::Explicit, &["good"]);
    repository.load_startup().await.unwrap();
    assert!(repository.load("bad", plain()).await.is_err());
    assert!(repository.is_ready(), "a later load that fails does not count");

    let strict = disk.open(ControlMode::Explicit, &["good", "bad", "nobody"]);
    let error = strict.load_startup().await.unwrap_err();
    assert_eq!(error.failures.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["bad", "nobody"]);
    assert!(strict.is_startup_done() && !strict.is_ready());
    assert_eq!(infer(&strict, "good", LATEST, 1), Ok(1), "the others serve");
    disk.model("bad", &["1"], &identity(""));
    strict.load("bad", plain()).await.unwrap();
    assert!(!strict.is_ready());
    strict.unload("nobody", false).await.unwrap();
    assert!(strict.is_ready(), "what failed was loaded, or is not wanted any more");

    let lax = Repository::new(RepositoryOptions {
        strict_readiness: false,
        ..RepositoryOptions::new(vec![disk.path().join("missing")])
    });
    assert!(lax.load_startup().await.unwrap_err().failures[0].1.starts_with("cannot be read"));
    assert!(lax.is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_come_from_a_file_in_the_models_folder() {
    let disk = Disk::new();
    let config = |file: &str| {
        identity("").replace("output { name: \"OUT\"", &format!("output {{ label_filename: \"{file}\" name: \"OUT\""))
    };
    disk.model("a", &["1"], &config("labels.txt"));
    disk.write("a/labels.txt", "cat\r\ndog\n");
    disk.model("b", &["1"], &config("../a/labels.txt"));
    disk.model("c", &["1"], &config("missing.txt"));
    let repository = disk.open(ControlMode::Explicit, &[]);
    repository.load_startup().await.unwrap();
    repository.load("a", plain()).await.unwrap();
    let labels = repository.resolve("a", LATEST).unwrap().config.outputs[0].labels.clone().unwrap();
    assert_eq!(labels[..], ["cat", "dog"]);
    for model in ["b", "c"] {
        let error = repository.load(model, plain()).await.unwrap_err().to_string();
        assert!(error.contains("labels.txt") || error.contains("missing.txt"), "{error}");
    }
}
