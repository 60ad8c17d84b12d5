//! Tests of executing batches: outputs of whole batches and of requests, failures, panics, streams.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{ExecuteError, InferError, LoadError};
use crate::observe::statistics::Stage;
use crate::tensor::Shape;

use super::testing::{Asked, TestModel, fp32, int32, served};
use super::{Backend, Execution, InstanceSlot, ModelInstance, ServedVersion, StreamedResponse};

const CONFIG: &str = "name: \"m\" backend: \"builtin\" max_batch_size: 8
    input { name: \"A\" data_type: TYPE_INT32 dims: -1 } output { name: \"X\" data_type: TYPE_INT32 dims: -1 }";

/// What an instance of the test's own does with a batch.
type Behavior = fn(&mut Execution) -> Result<(), ExecuteError>;

/// A backend that runs a function, and can be told to make only so many instances.
struct Scripted {
    behavior: Behavior,
    made: Arc<AtomicUsize>,
    most: usize,
}

struct ScriptedInstance(Behavior);

impl Backend for Scripted {
    fn instantiate(&self, _slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        if self.made.fetch_add(1, Ordering::AcqRel) >= self.most {
            return Err(LoadError::Backend { model: "m".to_owned(), reason: "no more instances".to_owned() });
        }
        Ok(Box::new(ScriptedInstance(self.behavior)))
    }
}

impl ModelInstance for ScriptedInstance {
    fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError> {
        (self.0)(execution)
    }
}

/// A model that runs `behavior`, and how many instances it has made.
fn scripted(config: &str, behavior: Behavior, most: usize) -> (TestModel, Arc<AtomicUsize>) {
    let made = Arc::new(AtomicUsize::new(0));
    let backend: Arc<dyn Backend> = Arc::new(Scripted { behavior, made: Arc::clone(&made), most });
    (TestModel::over(served(config, 1, Path::new(".")), &backend).unwrap(), made)
}

fn ask(model: &TestModel, batches: &[&[i32]]) -> Vec<Asked> {
    let request = |values: &&[i32]| model.request().input("A", int32(&[1, values.len()], values));
    model.run(batches.iter().map(request).collect())
}

#[test]
fn each_request_gets_its_rows_of_a_whole_output() {
    let (model, _) = scripted(
        CONFIG,
        |execution| {
            let gathered = execution.gathered(0)?.unwrap();
            assert_eq!(gathered.shape(), &Shape::new([3, 2]));
            execution.set_output(0, gathered);
            Ok(())
        },
        1,
    );
    let asked = ask(&model, &[&[1, 2], &[3, 4], &[5, 6]]);
    let scripts: Vec<_> = asked.iter().map(|asked| asked.script()).collect();
    assert_eq!(scripts, [["X=[1,2]1,2*"], ["X=[1,2]3,4*"], ["X=[1,2]5,6*"]]);
}

#[test]
fn an_output_of_one_request_goes_before_one_of_the_batch() {
    let (model, _) = scripted(
        CONFIG,
        |execution| {
            execution.set_output(0, int32(&[3, 1], &[1, 2, 3]));
            execution.set_request_output(1, 0, int32(&[1, 2], &[8, 9]));
            execution.fail(2, ExecuteError::InvalidArgument { message: "not this one".to_owned() });
            Ok(())
        },
        1,
    );
    let asked = ask(&model, &[&[0], &[0], &[0]]);
    assert_eq!(asked[0].script(), ["X=[1,1]1*"]);
    assert_eq!(asked[1].script(), ["X=[1,2]8,9*"]);
    assert_eq!(asked[2].script(), ["error: not this one*"]);
    let counts = model.counts();
    assert_eq!((counts.execution_count, counts.success.count, counts.fail.count), (1, 2, 1));
    assert_eq!((counts.compute_input.count, counts.compute_infer.count, counts.compute_output.count), (2, 2, 2));
}

#[test]
fn rows_count_as_computed_unless_their_client_left_before() {
    let (model, _) = scripted(
        CONFIG,
        |execution| {
            execution.cancellation(0).cancel();
            execution.drop_cancelled();
            execution.fail(1, ExecuteError::InvalidArgument { message: "not this one".to_owned() });
            execution.report_padding(30, 5);
            execution.report_padding(10, 5);
            execution.set_output(0, int32(&[3, 1], &[1, 2, 3]));
            Ok(())
        },
        1,
    );
    let scripts: Vec<_> = ask(&model, &[&[0], &[0], &[0]]).iter().map(|asked| asked.script().len()).collect();
    assert_eq!(scripts, [1, 1, 1], "each is answered once");
    let recorded = model.pool().served().statistics.recorded();
    let counts = recorded.counts;
    assert_eq!((counts.execution_count, counts.inference_count, counts.success.count), (1, 2, 1));
    assert_eq!(counts.batches.keys().copied().collect::<Vec<_>>(), [2], "the batch is that of the rows that ran");
    assert_eq!(counts.failures, [0, 1, 1, 0], "one canceled, one failed in the model");
    assert_eq!(counts.stages[Stage::Execution as usize].iter().sum::<u64>(), 2, "both while it ran");
    let distributions = recorded.distributions.expect("they are on by default");
    assert_eq!((distributions.real, distributions.padding, distributions.padding_share.sum()), (40, 10, 200));
}

#[test]
fn rows_that_cannot_be_put_together_fail_the_batch() {
    let (model, _) = scripted(CONFIG, |execution| execution.gathered(0).map(drop), 1);
    for asked in ask(&model, &[&[1, 2], &[3]]) {
        assert_eq!(asked.refusal(), "input 'A' of one batch has shapes [1,2] and [1,1], which cannot be put together");
    }
}

#[test]
fn outputs_that_the_configuration_does_not_allow_are_refused() {
    let (model, _) = scripted(
        CONFIG,
        |execution| {
            execution.set_request_output(0, 0, fp32(&[1, 1], &[1.0]));
            execution.set_request_output(1, 0, int32(&[2, 1], &[1, 2]));
            Ok(())
        },
        1,
    );
    let asked = ask(&model, &[&[1], &[2]]);
    assert_eq!(asked[0].refusal(), "model 'm' produced output 'X' as FP32, but its configuration says INT32");
    assert_eq!(asked[1].refusal(), "model 'm' produced output 'X' as [2,1], but its configuration says a batch dimension of 1");
    let (model, _) = scripted(
        CONFIG,
        |execution| {
            execution.set_output(0, int32(&[1, 1], &[1]));
            Ok(())
        },
        1,
    );
    let asked = ask(&model, &[&[1], &[2]]);
    assert_eq!(asked[0].script(), ["X=[1,1]1*"]);
    let expected = "model 'm' produced output 'X' as [1,1], but its configuration says a first dimension of at least 2";
    assert_eq!(asked[1].refusal(), expected);
}

/// Panics at a batch whose first element is negative; otherwise answers with the input.
fn panics_below_zero(execution: &mut Execution) -> Result<(), ExecuteError> {
    for request in 0..execution.len() {
        let input = execution.request(request).inputs[0].clone().unwrap();
        if input.bytes()[3] & 0x80 != 0 {
            panic!("below zero at request {request}");
        }
        execution.set_request_output(request, 0, input);
    }
    Ok(())
}

#[test]
fn a_panic_fails_its_batch_and_the_instance_is_made_anew() {
    let (model, made) = scripted(CONFIG, panics_below_zero, usize::MAX);
    assert_eq!(ask(&model, &[&[1]])[0].script(), ["X=[1,1]1*"]);
    for asked in ask(&model, &[&[1], &[-1], &[2]]) {
        assert_eq!(asked.refusal(), "model 'm' panicked while executing: below zero at request 1");
    }
    assert_eq!(ask(&model, &[&[3]])[0].script(), ["X=[1,1]3*"]);
    assert_eq!(made.load(Ordering::Acquire), 2);
    let counts = model.counts();
    assert_eq!((counts.success.count, counts.fail.count), (2, 3));
}

#[test]
fn an_instance_that_cannot_be_made_anew_leaves_the_others_serving() {
    let two = format!("{CONFIG} instance_group {{ count: 2 kind: KIND_CPU }}");
    let (model, _) = scripted(&two, panics_below_zero, 2);
    assert_eq!(ask(&model, &[&[-1]])[0].refusal(), "model 'm' panicked while executing: below zero at request 0");
    for round in 0..8 {
        assert_eq!(ask(&model, &[&[round]])[0].script(), [format!("X=[1,1]{round}*")]);
    }
    let failures = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&failures);
    model.pool().on_failure(move || {
        count.fetch_add(1, Ordering::AcqRel);
    });
    assert!(model.pool().failure().is_none());
    // The last instance stays to answer with the reason.
    assert_eq!(ask(&model, &[&[-1]])[0].refusal(), "model 'm' panicked while executing: below zero at request 0");
    let expected = "model 'm' has no working instance: model 'm': no more instances";
    assert_eq!(ask(&model, &[&[1]])[0].refusal(), expected);
    assert_eq!(ask(&model, &[&[1]])[0].refusal(), expected);
    assert_eq!(failures.load(Ordering::Acquire), 1);
    assert!(model.pool().failure().is_some());
}

