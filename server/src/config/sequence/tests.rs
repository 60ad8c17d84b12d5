//! Texts of everything that can be wrong with `sequence_batching`, and what a right one comes to.

use expect_test::{Expect, expect};

use crate::config::{ModelConfig, Scheduling, SequenceBatching, SequenceStrategy};

fn parse(max_batch_size: u32, sequence: &str) -> Result<ModelConfig, String> {
    let text = format!(
        "backend: 'builtin' max_batch_size: {max_batch_size}
         input {{ name: 'INPUT' data_type: TYPE_INT32 dims: 1 }}
         output {{ name: 'OUTPUT' data_type: TYPE_INT32 dims: 1 }}
         sequence_batching {{ {sequence} }}"
    );
    let written = proto::pbtxt::parse(&text, "config.pbtxt").map_err(|error| error.to_string())?;
    ModelConfig::parse(written, "m").map_err(|error| error.to_string())
}

fn sequence(config: &ModelConfig) -> &SequenceBatching {
    match &config.scheduling {
        Scheduling::Sequence(sequence) => sequence,
        other => panic!("not sequence batching but {other:?}"),
    }
}

/// What each line comes to with a maximum batch size of 8.
fn check(lines: &[&str], expected: Expect) {
    let told: Vec<String> =
        lines.iter().map(|line| parse(8, line).map_or_else(|error| error, |_| "accepted".to_owned())).collect();
    expected.assert_eq(&told.join("\n"));
}

fn control(name: &str, control: &str) -> String {
    format!("control_input {{ name: '{name}' control {{ {control} }} }}")
}

