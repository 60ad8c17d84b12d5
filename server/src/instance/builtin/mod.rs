//! Owns the builtin models: documented models for testing clients and schedulers and for measuring the server
//! itself, one file per kind. May import what `instance` may; must never be needed by another backend, and
//! must never start a thread but through `own_threads`.
//!
//! `parameters["model"]` names the kind; `parameters["model.<version>"]` goes before it for one version. What
//! all kinds have in common is here: the delays, and requests whose clients left while these ran.
//! All kinds run on the CPU.

use std::sync::Arc;
use std::time::Duration;

use crate::config::InstanceKind;
use crate::error::{ExecuteError, LoadError};

use super::device::SharedDevice;
use super::{Backend, Execution, InstanceSlot, ModelInstance, ServedVersion};

mod arithmetic;
mod fake;
mod identity;
mod mock_llm;
mod number;
mod own_threads;
mod parameter_echo;
mod producer;
mod repeat;
mod sequence_sum;
mod setup;
mod sleep;
mod square;
mod values;
mod waiting;

#[cfg(test)]
mod tests;

use own_threads::OwnThreads;
use setup::{KindEntry, Setup};

/// What a kind does with a batch. One value serves all instances of a model version.
trait Kind: Send + Sync {
    /// Runs one batch.
    ///
    /// # Errors
    /// As [`ModelInstance::execute`].
    fn execute(&self, execution: &mut Execution, threads: &OwnThreads) -> Result<(), ExecuteError>;

    /// The same for one instance alone, where it remembers something between batches.
    fn for_instance(&self, _ordinal: usize) -> Option<Arc<dyn Kind>> {
        None
    }

    /// The device that it shares with other models.
    fn device(&self) -> Option<SharedDevice> {
        None
    }
}

/// Every kind, with the parameters that it takes besides the common ones.
const KINDS: [KindEntry; 11] = [
    KindEntry { name: "identity", parameters: &["missing"], open: identity::open },
    KindEntry { name: "add_sub", parameters: &["omit_output"], open: arithmetic::open },
    KindEntry { name: "sub_add", parameters: &["omit_output"], open: arithmetic::open },
    KindEntry { name: "repeat", parameters: &[], open: repeat::open },
    KindEntry {
        name: "square",
        parameters: &["infer_delay_ns", "output_delay_ns", "empty_count", "fail_count", "cancel_delay_ns"],
        open: square::open,
    },
    KindEntry { name: "producer", parameters: &["value", "delay_ms"], open: producer::open },
    KindEntry { name: "sleep", parameters: &["missing"], open: sleep::open },
    KindEntry { name: "parameter_echo", parameters: &[], open: parameter_echo::open },
    KindEntry { name: "mock_llm", parameters: &[], open: mock_llm::open },
    KindEntry { name: "sequence_sum", parameters: &[], open: sequence_sum::open },
    KindEntry { name: "fake", parameters: &fake::PARAMETERS, open: fake::open },
];

/// The names of [`KINDS`], for errors.
const KNOWN_KINDS: &str = "identity, add_sub, sub_add, repeat, square, producer, sleep, parameter_echo, mock_llm, sequence_sum, \
                           fake";

/// Opens the builtin model that the parameters name, after `creation_delay_sec`.
///
/// # Errors
/// An unknown kind; a parameter that is unknown or malformed; tensors that do not suit the kind; an instance
/// group that asks for a GPU.
pub(super) fn open(served: &ServedVersion) -> Result<Arc<dyn Backend>, LoadError> {
    let (setup, entry) = Setup::parse(served, &KINDS, KNOWN_KINDS)?;
    refuse_gpus(served)?;
    let kind = (entry.open)(&setup)?;
    let execute_delay = setup.milliseconds("execute_delay_ms")?;
    let multiplier = setup.integer("instance_wise_delay_multiplier", 0..=1_000_000)?.unwrap_or(0);
    // Loads run on threads of their own, so that two delays side by side take as long as one. An instance
    // that is made anew after a panic is not delayed.
    waiting::pause(setup.seconds("creation_delay_sec")?);
    let model = Arc::clone(&served.config.name);
    Ok(Arc::new(Builtin { model, kind, execute_delay, multiplier }))
}

fn refuse_gpus(served: &ServedVersion) -> Result<(), LoadError> {
    match served.config.instance_groups.iter().any(|group| matches!(group.kind, InstanceKind::Gpu(_))) {
        false => Ok(()),
        true => Err(LoadError::Device {
            model: served.config.name.to_string(),
            kind: "KIND_GPU",
            reason: "this build runs the builtin models on the CPU alone; write KIND_CPU or KIND_AUTO".to_owned(),
        }),
    }
}

/// A loaded builtin model.
struct Builtin {
    model: Arc<str>,
    kind: Arc<dyn Kind>,
    execute_delay: Duration,
    multiplier: u32,
}

impl Backend for Builtin {
    fn instantiate(&self, slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError> {
        Ok(Box::new(BuiltinInstance {
            kind: self.kind.for_instance(slot.ordinal).unwrap_or_else(|| Arc::clone(&self.kind)),
            execute_delay: self.delay_of(slot.ordinal),
            threads: OwnThreads::new(format!("{}~{}", self.model, slot.ordinal)),
        }))
    }

    fn device(&self, _slot: &InstanceSlot) -> Option<SharedDevice> {
        self.kind.device()
    }
}

impl Builtin {
    /// The delay of each batch on the instance of this number.
    fn delay_of(&self, ordinal: usize) -> Duration {
        let ordinal = u32::try_from(ordinal).unwrap_or(u32::MAX);
        self.execute_delay.saturating_mul(self.multiplier.saturating_mul(ordinal).max(1))
    }
}

/// An instance of a builtin model.
struct BuiltinInstance {
    kind: Arc<dyn Kind>,
    execute_delay: Duration,
    threads: OwnThreads,
}

impl ModelInstance for BuiltinInstance {
    fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError> {
        // Every kind reads its inputs where they lie, so there is nothing to gather.
        execution.mark_input_done();
        if !self.execute_delay.is_zero() {
            let delays = (0..execution.len()).map(|request| (execution.cancellation(request), self.execute_delay));
            waiting::wait_for_longest(delays.collect());
            execution.drop_cancelled();
        }
        self.kind.execute(execution, &self.threads)
    }
}
