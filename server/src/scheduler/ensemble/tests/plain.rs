//! Ensembles of models that answer once.

use expect_test::expect;

use crate::error::ExecuteError;

use super::*;

/// `e` adds A and B in `first`, and A to that in `second`.
fn chain(first: Behavior, second: Behavior) -> (Arc<Models>, Arc<ModelStatistics>) {
    let models = Arc::<Models>::default();
    models.fake("first", &model(&["X", "Z"], &["Y"], "[ -1 ]", 8), first);
    models.fake("second", &model(&["X", "Z"], &["Y"], "[ -1 ]", 8), second);
    let text = graph(&["A", "B"], &["C"], "[ -1 ]", 8, &["first X=A,Z=B > Y=t", "second X=t,Z=A > Y=C"]);
    let statistics = models.ensemble("e", &text);
    (models, statistics)
}

fn a_and_b() -> InferRequest {
    request(&[("A", numbers(&[2, 2], &[1, 2, 3, 4])), ("B", numbers(&[2, 2], &[10, 20, 30, 40]))])
}

#[test]
fn a_chain_answers_in_its_own_name_and_counts() {
    for behavior in [at_once(sum), on_thread(sum)] {
        let (models, statistics) = chain(Arc::clone(&behavior), behavior);
        let response = models.submit("e", a_and_b()).response();
        assert_eq!(shown(&response), ["C[2,2]=[12, 24, 36, 48]"]);
        assert_eq!((&*response.model_name, response.model_version, response.id.as_str()), ("e", 5, "7"));
        // Counted before the client had its answer, and the sum of both steps.
        let counts = statistics.snapshot();
        assert_eq!((counts.success.count, counts.fail.count, counts.queue.count), (1, 0, 1));
        assert_eq!((counts.execution_count, counts.inference_count), (1, 2));
        let times = [counts.compute_input, counts.compute_infer, counts.compute_output];
        assert_eq!(times.map(|tally| (tally.count, tally.nanos)), [(1, 200), (1, 20), (1, 2)]);
        assert_eq!(response.timing.infer, Duration::from_nanos(20));
    }
}

#[test]
fn steps_share_the_bytes_and_all_that_the_client_said() {
    let (first, second) = (Held::default(), Held::default());
    let (models, _) = chain(first.behavior(), second.behavior());
    let mut asked = a_and_b();
    asked.options = RequestOptions {
        sequence_id: SequenceId::Number(4),
        sequence_start: true,
        sequence_end: true,
        priority: 2,
        timeout: Some(Duration::from_secs(1000)),
        timeline: false,
        empty_final_response: false,
    };
    asked.parameters.insert("mine".to_owned(), Parameter::Bool(true));
    let sent = asked.inputs[0].contents.as_ptr();
    let client = models.submit("e", asked.clone());
    let entry = first.next();
    let of = |entry: &Entry, input: usize| entry.request.inputs[input].as_ref().unwrap().bytes().as_ptr();
    assert_eq!(of(&entry, 0), sent);
    let left = entry.request.options.timeout;
    assert!(left.is_some() && left < asked.options.timeout, "a step may only wait for what is left of the time: {left:?}");
    let options = RequestOptions { timeout: left, ..asked.options.clone() };
    assert_eq!((&entry.request.id, &entry.request.options, &entry.request.parameters), (&asked.id, &options, &asked.parameters));
    let made = numbers(&[2, 2], &[5, 6, 7, 8]);
    let made_at = made.bytes().as_ptr();
    answer(entry, vec![("Y", made)]);
    let entry = second.next();
    assert_eq!((of(&entry, 0), of(&entry, 1)), (made_at, sent));
    assert!(!entry.responder.cancellation().is_cancelled());
    client.cancellation.cancel();
    assert!(entry.responder.cancellation().is_cancelled(), "the token is the client's own");
    sum(entry);
    client.all();
}

