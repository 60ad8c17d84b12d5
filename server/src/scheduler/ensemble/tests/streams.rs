//! Ensembles with a decoupled step.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const DECOUPLED: &str = "model_transaction_policy { decoupled: true }";

fn decoupled_model() -> String {
    format!("{} {DECOUPLED}", model(&["X"], &["Y"], "[ 1 ]", 0))
}

/// `e` adds A to each response of `count`, which gets A.
fn stream(count: Behavior, add: Behavior, more: &str) -> (Arc<Models>, Arc<ModelStatistics>) {
    let models = Arc::<Models>::default();
    models.fake("count", &decoupled_model(), count);
    models.fake("add", &model(&["X", "Z"], &["Y"], "[ 1 ]", 0), add);
    let text = graph(&["A"], &["C", "N"], "[ 1 ]", 0, &["count X=A > Y=N", "add X=N,Z=A > Y=C"]);
    let statistics = models.ensemble("e", &text.replace("ensemble_scheduling {", &format!("ensemble_scheduling {{ {more}")));
    (models, statistics)
}

fn ask(models: &Models, number: i32) -> Client {
    models.submit("e", request(&[("A", numbers(&[1], &[number]))]))
}

/// Answers 0, 1, ... up to the input, then ends.
fn count_up(mut entry: Entry) {
    let total = values(entry.request.inputs[0].as_ref().unwrap())[0];
    for number in 0..total {
        let response = response(vec![("Y", numbers(&[1], &[number]))]);
        entry.responder.deliver(Delivery::Response { response, last: false });
    }
    entry.responder.deliver(Delivery::Final);
}

fn expected(total: i32) -> Vec<[String; 2]> {
    (0..total).map(|number| [format!("C[1]=[{}]", number + total), format!("N[1]=[{number}]")]).collect()
}

fn responses(all: &[(Delivery, ThreadId)]) -> Vec<[String; 2]> {
    all.iter()
        .filter_map(|(delivery, _)| match delivery {
            Delivery::Response { response, .. } => Some(shown(response).try_into().unwrap()),
            _ => None,
        })
        .collect()
}

#[test]
fn every_response_becomes_one_in_order() {
    for count in [at_once(count_up), on_thread(count_up)] {
        for add in [at_once(sum), on_thread(sum)] {
            let (models, statistics) = stream(Arc::clone(&count), add, "");
            for total in [0, 1, 50] {
                let all = ask(&models, total).all();
                assert_eq!(responses(&all), expected(total));
                assert_eq!(all.iter().filter(|(delivery, _)| delivery.is_last()).count(), 1);
            }
            let counts = statistics.snapshot();
            assert_eq!((counts.success.count, counts.execution_count, counts.fail.count), (3, 3, 0));
            // 51 responses of each step.
            assert_eq!(counts.compute_infer.nanos, 2 * 51 * 10);
        }
    }
}

#[test]
fn the_thread_that_asks_makes_no_answer_that_others_follow() {
    let (models, _) = stream(on_thread(count_up), on_thread(sum), "");
    for _ in 0..20 {
        let all = ask(&models, 20).all();
        let this = thread::current().id();
        assert!(all.iter().all(|(delivery, thread)| delivery.is_last() || *thread != this));
    }
}

#[test]
fn an_error_in_one_iteration_ends_the_request_once() {
    let fail_third: fn(Entry) = |mut entry| {
        if values(entry.request.inputs[0].as_ref().unwrap()) == [2] {
            entry.responder.fail(InferError::Expired);
        } else {
            sum(entry);
        }
    };
    let (models, statistics) = stream(on_thread(count_up), at_once(fail_third), "");
    let all = ask(&models, 9).all();
    assert_eq!(responses(&all), expected(9)[..2]);
    let Some((Delivery::Failed { error, last: true }, _)) = all.last() else { panic!("{all:?}") };
    assert_eq!(error.to_string(), "in ensemble 'e', Request timeout expired");
    assert_eq!(failures(&statistics.snapshot(), FailureReason::Other), 1);
}

#[test]
fn only_outputs_that_need_it_make_an_ensemble_stream() {
    let models = Arc::<Models>::default();
    models.fake("count", &decoupled_model(), on_thread(count_up));
    models.fake("add", &model(&["X"], &["Y"], "[ 1 ]", 0), on_thread(sum));
    models.ensemble("e", &graph(&["A"], &["C", "N"], "[ 1 ]", 0, &["count X=A > Y=N", "add X=A > Y=C"]));
    let mut asked = request(&[("A", numbers(&[1], &[3]))]);
    asked.outputs = vec!["C".to_owned()];
    assert_eq!(shown(&models.submit("e", asked).response()), ["C[1]=[3]"]);
    // Together, what does not depend on the stream is part of each response.
    let all = ask(&models, 3).all();
    let expected: Vec<[String; 2]> = (0..3).map(|number| ["C[1]=[3]".to_owned(), format!("N[1]=[{number}]")]).collect();
    assert_eq!(responses(&all), expected);
}