#[test]
fn an_instance_that_panics_while_it_is_made_fails_the_load() {
    struct Panics;
    impl Backend for Panics {
        fn instantiate(&self, _slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
            panic!("no luck");
        }
    }
    let backend: Arc<dyn Backend> = Arc::new(Panics);
    let served: Arc<ServedVersion> = served(CONFIG, 1, Path::new("."));
    let error = TestModel::over(served, &backend).err().unwrap();
    assert_eq!(error.to_string(), "an instance of model 'm' panicked while it was created: no luck");
}

#[test]
fn a_stream_that_is_dropped_is_answered_and_leaves_the_rest_of_its_batch() {
    let (model, _) = scripted(
        CONFIG,
        |execution| {
            let mut stream = execution.stream(0).unwrap();
            assert!(!execution.is_waiting(0) && execution.stream(0).is_none() && execution.is_waiting(1));
            let response = StreamedResponse { outputs: vec![(0, int32(&[1, 1], &[7]))], ..Default::default() };
            stream.send(response)?;
            drop(stream);
            execution.set_request_output(1, 0, int32(&[1, 1], &[8]));
            Ok(())
        },
        1,
    );
    let asked = ask(&model, &[&[1], &[2]]);
    assert_eq!(asked[0].script(), ["X=[1,1]7", "error: model 'm' ended without a last response*"]);
    assert_eq!(asked[1].script(), ["X=[1,1]8*"]);
    let counts = model.counts();
    assert_eq!((counts.execution_count, counts.inference_count, counts.success.count, counts.fail.count), (1, 2, 1, 1));
}