#[test]
fn branches_run_side_by_side() {
    let models = Arc::<Models>::default();
    let (left, right) = (Held::default(), Held::default());
    models.fake("left", &model(&["X"], &["Y"], "[ 1 ]", 0), left.behavior());
    models.fake("right", &model(&["X"], &["Y"], "[ 1 ]", 0), right.behavior());
    models.ensemble("e", &graph(&["A"], &["B", "C"], "[ 1 ]", 0, &["left X=A > Y=B", "right X=A > Y=C"]));
    let client = models.submit("e", request(&[("A", numbers(&[1], &[1]))]));
    let (left, right) = (left.next(), right.next());
    answer(right, vec![("Y", numbers(&[1], &[3]))]);
    assert!(client.is_waiting());
    answer(left, vec![("Y", numbers(&[1], &[2]))]);
    assert_eq!(shown(&client.response()), ["B[1]=[2]", "C[1]=[3]"]);
}

#[test]
fn pruned_steps_are_not_even_looked_up() {
    let models = Arc::<Models>::default();
    models.fake(
        "here",
        &model(&["X"], &["Y", "Z"], "[ 1 ]", 0),
        at_once(|entry| {
            assert_eq!(entry.request.outputs, [true, false], "only what is needed is asked for");
            answer(entry, vec![("Y", numbers(&[1], &[2]))]);
        }),
    );
    let text = graph(&["A"], &["B", "C"], "[ 1 ]", 0, &["here X=A > Y=B,Z=z", "nowhere X=z > Y=C"]);
    models.ensemble("e", &text);
    let mut asked = request(&[("A", numbers(&[1], &[1]))]);
    asked.outputs = vec!["B".to_owned()];
    assert_eq!(shown(&models.submit("e", asked).response()), ["B[1]=[2]"]);
    let client = models.submit("e", request(&[("A", numbers(&[1], &[1]))]));
    expect!["in ensemble 'e', Request for unknown model: 'nowhere' is not found"].assert_eq(&client.error().to_string());
}

#[test]
fn a_long_chain_that_answers_at_once_needs_no_stack() {
    const STEPS: usize = 3000;
    let models = Arc::<Models>::default();
    models.fake("add", &model(&["X", "Z"], &["Y"], "[ 1 ]", 0), at_once(sum));
    let steps: Vec<String> = (0..STEPS)
        .map(|step| {
            let name = |step: usize| if step == 0 { "A".to_owned() } else { format!("t{step}") };
            format!("add X={},Z=B > Y={}", name(step), if step + 1 == STEPS { "C".to_owned() } else { name(step + 1) })
        })
        .collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    models.ensemble("e", &graph(&["A", "B"], &["C"], "[ 1 ]", 0, &steps));
    let client = models.submit("e", request(&[("A", numbers(&[1], &[1])), ("B", numbers(&[1], &[2]))]));
    assert_eq!(shown(&client.response()), ["C[1]=[6001]"]);
}

