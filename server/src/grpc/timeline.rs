//! The timeline of a request as JSON, for the response parameter of that name.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::clock::Timestamp;
use crate::timeline::{BatchTimes, Timeline};

/// The parameter with which a client asks for the timeline, and that carries it.
pub(super) const PARAMETER: &str = "alcedo_timeline";

/// One JSON object; times are microseconds since the server had the whole message, in thousandths.
/// `encoded_at` is when the response's message was made, all but this parameter.
pub(super) fn encode(model: &str, version: u64, timeline: &Timeline, encoded_at: Timestamp) -> String {
    let clock = Clock { origin: timeline.received_at };
    let mut object = clock.object(model, version, timeline);
    object.insert("encoded_us".to_owned(), clock.at(encoded_at));
    Value::Object(object).to_string()
}

/// Tells the time since the request was received.
#[derive(Clone, Copy)]
struct Clock {
    origin: Timestamp,
}

impl Clock {
    fn at(self, moment: Timestamp) -> Value {
        micros(moment.since(self.origin))
    }

    fn object(self, model: &str, version: u64, timeline: &Timeline) -> Map<String, Value> {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("model", json!(model));
        put("version", json!(version));
        put("source", json!(timeline.source.as_str()));
        put("received_us", self.at(timeline.received_at));
        put("decoded_us", self.at(timeline.decoded_at));
        if let Some(queued_at) = timeline.queued_at {
            put("queued_us", self.at(queued_at));
            put("level", json!(timeline.level));
        }
        if let Some(batch) = &timeline.batch {
            put("formed_us", self.at(batch.origin.formed_at));
            put("started_us", self.at(batch.started_at));
            for (key, moment) in [("inputs_us", batch.inputs_at), ("executed_us", batch.executed_at)] {
                if let Some(moment) = moment {
                    put(key, self.at(moment));
                }
            }
        }
        if let Some(answered_at) = timeline.answered_at {
            put("outputs_us", self.at(answered_at));
        }
        if let (Some(batch), Some(waits)) = (&timeline.batch, timeline.waits()) {
            let [instance, window, device, handover] = [waits.instance, waits.window, waits.device, waits.handover].map(micros);
            put("waited_us", json!({"instance": instance, "window": window, "device": device, "handover": handover}));
            put("batch", batch_object(batch));
            if let Some(instance) = batch.instance {
                put("instance", json!(format!("{model}#{instance}")));
            }
        }
        if !timeline.steps.is_empty() {
            let steps = timeline.steps.iter().map(|step| Value::Object(self.object(&step.model, step.version, &step.timeline)));
            put("steps", steps.collect());
        }
        if timeline.steps_left_out > 0 {
            put("steps_left_out", json!(timeline.steps_left_out));
        }
        object
    }
}

fn batch_object(batch: &BatchTimes) -> Value {
    json!({
        "id": batch.origin.id,
        "trigger": batch.origin.trigger.as_str(),
        "rows": batch.rows,
        "mates": batch.requests.saturating_sub(1),
        "cost": batch.origin.cost,
    })
}

/// Microseconds with three decimals.
fn micros(duration: Duration) -> Value {
    // Doubles hold nanoseconds exactly up to 104 days.
    json!((duration.as_secs_f64() * 1e9).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::batch::{Origin, Trigger};
    use crate::timeline::{Source, StepTimeline};

    fn at(nanos: u64) -> Timestamp {
        Timestamp::from_nanos(1_000_000 + nanos)
    }

    fn executed(received: u64) -> Timeline {
        let mut timeline = Timeline::begin(at(received), at(received + 1_500));
        timeline.queued_at = Some(at(received + 2_000));
        timeline.batch = Some(BatchTimes {
            origin: Origin { id: 7, formed_at: at(received + 5_000), trigger: Trigger::Window, cost: 30 },
            rows: 3,
            requests: 2,
            instance: Some(1),
            idle_since: at(received + 3_000),
            device: None,
            started_at: at(received + 6_001),
            inputs_at: Some(at(received + 7_000)),
            executed_at: None,
        });
        timeline.answered_at = Some(at(received + 9_000));
        timeline
    }

    #[test]
    fn every_moment_has_its_place() {
        expect![[r#"{"model":"m","version":3,"source":"execution","received_us":0.0,"decoded_us":1.5,"queued_us":2.0,"level":1,"formed_us":5.0,"started_us":6.001,"inputs_us":7.0,"outputs_us":9.0,"waited_us":{"instance":1.0,"window":2.0,"device":0.0,"handover":1.001},"batch":{"id":7,"trigger":"window","rows":3,"mates":1,"cost":30},"instance":"m#1","encoded_us":10.0}"#]]
            .assert_eq(&encode("m", 3, &executed(0), at(10_000)));
    }

    #[test]
    fn steps_are_told_in_the_time_of_the_whole() {
        let mut whole = Timeline::begin(at(0), at(500));
        whole.queued_at = Some(at(600));
        whole.add_step(StepTimeline { model: "a".into(), version: 1, timeline: executed(1_000) });
        let object: Value = serde_json::from_str(&encode("e", 1, &whole, at(20_000))).unwrap();
        assert_eq!(object["steps"][0]["model"], "a");
        assert_eq!(object["steps"][0]["received_us"], 1.0);
        assert_eq!(object["steps"][0]["outputs_us"], 10.0);
        assert_eq!(object.get("batch"), None);
    }

    #[test]
    fn an_answer_without_an_execution_says_where_it_came_from() {
        let mut hit = Timeline::begin(at(0), at(500));
        (hit.source, hit.answered_at) = (Source::Cache, Some(at(900)));
        expect![[
            r#"{"model":"m","version":1,"source":"cache","received_us":0.0,"decoded_us":0.5,"outputs_us":0.9,"encoded_us":1.0}"#
        ]]
        .assert_eq(&encode("m", 1, &hit, at(1_000)));
    }
}
