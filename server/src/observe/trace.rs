//! Spans of requests and batches, at level debug: nothing is made of them unless the log asks for their targets.
//!
//! A batch follows from each of its requests, and each request names its batch; a step of an ensemble lies within the
//! ensemble's request.

use tracing::{Level, Span, enabled, field};

use crate::batch::Origin;
use crate::request::ComputeTiming;

/// Target of the spans of requests.
pub const REQUEST_TARGET: &str = "alcedo::request";

/// Target of the spans of batches.
pub const BATCH_TARGET: &str = "alcedo::batch";

/// Whether requests have spans: asked before anything is looked up for them alone.
pub fn requests_have_spans() -> bool {
    enabled!(target: REQUEST_TARGET, Level::DEBUG)
}

/// The span of a client's request. `traceparent` is the header of that name, by which a client's own trace is found.
pub fn request(model: &str, version: u64, id: &str, traceparent: Option<&str>) -> Span {
    tracing::debug_span!(
        target: REQUEST_TARGET,
        parent: None,
        "request",
        model,
        version,
        id,
        traceparent,
        batch = field::Empty,
        outcome = field::Empty
    )
}

/// The span of a step that an ensemble's request runs.
pub fn step(ensemble: &Span, model: &str, version: u64, id: &str) -> Span {
    tracing::debug_span!(
        target: REQUEST_TARGET,
        parent: ensemble,
        "request",
        model,
        version,
        id,
        batch = field::Empty,
        outcome = field::Empty
    )
}

/// The span of a batch of these requests.
pub fn batch<'a>(
    model: &str,
    version: u64,
    origin: &Origin,
    rows: usize,
    requests: impl ExactSizeIterator<Item = &'a Span>,
) -> Span {
    let span = tracing::debug_span!(
        target: BATCH_TARGET,
        parent: None,
        "batch",
        model,
        version,
        batch = origin.id,
        rows,
        requests = requests.len(),
        cost = origin.cost,
        trigger = origin.trigger.as_str(),
        instance = field::Empty,
        input_us = field::Empty,
        infer_us = field::Empty,
        output_us = field::Empty
    );
    for request in requests {
        span.follows_from(request);
        request.record("batch", origin.id);
    }
    span
}

/// Says on a batch's span how long its parts took.
pub fn executed(batch: &Span, timing: ComputeTiming) {
    if !batch.is_disabled() {
        let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        batch.record("input_us", micros(timing.input));
        batch.record("infer_us", micros(timing.infer));
        batch.record("output_us", micros(timing.output));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::{Debug, Write};
    use std::sync::{Arc, Mutex};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;
    use crate::batch::Trigger;
    use crate::clock::Timestamp;

    /// What became of spans, by their ids.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<BTreeMap<u64, String>>>);

    struct Fields<'a>(&'a mut String);

    impl Visit for Fields<'_> {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            let _ = write!(self.0, " {field}={value:?}");
        }
    }

    impl Seen {
        fn note(&self, id: &Id, note: impl FnOnce(&mut String)) {
            note(self.0.lock().unwrap().entry(id.into_u64()).or_default());
        }
    }

    impl<S: tracing::Subscriber> Layer<S> for Seen {
        fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
            self.note(id, |note| {
                note.push_str(attributes.metadata().target());
                if let Some(parent) = attributes.parent() {
                    let _ = write!(note, " within {}", parent.into_u64());
                }
                attributes.record(&mut Fields(note));
            });
        }

        fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
            self.note(id, |note| values.record(&mut Fields(note)));
        }

        fn on_follows_from(&self, id: &Id, follows: &Id, _: Context<'_, S>) {
            self.note(id, |note| {
                let _ = write!(note, " after {}", follows.into_u64());
            });
        }
    }

    #[test]
    fn a_batch_follows_from_its_requests_which_name_it() {
        let seen = Seen::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(seen.clone()), || {
            let first = request("m", 3, "a", Some("00-1-2-01"));
            let second = step(&first, "m", 3, "b");
            let origin = Origin { id: 7, formed_at: Timestamp::default(), trigger: Trigger::Window, cost: 5 };
            let batch = batch("m", 3, &origin, 4, [&first, &second].into_iter());
            executed(&batch, ComputeTiming { infer: std::time::Duration::from_micros(9), ..ComputeTiming::default() });
            let [first, second, batch] = [first, second, batch].map(|span| span.id().expect("spans are on").into_u64());
            let seen = seen.0.lock().unwrap();
            let request = "alcedo::request model=\"m\" version=3 id=\"a\" traceparent=\"00-1-2-01\" batch=7";
            assert_eq!(seen[&first], request);
            assert_eq!(seen[&second], format!("alcedo::request within {first} model=\"m\" version=3 id=\"b\" batch=7"));
            let batch_fields = "alcedo::batch model=\"m\" version=3 batch=7 rows=4 requests=2 cost=5 trigger=\"window\"";
            let times = "input_us=0 infer_us=9 output_us=0";
            assert_eq!(seen[&batch], format!("{batch_fields} after {first} after {second} {times}"));
        });
    }

    #[test]
    fn without_a_log_there_are_no_spans() {
        tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), || {
            assert!(!requests_have_spans());
            assert!(request("m", 1, "", None).is_disabled());
            assert!(batch("m", 1, &Origin::default(), 1, [].into_iter()).is_disabled());
        });
    }
}