#[test]
fn a_streamed_response_that_does_not_fit_is_an_error() {
    let (model, _) = scripted(
        CONFIG,
        |execution| {
            let mut stream = execution.stream(0).unwrap();
            let response = || StreamedResponse { outputs: vec![(0, fp32(&[1, 1], &[7.0]))], ..Default::default() };
            assert!(stream.send(response()).is_err());
            assert!(stream.send_last(response()).is_err());
            Ok(())
        },
        1,
    );
    let script = ask(&model, &[&[1]])[0].script();
    assert_eq!(script, ["error: model 'm' produced output 'X' as FP32, but its configuration says INT32*"]);
}

#[test]
fn requests_that_nobody_waits_for_are_not_run() {
    // The first batch holds the instance until it is cancelled; the second lapses in the queue meanwhile.
    let (model, _) = scripted(
        CONFIG,
        |execution| {
            for request in 0..execution.len() {
                let input = execution.request(request).inputs[0].clone().unwrap();
                if input.bytes()[0] == 1 {
                    execution.cancellation(request).wait(std::time::Duration::from_secs(3000));
                }
                execution.set_request_output(request, 0, input);
            }
            Ok(())
        },
        1,
    );
    let first = ask(&model, &[&[1]]);
    let second = ask(&model, &[&[2], &[3]]);
    second[0].cancellation.cancel();
    first[0].cancellation.cancel();
    assert_eq!(second[0].single(), Err(Box::new(InferError::Cancelled)));
    assert_eq!(second[1].script(), ["X=[1,1]3*"]);
    assert_eq!(model.counts().batches.keys().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_panic_of_who_takes_the_answer_leaves_the_instance_at_work() {
    let (model, made) = scripted(
        CONFIG,
        |execution| {
            execution.set_output(0, int32(&[1, 1], &[7]));
            Ok(())
        },
        1,
    );
    for _ in 0..3 {
        model.ask_of_a_panicking_sink(model.request().input("A", int32(&[1, 1], &[0])));
        assert_eq!(ask(&model, &[&[0]])[0].script(), ["X=[1,1]7*"]);
    }
    assert_eq!(made.load(Ordering::Acquire), 1, "the model itself has not panicked");
    assert_eq!(model.counts().success.count, 6);
}

#[test]
fn a_batch_can_be_meant_for_one_instance() {
    // Each instance answers with its number, and holds on until its client leaves.
    struct Numbered;
    struct NumberedInstance(i32);
    impl Backend for Numbered {
        fn instantiate(&self, slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
            Ok(Box::new(NumberedInstance(i32::try_from(slot.ordinal).unwrap())))
        }
    }
    impl ModelInstance for NumberedInstance {
        fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError> {
            execution.set_output(0, int32(&[1, 1], &[self.0]));
            Ok(())
        }
    }
    let backend: Arc<dyn Backend> = Arc::new(Numbered);
    let text = format!("{CONFIG} instance_group {{ count: 3 kind: KIND_CPU }}");
    let model = TestModel::over(served(&text, 1, Path::new(".")), &backend).unwrap();
    let asked: Vec<(usize, Asked)> = (0..12)
        .map(|round| (round % 3, model.ask_instance(round % 3, model.request().input("A", int32(&[1, 1], &[0])))))
        .collect();
    for (instance, asked) in asked {
        assert_eq!(asked.script(), [format!("X=[1,1]{instance}*")]);
    }
}

#[test]
fn an_instance_that_is_broken_answers_what_is_meant_for_it() {
    let two = format!("{CONFIG} instance_group {{ count: 2 kind: KIND_CPU }}");
    let (model, _) = scripted(&two, panics_below_zero, 2);
    let request = |value: i32| model.request().input("A", int32(&[1, 1], &[value]));
    assert_eq!(model.ask_instance(1, request(-1)).refusal(), "model 'm' panicked while executing: below zero at request 0");
    let expected = "model 'm' has no working instance: model 'm': no more instances";
    assert_eq!(model.ask_instance(1, request(1)).refusal(), expected);
    assert_eq!(model.ask_instance(0, request(2)).script(), ["X=[1,1]2*"]);
    assert!(model.pool().failure().is_none());
}

#[test]
fn a_request_that_lapses_before_an_instance_is_free_leaves_the_rest_of_its_batch() {
    let (model, _) = scripted(
        CONFIG,
        |execution| {
            let input = execution.request(0).inputs[0].clone().unwrap();
            if input.bytes()[0] == 1 {
                execution.cancellation(0).wait(std::time::Duration::from_secs(3000));
            }
            execution.set_output(0, execution.gathered(0)?.unwrap());
            Ok(())
        },
        1,
    );
    let first = ask(&model, &[&[1]]);
    model.wait_until_taken();
    let now = crate::clock::now();
    let request = |value: i32| model.request().input("A", int32(&[1, 1], &[value]));
    let later = now.plus(std::time::Duration::from_secs(3000));
    let second = model.run_by(vec![(request(2), Some(now)), (request(3), Some(later)), (request(4), None)]);
    let third = model.run_by(vec![(request(5), Some(now))]);
    assert_eq!(model.pool().next_lapse(), Some(now));
    model.pool().expire(now);
    // The instance still runs: these are answered while it does.
    assert_eq!(second[0].single(), Err(Box::new(InferError::Expired)));
    assert_eq!(third[0].single(), Err(Box::new(InferError::Expired)));
    assert_eq!((model.pool().waiting(), model.pool().in_flight()), (1, 2));
    assert_eq!(model.pool().next_lapse(), Some(later));
    second[1].cancellation.cancel();
    model.pool().sweep(now);
    assert_eq!(second[1].single(), Err(Box::new(InferError::Cancelled)));
    first[0].cancellation.cancel();
    assert_eq!(second[2].script(), ["X=[1,1]4*"]);
    assert_eq!(model.counts().failures[..2], [2, 1]);
}