#[test]
fn errors_of_steps_name_the_ensemble_and_count_as_other() {
    let fail: fn(Entry) = |mut entry| {
        let error = ExecuteError::Internal { message: "broken".to_owned() };
        entry.responder.fail(InferError::Execute(Arc::new(error)));
    };
    let lose: fn(Entry) = drop;
    let expire: fn(Entry) = |mut entry| entry.responder.fail(InferError::Expired);
    let silent: fn(Entry) = |mut entry| entry.responder.deliver(Delivery::Final);
    let empty: fn(Entry) = |entry| answer(entry, Vec::new());
    let narrow: fn(Entry) = |entry| answer(entry, vec![("Y", numbers(&[3, 2], &[0; 6]))]);
    let mut texts = Vec::new();
    for behavior in [fail, lose, expire, silent, empty, narrow] {
        let (models, statistics) = chain(on_thread(behavior), at_once(sum));
        texts.push(models.submit("e", a_and_b()).error().to_string());
        let counts = statistics.snapshot();
        assert_eq!((counts.fail.count, counts.success.count, failures(&counts, FailureReason::Other)), (1, 0, 1));
    }
    expect![[r#"
        in ensemble 'e', broken
        in ensemble 'e', the request was dropped before it was answered
        in ensemble 'e', Request timeout expired
        in ensemble 'e', expected a single response, got 0
        in ensemble 'e', [request id: 7] unexpected deadlock, at least one output is not set while no more ensemble steps can be made
        in ensemble 'e', [request id: 7] input 'Z' batch size does not match other inputs for 'second'"#]].assert_eq(&texts.join("\n"));
}

#[test]
fn an_output_that_a_step_leaves_out_is_left_out() {
    let models = Arc::<Models>::default();
    models.fake("half", &model(&["X"], &["Y", "Z"], "[ 1 ]", 0), at_once(sum));
    models.ensemble("e", &graph(&["A"], &["B", "C"], "[ 1 ]", 0, &["half X=A > Y=B,Z=C"]));
    assert_eq!(shown(&models.submit("e", request(&[("A", numbers(&[1], &[1]))])).response()), ["B[1]=[1]"]);
}

#[test]
fn more_requests_than_allowed_are_refused_and_places_come_back() {
    let models = Arc::<Models>::default();
    let held = Held::default();
    models.fake("held", &model(&["X"], &["Y"], "[ 1 ]", 0), held.behavior());
    let bound = "parameters { key: \"max_queue_size\" value: { string_value: \"2\" } }";
    let statistics = models.ensemble("e", &format!("{bound} {}", graph(&["A"], &["B"], "[ 1 ]", 0, &["held X=A > Y=B"])));
    let ask = || models.submit("e", request(&[("A", numbers(&[1], &[1]))]));
    for _ in 0..3 {
        let (first, second, third) = (ask(), ask(), ask());
        assert_eq!(third.error().to_string(), "[request id: 7] Exceeds maximum queue size");
        assert!(first.is_waiting() && second.is_waiting());
        sum(held.next());
        first.response();
        held.next().responder.fail(InferError::Expired);
        second.error();
    }
    let counts = statistics.snapshot();
    assert_eq!(
        (counts.success.count, failures(&counts, FailureReason::Rejected), failures(&counts, FailureReason::Other)),
        (3, 3, 3)
    );
}

#[test]
fn a_client_that_leaves_starts_no_more_steps() {
    let (first, second) = (Held::default(), Held::default());
    let (models, statistics) = chain(first.behavior(), second.behavior());
    let client = models.submit("e", a_and_b());
    let entry = first.next();
    client.cancellation.cancel();
    sum(entry);
    assert_eq!(client.error(), InferError::Cancelled);
    assert_eq!(second.len(), 0);
    // One that leaves while a step waits is told by that step.
    let client = models.submit("e", a_and_b());
    let mut entry = first.next();
    client.cancellation.cancel();
    entry.responder.fail(InferError::Cancelled);
    assert_eq!(client.error(), InferError::Cancelled);
    let counts = statistics.snapshot();
    assert_eq!((counts.fail.count, failures(&counts, FailureReason::Canceled)), (2, 2));
}

#[test]
fn batch_dimensions_come_and_go() {
    let models = Arc::<Models>::default();
    models.fake("rows", &model(&["X"], &["Y"], "[ 4 ]", 8), at_once(sum));
    models.fake("flat", &model(&["X"], &["Y"], "[ 4 ]", 0), at_once(sum));
    models.fake("whole", &model(&["X"], &["Y"], "[ -1, 4 ]", 0), at_once(sum));
    models.ensemble("batching", &graph(&["A"], &["B"], "[ 4 ]", 8, &["flat X=A > Y=t", "rows X=t > Y=B"]));
    models.ensemble("plain", &graph(&["A"], &["B"], "[ 4 ]", 0, &["rows X=A > Y=t", "flat X=t > Y=B"]));
    models.ensemble("wide", &graph(&["A"], &["B"], "[ 4 ]", 8, &["whole X=A > Y=t", "rows X=t > Y=B"]));
    let ask = |ensemble: &str, shape: &[usize]| {
        let count = shape.iter().product();
        models.submit(ensemble, request(&[("A", numbers(shape, &vec![1; count]))]))
    };
    assert_eq!(shown(&ask("batching", &[1, 4]).response()), ["B[1,4]=[1, 1, 1, 1]"]);
    assert_eq!(shown(&ask("plain", &[4]).response()), ["B[4]=[1, 1, 1, 1]"]);
    assert_eq!(shown(&ask("wide", &[2, 4]).response()), ["B[2,4]=[1, 1, 1, 1, 1, 1, 1, 1]"]);
    let text = ask("batching", &[2, 4]).error().to_string();
    expect!["in ensemble 'batching', [request id: 7] unexpected shape for input 'X' for model 'flat'. Expected [4], got [2,4]. "]
        .assert_eq(&text);
}

#[test]
fn a_reshaped_input_goes_in_as_the_client_sent_it() {
    let models = Arc::<Models>::default();
    models.fake("rows", &model(&["X"], &["Y"], "[ 4 ]", 8), at_once(sum));
    let text = graph(&["A"], &["B"], "[ 4 ]", 8, &["rows X=A > Y=B"]);
    models.ensemble("e", &text.replacen("dims: [ 4 ]", "dims: [ 4 ] reshape { shape: [ 2, 2 ] }", 1));
    let client = models.submit("e", request(&[("A", numbers(&[1, 4], &[1, 2, 3, 4]))]));
    assert_eq!(shown(&client.response()), ["B[1,4]=[1, 2, 3, 4]"]);
}

#[test]
fn ensembles_nest() {
    let (models, _) = chain(on_thread(sum), on_thread(sum));
    models.ensemble("outer", &graph(&["A", "B"], &["D"], "[ -1 ]", 8, &["e A=A,B=B > C=c", "first X=c,Z=B > Y=D"]));
    assert_eq!(shown(&models.submit("outer", a_and_b()).response()), ["D[2,2]=[22, 44, 66, 88]"]);
    models.fake(
        "second",
        &model(&["X", "Z"], &["Y"], "[ -1 ]", 8),
        at_once(|mut entry| entry.responder.fail(InferError::Expired)),
    );
    let text = models.submit("outer", a_and_b()).error().to_string();
    assert_eq!(text, "in ensemble 'outer', in ensemble 'e', Request timeout expired");
}

#[test]
fn what_a_step_says_of_its_sequence_reaches_the_client() {
    let tell: fn(Entry) = |mut entry| {
        let mut made = response(vec![("Y", numbers(&[2, 2], &[0; 4]))]);
        made.parameters.insert("sequence_id".to_owned(), Parameter::Int64(4));
        made.parameters.insert("other".to_owned(), Parameter::Int64(5));
        entry.responder.deliver(Delivery::Response { response: made, last: true });
    };
    let (models, _) = chain(at_once(sum), at_once(tell));
    let parameters = models.submit("e", a_and_b()).response().parameters;
    assert_eq!(parameters, Parameters::from([("sequence_id".to_owned(), Parameter::Int64(4))]));
}

#[test]
fn a_model_is_held_until_the_request_ends() {
    let (first, second) = (Held::default(), Held::default());
    let (models, _) = chain(first.behavior(), second.behavior());
    let client = models.submit("e", a_and_b());
    models.0.lock().unwrap().remove("second");
    sum(first.next());
    sum(second.next());
    client.response();
}

#[test]
fn only_an_ensemble_has_an_ensemble_scheduler() {
    let config = Arc::new(config("m", &model(&["X"], &["Y"], "[ 1 ]", 0)));
    let error = EnsembleScheduler::new(config, 1, Arc::default(), Arc::<Models>::default()).err().unwrap();
    expect!["ensemble scheduling cannot be set for model 'm' whose platform is not ensemble"].assert_eq(&error.to_string());
}

#[test]
fn many_requests_at_once_each_get_their_own_answer() {
    const CLIENTS: i32 = 200;
    let (models, statistics) = chain(on_thread(sum), on_thread(sum));
    let clients: Vec<(i32, Client)> = (0..CLIENTS)
        .map(|number| {
            let tensor = |value| numbers(&[1, 1], &[value]);
            (number, models.submit("e", request(&[("A", tensor(number)), ("B", tensor(1000))])))
        })
        .collect();
    for (number, client) in clients {
        assert_eq!(shown(&client.response()), [format!("C[1,1]=[{}]", 2 * number + 1000)]);
    }
    assert_eq!(statistics.snapshot().success.count, 200);
}
