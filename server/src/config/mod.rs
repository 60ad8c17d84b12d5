//! Owns the meaning of a model configuration: what was written (`proto::inference::ModelConfig`) becomes
//! what is true ([`ModelConfig`]), once. May import the words and `proto`; must never import `scheduler`,
//! `instance`, `repository` or `grpc`. Pure: no files, no clock, no threads.

mod auto_complete;
mod batch_cost;
mod batching;
mod ensemble;
mod instance_group;
mod metrics;
mod model;
mod reuse;
mod sequence;
mod tensors;
mod version_policy;
mod warmup;

pub use auto_complete::{AutoModel, AutoTensor, auto_complete};
pub use batch_cost::BatchCost;
pub use batching::{
    BatcherKind, DynamicBatching, QueuePolicy, RequestTimeout, SCHEDULER_PARAMETERS, TimeoutAction, WindowPolicy,
};
pub use ensemble::{CheckedEnsemble, Composing, EnsembleGraph, EnsembleStep, StepTensor};
pub use instance_group::{DeviceShare, InstanceGroup, InstanceKind, RateLimiter, Resource};
pub use model::{BackendKind, ModelConfig, Scheduling};
pub use reuse::Reuse;
pub use sequence::{Control, FalseTrue, InitialState, SequenceBatching, SequenceStrategy, Signal, State};
pub use version_policy::VersionPolicy;
pub use warmup::{WarmupInput, WarmupSample, WarmupSource};
