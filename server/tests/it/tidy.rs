//! The style that a test can hold: who may import whom, pure files, first lines, lengths, words that are not names.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Longest file.
const MAX_FILE_LINES: usize = 800;

/// Longest function.
const MAX_FUNCTION_LINES: usize = 70;

/// Names that say nothing about what is inside.
const BANNED_MODULES: [&str; 5] = ["utils", "common", "helpers", "types", "manager"];

/// Ends of type names that say nothing either.
const BANNED_TYPES: [&str; 5] = ["Worker", "Job", "Engine", "Pipeline", "Manager"];

/// For files under a path of `server/src`: words that their code must not contain.
const MUST_NOT_IMPORT: [(&str, &[&str]); 15] = [
    ("error.rs", &["tonic", "proto::"]),
    ("clock.rs", &["crate::"]),
    ("tensor.rs", &["candle_core", "crate::"]),
    ("request.rs", &["proto::", "crate::config", "crate::scheduler"]),
    ("batch.rs", &["bytes::", "crate::tensor", "crate::request", "crate::error"]),
    ("timeline.rs", &["bytes::", "crate::tensor", "crate::request", "crate::error"]),
    ("classification.rs", &["crate::grpc", "crate::http", "crate::instance", "crate::repository", "proto::"]),
    ("config/", &["crate::scheduler", "crate::instance", "crate::repository", "crate::grpc", "crate::http", "crate::observe"]),
    ("grpc/", &["crate::instance", "candle_core", "models::"]),
    ("http/", &["crate::instance", "candle_core", "models::", "tonic"]),
    ("scheduler/", &["crate::grpc", "crate::http", "crate::repository", "proto::", "models::", "tonic"]),
    ("instance/", &["crate::scheduler", "crate::grpc", "crate::http", "crate::repository", "proto::", "tonic"]),
    ("repository/", &["crate::grpc", "crate::http", "tonic"]),
    (
        "shared_memory/",
        &[
            "crate::clock",
            "crate::config",
            "crate::scheduler",
            "crate::instance",
            "crate::repository",
            "crate::grpc",
            "crate::http",
            "crate::observe",
            "proto::",
            "models::",
            "tokio",
            "tonic",
        ],
    ),
    (
        "observe/",
        &["crate::config", "crate::scheduler", "crate::instance", "crate::repository", "crate::grpc", "crate::http", "tonic"],
    ),
];

/// The only folders that may use a crate.
const ONLY_USERS: [(&str, &[&str]); 5] = [
    ("tonic", &["grpc/", "cli/"]),
    ("axum", &["http/"]),
    ("models::", &["instance/candle"]),
    ("kernels::", &["shared_memory/cuda"]),
    ("clap", &["cli/"]),
];

/// Files without threads, clocks, files, sockets, tokio, candle and tonic.
const PURE: &[&str] = &[
    "error.rs",
    "tensor.rs",
    "request.rs",
    "batch.rs",
    "timeline.rs",
    "classification.rs",
    "config/",
    "scheduler/validate",
    "scheduler/queue",
    "scheduler/batcher",
    "scheduler/driver.rs",
    "scheduler/simulation",
    "scheduler/ensemble/run",
    "scheduler/reuse/flights.rs",
    "scheduler/reuse/key.rs",
    "scheduler/sequence/places.rs",
    "scheduler/sequence/rows.rs",
    "scheduler/sequence/sequences.rs",
    "scheduler/sequence/tensors.rs",
    "observe/metrics.rs",
    "observe/metrics",
    "observe/counts.rs",
    "observe/distributions.rs",
    "observe/histogram.rs",
    "observe/options.rs",
    "observe/saturation.rs",
    "observe/summary.rs",
    "instance/device/schedule.rs",
    "instance/device/resources.rs",
    "observe/busy.rs",
];

const IMPURE: [&str; 9] =
    ["tokio", "std::thread", "std::fs", "std::net", "Instant::now", "SystemTime", "clock::now", "candle_core", "tonic"];

struct Source {
    /// Path from the workspace's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The code without comments and without what is compiled for tests only.
    fn code(&self) -> String {
        let is_test_file = self.path.ends_with("tests.rs") || self.path.contains("/tests/") || self.path.ends_with("/testing.rs");
        if is_test_file {
            return String::new();
        }
        let mut code = String::new();
        let mut lines = self.text.lines();
        while let Some(line) = lines.next() {
            if line.trim() == "#[cfg(test)]" {
                // An item that follows on its own line is skipped; a module with a body ends the file by convention.
                if lines.next().is_some_and(|item| item.trim_end().ends_with('{')) {
                    break;
                }
                continue;
            }
            let line = line.split("//").next().unwrap_or_default();
            writeln!(code, "{line}").unwrap();
        }
        code
    }
}

