//! Reloads and overrides: what serves is never disturbed.

use super::ensembles::family;
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_loses_no_request() {
    let disk = Disk::new();
    disk.model("a", &["1"], &identity(""));
    let repository = disk.open(ControlMode::Explicit, &["a"]);
    repository.load_startup().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..2)
        .map(|client| {
            let (repository, stop) = (Arc::clone(&repository), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut versions = BTreeMap::<u64, u32>::new();
                for round in 0..10_000_000 {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    let version = infer(&repository, "a", LATEST, client * 1_000 + round % 1_000).expect("no request fails");
                    *versions.entry(version).or_default() += 1;
                }
                versions
            })
        })
        .collect();
    for round in 0..20 {
        // Each change of the configuration is another size of file, so the reload is a real one.
        disk.model("a", &["1", "2"], &identity(&format!("instance_group {{ count: {} }} #{}", round % 3 + 1, "x".repeat(round))));
        let before = repository.resolve("a", LATEST).unwrap();
        repository.load("a", plain()).await.unwrap();
        assert!(!Arc::ptr_eq(&before, &repository.resolve("a", LATEST).unwrap()), "round {round} swapped");
        assert_eq!(infer(&repository, "a", LATEST, 7), Ok(2));
    }
    stop.store(true, Ordering::Release);
    for client in clients {
        let versions = client.join().expect("a client whose every request was answered");
        assert!(versions.values().sum::<u32>() > 0);
    }
    until(&repository, async || short_index(&repository).await == ["a:1=UNAVAILABLE unloaded", "a:2=READY"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_changed_is_not_loaded_again() {
    let disk = Disk::new();
    disk.model("a", &["1"], &identity(""));
    let repository = disk.open(ControlMode::Explicit, &["a"]);
    repository.load_startup().await.unwrap();
    let before = repository.resolve("a", LATEST).unwrap();
    repository.load("a", plain()).await.unwrap();
    assert!(Arc::ptr_eq(&before, &repository.resolve("a", LATEST).unwrap()));
    std::fs::create_dir(disk.path().join("a/2")).unwrap();
    repository.load("a", plain()).await.unwrap();
    assert_eq!(infer(&repository, "a", LATEST, 1), Ok(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_reload_leaves_the_old_one_serving() {
    let disk = Disk::new();
    disk.model("a", &["1"], &identity(""));
    let repository = disk.open(ControlMode::Explicit, &["a"]);
    repository.load_startup().await.unwrap();
    let before = repository.resolve("a", LATEST).unwrap();
    let broken = [
        (
            identity("parameters { key: \"model.2\" value { string_value: \"x\" } }"),
            "load failed for model 'a': version 2 is at UNAVAILABLE state: ",
        ),
        (identity("bad_field: 1"), "failed to load 'a', failed to poll from model repository"),
        (identity("version_policy { specific { versions: 9 } }"), "load failed for model 'a': at least one version"),
    ];
    for (config, expected) in broken {
        disk.model("a", &["1", "2"], &config);
        // A failure is tried again, however often the same files are loaded.
        for _ in 0..2 {
            let error = repository.load("a", plain()).await.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert!(Arc::ptr_eq(&before, &repository.resolve("a", LATEST).unwrap()));
            assert_eq!(infer(&repository, "a", LATEST, 1), Ok(1));
            assert!(repository.is_ready());
        }
    }
    assert!(short_index(&repository).await.contains(&"a:1=READY".to_owned()));
    disk.model("a", &["1", "2"], &identity(""));
    repository.load("a", plain()).await.unwrap();
    drop(before);
    until(&repository, async || short_index(&repository).await == ["a:1=UNAVAILABLE unloaded", "a:2=READY"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unloaded_version_finishes_what_holds_it() {
    let disk = Disk::new();
    disk.model("a", &["1"], &identity(""));
    let repository = disk.open(ControlMode::Explicit, &["a"]);
    repository.load_startup().await.unwrap();
    let held = repository.resolve("a", LATEST).unwrap();
    repository.unload("a", false).await.unwrap();
    assert!(repository.resolve("a", LATEST).is_err());
    let entries = index(&repository).await;
    assert_eq!((entries[0].state, entries.len()), (Some(VersionState::Unloading), 1));
    let (sender, receiver) = sync_channel(4);
    held.submit(request(9), Responder::new(Box::new(Answers(sender)), Cancellation::default()));
    assert!(answer(&receiver).is_ok());
    drop(held);
    until(&repository, async || short_index(&repository).await == ["a:1=UNAVAILABLE unloaded"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overriding_configuration_lasts_until_the_files_change() {
    let disk = Disk::new();
    disk.model("a", &["1", "2"], &identity(""));
    let repository = disk.open(ControlMode::Explicit, &["a"]);
    repository.load_startup().await.unwrap();
    let first = || json(r#", "version_policy": {"specific": {"versions": [1]}}"#);
    let overriding = |config: String| LoadParameters { config: Some(config), ..plain() };
    repository.load("a", overriding(first())).await.unwrap();
    assert_eq!(infer(&repository, "a", LATEST, 1), Ok(1));
    repository.load("a", plain()).await.unwrap();
    assert_eq!(infer(&repository, "a", LATEST, 2), Ok(1));
    let error = repository.load("a", overriding("{\"max_batch_size\": }".to_owned())).await.unwrap_err().to_string();
    assert!(error.starts_with("Invalid config override: "), "{error}");
    assert_eq!(infer(&repository, "a", LATEST, 3), Ok(1));
    disk.write("a/2/weights", "x");
    repository.load("a", plain()).await.unwrap();
    assert_eq!(infer(&repository, "a", LATEST, 4), Ok(2));
    repository.load("a", overriding(first())).await.unwrap();
    repository.unload("a", false).await.unwrap();
    repository.load("a", plain()).await.unwrap();
    assert_eq!(infer(&repository, "a", LATEST, 5), Ok(2), "an unload drops the override");
    let error = repository.load("nobody", overriding(first())).await.unwrap_err().to_string();
    assert_eq!(error, "failed to load 'nobody', failed to poll from model repository");
}

#[tokio::test(flavor = "multi_thread")]
async fn overriding_files_last_until_the_next_plain_load() {
    let disk = Disk::new();
    disk.model("a", &["1"], &identity(""));
    let repository = disk.open(ControlMode::Explicit, &["a"]);
    repository.load_startup().await.unwrap();
    let with = |files: &[&str], config: Option<String>| LoadParameters {
        config,
        files: files.iter().map(|file| ((*file).to_owned(), Bytes::from_static(b"x"))).collect(),
    };
    repository.load("a", with(&["5/model", "labels.txt"], Some(json("")))).await.unwrap();
    assert_eq!(infer(&repository, "a", LATEST, 1), Ok(5));
    repository.load("new", with(&["3/model"], Some(json("")))).await.unwrap();
    assert_eq!(infer(&repository, "new", LATEST, 2), Ok(3), "the model need not be on disk");
    let prefix = "failed to load 'a', failed to poll from model repository";
    for (file, config) in [("5/model", None), ("../x", Some(json(""))), ("/5/x", Some(json(""))), ("5//x", Some(json("")))] {
        let error = repository.load("a", with(&[file], config)).await.unwrap_err().to_string();
        assert!(error.starts_with(prefix), "{file}: {error}");
        assert_eq!(infer(&repository, "a", LATEST, 3), Ok(5));
    }
    repository.load("a", plain()).await.unwrap();
    assert_eq!(infer(&repository, "a", LATEST, 4), Ok(1));
    assert_eq!(
        repository.load("new", plain()).await.unwrap_err().to_string(),
        "failed to load 'new', failed to poll from model repository"
    );
    assert_eq!(infer(&repository, "new", LATEST, 5), Ok(3));
    repository.unload("new", false).await.unwrap();
    assert!(repository.load("new", plain()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_waits_for_the_last_answer() {
    let disk = family();
    let repository = disk.open(ControlMode::None, &[]);
    repository.load_startup().await.unwrap();
    let held = repository.resolve("top", LATEST).unwrap();
    let ending = tokio::spawn({
        let repository = Arc::clone(&repository);
        async move { repository.shutdown().await }
    });
    until(&repository, async || repository.resolve("leaf", LATEST).is_err()).await;
    assert!(!repository.is_ready() && !ending.is_finished());
    drop(held);
    tokio::time::timeout(PATIENCE, ending).await.expect("nothing holds a model any more").unwrap();
    assert_eq!(repository.load("leaf", plain()).await, Err(ControlError::ServerExiting));
}
