//! Reuse of answers before a scheduler that runs what the test tells it to.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::{Origin, ResponseCache, SharedAnswers};
use crate::clock::{self, Timestamp};
use crate::config::ModelConfig;
use crate::error::{ExecuteError, InferError, RequestTag};
use crate::observe::statistics::{Cause, ExecutedBatch, ModelStatistics, Stage};
use crate::request::{
    BatchKey, Cancellation, ComputeTiming, Delivery, Entry, InferResponse, OutputTensor, Parameters, RequestOptions, Responder,
    ResponseSink, SingleResponse, ValidRequest,
};
use crate::scheduler::Scheduler;
use crate::tensor::{DataType, Shape, Tensor};
use crate::timeline::{Source, Timeline};

/// How long a test waits for another thread before it gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Holds what it gets, or refuses it at once.
#[derive(Default)]
struct Held {
    entries: Mutex<Vec<Entry>>,
    refusal: Mutex<Option<InferError>>,
    statistics: Arc<ModelStatistics>,
}

impl Scheduler for Held {
    fn enqueue(&self, group: Vec<Entry>) {
        for entry in group {
            match self.refusal.lock().unwrap().clone() {
                Some(error) => self.statistics.refuse(entry, error, Stage::Admission, clock::now()),
                None => {
                    self.statistics.enter_queue(entry.level);
                    self.entries.lock().unwrap().push(entry);
                }
            }
        }
    }
}

/// A model version whose requests come before [`Held`].
struct Bench {
    held: Arc<Held>,
    shared: Arc<SharedAnswers>,
    scheduler: Arc<dyn Scheduler>,
}

/// What came of one request.
type Outcome = Result<(String, Vec<u8>, Option<Source>), InferError>;

/// One client.
struct Client {
    cancellation: Cancellation,
    outcome: std::sync::mpsc::Receiver<Outcome>,
}

struct ClientSink(std::sync::mpsc::SyncSender<Outcome>, SingleResponse);

impl ResponseSink for ClientSink {
    fn deliver(&mut self, delivery: Delivery) {
        if let Some(outcome) = self.1.take(delivery) {
            let outcome = outcome.map(|response| {
                let source = response.timeline.map(|timeline| timeline.source);
                (response.id, response.outputs[0].tensor.bytes().to_vec(), source)
            });
            // Who no longer looks for it has left.
            let sent = self.0.try_send(outcome);
            assert!(!matches!(sent, Err(std::sync::mpsc::TrySendError::Full(_))), "one outcome for each request");
        }
    }
}

impl Client {
    fn outcome(&self) -> Outcome {
        self.outcome.try_recv().expect("it has been answered")
    }

    fn is_waiting(&self) -> bool {
        matches!(self.outcome.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty))
    }
}

/// What a client asks for.
#[derive(Clone)]
struct Ask {
    id: &'static str,
    contents: u8,
    level: usize,
    deadline: Option<Timestamp>,
    timeline: bool,
}

impl Ask {
    fn new(id: &'static str) -> Self {
        Self { id, contents: 1, level: 1, deadline: None, timeline: false }
    }
}

fn tensor(contents: u8) -> Tensor {
    Tensor::new(DataType::Uint8, Shape::new([1]), Bytes::from(vec![contents])).unwrap()
}

impl Bench {
    fn new(extra: &str, cache: Option<&Arc<ResponseCache>>) -> Self {
        let text = format!(
            "backend: 'builtin' input {{ name: 'I' data_type: TYPE_UINT8 dims: 1 }} \
             output {{ name: 'O' data_type: TYPE_UINT8 dims: 1 }} {extra}"
        );
        let config = ModelConfig::parse(proto::pbtxt::parse(&text, "config.pbtxt").unwrap(), "m").unwrap();
        let held = Arc::new(Held::default());
        let origin = Origin { config: Arc::new(config), version: 1, load: 7, statistics: Arc::clone(&held.statistics) };
        let shared = SharedAnswers::start(origin, cache).unwrap();
        Self { scheduler: held.clone(), held, shared }
    }