fn sources() -> Vec<Source> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut sources = Vec::new();
    for folder in ["proto", "kernels", "models", "server", "benches"] {
        collect(&root, &root.join(folder), &mut sources);
    }
    assert!(sources.len() > 40, "the walk found only {} files", sources.len());
    sources
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != "fixtures" && name != "corpus" {
                collect(root, &path, sources);
            }
        } else if name.ends_with(".rs") {
            let relative = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            sources.push(Source { path: relative, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

/// Fails with all findings at once.
fn report(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// The path below `server/src`, for files there.
fn in_server(source: &Source) -> Option<&str> {
    source.path.strip_prefix("server/src/")
}

/// Whether `word` stands in `code` as a path of its own, not as the end of another word.
fn uses(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        !before.is_some_and(|char| char.is_alphanumeric() || char == '_' || char == '"' || char == '-')
    })
}

#[test]
fn every_file_says_what_it_is() {
    let findings: Vec<String> = sources()
        .iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| format!("{}: the first line must be a //! comment", source.path))
        .collect();
    report(&findings);
}

#[test]
fn files_and_functions_stay_short() {
    let mut findings = Vec::new();
    for source in sources() {
        let lines: Vec<&str> = source.text.lines().collect();
        if lines.len() > MAX_FILE_LINES {
            findings.push(format!("{}: {} lines, at most {MAX_FILE_LINES}", source.path, lines.len()));
        }
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let is_function = line.split_whitespace().take(5).any(|word| word == "fn") && !line.contains("//");
            if !is_function || line.trim_end().ends_with(';') {
                continue;
            }
            // rustfmt puts the closing brace where the function began.
            let end = lines.iter().skip(start).position(|line| *line == format!("{}}}", " ".repeat(indent)));
            if let Some(length) = end.filter(|length| *length > MAX_FUNCTION_LINES) {
                findings.push(format!(
                    "{}:{}: a function of {length} lines, at most {MAX_FUNCTION_LINES}",
                    source.path,
                    start + 1
                ));
            }
        }
    }
    report(&findings);
}

#[test]
fn folders_import_only_what_they_may() {
    let mut findings = Vec::new();
    for source in sources() {
        let Some(path) = in_server(&source) else { continue };
        let code = source.code();
        for (prefix, words) in MUST_NOT_IMPORT {
            for word in words.iter().filter(|word| path.starts_with(prefix) && uses(&code, word)) {
                findings.push(format!("{}: must not import {word}", source.path));
            }
        }
        for (word, users) in ONLY_USERS {
            if uses(&code, word) && !users.iter().any(|user| path.starts_with(user)) {
                findings.push(format!("{}: only {users:?} may use {word}", source.path));
            }
        }
    }
    report(&findings);
}

#[test]
fn pure_files_touch_nothing() {
    let mut findings = Vec::new();
    for source in sources() {
        let Some(path) = in_server(&source) else { continue };
        if PURE.iter().any(|prefix| path.starts_with(prefix)) {
            let code = source.code();
            findings.extend(
                IMPURE.iter().filter(|word| uses(&code, word)).map(|word| format!("{}: pure, but uses {word}", source.path)),
            );
        }
    }
    report(&findings);
}

#[test]
fn unsafe_code_lives_in_kernels() {
    let findings: Vec<String> = sources()
        .iter()
        .filter(|source| !source.path.starts_with("kernels/") && uses(&source.code(), "unsafe "))
        .map(|source| format!("{}: unsafe outside kernels", source.path))
        .collect();
    report(&findings);
    for name in ["server", "models", "proto"] {
        let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src/lib.rs");
        let text = std::fs::read_to_string(&library).unwrap();
        assert!(text.contains("#![forbid(unsafe_code)]"), "{name}/src/lib.rs must forbid unsafe code");
    }
}

#[test]
fn queues_are_bounded_and_names_say_something() {
    let mut findings = Vec::new();
    for source in sources() {
        let code = source.code();
        for word in ["unbounded_channel", "unbounded(", "std::sync::mpsc::channel", "todo!", "dbg!", "#[ignore", "#[should_panic"]
        {
            if code.contains(word) {
                findings.push(format!("{}: {word}", source.path));
            }
        }
        let stem = Path::new(&source.path).file_stem().unwrap().to_string_lossy().into_owned();
        let folder =
            Path::new(&source.path).parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        for banned in BANNED_MODULES.iter().filter(|banned| ***banned == stem || ***banned == folder) {
            findings.push(format!("{}: the name {banned} says nothing", source.path));
        }
        for line in code.lines() {
            let mut words = line.split_whitespace().skip_while(|word| !["struct", "enum", "trait"].contains(word)).skip(1);
            let name: String = words.next().unwrap_or_default().chars().take_while(|char| char.is_alphanumeric()).collect();
            if BANNED_TYPES.iter().any(|banned| name.ends_with(banned)) {
                findings.push(format!("{}: the type name {name} says nothing", source.path));
            }
        }
    }
    report(&findings);
}

#[test]
fn every_crate_states_licence_and_toolchain() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let workspace = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(workspace.contains("license = \"Apache-2.0\"") && workspace.contains("rust-version = "));
    assert!(std::fs::read_to_string(root.join("LICENSE")).unwrap().contains("Apache License"));
    for name in ["proto", "kernels", "models", "server", "benches"] {
        let manifest = std::fs::read_to_string(root.join(name).join("Cargo.toml")).unwrap();
        for line in ["license.workspace = true", "rust-version.workspace = true", "[lints]"] {
            assert!(manifest.contains(line), "{name}/Cargo.toml must contain `{line}`");
        }
    }
}
