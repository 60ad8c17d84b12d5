//! Which of the library's proposals is fastest here.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::plan::{Algorithm, Library, Operands, Plan, Shape};
use crate::cuda::{Buffer, DeviceError, Event, Stream};

/// Proposals that are compared.
const PROPOSALS: usize = 8;
/// Products of one measurement.
const PRODUCTS: usize = 5;
/// Choices that the process remembers. Beyond, every multiplier measures for itself.
const MOST_CHOICES: usize = 8192;

/// How a multiplier chooses between the library's proposals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tuning {
    /// It takes the fastest, measured on the device at the first product of a shape; all multipliers of a device that have as
    /// much scratch memory take the same.
    #[default]
    Timed,
    /// It takes what the library finds most promising. For devices whose times mean nothing, and where the same choice in every
    /// run matters more.
    First,
}

/// What was measured, by device, shape and bytes of scratch memory.
type Choices = HashMap<(u32, Shape, usize), Algorithm>;

static CHOICES: Mutex<Option<Choices>> = Mutex::new(None);

/// A plan for a shape. Measures only where it may wait for the device.
pub(super) fn choose(
    library: &Library,
    stream: &Stream,
    tuning: Tuning,
    shape: Shape,
    operands: &Operands,
    workspace: &Buffer,
) -> Result<Plan, DeviceError> {
    let plan = Plan::new(library, shape)?;
    if tuning == Tuning::First {
        let first = plan.proposals(library, 1, operands, workspace.bytes())?[0];
        return Ok(plan.with_algorithm(first, true));
    }
    // Held while measuring: another lane with the same shape waits and takes the result, and does not disturb.
    let mut choices = CHOICES.lock().unwrap_or_else(PoisonError::into_inner);
    let choices = choices.get_or_insert_default();
    let key = (stream.gpu().ordinal(), shape, workspace.bytes());
    if let Some(algorithm) = choices.get(&key) {
        return Ok(plan.with_algorithm(*algorithm, true));
    }
    let proposals = plan.proposals(library, PROPOSALS, operands, workspace.bytes())?;
    if stream.is_recording() {
        return Ok(plan.with_algorithm(proposals[0], false));
    }
    let fastest = match &proposals[..] {
        [only] => *only,
        _ => measure(&plan, library, stream, &proposals, operands, workspace)?,
    };
    if choices.len() < MOST_CHOICES {
        choices.insert(key, fastest);
    }
    Ok(plan.with_algorithm(fastest, true))
}

/// The fastest proposal. The product is made many times, which leaves the same result: a residual that is the output itself
/// would be added every time, so then the result goes elsewhere.
fn measure(
    plan: &Plan,
    library: &Library,
    stream: &Stream,
    proposals: &[Algorithm],
    operands: &Operands,
    workspace: &Buffer,
) -> Result<Algorithm, DeviceError> {
    let elsewhere = match operands.residual {
        Some(residual) if residual == operands.output => match Buffer::new(stream, operands.output.bytes()) {
            Ok(buffer) => Some(buffer),
            // A product that fits must not fail for a measurement that does not.
            Err(DeviceError::OutOfMemory { .. }) => return Ok(proposals[0]),
            Err(error) => return Err(error),
        },
        _ => None,
    };
    let output = elsewhere.as_ref().map_or(operands.output, |buffer| buffer.view(operands.output.dtype));
    let operands = Operands { output, ..*operands };
    let (start, end) = (Event::timed(stream.gpu())?, Event::timed(stream.gpu())?);
    let mut fastest: Option<(f32, Algorithm)> = None;
    let mut refused = None;
    for algorithm in proposals {
        let run = || plan.run_with(library, stream, algorithm, &operands, workspace);
        // The first product loads the kernel. A proposal that the library then refuses is none.
        match run() {
            Err(error @ DeviceError::Failed { .. }) => {
                refused = Some(error);
                continue;
            }
            other => other?,
        }
        start.record(stream)?;
        (0..PRODUCTS).try_for_each(|_| run())?;
        end.record(stream)?;
        end.wait()?;
        let time = start.elapsed_ms(&end)?;
        if fastest.is_none_or(|(least, _)| time < least) {
            fastest = Some((time, *algorithm));
        }
    }
    match (fastest, refused) {
        (Some((_, algorithm)), _) => Ok(algorithm),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(proposals[0]),
    }
}
