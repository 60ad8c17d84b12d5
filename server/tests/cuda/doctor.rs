//! `alcedo doctor` on a GPU, real or emulated.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::served::fixture;

/// Runs it as quickly as it can: exit code, what it printed and what it said.
fn doctor(flags: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alcedo"));
    command.args(["doctor", "--quick"]).args(flags).envs(environment.iter().copied()).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn every_kernel_is_right_and_models_are_timed() {
    let repository = fixture();
    let (code, printed, said) = doctor(&["--device=cuda:0", "--json", "--model-repository", path(&repository)], &[]);
    assert_eq!(code, Some(0), "{said}");
    let report = object(&printed);
    assert_eq!((&report["right"], &report["examined"]["device"]), (&Value::Bool(true), &Value::from("cuda:0")));
    assert_eq!(report["features"][0], "cuda");
    assert!(report["driver"]["cuda"].as_str().unwrap().contains('.') && report["cublaslt"]["path"].is_string(), "{printed}");
    assert!(report["gpus"][0]["free_bytes"].as_u64().unwrap() > 0, "{printed}");
    let kernels = report["examined"]["kernels"].as_array().unwrap();
    let types: &[&str] = if report["gpus"][0]["compute_capability"].as_str().unwrap() < "8.0" { &["f32", "f16"] } else { &TYPES };
    for operation in OPERATIONS {
        for dtype in types {
            let found = kernels.iter().find(|found| found["operation"] == operation && found["dtype"] == *dtype);
            let found = found.unwrap_or_else(|| panic!("{operation} {dtype}: {printed}"));
            assert!(found["cases"].as_u64().unwrap() > 0 && found["right"] == true, "{found}");
            assert!(found["of_tolerance"].as_f64().unwrap() <= 1.0, "{found}");
        }
    }
    let speed = &report["examined"]["speed"];
    for rate in ["pinned_to_device_bytes", "device_to_pageable_bytes", "on_device_bytes", "launch_seconds"] {
        assert!(speed[rate].as_f64().unwrap() > 0.0, "{rate}: {speed}");
    }
    for dtype in types {
        assert!(speed["products"][dtype]["flops"].as_f64().unwrap() > 0.0, "{dtype}: {speed}");
    }
    let timed = report["models"].as_array().unwrap().iter().find_map(|model| model["batches"].get(0));
    let batch = timed.unwrap_or_else(|| panic!("no model was timed: {printed}"));
    let number = |name: &str| batch[name].as_f64().unwrap();
    assert!(number("seconds") > 0.0 && number("limit_seconds") > 0.0, "{batch}");
    let share = number("limit_seconds") / number("seconds");
    assert!((number("share") / share - 1.0).abs() < 1e-9, "{batch}");
}

/// Operations that kernels are compared on.
const OPERATIONS: [&str; 10] =
    ["embed", "norm", "rotary", "matmul", "activation", "gate", "pool", "rows", "patches", "attention"];

const TYPES: [&str; 3] = ["f32", "f16", "bf16"];

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_wrong_kernel_is_found_and_named() {
    let (code, printed, said) = doctor(&["--device=cuda:0"], &[("ALCEDO_EMULATOR_FAIL", "wrong:norm_warp_f16_wide")]);
    if !printed.contains("Emulated device") {
        return;
    }
    assert_eq!(code, Some(1), "{printed}{said}");
    assert!(said.contains("kernels of GPU 0 compute something wrong:\nnorm f16 "), "{said}");
    let line = |start: &str| printed.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {printed}"));
    for (start, result) in [("norm       f16 ", "WRONG"), ("norm       f32 ", "right"), ("embed      f16 ", "right")] {
        assert!(line(start).contains(result), "{}", line(start));
    }
}

#[test]
fn a_device_that_is_lost_on_the_way_is_told() {
    let (code, printed, said) = doctor(&["--device=cuda:0"], &[("ALCEDO_EMULATOR_FAIL", "launch:5")]);
    if !printed.contains("Emulated device") {
        return;
    }
    assert_eq!(code, Some(1), "{printed}{said}");
    assert!(said.contains("GPU 0 is unusable since a fault") && printed.contains("not measured: "), "{printed}{said}");
}

#[test]
fn a_device_that_cannot_be_used_has_an_exit_code_of_its_own() {
    let (code, printed, said) = doctor(&["--device=cuda:63"], &[]);
    assert_eq!(code, Some(2), "{printed}{said}");
    assert!(said.contains("the device 'cuda:63' cannot be used: ") && said.contains("there is no GPU 63"), "{said}");
    assert!(printed.contains("GPU 0 "), "what is there is told all the same: {printed}");
    let (code, printed, said) = doctor(&["--device=auto", "--json"], &[("ALCEDO_EMULATOR_DRIVER", "12080")]);
    if !printed.contains("\"error\"") {
        return;
    }
    assert_eq!(code, Some(0), "nothing was asked for: {printed}{said}");
    let report = object(&printed);
    assert!(report["examined"]["reason"].as_str().unwrap().contains("the NVIDIA driver is too old"), "{printed}");
    assert!(report["gpus"]["error"].is_string() && report["driver"]["cuda"] == "12.8", "{printed}");
}
