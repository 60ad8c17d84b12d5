//! The kind `fake`: its cost curve, its seeded fates, its device, and what it refuses.

use std::time::Duration;

use crate::error::LoadError;
use crate::instance::device::DeviceUsage;

use super::super::super::testing::{TestModel, int32};
use super::{config, parameter};

const PAIR: &str = "input { name: \"A\" data_type: TYPE_INT32 dims: -1 } output { name: \"X\" data_type: TYPE_INT32 dims: -1 }";

fn load(parameters: &[(&str, &str)]) -> Result<TestModel, LoadError> {
    let parameters: String = parameters.iter().map(|(key, value)| parameter(key, value)).collect();
    TestModel::load(&config("fake", PAIR, &("max_batch_size: 8 ".to_owned() + &parameters)))
}

fn fake(parameters: &[(&str, &str)]) -> TestModel {
    load(parameters).unwrap()
}

/// What becomes of so many requests, one after another: `.` answered, `F` failed, `P` panicked.
fn fates(model: &TestModel, requests: usize) -> String {
    let fate = |_| {
        let request = model.request().input("A", int32(&[1, 1], &[7]));
        match model.ask(request).single() {
            Ok(_) => '.',
            Err(error) if error.to_string() == "the fake device fails, as 'fail_rate' wants it" => 'F',
            Err(error) => {
                let expected = "model 'm' panicked while executing: the fake device panics, as 'panic_rate' wants it";
                assert_eq!(error.to_string(), expected);
                'P'
            }
        }
    };
    (0..requests).map(fate).collect()
}

#[test]
fn outputs_are_inputs_without_parameters() {
    let model = fake(&[]);
    let request = model.request().input("A", int32(&[2, 2], &[1, 2, 3, 4]));
    let answer = model.ask(request.clone()).single().unwrap();
    assert!(answer.parameters.is_empty(), "{:?}", answer.parameters);
    assert_eq!(model.ask(request).script(), ["X=[2,2]1,2,3,4*"]);
}

#[test]
fn an_execution_takes_as_long_as_the_curve_says() {
    for busy in ["sleep", "spin"] {
        let model = fake(&[("fixed_us", "500"), ("per_row_us", "250.5"), ("per_cost_us", "1000"), ("busy", busy)]);
        let request = model.request().input("A", int32(&[2, 1], &[1, 2]));
        let asked = model.run(vec![request.clone(), request]);
        asked.iter().for_each(|asked| drop(asked.single().unwrap()));
        let infer = Duration::from_nanos(model.counts().compute_infer.nanos);
        // Four rows, and a cost of one for each request.
        assert!(infer >= Duration::from_micros(500 + 1002 + 2000), "{busy}: {infer:?}");
    }
}

#[test]
fn slow_executions_are_so_many_times_slower() {
    let model = fake(&[("fixed_us", "300"), ("slow_rate", "1"), ("slow_factor", "12")]);
    assert_eq!(fates(&model, 1), ".");
    assert!(model.counts().compute_infer.nanos >= 3_600_000);
}

#[test]
fn fates_follow_from_the_seed() {
    let chances = [("fail_rate", "0.3"), ("panic_rate", "0.2")];
    let seeded = |seed: &str, more: &[(&str, &str)]| fates(&fake(&[&chances, more, &[("seed", seed)]].concat()), 24);
    assert_eq!(seeded("7", &[]), seeded("7", &[("jitter", "0.5"), ("fixed_us", "1")]), "other chances change nothing");
    assert_ne!(seeded("7", &[]), seeded("8", &[]));
    // Pinned, so that a run can be repeated with a later version.
    assert_eq!(seeded("7", &[]), "..F...FP.PP......P....P.");
}

#[test]
fn rates_of_one_and_none_are_certain() {
    assert_eq!(fates(&fake(&[("fail_rate", "1")]), 8), "FFFFFFFF");
    assert_eq!(fates(&fake(&[("panic_rate", "1"), ("fail_rate", "1")]), 4), "PPPP");
    assert_eq!(fates(&fake(&[("fail_rate", "0")]), 8), "........");
}

#[test]
fn models_share_the_device_that_they_name() {
    let usage = |model: &TestModel| -> Vec<DeviceUsage> { model.devices().usage() };
    let model = fake(&[("fixed_us", "400"), ("device", "npu.0")]);
    assert_eq!(fates(&model, 3), "...");
    let [device] = &usage(&model)[..] else { panic!("one device: {:?}", usage(&model)) };
    assert_eq!((&*device.name, device.slots, device.executions), ("npu.0", 1, 3));
    assert!(device.busy >= Duration::from_micros(1200), "{device:?}");
    let [by_model] = &device.by_model[..] else { panic!("one model: {device:?}") };
    assert_eq!((&*by_model.model, by_model.version, by_model.executions), ("m", 1, 3));
    assert_eq!(by_model.busy, device.busy);
    assert_eq!(usage(&fake(&[])), [], "one that names no device shares none");
}

#[test]
fn bad_values_are_refused() {
    let cases = [
        ("fixed_us", "-1", "a number of microseconds between 0 and 86400000000 (one day)"),
        ("per_row_us", "much", "a number of microseconds between 0 and 86400000000 (one day)"),
        ("per_cost_us", "inf", "a number of microseconds between 0 and 86400000000 (one day)"),
        ("jitter", "1.5", "a number between 0 and 1"),
        ("fail_rate", "NaN", "a number between 0 and 1"),
        ("panic_rate", "-0.1", "a number between 0 and 1"),
        ("slow_rate", "2", "a number between 0 and 1"),
        ("slow_factor", "0.5", "a number between 1 and 1000"),
        ("seed", "-1", "an integer between 0 and 2^64 - 1"),
        ("busy", "wait", "'sleep' or 'spin'"),
        ("device", "", "a name of up to 64 letters, digits, '_', '-' and '.' that does not begin with cpu, gpu or cuda"),
        ("device", "CPU", "a name of up to 64 letters, digits, '_', '-' and '.' that does not begin with cpu, gpu or cuda"),
        ("device", "gpu0", "a name of up to 64 letters, digits, '_', '-' and '.' that does not begin with cpu, gpu or cuda"),
        ("device", "a b", "a name of up to 64 letters, digits, '_', '-' and '.' that does not begin with cpu, gpu or cuda"),
    ];
    for (name, value, expected) in cases {
        let error = load(&[(name, value)]).err().unwrap().to_string();
        assert_eq!(error, format!("parameter '{name}' of model 'm' must be {expected}, got '{value}'"));
    }
}
