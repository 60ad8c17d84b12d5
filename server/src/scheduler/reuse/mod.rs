//! Owns the use of an answer for more than one request: the response cache, and single flight. May import what
//! `scheduler` may; `key` and `flights` are pure.
//!
//! Both stand before a model's scheduler, which sees only the requests that are to run.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{self, Timestamp};
use crate::config::ModelConfig;
use crate::observe::statistics::{ModelStatistics, RequestTiming};
use crate::request::{ComputeTiming, Delivery, Entry, InferResponse, Responder, ResponseSink, SingleResponse};
use crate::timeline::{Source, Timeline};

use super::Scheduler;

mod cache;
mod flights;
mod key;
mod single_flight;
#[cfg(test)]
mod tests;

pub use cache::{CachedAnswer, ResponseCache};
pub use key::{RequestKey, Target};

use flights::Flights;
use single_flight::{Carrier, Follower};

/// The model version whose answers are used again.
#[derive(Clone)]
pub struct Origin {
    /// Its configuration.
    pub config: Arc<ModelConfig>,
    /// Its version.
    pub version: u64,
    /// The number of its load.
    pub load: u64,
    /// Its statistics.
    pub statistics: Arc<ModelStatistics>,
}

/// Answers the requests of one model version from what others got, and lets the rest pass.
pub struct SharedAnswers {
    origin: Origin,
    cache: Option<Arc<ResponseCache>>,
    flights: Option<Mutex<Flights<Carrier, Follower>>>,
    /// The time at which the next follower lapses may have changed.
    lapses_changed: Arc<Notify>,
}

impl SharedAnswers {
    /// What the configuration asks for; `None` where that is nothing. `cache` is the server's, if it has one.
    ///
    /// Must be called within a tokio runtime where the model has single flight: a task watches the deadlines of those
    /// who wait for others.
    pub fn start(origin: Origin, cache: Option<&Arc<ResponseCache>>) -> Option<Arc<Self>> {
        let reuse = origin.config.reuse;
        let cache = cache.filter(|_| reuse.response_cache).cloned();
        if cache.is_none() && !reuse.single_flight {
            return None;
        }
        let shared =
            Arc::new(Self { origin, cache, flights: reuse.single_flight.then(Mutex::default), lapses_changed: Arc::default() });
        if shared.flights.is_some() {
            tokio::spawn(single_flight::watch_lapses(Arc::downgrade(&shared), Arc::clone(&shared.lapses_changed)));
        }
        Some(shared)
    }

    /// Whether answers are kept in the response cache.
    pub fn is_cached(&self) -> bool {
        self.cache.is_some()
    }

    /// Answers a request, lets it wait for another's answer, or hands it to the scheduler.
    pub fn submit(self: &Arc<Self>, mut entry: Entry, scheduler: &Arc<dyn Scheduler>) {
        let origin = &self.origin;
        let composing = scheduler.composing();
        let target = Target { model: &origin.config.name, version: origin.version, load: origin.load, composing: &composing };
        let Some(key) = RequestKey::of(&target, &entry.request) else {
            return scheduler.enqueue(vec![entry]);
        };
        let Some(missed) = self.look_up(&key, &mut entry) else { return };
        match &self.flights {
            Some(flights) => self.share(flights, key, entry, missed, scheduler),
            None => {
                let collected = SingleResponse::default();
                let sink = |responder| KeepingSink { shared: Arc::clone(self), key, missed, responder, collected };
                entry.responder = entry.responder.wrap(|own| Box::new(sink(own)));
                scheduler.enqueue(vec![entry]);
            }
        }
    }

    /// Answers the request where the cache has the answer; otherwise, what is to be counted of the search.
    fn look_up(&self, key: &RequestKey, entry: &mut Entry) -> Option<Missed> {
        let Some(cache) = &self.cache else { return Some(Missed(None)) };
        match cache.find(key) {
            Some(found) => {
                self.answer(entry, found);
                None
            }
            None => Some(Missed(Some(clock::now().since(entry.queued_at)))),
        }
    }

    /// Answers from the cache.
    fn answer(&self, entry: &mut Entry, found: CachedAnswer) {
        let now = clock::now();
        let timing = RequestTiming { total: now.since(entry.request.received_at), queue: Duration::ZERO };
        self.origin.statistics.record_cache_hit(timing, now.since(entry.queued_at));
        let response = InferResponse {
            model_name: Arc::clone(&self.origin.config.name),
            model_version: self.origin.version,
            id: std::mem::take(&mut entry.request.id),
            parameters: found.parameters,
            outputs: found.outputs,
            timing: ComputeTiming::default(),
            timeline: timeline(entry, Source::Cache, now),
        };
        entry.responder.deliver_at_once(Delivery::Response { response: Box::new(response), last: true });
    }

    /// Keeps an answer, and counts that it had not been there.
    fn keep(&self, key: RequestKey, response: &InferResponse, missed: Missed) {
        if let (Some(cache), Missed(Some(looked))) = (&self.cache, missed) {
            let begun = clock::now();
            cache.keep(key, self.origin.load, response);
            self.origin.statistics.record_cache_miss(looked.saturating_add(clock::now().since(begun)));
        }
    }
}

impl Drop for SharedAnswers {
    fn drop(&mut self) {
        // Whoever could still put an answer there holds this too.
        if let Some(cache) = &self.cache {
            cache.forget(self.origin.load);
        }
        self.lapses_changed.notify_one();
    }
}

/// A request was not in the cache, and how long it took to look there; nothing where there is no cache.
#[derive(Clone, Copy, Debug)]
struct Missed(Option<Duration>);

/// The timeline of a request whose answer another made.
fn timeline(entry: &mut Entry, source: Source, now: Timestamp) -> Option<Box<Timeline>> {
    let mut timeline = entry.request.timeline.take()?;
    (timeline.source, timeline.level) = (source, entry.level);
    (timeline.queued_at, timeline.answered_at) = (Some(entry.queued_at), Some(now));
    Some(timeline)
}

/// Keeps the answer on its way to the client.
struct KeepingSink {
    shared: Arc<SharedAnswers>,
    key: RequestKey,
    missed: Missed,
    responder: Responder,
    collected: SingleResponse,
}

impl ResponseSink for KeepingSink {
    fn started(&mut self) {
        self.responder.started();
    }

    /// Never waits.
    fn deliver(&mut self, delivery: Delivery) {
        match self.collected.take(delivery) {
            None => {}
            Some(Ok(response)) => {
                self.shared.keep(self.key, &response, self.missed);
                self.responder.deliver_at_once(Delivery::Response { response, last: true });
            }
            Some(Err(error)) => self.responder.fail(error),
        }
    }
}
