//! `square`: n responses to n, some of them empty or failed, for tests of streams and of response statistics.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::error::{ExecuteError, LoadError};
use crate::observe::statistics::ResponseOutcome;
use crate::tensor::DataType;

use super::super::{Execution, ResponseStream, StreamedResponse};
use super::own_threads::OwnThreads;
use super::setup::{Needed, ONE, Setup};
use super::{Kind, values, waiting};

/// `IN: [1] INT32` = n -> n responses, `OUT: [1] INT32` = n, on a thread of their own.
///
/// Of the n, the last `empty_count` are empty and the `fail_count` before them are errors. The last of the n
/// ends the request, whatever it is; n = 0 gives the final flag alone.
struct Square {
    input: usize,
    output: usize,
    course: Course,
}

/// How the responses of a request follow each other.
#[derive(Clone, Copy)]
struct Course {
    /// Waited before each response.
    infer_delay: Duration,
    /// Waited before the outputs of each response that is not empty.
    output_delay: Duration,
    /// Waited once the client has left.
    cancel_delay: Duration,
    empty: u32,
    failed: u32,
}

/// Opens the kind `square`.
pub(super) fn open(setup: &Setup<'_>) -> Result<Arc<dyn Kind>, LoadError> {
    setup.require_decoupled()?;
    setup.no_others(&["IN"], &["OUT"])?;
    Ok(Arc::new(Square {
        input: setup.input(&Needed { name: "IN", datatype: DataType::Int32, dims: ONE })?,
        output: setup.output(&Needed { name: "OUT", datatype: DataType::Int32, dims: ONE })?,
        course: Course {
            infer_delay: setup.nanoseconds("infer_delay_ns")?,
            output_delay: setup.nanoseconds("output_delay_ns")?,
            cancel_delay: setup.nanoseconds("cancel_delay_ns")?,
            empty: setup.integer("empty_count", 0..=1_000_000)?.unwrap_or(0),
            failed: setup.integer("fail_count", 0..=1_000_000)?.unwrap_or(0),
        },
    }))
}

impl Kind for Square {
    fn execute(&self, execution: &mut Execution, threads: &OwnThreads) -> Result<(), ExecuteError> {
        for request in 0..execution.len() {
            let prepared = count(execution, request, self.input).and_then(|count| {
                let number = i32::try_from(count).unwrap_or(i32::MAX).to_le_bytes();
                Ok((count, values::single(execution, DataType::Int32, &number)?))
            });
            match prepared {
                Ok((count, tensor)) => {
                    if let Some(stream) = execution.stream(request) {
                        let response = StreamedResponse { outputs: vec![(self.output, tensor)], ..Default::default() };
                        let course = self.course;
                        threads.run(move || course.run(stream, count, &response));
                    }
                }
                Err(error) => execution.fail(request, error),
            }
        }
        Ok(())
    }
}

/// The number of responses that a request asks for in `IN: [1] INT32`.
///
/// # Errors
/// The number is negative, or the request has several rows.
pub(super) fn count(execution: &Execution, request: usize, input: usize) -> Result<u32, ExecuteError> {
    values::single_row(&execution.request_rows(request))?;
    let given = values::required(execution.request(request), input)?;
    let count = i32::from_le_bytes(values::first("IN", given)?);
    u32::try_from(count).map_err(|_| ExecuteError::InvalidArgument {
        message: format!("expected IN, the number of responses, to be at least 0, got {count}"),
    })
}

impl Course {
    fn run(self, mut stream: ResponseStream, count: u32, response: &StreamedResponse) {
        let first_empty = count.saturating_sub(self.empty);
        let first_failed = first_empty.saturating_sub(self.failed);
        for index in 0..count {
            let start = clock::now();
            if stream.cancellation().wait(self.infer_delay) {
                return self.leave(stream);
            }
            let infer = clock::now().since(start);
            let last = index + 1 == count;
            if index >= first_empty {
                if last {
                    return stream.finish_after(infer);
                }
                stream.record_unsent(ResponseOutcome::Empty, infer, Duration::ZERO);
                continue;
            }
            if stream.cancellation().wait(self.output_delay) {
                return self.leave(stream);
            }
            let output = clock::now().since(start).saturating_sub(infer);
            if index >= first_failed {
                let error = ExecuteError::Internal { message: format!("response {index} fails, as 'fail_count' asks for") };
                if last {
                    return stream.fail_after(error, infer, output);
                }
                stream.send_error(error, infer, output);
                continue;
            }
            let response = StreamedResponse { compute_infer: infer, compute_output: output, ..response.clone() };
            if last {
                // An error here has been sent to the client already.
                return drop(stream.send_last(response));
            }
            if let Err(error) = stream.send(response) {
                return stream.fail(error);
            }
        }
        stream.finish();
    }

    /// The client has left.
    fn leave(self, stream: ResponseStream) {
        let start = clock::now();
        waiting::pause(self.cancel_delay);
        stream.abort_after(clock::now().since(start));
    }
}