#[test]
fn what_is_wrong_with_controls() {
    let twice = control("A", "kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1]")
        + &control("B", "kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1]");
    let many = "control_input { name: 'A' control { kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] } \
                control { kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 1] } }";
    let lines = [
        control("", "kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1]"),
        control("INPUT", "kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1]"),
        "control_input { name: 'A' }".to_owned(),
        many.to_owned(),
        twice,
        control("A", "kind: CONTROL_SEQUENCE_START"),
        control("A", "kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] fp32_false_true: [0, 1]"),
        control("A", "kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1, 2]"),
        control("A", "kind: CONTROL_SEQUENCE_END bool_false_true: [false]"),
        control("A", "kind: CONTROL_SEQUENCE_END bool_false_true: [false, true] data_type: TYPE_BOOL"),
        control("A", "kind: CONTROL_SEQUENCE_CORRID"),
        control("A", "kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32"),
        control("A", "kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 int32_false_true: [0, 1]"),
        control("A", "kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING"),
        control("A", "kind: CONTROL_SEQUENCE_READY bool_false_true: [false, true]"),
    ];
    check(
        &lines.iter().map(String::as_str).collect::<Vec<_>>(),
        expect![[r#"
            sequence batching control tensor must have a unique name for m
            model input 'INPUT' appears more than once for model 'm'
            sequence batching control tensor 'A' must specify a control for m
            sequence batching control tensor 'A' is specified for multiple control kinds for m
            sequence batching specifies multiple CONTROL_SEQUENCE_START tensors for m
            sequence batching must specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for CONTROL_SEQUENCE_START for m
            sequence batching specifies more than one from 'int32_false_true', 'fp32_false_true' and 'bool_false_true' for CONTROL_SEQUENCE_START for m
            sequence batching control 'fp32_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_START for m
            sequence batching control 'bool_false_true' must have exactly 2 entries for CONTROL_SEQUENCE_END for m
            sequence batching control 'data_type' must not be specified for CONTROL_SEQUENCE_END for m
            unexpected data type for control CONTROL_SEQUENCE_CORRID for m. Allowed data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING
            unexpected data type for control CONTROL_SEQUENCE_CORRID for m. Allowed data types are TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING
            sequence batching must not specify either 'int32_false_true', 'fp32_false_true' or 'bool_false_true' for CONTROL_SEQUENCE_CORRID for m
            accepted
            accepted"#]],
    );
}

#[test]
fn what_is_wrong_with_states() {
    let state = "input_name: 'I' output_name: 'O' data_type: TYPE_INT32";
    let initial = |initial: &str| format!("state {{ {state} dims: [ 2, -1 ] initial_state {{ {initial} }} }}");
    let lines = [
        "state { output_name: 'O' data_type: TYPE_INT32 dims: 1 }".to_owned(),
        "state { input_name: 'I' data_type: TYPE_INT32 dims: 1 }".to_owned(),
        "state { input_name: 'I' output_name: 'O' dims: 1 }".to_owned(),
        format!("state {{ {state} }}"),
        format!("state {{ {state} dims: 0 }}"),
        "state { input_name: 'INPUT' output_name: 'O' data_type: TYPE_INT32 dims: 1 }".to_owned(),
        "state { input_name: 'I' output_name: 'OUTPUT' data_type: TYPE_INT32 dims: 1 }".to_owned(),
        format!("state {{ {state} dims: [ 65536, 65536 ] }}"),
        initial("data_type: TYPE_INT32 dims: [ 2, 3 ] zero_data: true"),
        initial("name: 'n' data_type: TYPE_FP32 dims: [ 2, 3 ] zero_data: true"),
        initial("name: 'n' data_type: TYPE_INT32 dims: [ 3, 3 ] zero_data: true"),
        initial("name: 'n' data_type: TYPE_INT32 dims: [ 2, -1 ] zero_data: true"),
        initial("name: 'n' data_type: TYPE_INT32 dims: [ 2, 3 ]"),
        initial("name: 'n' data_type: TYPE_INT32 dims: [ 2, 3 ] zero_data: true } initial_state { name: 'm'"),
        initial("name: 'n' data_type: TYPE_INT32 dims: [ 2, 3 ] data_file: 'first'"),
        format!("state {{ {state} dims: [ 2, -1 ] }}"),
    ];
    check(
        &lines.iter().map(String::as_str).collect::<Vec<_>>(),
        expect![[r#"
            sequence batching state '' must specify 'input_name' for m
            sequence batching state 'I' must specify 'output_name' for m
            sequence batching state 'I' must specify 'data_type' for m
            sequence batching state 'I' must specify 'dims' for m
            sequence batching state 'I' dimension must be integer >= 1, or -1 to indicate a variable-size dimension for m
            model input 'INPUT' appears more than once for model 'm'
            model output 'OUTPUT' appears more than once for model 'm'
            'initial_state' field of state 'I' is too large for m: dims [65536,65536]
            sequence batching state 'I' must specify 'initial_state.name' for m
            The data type used for 'initial_state' field of state 'I' does not match the state data type for m
            'initial_state' field of state 'I' must have dims that agree with the state's [2,-1], got [3, 3] for m
            'initial_state' field of state 'I' must have dims that agree with the state's [2,-1], got [2, -1] for m
            'initial_state' field of state 'I' must specify 'zero_data: true' or 'data_file' for m
            state 'I' must have at most one 'initial_state' for m, got 2
            accepted
            accepted"#]],
    );
}

#[test]
fn what_is_wrong_with_strategies() {
    check(
        &[
            "iterative_sequence: true",
            "direct { minimum_slot_utilization: 1.5 }",
            "direct { minimum_slot_utilization: -0.1 }",
            "oldest { }",
            "oldest { max_candidate_sequences: 65537 }",
            "oldest { max_candidate_sequences: 4 preferred_batch_size: [ 9 ] }",
            "oldest { max_candidate_sequences: 4 preferred_batch_size: [ 0 ] }",
            "oldest { max_candidate_sequences: 4 preferred_batch_size: [ 2 ] }",
            "direct { }",
            "",
        ],
        expect![[r#"
            'sequence_batching.iterative_sequence' is not supported by this server (model 'm'); remove it, or serve the model without it
            sequence batching minimum slot utilization must be in range (0.0, 1.0] for m
            sequence batching minimum slot utilization must be in range (0.0, 1.0] for m
            'sequence_batching.oldest.max_candidate_sequences' must be between 1 and 65536, got 0 for model 'm'
            'sequence_batching.oldest.max_candidate_sequences' must be between 1 and 65536, got 65537 for model 'm'
            sequence batching preferred batch size must be <= max batch size for m
            sequence batching preferred batch size must be positive for m
            accepted
            accepted
            accepted"#]],
    );
}

#[test]
fn a_share_of_slots_becomes_a_number_of_them() {
    let ready = |slots: u32, share: &str| {
        let config =
            parse(slots, &format!("direct {{ max_queue_delay_microseconds: 5 minimum_slot_utilization: {share} }}")).unwrap();
        match sequence(&config).strategy {
            SequenceStrategy::Direct { minimum_ready, .. } => minimum_ready,
            _ => panic!("not direct"),
        }
    };
    assert_eq!([("0", 0), ("0.1", 1), ("0.5", 4), ("0.51", 5), ("1.0", 8)].map(|(share, _)| ready(8, share)), [0, 1, 4, 5, 8]);
    assert_eq!([ready(3, "0.333"), ready(3, "0.334"), ready(0, "1.0")], [1, 2, 1]);
}

#[test]
fn clients_see_their_own_tensors_and_the_message_is_normalized() {
    let config = parse(
        4,
        "oldest { max_candidate_sequences: 2 }
         control_input { name: 'START' control { kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] } }
         state { input_name: 'I' output_name: 'O' data_type: TYPE_INT32 dims: 1 use_growable_memory: true }",
    )
    .unwrap();
    let inputs: Vec<&str> = config.inputs.iter().map(|spec| &*spec.name).collect();
    let outputs: Vec<&str> = config.outputs.iter().map(|spec| &*spec.name).collect();
    assert_eq!((inputs, outputs), (vec!["INPUT", "I", "START"], vec!["OUTPUT", "O"]));
    assert_eq!(config.client_inputs().map(|spec| &*spec.name).collect::<Vec<_>>(), ["INPUT"]);
    assert_eq!(config.client_outputs().map(|spec| &*spec.name).collect::<Vec<_>>(), ["OUTPUT"]);
    assert_eq!(config.warnings, ["sequence_batching.state[0].use_growable_memory"]);
    let Some(proto::inference::model_config::SchedulingChoice::SequenceBatching(message)) = &config.wire.scheduling_choice else {
        panic!("no sequence batching");
    };
    assert_eq!(message.max_sequence_idle_microseconds, 1_000_000);
    match &message.strategy_choice {
        Some(proto::inference::model_sequence_batching::StrategyChoice::Oldest(oldest)) => {
            assert_eq!(oldest.preferred_batch_size, [4]);
        }
        other => panic!("{other:?}"),
    }
}
