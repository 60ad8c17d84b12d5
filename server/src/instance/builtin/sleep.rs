//! `sleep`: holds its instance for as many seconds as the request says, then is `identity`.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{ExecuteError, LoadError};
use crate::tensor::{DataType, Tensor};

use super::super::Execution;
use super::identity::Identity;
use super::number::{Number, with_number};
use super::own_threads::OwnThreads;
use super::setup::Setup;
use super::waiting::{self, MAX_REQUESTED_DELAY};
use super::{Kind, values};

/// Sleeps for `INPUT0[0]` seconds, of any numeric datatype; requests of one batch sleep side by side. A
/// client that leaves ends its sleep.
struct Sleep {
    seconds: usize,
    identity: Identity,
}

/// Opens the kind `sleep`.
pub(super) fn open(setup: &Setup<'_>) -> Result<Arc<dyn Kind>, LoadError> {
    let identity = Identity::open(setup)?;
    let config = setup.config;
    let suits = |index: &usize| {
        let input = &config.inputs[*index];
        !input.optional && !matches!(input.datatype, DataType::Bytes | DataType::Bool)
    };
    let seconds = config.input_index("INPUT0").filter(suits);
    let seconds = seconds.ok_or_else(|| setup.unsuited("input 'INPUT0' of a numeric datatype, not optional", "none"))?;
    Ok(Arc::new(Sleep { seconds, identity }))
}

impl Kind for Sleep {
    fn execute(&self, execution: &mut Execution, _threads: &OwnThreads) -> Result<(), ExecuteError> {
        let mut delays = Vec::with_capacity(execution.len());
        for request in 0..execution.len() {
            match values::required(execution.request(request), self.seconds).and_then(seconds) {
                Ok(delay) if execution.is_waiting(request) => delays.push((execution.cancellation(request), delay)),
                Ok(_) => {}
                Err(error) => execution.fail(request, error),
            }
        }
        waiting::wait_for_longest(delays);
        execution.drop_cancelled();
        self.identity.answer(execution)
    }
}

/// The first element as a time.
fn seconds(tensor: &Tensor) -> Result<Duration, ExecuteError> {
    let first = with_number!(tensor.datatype(), N => tensor.bytes().get(..N::SIZE).map(|bytes| N::read(bytes).widen().as_f64()));
    let given = first.flatten().ok_or_else(|| ExecuteError::InvalidArgument {
        message: format!("expected INPUT0 to begin with the seconds to sleep, got shape {}", tensor.shape()),
    })?;
    if (0.0..=MAX_REQUESTED_DELAY.as_secs_f64()).contains(&given) {
        return Ok(Duration::from_secs_f64(given));
    }
    Err(ExecuteError::InvalidArgument {
        message: format!(
            "expected INPUT0[0], the seconds to sleep, to be between 0 and {}, got {given}",
            MAX_REQUESTED_DELAY.as_secs()
        ),
    })
}