    fn submit(&self, ask: &Ask) -> Client {
        let (sender, outcome) = std::sync::mpsc::sync_channel(1);
        let cancellation = Cancellation::default();
        let now = clock::now();
        let request = ValidRequest {
            id: ask.id.to_owned(),
            options: RequestOptions::default(),
            parameters: Parameters::new(),
            inputs: vec![Some(tensor(ask.contents))],
            outputs: vec![true],
            rows: 1,
            batch_key: BatchKey::default(),
            cost: 1,
            received_at: now,
            deadline: None,
            timeline: ask.timeline.then(|| Box::new(Timeline::begin(now, now))),
        };
        let responder = Responder::new(Box::new(ClientSink(sender, SingleResponse::default())), cancellation.clone());
        let entry = Entry {
            request,
            responder,
            queued_at: now,
            level: ask.level,
            deadline: ask.deadline,
            delayed_from: None,
            stand_in: None,
        };
        self.shared.submit(entry, &self.scheduler);
        Client { cancellation, outcome }
    }

    /// How many requests wait in the scheduler.
    fn held(&self) -> usize {
        self.held.entries.lock().unwrap().len()
    }

    /// Takes the oldest request out of the scheduler's queue.
    fn take(&self) -> Entry {
        let entry = self.held.entries.lock().unwrap().remove(0);
        self.held.statistics.leave_queue(entry.level, 1);
        entry
    }

    /// Runs the oldest request: its answer is one more than its input.
    fn run(&self) {
        let mut entry = self.take();
        entry.responder.started();
        self.finish(entry);
    }

    fn finish(&self, entry: Entry) {
        finish(&self.held.statistics, entry);
    }

    /// Refuses the oldest request.
    fn refuse(&self, error: InferError) {
        let entry = self.take();
        self.held.statistics.refuse(entry, error, Stage::Queue, clock::now());
    }

    /// Requests answered and failed, executions, pending.
    fn counts(&self) -> (u64, u64, u64, u64) {
        let counts = self.held.statistics.snapshot();
        (counts.success.count, counts.fail.count, counts.execution_count, self.held.statistics.pending())
    }
}

fn finish(statistics: &ModelStatistics, mut entry: Entry) {
    let contents = entry.request.inputs[0].as_ref().unwrap().bytes()[0];
    let timing = ComputeTiming { infer: Duration::from_nanos(10), ..ComputeTiming::default() };
    let timings = [crate::observe::statistics::RequestTiming { total: Duration::from_nanos(20), queue: Duration::ZERO }];
    statistics.record_batch(&ExecutedBatch { rows: 1, timing, formed: None }, &timings);
    let response = InferResponse {
        model_name: "m".into(),
        model_version: 1,
        id: entry.request.id,
        parameters: Parameters::new(),
        outputs: vec![OutputTensor { name: "O".into(), tensor: tensor(contents + 1) }],
        timing,
        timeline: entry.request.timeline,
    };
    entry.responder.deliver(Delivery::Response { response: Box::new(response), last: true });
}

const CACHED: &str = "response_cache { enable: true } ";
const SINGLE_FLIGHT: &str = "parameters { key: 'single_flight' value { string_value: 'true' } } ";

fn cache() -> Arc<ResponseCache> {
    Arc::new(ResponseCache::new(NonZeroU64::new(1 << 20).unwrap()))
}

fn answered(id: &str, contents: u8) -> Outcome {
    Ok((id.to_owned(), vec![contents], None))
}

#[test]
fn a_hit_is_answered_at_once_with_the_clients_own_id() {
    let cache = cache();
    let bench = Bench::new(CACHED, Some(&cache));
    let first = bench.submit(&Ask::new("first"));
    bench.run();
    assert_eq!(first.outcome(), answered("first", 2));
    let second = bench.submit(&Ask { timeline: true, ..Ask::new("second") });
    assert_eq!(second.outcome(), Ok(("second".to_owned(), vec![2], Some(Source::Cache))));
    let other = bench.submit(&Ask { contents: 5, ..Ask::new("other") });
    assert!(other.is_waiting() && bench.held() == 1);
    bench.run();
    let counts = bench.held.statistics.snapshot();
    assert_eq!((counts.success.count, counts.queue.count, counts.compute_infer.count), (3, 3, 2));
    assert_eq!((counts.cache_hit.count, counts.cache_miss.count, counts.inference_count, counts.execution_count), (1, 2, 2, 2));
}