#[test]
fn decoupled_ensembles_nest() {
    let (models, _) = stream(on_thread(count_up), on_thread(sum), "");
    models.ensemble("outer", &graph(&["A"], &["C", "N"], "[ 1 ]", 0, &["e A=A > C=c,N=N", "add X=c,Z=A > Y=C"]));
    let all = models.submit("outer", request(&[("A", numbers(&[1], &[10]))])).all();
    let expected: Vec<[String; 2]> =
        (0..10).map(|number| [format!("C[1]=[{}]", number + 20), format!("N[1]=[{number}]")]).collect();
    assert_eq!(responses(&all), expected);
}

#[test]
fn max_inflight_requests_holds_producers_back() {
    const LIMIT: usize = 2;
    const TOTAL: i32 = 30;
    static BUSY: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let watched: fn(Entry) = |entry| {
        MOST.fetch_max(BUSY.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::spawn(move || {
            thread::yield_now();
            BUSY.fetch_sub(1, Ordering::SeqCst);
            sum(entry);
        });
    };
    let (models, _) = stream(on_thread(count_up), at_once(watched), &format!("max_inflight_requests: {LIMIT}"));
    let clients: Vec<Client> = (0..4).map(|_| ask(&models, TOTAL)).collect();
    for client in clients {
        assert_eq!(responses(&client.all()), expected(TOTAL));
    }
    assert!((1..=LIMIT).contains(&MOST.load(Ordering::SeqCst)), "{MOST:?} requests were under way");
}

#[test]
fn a_producer_that_is_held_back_goes_on_when_its_request_is_over() {
    let held = Held::default();
    let done = Arc::<Watched<bool>>::default();
    let ended = Arc::clone(&done);
    let count: Behavior = Arc::new(move |entry| {
        let ended = Arc::clone(&ended);
        thread::spawn(move || {
            count_up(entry);
            ended.change(|done| *done = true);
        });
    });
    let (models, statistics) = stream(count, held.behavior(), "max_inflight_requests: 1");
    // The client leaves.
    let client = ask(&models, 5);
    let mut first = held.next();
    client.cancellation.cancel();
    done.wait(|done| std::mem::take(done).then_some(()));
    first.responder.fail(InferError::Cancelled);
    assert_eq!(client.error(), InferError::Cancelled);
    assert_eq!(held.len(), 0);
    // A step fails.
    let client = ask(&models, 5);
    held.next().responder.fail(InferError::Expired);
    done.wait(|done| std::mem::take(done).then_some(()));
    assert_eq!(client.error().to_string(), "in ensemble 'e', Request timeout expired");
    // Nothing is left behind at the gate.
    let client = ask(&models, 3);
    for _ in 0..3 {
        sum(held.next());
    }
    assert_eq!(responses(&client.all()), expected(3));
    assert_eq!(statistics.snapshot().success.count, 1);
}

#[test]
fn a_client_that_reads_slowly_holds_producers_back() {
    /// Lets one delivery through for each ticket.
    struct SlowSink {
        tickets: Arc<Watched<usize>>,
        client: Client,
    }
    impl ResponseSink for SlowSink {
        fn deliver(&mut self, delivery: Delivery) {
            if !delivery.is_last() {
                self.tickets.wait(|tickets| tickets.checked_sub(1).map(|left| *tickets = left));
            }
            self.client.deliveries.change(|all| all.push((delivery, thread::current().id())));
        }
    }
    const TOTAL: i32 = 500;
    let made = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&made);
    let add: Behavior = Arc::new(move |entry| {
        counted.fetch_add(1, Ordering::SeqCst);
        thread::spawn(move || sum(entry));
    });
    let (models, _) = stream(on_thread(count_up), add, "max_inflight_requests: 4");
    let (client, tickets) = (Client::default(), Arc::<Watched<usize>>::default());
    let sink = SlowSink { tickets: Arc::clone(&tickets), client: client.clone() };
    let handle = models.resolve("e", VersionChoice::Latest).unwrap();
    let asked = request(&[("A", numbers(&[1], &[TOTAL]))]);
    handle.submit(asked, Responder::new(Box::new(sink), client.cancellation.clone()));
    for read in 1..=usize::try_from(TOTAL).unwrap() {
        // Waiting answers, those in the step, one that is delivered and one on its way.
        let most = read + super::super::call::MAX_WAITING_ANSWERS + 4 + 2;
        assert!(made.load(Ordering::SeqCst) <= most, "{} of at most {most}", made.load(Ordering::SeqCst));
        tickets.change(|tickets| *tickets += 1);
        client.deliveries.wait(|all| (all.len() >= read).then_some(()));
    }
    assert_eq!(responses(&client.all()), expected(TOTAL));
}
