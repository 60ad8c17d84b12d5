//! Ensembles: they bring their models, fall with them and come back with them.

use super::*;

/// An ensemble that passes its input through `inner`.
fn ensemble(inner: &str) -> String {
    format!(
        "platform: \"ensemble\" input {{ name: \"IN\" data_type: TYPE_INT32 dims: -1 }} output {{ name: \"OUT\" data_type: TYPE_INT32 dims: -1 }}
         ensemble_scheduling {{ step {{ model_name: \"{inner}\" model_version: -1
           input_map {{ key: \"IN\" value: \"IN\" }} output_map {{ key: \"OUT\" value: \"OUT\" }} }} }}"
    )
}

pub(super) fn family() -> Disk {
    let disk = Disk::new();
    disk.model("leaf", &["1"], &identity(""));
    disk.model("other", &["1"], &identity(""));
    disk.model("mid", &["1"], &ensemble("leaf"));
    disk.model("top", &[], &ensemble("mid"));
    disk
}

fn serving(repository: &Repository) -> Vec<&'static str> {
    ["leaf", "mid", "other", "top"].into_iter().filter(|model| repository.model_ready(model, LATEST)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ensemble_brings_its_models_and_falls_with_them() {
    let disk = family();
    let repository = disk.open(ControlMode::Explicit, &[]);
    repository.load_startup().await.unwrap();
    repository.load("top", plain()).await.unwrap();
    assert_eq!(serving(&repository), ["leaf", "mid", "top"]);
    assert_eq!(infer(&repository, "top", LATEST, 8), Ok(1));
    repository.unload("leaf", false).await.unwrap();
    assert!(serving(&repository).is_empty());
    let index = short_index(&repository).await;
    assert!(
        index.iter().any(|line| line.contains("top:1=") && line.contains("unloaded, because its composing model 'mid'")),
        "{index:?}"
    );
    repository.load("leaf", plain()).await.unwrap();
    assert_eq!(serving(&repository), ["leaf", "mid", "top"], "ensembles that fell with their model come back with it");
    assert_eq!(infer(&repository, "top", LATEST, 9), Ok(1));
    repository.unload("top", false).await.unwrap();
    repository.unload("leaf", false).await.unwrap();
    repository.load("leaf", plain()).await.unwrap();
    assert_eq!(serving(&repository), ["leaf", "mid"], "one that was unloaded by name does not");
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_that_were_loaded_along_are_unloaded_along() {
    let disk = family();
    let repository = disk.open(ControlMode::Explicit, &[]);
    repository.load_startup().await.unwrap();
    repository.load("top", plain()).await.unwrap();
    repository.unload("top", false).await.unwrap();
    assert_eq!(serving(&repository), ["leaf", "mid"]);
    repository.load("top", plain()).await.unwrap();
    repository.unload("top", true).await.unwrap();
    assert!(serving(&repository).is_empty());
    repository.load("leaf", plain()).await.unwrap();
    repository.load("top", plain()).await.unwrap();
    repository.unload("top", true).await.unwrap();
    assert_eq!(serving(&repository), ["leaf"], "what was loaded by name stays");
    repository.unload("leaf", false).await.unwrap();
    disk.model("second", &["1"], &ensemble("leaf"));
    repository.load("top", plain()).await.unwrap();
    repository.load("second", plain()).await.unwrap();
    repository.unload("top", true).await.unwrap();
    assert_eq!(serving(&repository), ["leaf"], "what another ensemble uses stays");
    assert_eq!(infer(&repository, "second", LATEST, 3), Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn ensembles_say_what_they_miss() {
    let disk = family();
    disk.model("lonely", &["1"], &ensemble("nobody"));
    disk.model("x", &["1"], &ensemble("y"));
    disk.model("y", &["1"], &ensemble("x"));
    disk.model("typed", &["1"], &ensemble("leaf").replace("TYPE_INT32", "TYPE_FP32"));
    disk.model("exact", &["1"], &ensemble("leaf").replace("model_version: -1", "model_version: 4"));
    disk.model("unmapped", &["1"], &ensemble("leaf").replace("model_name: \"leaf\"", ""));
    let repository = disk.open(ControlMode::Explicit, &[]);
    repository.load_startup().await.unwrap();
    let cases = [
        (
            "lonely",
            "ensemble 'lonely' depends on 'nobody' which has no loaded version. Model 'nobody' loading failed with error: failed to load 'nobody'",
        ),
        ("x", "circular dependency between ensembles: x -> y -> x"),
        ("typed", "in ensemble typed, ensemble tensor IN: inconsistent data type: "),
        ("exact", "ensemble 'exact' depends on 'leaf' whose required version 4 is not loaded."),
        ("unmapped", "must specify 'model_name' in step 0 of ensemble 'unmapped'"),
    ];
    for (name, expected) in cases {
        let error = repository.load(name, plain()).await.unwrap_err().to_string();
        let start = format!("load failed for model '{name}': version 1 is at UNAVAILABLE state: {expected}");
        assert!(error.starts_with(&start) && error.ends_with(";\n"), "{name}: {error}");
        assert!(!repository.model_ready(name, LATEST));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ensemble_is_compared_with_a_model_that_changed() {
    let disk = family();
    let repository = disk.open(ControlMode::Explicit, &[]);
    repository.load_startup().await.unwrap();
    repository.load("top", plain()).await.unwrap();
    disk.model("leaf", &["1"], &identity("").replace("TYPE_INT32", "TYPE_FP32"));
    repository.load("leaf", plain()).await.unwrap();
    assert_eq!(serving(&repository), ["leaf"]);
    let index = short_index(&repository).await;
    assert!(index.iter().any(|line| line.starts_with("mid:1=") && line.contains("inconsistent data type")), "{index:?}");
    disk.model("leaf", &["1"], &identity("# as it was"));
    repository.load("leaf", plain()).await.unwrap();
    assert_eq!(serving(&repository), ["leaf", "mid", "top"]);
    assert_eq!(infer(&repository, "top", LATEST, 4), Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_and_unloads_of_one_model_take_turns() {
    let disk = family();
    let repository = disk.open(ControlMode::Explicit, &[]);
    repository.load_startup().await.unwrap();
    for round in 0..10 {
        let calls: Vec<_> = (0..16)
            .map(|call| {
                let repository = Arc::clone(&repository);
                tokio::spawn(async move {
                    let model = ["leaf", "mid", "top"][(call + round) % 3];
                    if call % 4 == 3 {
                        repository.unload(model, call % 8 == 3).await
                    } else {
                        repository.load(model, plain()).await
                    }
                })
            })
            .collect();
        for call in calls {
            // A load may rightly fail when its composing model is unloaded beside it; none may hang or panic.
            let _ = tokio::time::timeout(PATIENCE, call).await.expect("no call waits for ever").unwrap();
        }
    }
    repository.load("top", plain()).await.unwrap();
    assert_eq!(serving(&repository), ["leaf", "mid", "top"]);
    assert_eq!(infer(&repository, "top", LATEST, 1), Ok(1));
    for model in ["leaf", "mid", "top"] {
        repository.unload(model, false).await.unwrap();
    }
    until(&repository, async || {
        index(&repository).await.iter().all(|entry| matches!(entry.state, None | Some(VersionState::Unavailable)))
    })
    .await;
}