#[test]
fn failures_are_not_kept_and_count_as_no_miss() {
    let cache = cache();
    let bench = Bench::new(CACHED, Some(&cache));
    let client = bench.submit(&Ask::new("a"));
    bench.refuse(InferError::Expired);
    assert_eq!(client.outcome(), Err(InferError::Expired));
    let lost = bench.submit(&Ask::new("b"));
    drop(bench.take());
    assert_eq!(lost.outcome(), Err(InferError::Abandoned));
    assert!(cache.is_empty());
    assert_eq!(bench.held.statistics.snapshot().cache_miss.count, 0);
}

#[test]
fn the_answers_of_a_version_go_with_its_last_request() {
    let cache = cache();
    let bench = Bench::new(CACHED, Some(&cache));
    bench.submit(&Ask::new("a"));
    bench.run();
    bench.submit(&Ask { contents: 9, ..Ask::new("b") });
    let last = bench.take();
    let Bench { held, shared, scheduler: _ } = bench;
    drop(shared);
    assert_eq!(cache.len(), 1, "a request is still under way");
    finish(&held.statistics, last);
    assert!(cache.is_empty());
}

#[test]
fn without_a_cache_or_a_wish_nothing_is_shared() {
    let origin = |extra: &str| {
        let bench = Bench::new(&format!("{SINGLE_FLIGHT_OFF}{CACHED}{extra}"), Some(&cache()));
        bench.shared.origin.clone()
    };
    assert!(SharedAnswers::start(origin(""), None).is_none());
}

const SINGLE_FLIGHT_OFF: &str = "parameters { key: 'single_flight' value { string_value: 'false' } } ";

#[tokio::test]
async fn identical_requests_run_once() {
    let bench = Bench::new(SINGLE_FLIGHT, None);
    let clients = ["a", "b", "c"].map(|id| bench.submit(&Ask { timeline: id == "c", ..Ask::new(id) }));
    let other = bench.submit(&Ask { contents: 8, ..Ask::new("other") });
    assert_eq!((bench.held(), bench.held.statistics.pending()), (2, 4), "a follower counts as waiting");
    bench.run();
    assert_eq!(clients[0].outcome(), answered("a", 2));
    assert_eq!(clients[1].outcome(), answered("b", 2));
    assert_eq!(clients[2].outcome(), Ok(("c".to_owned(), vec![2], Some(Source::SingleFlight))));
    bench.run();
    assert_eq!(other.outcome(), answered("other", 9));
    assert_eq!(bench.counts(), (4, 0, 2, 0));
    let again = bench.submit(&Ask::new("again"));
    assert!(again.is_waiting() && bench.held() == 1, "nothing is kept without a cache");
}

#[tokio::test]
async fn an_error_of_the_execution_goes_to_all() {
    let bench = Bench::new(SINGLE_FLIGHT, None);
    let clients = ["a", "b"].map(|id| bench.submit(&Ask::new(id)));
    let error = InferError::Execute(Arc::new(ExecuteError::Internal { message: "it broke".to_owned() }));
    let mut entry = bench.take();
    bench.held.statistics.record_failure(Stage::Execution, &error, Duration::ZERO);
    entry.responder.fail(error.clone());
    clients.iter().for_each(|client| assert_eq!(client.outcome(), Err(error.clone())));
    let counts = bench.held.statistics.snapshot();
    assert_eq!((counts.fail.count, counts.failures, bench.held.statistics.pending()), (2, [0, 0, 2, 0], 0));
    // Refusals name each request.
    let clients = ["c", "d"].map(|id| bench.submit(&Ask::new(id)));
    bench.refuse(InferError::QueueFull { tag: RequestTag("c".to_owned()), retry_after: Some(Duration::from_secs(1)) });
    for (client, id) in clients.iter().zip(["c", "d"]) {
        let expected = InferError::QueueFull { tag: RequestTag(id.to_owned()), retry_after: Some(Duration::from_secs(1)) };
        assert_eq!(client.outcome(), Err(expected));
    }
}

