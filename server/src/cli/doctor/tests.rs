//! What is told of made-up findings.

use expect_test::expect;

use super::machine::Host;
use super::report::{Examined, ModelLine, Report};
use super::{json, text};
use crate::instance::{Blas, DeviceFindings, Driver, Machine, ModelTimes, OperationFinding, PlanFinding, ProductFinding};
use crate::instance::{Speed, SystemGpu};

fn operation(operation: &'static str, dtype: &'static str, of_tolerance: f64) -> OperationFinding {
    let wrong = if of_tolerance > 1.0 { vec![format!("{operation} {dtype} [3, 5]: far off")] } else { Vec::new() };
    let worst = "[3, 5]".to_owned();
    OperationFinding { operation, dtype, cases: 31, error: 1.25e-4, of_tolerance, worst, wrong }
}

fn report(examined: Examined) -> Report {
    let host = Host {
        version: "1.2.3",
        features: vec!["cuda"],
        processor: Some("Abacus 9000".to_owned()),
        cores: 8,
        instructions: "AVX2",
        memory: Some((32 << 30, 24 << 30)),
        driver_release: Some("580.65".to_owned()),
    };
    let gpu = |ordinal, free_bytes| SystemGpu {
        ordinal,
        name: "Quick Card".to_owned(),
        uuid: format!("GPU-{ordinal}"),
        capability: "8.6".to_owned(),
        total_bytes: 24 << 30,
        free_bytes,
    };
    let gpus = Machine {
        driver: Ok(Driver { cuda: "13.0".to_owned(), library: Some("/lib/libcuda.so.1".to_owned()) }),
        gpus: Ok(vec![gpu(0, Ok(23 << 30)), gpu(1, Err("it is asleep".to_owned()))]),
        blas: Ok(Blas { version: "13.1.0".to_owned(), path: "/opt/libcublasLt.so.13".to_owned() }),
    };
    let batch = |items, seconds| PlanFinding { items, tokens: 128, seconds, limit_seconds: 1e-4, computing: 0.75 };
    let times = ModelTimes { dtype: "f16", batches: vec![batch(1, 2e-4), batch(32, 1.25e-4)] };
    let line = |model: &str, times| ModelLine { model: model.to_owned(), version: "1".to_owned(), times };
    let models = match &examined {
        Examined::Gpu { .. } => vec![line("encoder", Ok(Some(times))), line("words", Ok(None))],
        _ => Vec::new(),
    };
    Report { host, gpus, examined, models, is_quick: false }
}

fn on_a_gpu(of_tolerance: f64) -> Report {
    let product = |dtype, size, operations| ProductFinding { dtype, size, operations };
    let speed = Speed {
        pinned_to_device: 25e9,
        pageable_to_device: 8e9,
        device_to_pinned: 26e9,
        device_to_pageable: 7e9,
        on_device: 900e9,
        products: vec![product("f16", 8192, 140e12), product("f32", 4096, 35e12)],
        launch_seconds: 2.5e-6,
    };
    let operations = vec![operation("norm", "f32", 0.25), operation("norm", "f16", of_tolerance)];
    let findings = Box::new(DeviceFindings { operations, speed: Ok(speed) });
    report(Examined::Gpu { ordinal: 0, findings })
}

#[test]
fn text_tells_everything() {
    let report = on_a_gpu(0.5);
    expect![[r#""#]].assert_eq(&text::to_text(&report));
    assert!(report.verdict().is_ok());
}

#[test]
fn what_is_wrong_decides_how_it_ends() {
    let wrong = on_a_gpu(1.5);
    assert!(text::to_text(&wrong).contains("WRONG"));
    let error = wrong.verdict().unwrap_err().to_string();
    assert_eq!(error, "kernels of GPU 0 compute something wrong:\nnorm f16 [3, 5]: far off");
    let mut unread = on_a_gpu(0.5);
    unread.models.push(ModelLine { model: "broken".to_owned(), version: "-".to_owned(), times: Err("no files".to_owned()) });
    assert_eq!(unread.verdict().unwrap_err().to_string(), "not everything could be examined:\nbroken: no files");
    let reason = "it is asleep".to_owned();
    let unusable = report(Examined::Unusable { ordinal: 1, reason: reason.clone() });
    assert_eq!(unusable.verdict().unwrap_err().to_string(), "the device 'cuda:1' cannot be used: it is asleep");
    assert!(report(Examined::Nothing { because: reason }).verdict().is_ok(), "nothing was asked for");
}

#[test]
fn json_holds_what_text_holds() {
    let report: serde_json::Value = serde_json::from_str(&json::to_text(&on_a_gpu(1.5))).unwrap();
    assert_eq!(report["right"], false);
    assert_eq!(report["gpus"][1]["unusable"], "it is asleep");
    assert_eq!(report["examined"]["kernels"][1]["wrong"][0], "norm f16 [3, 5]: far off");
    assert_eq!(report["examined"]["speed"]["products"]["f16"]["size"], 8192);
    assert_eq!(report["models"][0]["batches"][1]["share"], 0.8);
}
