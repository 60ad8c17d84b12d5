//! What is refused at load, and the common parameters.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::config::SCHEDULER_PARAMETERS;

use super::super::super::testing::{TestModel, int32, served};
use super::super::{Builtin, KINDS, KNOWN_KINDS, Setup, identity};
use super::{config, parameter};

const PAIR: &str =
    "input { name: \"INPUT0\" data_type: TYPE_INT32 dims: 4 } input { name: \"INPUT1\" data_type: TYPE_INT32 dims: 4 }
    output { name: \"A\" data_type: TYPE_INT32 dims: 4 } output { name: \"B\" data_type: TYPE_INT32 dims: 4 }";

const REPEAT: &str =
    "input { name: \"IN\" data_type: TYPE_INT32 dims: -1 } input { name: \"DELAY\" data_type: TYPE_UINT32 dims: -1 }
    input { name: \"WAIT\" data_type: TYPE_UINT32 dims: 1 }
    output { name: \"OUT\" data_type: TYPE_INT32 dims: 1 } output { name: \"IDX\" data_type: TYPE_UINT32 dims: 1 }";

const SQUARE: &str =
    "input { name: \"IN\" data_type: TYPE_INT32 dims: 1 } output { name: \"OUT\" data_type: TYPE_INT32 dims: 1 }";

const DECOUPLED: &str = "model_transaction_policy { decoupled: true } ";

#[track_caller]
fn refused(kind: &str, tensors: &str, more: &str, expected: &str) {
    match TestModel::load(&config(kind, tensors, more)) {
        Ok(_) => panic!("the model was loaded"),
        Err(error) => assert_eq!(error.to_string(), expected),
    }
}

#[test]
fn the_list_of_kinds_names_them_all() {
    let names: Vec<&str> = KINDS.iter().map(|entry| entry.name).collect();
    assert_eq!(names.join(", "), KNOWN_KINDS);
}

#[test]
fn unknown_kinds_are_refused_with_the_list() {
    for kind in ["", "Identity", "python"] {
        let expected = format!("unknown builtin model '{kind}' for model 'm'; the builtin models are: {KNOWN_KINDS}");
        refused(kind, PAIR, "", &expected);
    }
}

#[test]
fn parameters_are_checked_by_name_and_value() {
    let unknown = format!(
        "'identity' has no parameter 'omit_output' (model 'm'); it takes: model, model.<version>, {}, \
         execute_delay_ms, instance_wise_delay_multiplier, creation_delay_sec, missing",
        SCHEDULER_PARAMETERS.join(", ")
    );
    refused("identity", PAIR, &parameter("omit_output", "A"), &unknown);
    let bad = [
        ("execute_delay_ms", "-1", "a number of milliseconds between 0 and 86400000 (one day)"),
        ("execute_delay_ms", "NaN", "a number of milliseconds between 0 and 86400000 (one day)"),
        ("creation_delay_sec", "soon", "a number of seconds between 0 and 86400 (one day)"),
        ("creation_delay_sec", "inf", "a number of seconds between 0 and 86400 (one day)"),
        ("instance_wise_delay_multiplier", "1.5", "an integer between 0 and 1000000"),
        ("omit_output", "C", "the name of an output"),
    ];
    for (name, got, expected) in bad {
        let expected = format!("parameter '{name}' of model 'm' must be {expected}, got '{got}'");
        refused("add_sub", PAIR, &parameter(name, got), &expected);
    }
    let expected = "parameter 'missing' of model 'm' must be 'zeros' or 'omit', got 'ones'";
    refused("identity", PAIR, &parameter("missing", "ones"), expected);
    let expected = "parameter 'fail_count' of model 'm' must be an integer between 0 and 1000000, got '-1'";
    refused("square", SQUARE, &(DECOUPLED.to_owned() + &parameter("fail_count", "-1")), expected);
}

#[test]
fn tensors_that_do_not_suit_are_refused() {
    let expect = |kind: &str, tensors: &str, more: &str, expected: &str| {
        refused(kind, tensors, more, &format!("model 'm' does not suit '{kind}', which needs {expected}"));
    };
    expect(
        "repeat",
        &REPEAT.replace("\"IN\" data_type: TYPE_INT32", "\"IN\" data_type: TYPE_INT64"),
        "",
        "input 'IN' of INT32 [-1]; its configuration has it as INT64 [-1]",
    );
    expect(
        "repeat",
        &REPEAT.replace("TYPE_UINT32 dims: 1 }\n", "TYPE_UINT32 dims: [ 1, 1 ] }\n"),
        "",
        "input 'WAIT' of UINT32 [1]; its configuration has it as UINT32 [1,1]",
    );
    expect("repeat", &REPEAT.replace("\"IDX\"", "\"INDEX\""), "", "no output but OUT, IDX; its configuration has output 'INDEX'");
    expect(
        "square",
        SQUARE,
        "",
        "'model_transaction_policy { decoupled: true }'; its configuration has a model that is not decoupled",
    );
    expect("producer", SQUARE, DECOUPLED, "output 'OUT' of FP32 [1]; its configuration has it as INT32 [1]");
    expect("sleep", SQUARE, "", "input 'INPUT0' of a numeric datatype, not optional; its configuration has none");
    expect("add_sub", SQUARE, "", "input 'INPUT0', not optional; its configuration has no such input");
    expect(
        "add_sub",
        &PAIR.replacen("TYPE_INT32", "TYPE_FP32", 1),
        "",
        "inputs of one datatype; its configuration has FP32 and INT32",
    );
    expect(
        "add_sub",
        &PAIR.replace("\"B\" data_type: TYPE_INT32 dims: 4", "\"B\" data_type: TYPE_INT32 dims: 5"),
        "",
        "tensors of one shape, as 'INPUT0' of [4]; its configuration has 'B' of [5]",
    );
    expect(
        "identity",
        &PAIR.replace("\"B\" data_type: TYPE_INT32", "\"B\" data_type: TYPE_FP32"),
        "",
        "output 'B' to agree with input 'INPUT1' (INT32 [4]); its configuration has FP32 [4]",
    );
    let more_outputs = format!("{SQUARE} output {{ name: \"MORE\" data_type: TYPE_INT32 dims: 1 }}");
    expect("identity", &more_outputs, "", "at least as many inputs as outputs; its configuration has 1 inputs and 2 outputs");
}

#[test]
fn gpus_are_refused() {
    let expected = "instance group of model 'm' asks for KIND_GPU, but this build runs the builtin models on the CPU alone; \
        write KIND_CPU or KIND_AUTO";
    refused("identity", PAIR, "instance_group { kind: KIND_GPU count: 1 }", expected);
}

#[test]
fn a_version_may_be_of_another_kind() {
    let more = parameter("model.2", "sub_add") + &parameter("omit_output", "B") + &parameter("model.3", "identity");
    let text = config("add_sub", PAIR, &(more + &parameter("missing", "omit")));
    let sums = [(1, "A=[4]3,3,3,3*"), (2, "A=[4]1,1,1,1*"), (3, "A=[4]2,2,2,2 B=[4]1,1,1,1*")];
    for (version, expected) in sums {
        let served = served(&text, version, Path::new("."));
        let backend = super::super::open(&served).unwrap();
        let model = TestModel::over(served, &backend).unwrap();
        let request = model.request().input("INPUT0", int32(&[4], &[2; 4])).input("INPUT1", int32(&[4], &[1; 4]));
        assert_eq!(model.ask(request).script(), [expected]);
    }
}

#[test]
fn delays_grow_with_the_ordinal_of_the_instance() {
    let more = parameter("execute_delay_ms", "2.5");
    let served = served(&config("identity", PAIR, &more), 1, Path::new("."));
    let (setup, _) = Setup::parse(&served, &KINDS, KNOWN_KINDS).unwrap();
    let builtin = |multiplier: u32| Builtin {
        model: "m".into(),
        kind: identity::open(&setup).unwrap(),
        execute_delay: setup.milliseconds("execute_delay_ms").unwrap(),
        multiplier,
    };
    let delays = |multiplier: u32| [0, 1, 2].map(|ordinal| builtin(multiplier).delay_of(ordinal));
    assert_eq!(delays(0), [2500, 2500, 2500].map(Duration::from_micros));
    assert_eq!(delays(3), [2500, 7500, 15_000].map(Duration::from_micros));
}

#[test]
fn delays_are_waited_for_at_load_and_in_each_batch() {
    let more = parameter("creation_delay_sec", "0.02") + &parameter("execute_delay_ms", "20");
    let start = clock::now();
    let model = TestModel::load(&config("identity", PAIR, &more)).unwrap();
    assert!(clock::now().since(start) >= Duration::from_millis(20));
    let request = model.request().input("INPUT0", int32(&[4], &[2; 4])).input("INPUT1", int32(&[4], &[1; 4]));
    model.ask(request).single().unwrap();
    let counts = model.counts();
    assert!(counts.compute_infer.nanos >= 20_000_000, "{counts:?}");
    model.unload();
}

#[test]
fn instances_run_side_by_side() {
    // Each of the two requests ends only when the other one has been started.
    let text = config("repeat", REPEAT, &format!("{DECOUPLED} instance_group {{ count: 2 kind: KIND_CPU }}"));
    let model = Arc::new(TestModel::load(&text).unwrap());
    let hold = |wait: u32| {
        let request = model.request().input("IN", int32(&[1], &[7]));
        let request = request.input("DELAY", super::super::super::testing::uint32(&[1], &[0]));
        request.input("WAIT", super::super::super::testing::uint32(&[1], &[wait]))
    };
    let (first, second) = (model.ask(hold(3_000_000)), model.ask(hold(3_000_000)));
    assert_eq!(first.script(), ["OUT=[1]7 IDX=[1]0", "final*"]);
    assert_eq!(second.script(), ["OUT=[1]7 IDX=[1]0", "final*"]);
    first.cancellation.cancel();
    second.cancellation.cancel();
}
