//! `repeat`: one response for each element of `IN`, each after its `DELAY`.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{ExecuteError, LoadError};
use crate::tensor::DataType;

use super::super::{Execution, ResponseStream, StreamedResponse};
use super::own_threads::OwnThreads;
use super::setup::{ANY, Needed, ONE, Setup};
use super::waiting::{self, MAX_REQUESTED_DELAY};
use super::{Kind, values};

/// `IN: [n] INT32`, `DELAY: [n] UINT32` milliseconds, `WAIT: [1] UINT32` milliseconds -> n responses of
/// `OUT: [1] INT32`, `IDX: [1] UINT32`, then the final flag.
///
/// The responses come from a thread of their own; the instance is held for the longest `WAIT` of its batch.
/// Where the model is not decoupled, the first element is the only response. A model that batches takes
/// requests of one row each.
struct Repeat {
    values: usize,
    delays: usize,
    wait: usize,
    out: usize,
    index: usize,
}

/// Opens the kind `repeat`.
pub(super) fn open(setup: &Setup<'_>) -> Result<Arc<dyn Kind>, LoadError> {
    setup.no_others(&["IN", "DELAY", "WAIT"], &["OUT", "IDX"])?;
    Ok(Arc::new(Repeat {
        values: setup.input(&Needed { name: "IN", datatype: DataType::Int32, dims: ANY })?,
        delays: setup.input(&Needed { name: "DELAY", datatype: DataType::Uint32, dims: ANY })?,
        wait: setup.input(&Needed { name: "WAIT", datatype: DataType::Uint32, dims: ONE })?,
        out: setup.output(&Needed { name: "OUT", datatype: DataType::Int32, dims: ONE })?,
        index: setup.output(&Needed { name: "IDX", datatype: DataType::Uint32, dims: ONE })?,
    }))
}

/// What one request asks for.
struct Plan {
    responses: Vec<(Duration, StreamedResponse)>,
    wait: Duration,
}

impl Kind for Repeat {
    fn execute(&self, execution: &mut Execution, threads: &OwnThreads) -> Result<(), ExecuteError> {
        let decoupled = execution.config().decoupled;
        let mut waits = Vec::with_capacity(execution.len());
        for request in 0..execution.len() {
            let cancellation = execution.cancellation(request);
            let plan = match self.plan(execution, request) {
                Ok(plan) => plan,
                Err(error) => {
                    execution.fail(request, error);
                    continue;
                }
            };
            let Some(stream) = execution.stream(request) else {
                continue;
            };
            waits.push((cancellation, plan.wait));
            threads.run(move || send_all(stream, plan.responses, decoupled));
        }
        waiting::wait_for_longest(waits);
        Ok(())
    }
}

impl Repeat {
    fn plan(&self, execution: &Execution, request: usize) -> Result<Plan, ExecuteError> {
        let has_batch = values::has_batch(execution);
        values::single_row(&execution.request_rows(request))?;
        let decoupled = execution.config().decoupled;
        let request = execution.request(request);
        let (given, delays) = (values::required(request, self.values)?, values::required(request, self.delays)?);
        if given.shape() != delays.shape() {
            return Err(ExecuteError::InvalidArgument {
                message: format!("expected IN and DELAY shape to match, got {} and {}", given.shape(), delays.shape()),
            });
        }
        if !decoupled {
            values::first::<4>("IN of a model that is not decoupled", given)?;
        }
        let wait = values::first("WAIT", values::required(request, self.wait)?)?;
        let shown = if decoupled { usize::MAX } else { 1 };
        let mut responses = Vec::with_capacity(given.bytes().len() / 4);
        for (index, (value, delay)) in values::elements::<4>(given).zip(values::elements(delays)).take(shown).enumerate() {
            let delay = milliseconds(&format!("DELAY[{index}]"), delay)?;
            let number = u32::try_from(index).unwrap_or(u32::MAX).to_le_bytes();
            let outputs = vec![
                (self.out, values::single_of(has_batch, DataType::Int32, &value)?),
                (self.index, values::single_of(has_batch, DataType::Uint32, &number)?),
            ];
            responses.push((delay, StreamedResponse { outputs, ..Default::default() }));
        }
        Ok(Plan { responses, wait: milliseconds("WAIT", wait)? })
    }
}

fn milliseconds(name: &str, given: [u8; 4]) -> Result<Duration, ExecuteError> {
    let delay = Duration::from_millis(u64::from(u32::from_le_bytes(given)));
    if delay <= MAX_REQUESTED_DELAY {
        return Ok(delay);
    }
    Err(ExecuteError::InvalidArgument {
        message: format!("expected {name} to be at most {} ms, got {}", MAX_REQUESTED_DELAY.as_millis(), delay.as_millis()),
    })
}

fn send_all(mut stream: ResponseStream, responses: Vec<(Duration, StreamedResponse)>, decoupled: bool) {
    for (delay, mut response) in responses {
        let start = crate::clock::now();
        if stream.cancellation().wait(delay) {
            return stream.abort();
        }
        response.compute_infer = crate::clock::now().since(start);
        // A response that does not fit the configuration has failed the request, or fails it now.
        match if decoupled { stream.send(response) } else { return drop(stream.send_last(response)) } {
            Ok(()) => {}
            Err(error) => return stream.fail(error),
        }
    }
    stream.finish();
}
