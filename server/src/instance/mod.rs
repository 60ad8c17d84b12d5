//! Owns the running of batches: one thread per model instance, which gathers inputs, executes and splits
//! outputs, and a second one where an instance has several batches under way, which waits for their ends. May import the words, `config`, `observe` and `models`; must never import `scheduler`, `grpc`,
//! `repository` or `proto`. Only this folder looks inside tensors on their way to a model.

use std::any::Any;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{BackendKind, InstanceGroup, ModelConfig};
use crate::error::{ExecuteError, LoadError};
use crate::observe::statistics::ModelStatistics;
use crate::sync;

mod builtin;
mod candle;
pub mod device;
mod execute;
mod flights;
mod gather;
mod landing;
mod pool;
mod ready;
mod split;
mod stream;
mod thread;
mod warmup;

#[cfg(test)]
mod landing_tests;
#[cfg(test)]
mod ready_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use device::{Devices, SharedDevice};

pub use candle::{
    BatchForecast, Blas, Described, DeviceFindings, Driver, ForecastOptions, Machine, MemoryForecast, ModelTimes,
    OperationFinding, PlanFinding, ProductFinding, Speed, SystemGpu, choose_device, default_tokenizer_threads, describe,
    examine_gpu, forecast_memory, gpu_machine, gpu_memory, is_hub_directory, lost_gpus, processor_instructions,
    start_tokenizer_threads, time_model,
};
pub use execute::Execution;
pub use pool::{BatchDone, InstancePool, Placement, WaitingBatches};
pub use stream::{ResponseStream, StreamedResponse};

/// A loaded model version: what its instances share, weights above all.
pub trait Backend: Send + Sync {
    /// Makes one instance. Called on the instance's own thread, and again after a panic of that instance.
    ///
    /// # Errors
    /// What keeps the instance from running; it fails the load.
    fn instantiate(&self, slot: &InstanceSlot) -> Result<Box<dyn ModelInstance>, LoadError>;

    /// The device that this instance shares with those of other models; `None` where it computes nothing.
    fn device(&self, _slot: &InstanceSlot) -> Option<SharedDevice> {
        None
    }

    /// Slots of that device that each execution of this instance takes: as many as it keeps threads busy. The device
    /// has `available` of them. Called before the instance is made, which finds the answer in
    /// [`InstanceSlot::threads`]; must not block.
    ///
    /// # Errors
    /// The model is to take more than there are.
    fn turn_slots(&self, _slot: &InstanceSlot, _available: NonZeroUsize) -> Result<NonZeroUsize, LoadError> {
        Ok(NonZeroUsize::MIN)
    }

    /// Batches that this instance may have under way at a time. Where it is more than one, a second thread waits for
    /// what [`ModelInstance::launch`] gives, while the instance launches the next.
    fn depth(&self, _slot: &InstanceSlot) -> NonZeroUsize {
        NonZeroUsize::MIN
    }
}

/// Runs batches, one after another. It is made, used and dropped on one thread, its own.
pub trait ModelInstance {
    /// Runs one batch: reads inputs from `execution` and puts outputs into it.
    ///
    /// # Errors
    /// An error fails every request of the batch that has no answer or error of its own yet.
    fn execute(&mut self, execution: &mut Execution) -> Result<(), ExecuteError>;

    /// Starts one batch: reads inputs from `execution`, and gives what ends it where the device still computes. Before it
    /// is called, no more than [`Backend::depth`] less one are under way, and they end in the order of their launches.
    /// By default the batch has been executed when this returns.
    ///
    /// # Errors
    /// As [`ModelInstance::execute`].
    fn launch(&mut self, execution: &mut Execution) -> Result<Option<Box<dyn Pending>>, ExecuteError> {
        self.execute(execution).map(|()| None)
    }
}

/// A batch that a device computes.
pub trait Pending: Send {
    /// Waits for the device and puts the outputs into the batch's `execution`. Called on another thread than the
    /// instance's. What is dropped without it must wait for the device, too, where that still reads or writes its memory.
    ///
    /// # Errors
    /// As [`ModelInstance::execute`].
    fn wait(self: Box<Self>, execution: &mut Execution) -> Result<(), ExecuteError>;
}

/// Runs one batch to its end, on the calling thread.
fn run_through(instance: &mut dyn ModelInstance, execution: &mut Execution) -> Result<(), ExecuteError> {
    match instance.launch(execution)? {
        Some(pending) => pending.wait(execution),
        None => Ok(()),
    }
}

/// Which instance of a model is being made.
#[derive(Clone, Debug)]
pub struct InstanceSlot {
    /// Its group.
    pub group: InstanceGroup,
    /// Its number among all instances of the model version, from 0.
    pub ordinal: usize,
    /// Threads that it may keep busy: the slots that its turns take, 1 where it shares no device.
    pub threads: NonZeroUsize,
}

/// A model version as its instances know it.
#[derive(Clone, Debug)]
pub struct ServedVersion {
    /// Configuration.
    pub config: Arc<ModelConfig>,
    /// Version.
    pub version: u64,
    /// Where counts go.
    pub statistics: Arc<ModelStatistics>,
    /// The model's directory: label files and `warmup/` are below it.
    pub model_directory: PathBuf,
    /// The directory of this version, with the model's files.
    pub version_directory: PathBuf,
}

/// The configuration with which a model's versions are opened: each group of instances on the device that is meant. May
/// open a GPU, so it blocks.
///
/// # Errors
/// A device that the configuration asks for cannot be used.
pub fn place(config: &Arc<ModelConfig>, devices: &Devices) -> Result<Arc<ModelConfig>, LoadError> {
    match config.backend {
        BackendKind::Candle => candle::place(config, devices.chosen()),
        BackendKind::Builtin | BackendKind::Ensemble => Ok(Arc::clone(config)),
    }
}

/// Opens the backend that the configuration names; weights are read here, once for all instances.
///
/// # Errors
/// What is wrong with the model's files or settings.
pub fn open_backend(served: &ServedVersion, devices: &Devices) -> Result<Arc<dyn Backend>, LoadError> {
    match served.config.backend {
        BackendKind::Builtin => builtin::open(served),
        BackendKind::Candle => candle::open(served, devices),
        BackendKind::Ensemble => Err(LoadError::Backend {
            model: served.config.name.to_string(),
            reason: "an ensemble has no instances of its own".to_owned(),
        }),
    }
}

/// What a panic says, where it says something.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
