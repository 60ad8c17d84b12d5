//! Statistics of models as messages.

use proto::inference::{
    InferBatchStatistics, InferResponseStatistics, InferStatistics, ModelStatistics, ModelStatisticsResponse, StatisticDuration,
};
use tonic::Status;

use crate::observe::statistics::{BatchTally, Counts, ResponseTally, Tally};

use super::front_end::FrontEnd;
use super::{decode, status};

/// Statistics of the ready versions: of all models for an empty name, of all versions for an empty version.
pub(super) fn statistics(front_end: &FrontEnd, name: &str, version: &str) -> Result<ModelStatisticsResponse, Status> {
    let version = decode::parse_version(version).map_err(|error| status::infer_status(name, &error))?;
    let found = front_end.repository.statistics(name, version).map_err(|error| status::control_status(name, &error))?;
    let model_stats = found.into_iter().map(|found| model(found.model, found.version, &found.statistics.snapshot())).collect();
    Ok(ModelStatisticsResponse { model_stats })
}

fn model(name: String, version: u64, counts: &Counts) -> ModelStatistics {
    ModelStatistics {
        name,
        version: version.to_string(),
        last_inference: counts.last_inference_ms,
        inference_count: counts.inference_count,
        execution_count: counts.execution_count,
        inference_stats: Some(InferStatistics {
            success: tally(counts.success),
            fail: tally(counts.fail),
            queue: tally(counts.queue),
            compute_input: tally(counts.compute_input),
            compute_infer: tally(counts.compute_infer),
            compute_output: tally(counts.compute_output),
            cache_hit: tally(counts.cache_hit),
            cache_miss: tally(counts.cache_miss),
        }),
        batch_stats: counts.batches.iter().map(|(rows, batch)| batch_size(*rows, *batch)).collect(),
        memory_usage: Vec::new(),
        response_stats: counts.responses.iter().map(|(index, counts)| (index.to_string(), response(*counts))).collect(),
    }
}

fn batch_size(rows: usize, batch: BatchTally) -> InferBatchStatistics {
    InferBatchStatistics {
        batch_size: u64::try_from(rows).unwrap_or(u64::MAX),
        compute_input: tally(batch.compute_input),
        compute_infer: tally(batch.compute_infer),
        compute_output: tally(batch.compute_output),
    }
}

fn response(counts: ResponseTally) -> InferResponseStatistics {
    InferResponseStatistics {
        compute_infer: tally(counts.compute_infer),
        compute_output: tally(counts.compute_output),
        success: tally(counts.success),
        fail: tally(counts.fail),
        empty_response: tally(counts.empty_response),
        cancel: tally(counts.cancel),
    }
}

fn tally(tally: Tally) -> Option<StatisticDuration> {
    Some(StatisticDuration { count: tally.count, ns: tally.nanos })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::InferError;
    use crate::observe::statistics::{ExecutedBatch, ModelStatistics as Recorder, RequestTiming, ResponseOutcome, Stage};
    use crate::request::ComputeTiming;

    #[test]
    fn every_count_reaches_its_field() {
        let recorder = Recorder::default();
        let nanos = Duration::from_nanos;
        let timing = ComputeTiming { input: nanos(1), infer: nanos(2), output: nanos(3) };
        let request = RequestTiming { total: nanos(10), queue: nanos(4) };
        recorder.record_batch(&ExecutedBatch { rows: 5, timing, formed: None }, &[request, request]);
        recorder.record_failure(Stage::Execution, &InferError::Abandoned, nanos(7));
        recorder.record_cache_hit(RequestTiming { total: nanos(5), queue: nanos(0) }, nanos(6));
        recorder.record_cache_miss(nanos(8));
        recorder.record_response(1, ResponseOutcome::Cancel, nanos(0), nanos(0));
        let message = model("m".to_owned(), 3, &recorder.snapshot());
        let of = |count, ns| Some(StatisticDuration { count, ns });
        assert_eq!((message.name.as_str(), message.version.as_str()), ("m", "3"));
        assert_eq!((message.inference_count, message.execution_count), (5, 1));
        assert!(message.last_inference > 0);
        let expected = InferStatistics {
            success: of(3, 25),
            fail: of(1, 7),
            queue: of(3, 8),
            compute_input: of(2, 2),
            compute_infer: of(2, 4),
            compute_output: of(2, 6),
            cache_hit: of(1, 6),
            cache_miss: of(1, 8),
        };
        assert_eq!(message.inference_stats, Some(expected));
        let batch =
            InferBatchStatistics { batch_size: 5, compute_input: of(1, 1), compute_infer: of(1, 2), compute_output: of(1, 3) };
        assert_eq!(message.batch_stats, [batch]);
        assert_eq!(message.response_stats.keys().collect::<Vec<_>>(), ["1"]);
        assert_eq!(message.response_stats["1"].cancel, of(1, 0));
    }
}