#[tokio::test]
async fn who_leaves_leaves_alone_and_the_last_stops_the_execution() {
    let bench = Bench::new(SINGLE_FLIGHT, None);
    let [leader, follower, last] = ["a", "b", "c"].map(|id| bench.submit(&Ask::new(id)));
    let running = bench.take();
    leader.cancellation.cancel();
    assert_eq!(leader.outcome(), Err(InferError::Cancelled));
    follower.cancellation.cancel();
    assert_eq!(follower.outcome(), Err(InferError::Cancelled));
    assert!(!running.responder.cancellation().is_cancelled(), "one still waits");
    bench.finish(running);
    assert_eq!(last.outcome(), answered("c", 2));
    // The execution counts for the leader, whether he waits or not.
    assert_eq!(bench.counts(), (2, 1, 1, 0));

    let [leader, follower] = ["a", "b"].map(|id| bench.submit(&Ask::new(id)));
    follower.cancellation.cancel();
    leader.cancellation.cancel();
    let late = bench.submit(&Ask::new("late"));
    let running = bench.take();
    assert!(running.responder.cancellation().is_cancelled());
    assert_eq!(bench.held(), 1, "nobody joins what is being stopped");
    bench.held.statistics.refuse(running, InferError::Cancelled, Stage::Queue, clock::now());
    assert!(late.is_waiting());
    bench.run();
    assert_eq!(late.outcome(), answered("late", 2));
    assert_eq!(bench.counts(), (3, 3, 2, 0));
}

#[tokio::test]
async fn where_the_leaders_time_is_over_the_next_takes_his_place() {
    let bench = Bench::new(SINGLE_FLIGHT, None);
    let soon = clock::now().plus(Duration::from_secs(3600));
    let clients = ["a", "b", "c"].map(|id| bench.submit(&Ask { deadline: Some(soon), ..Ask::new(id) }));
    bench.refuse(InferError::Expired);
    assert_eq!(clients[0].outcome(), Err(InferError::Expired));
    assert_eq!(bench.held(), 1, "the next one's request waits now");
    let entry = bench.take();
    assert_eq!((entry.request.id.as_str(), entry.deadline), ("b", Some(soon)));
    // Who carries it now leaves, and the last goes on.
    clients[1].cancellation.cancel();
    bench.held.statistics.refuse(entry, InferError::Unreachable { retry_after: None }, Stage::Queue, clock::now());
    assert_eq!(clients[1].outcome(), Err(InferError::Cancelled));
    bench.run();
    assert_eq!(clients[2].outcome(), answered("c", 2));
    assert_eq!(bench.counts(), (1, 2, 1, 0));
}

