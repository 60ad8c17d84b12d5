//! `producer`: n responses at a steady pace, from the instance's own thread.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::error::{ExecuteError, LoadError};
use crate::tensor::DataType;

use super::super::{Execution, ResponseStream, StreamedResponse};
use super::own_threads::OwnThreads;
use super::setup::{Needed, ONE, Setup};
use super::square::count;
use super::{Kind, values};

/// `IN: [1] INT32` = n -> n responses, `OUT: [1] FP32` = `value`, one every `delay_ms`. The instance takes no
/// other request meanwhile. The last of the n ends the request; n = 0 gives the final flag alone.
struct Producer {
    input: usize,
    output: usize,
    value: f32,
    delay: Duration,
}

/// Opens the kind `producer`.
pub(super) fn open(setup: &Setup<'_>) -> Result<Arc<dyn Kind>, LoadError> {
    setup.require_decoupled()?;
    setup.no_others(&["IN"], &["OUT"])?;
    let value = match setup.text("value") {
        None => 0.0,
        Some(text) => text.trim().parse().map_err(|_| setup.bad_parameter("value", "a number"))?,
    };
    Ok(Arc::new(Producer {
        input: setup.input(&Needed { name: "IN", datatype: DataType::Int32, dims: ONE })?,
        output: setup.output(&Needed { name: "OUT", datatype: DataType::Fp32, dims: ONE })?,
        value,
        delay: setup.milliseconds("delay_ms")?,
    }))
}

impl Kind for Producer {
    fn execute(&self, execution: &mut Execution, _threads: &OwnThreads) -> Result<(), ExecuteError> {
        let tensor = values::single(execution, DataType::Fp32, &self.value.to_le_bytes())?;
        let response = StreamedResponse { outputs: vec![(self.output, tensor)], ..Default::default() };
        for request in 0..execution.len() {
            match count(execution, request, self.input) {
                Ok(count) => {
                    if let Some(stream) = execution.stream(request) {
                        self.produce(stream, count, &response);
                    }
                }
                Err(error) => execution.fail(request, error),
            }
        }
        Ok(())
    }
}

impl Producer {
    fn produce(&self, mut stream: ResponseStream, count: u32, response: &StreamedResponse) {
        for index in 0..count {
            let start = clock::now();
            if stream.cancellation().wait(self.delay) {
                return stream.abort();
            }
            let response = StreamedResponse { compute_infer: clock::now().since(start), ..response.clone() };
            if index + 1 == count {
                // An error here has been sent to the client already.
                return drop(stream.send_last(response));
            }
            if let Err(error) = stream.send(response) {
                return stream.fail(error);
            }
        }
        stream.finish();
    }
}