#[tokio::test]
async fn refusals_at_once_do_not_pile_up_on_the_stack() {
    let bench = Bench::new(SINGLE_FLIGHT, None);
    let soon = clock::now().plus(Duration::from_secs(3600));
    let clients: Vec<Client> = (0..4000).map(|_| bench.submit(&Ask { deadline: Some(soon), ..Ask::new("x") })).collect();
    assert_eq!(bench.held(), 1);
    *bench.held.refusal.lock().unwrap() = Some(InferError::Unreachable { retry_after: None });
    bench.refuse(InferError::Expired);
    assert_eq!(clients[0].outcome(), Err(InferError::Expired));
    for client in &clients[1..] {
        assert_eq!(client.outcome(), Err(InferError::Unreachable { retry_after: None }));
    }
    assert_eq!(bench.counts(), (0, 4000, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_followers_time_ends_while_the_leaders_goes_on() {
    let bench = Bench::new(SINGLE_FLIGHT, None);
    let leader = bench.submit(&Ask::new("a"));
    let follower = bench.submit(&Ask { deadline: Some(clock::now().plus(Duration::from_millis(1))), ..Ask::new("b") });
    assert_eq!(follower.outcome.recv_timeout(PATIENCE), Ok(Err(InferError::Expired)));
    assert!(leader.is_waiting());
    // Once it runs, a limit of the time in the queue means nothing any more.
    let entry = bench.take();
    let mut entry = entry;
    entry.responder.started();
    let late = bench.submit(&Ask { deadline: Some(clock::now()), ..Ask::new("c") });
    bench.finish(entry);
    assert_eq!(leader.outcome(), answered("a", 2));
    assert_eq!(late.outcome(), answered("c", 2));
    assert_eq!(bench.counts(), (2, 1, 1, 0));
}

#[tokio::test]
async fn who_has_priority_does_not_wait_behind_who_has_not() {
    let bench = Bench::new(SINGLE_FLIGHT, None);
    let low = bench.submit(&Ask { level: 2, ..Ask::new("low") });
    let high = bench.submit(&Ask { level: 1, ..Ask::new("high") });
    assert_eq!(bench.held(), 2, "it runs on its own");
    let lower = bench.submit(&Ask { level: 3, ..Ask::new("lower") });
    assert_eq!(bench.held(), 2, "and takes those along that come later");
    let first = bench.take();
    bench.run();
    assert_eq!((high.outcome(), lower.outcome()), (answered("high", 2), answered("lower", 2)));
    assert!(low.is_waiting());
    bench.finish(first);
    assert_eq!(low.outcome(), answered("low", 2));
}

#[tokio::test]
async fn followers_take_places_in_the_queue() {
    let bound = "parameters { key: 'max_queue_size' value { string_value: '3' } } ";
    let bench = Bench::new(&format!("{SINGLE_FLIGHT}{bound}"), None);
    let clients = ["a", "b", "c"].map(|id| bench.submit(&Ask::new(id)));
    let full = |id: &str| Err(InferError::QueueFull { tag: RequestTag(id.to_owned()), retry_after: None });
    assert_eq!(bench.submit(&Ask::new("d")).outcome(), full("d"));
    assert_eq!(bench.submit(&Ask { contents: 7, ..Ask::new("e") }).outcome(), full("e"));
    assert_eq!(bench.held.statistics.failed_at(Stage::Admission, Cause::QueueFull), 2);
    clients[1].cancellation.cancel();
    let other = bench.submit(&Ask { contents: 7, ..Ask::new("f") });
    bench.run();
    bench.run();
    assert_eq!((clients[0].outcome(), clients[2].outcome()), (answered("a", 2), answered("c", 2)));
    assert_eq!(other.outcome(), answered("f", 8));
}

#[tokio::test]
async fn both_work_together() {
    let cache = cache();
    let bench = Bench::new(&format!("{CACHED}{SINGLE_FLIGHT}"), Some(&cache));
    let clients = ["a", "b"].map(|id| bench.submit(&Ask::new(id)));
    assert_eq!(bench.held(), 1);
    bench.run();
    clients.iter().zip(["a", "b"]).for_each(|(client, id)| assert_eq!(client.outcome(), answered(id, 2)));
    assert_eq!(bench.submit(&Ask::new("c")).outcome(), answered("c", 2));
    let counts = bench.held.statistics.snapshot();
    assert_eq!((counts.success.count, counts.cache_hit.count, counts.cache_miss.count), (3, 1, 2));
    assert_eq!((counts.execution_count, counts.compute_infer.count), (1, 2));
    assert_eq!(cache.len(), 1);
}

#[tokio::test]
async fn a_request_that_is_lost_is_lost_for_all() {
    let bench = Bench::new(SINGLE_FLIGHT, None);
    let clients = ["a", "b"].map(|id| bench.submit(&Ask::new(id)));
    drop(bench.take());
    clients.iter().for_each(|client| assert_eq!(client.outcome(), Err(InferError::Abandoned)));
    assert_eq!(bench.held.statistics.pending(), 0);
}
