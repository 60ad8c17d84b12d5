//! Where the instances of a model run: what a configuration asks for, what the command line says, and what there is. A GPU
//! that is asked for and cannot be used is an error that says why, never another device.

use std::sync::Arc;

use crate::config::{InstanceGroup, InstanceKind, ModelConfig};
use crate::error::LoadError;

use super::super::device::{ChosenDevice, DeviceChoice, SharedDevice};
use super::gpu;
use super::parameters::{self, Role};

/// Most instances of one model, on all its devices together; each is an operating-system thread or two.
const MAX_INSTANCES: usize = 256;

/// Most GPUs that are looked for.
const MAX_GPUS: u32 = 64;

/// Looks for the device that the command line names, and says why it is what it is.
///
/// # Errors
/// Why the GPU that it names cannot be used.
pub fn choose_device(choice: DeviceChoice) -> Result<ChosenDevice, String> {
    let gpu = |ordinal: u32, is_named| {
        let because = gpu::probe(ordinal)?;
        Ok(ChosenDevice { gpu: Some(ordinal), allows_gpus: true, is_named, because: because.into() })
    };
    let cpu =
        |allows_gpus, because: String| ChosenDevice { gpu: None, allows_gpus, is_named: !allows_gpus, because: because.into() };
    match choice {
        DeviceChoice::Cpu => Ok(cpu(false, "--device cpu names it".to_owned())),
        DeviceChoice::Cuda(ordinal) => gpu(ordinal, true),
        DeviceChoice::Auto => Ok(gpu(0, false).unwrap_or_else(|reason: String| cpu(true, reason))),
    }
}

/// The configuration with each group on a device of its own: the processor or one GPU.
///
/// # Errors
/// A GPU is asked for and cannot be used, or the instances on all GPUs are too many.
pub(in crate::instance) fn place(config: &Arc<ModelConfig>, chosen: &ChosenDevice) -> Result<Arc<ModelConfig>, LoadError> {
    if parameters::role(config)? == Role::Tokenizer {
        return refuse_tokenizers_on_gpus(config).map(|()| Arc::clone(config));
    }
    let mut groups = Vec::with_capacity(config.instance_groups.len());
    for group in &config.instance_groups {
        place_group(config, group, chosen, &mut groups)?;
    }
    let total = groups.iter().map(|group| group.count).fold(0, usize::saturating_add);
    if total > MAX_INSTANCES {
        let reason = format!("its groups ask for {total} instances on all GPUs together; at most {MAX_INSTANCES} are possible");
        return Err(LoadError::Backend { model: config.name.to_string(), reason });
    }
    Ok(if groups == config.instance_groups {
        Arc::clone(config)
    } else {
        Arc::new(ModelConfig { instance_groups: groups, ..ModelConfig::clone(config) })
    })
}

fn place_group(
    config: &ModelConfig,
    group: &InstanceGroup,
    chosen: &ChosenDevice,
    groups: &mut Vec<InstanceGroup>,
) -> Result<(), LoadError> {
    let on = |kind: InstanceKind| InstanceGroup { kind, ..group.clone() };
    match &group.kind {
        InstanceKind::Cpu | InstanceKind::Model => groups.push(group.clone()),
        InstanceKind::Auto => {
            tracing::info!(
                model = %config.name,
                group = %group.name,
                device = %chosen,
                because = %chosen.because,
                "KIND_AUTO: the server chose the device"
            );
            groups.push(on(match chosen.gpu.and_then(|ordinal| i32::try_from(ordinal).ok()) {
                Some(ordinal) => InstanceKind::Gpu(vec![ordinal]),
                None => InstanceKind::Cpu,
            }));
        }
        InstanceKind::Gpu(listed) => {
            let refused = |reason| LoadError::Device { model: config.name.to_string(), kind: "KIND_GPU", reason };
            if !chosen.allows_gpus {
                return Err(refused("the server was started with --device cpu".to_owned()));
            }
            let ordinals = gpus(listed, chosen).map_err(refused)?;
            groups.extend(ordinals.into_iter().map(|ordinal| on(InstanceKind::Gpu(vec![ordinal]))));
        }
    }
    Ok(())
}

/// The GPUs that a group runs on: those that it lists; without a list that of the command line, and else every one.
fn gpus(listed: &[i32], chosen: &ChosenDevice) -> Result<Vec<i32>, String> {
    let named = chosen.gpu.filter(|_| chosen.is_named).and_then(|ordinal| i32::try_from(ordinal).ok());
    let ordinals: Vec<i32> = match (listed, named) {
        ([], Some(named)) => vec![named],
        ([], None) => (0..gpu::count()?.clamp(1, MAX_GPUS)).filter_map(|ordinal| i32::try_from(ordinal).ok()).collect(),
        (listed, _) => {
            let mut distinct = listed.to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            distinct
        }
    };
    for ordinal in &ordinals {
        let number = u32::try_from(*ordinal).map_err(|_| format!("its gpus list {ordinal}, and GPUs are numbered from 0"))?;
        gpu::probe(number)?;
    }
    Ok(ordinals)
}

fn refuse_tokenizers_on_gpus(config: &ModelConfig) -> Result<(), LoadError> {
    match config.instance_groups.iter().any(|group| matches!(group.kind, InstanceKind::Gpu(_))) {
        false => Ok(()),
        true => Err(LoadError::Device {
            model: config.name.to_string(),
            kind: "KIND_GPU",
            reason: "texts are tokenized on the CPU; write KIND_CPU or KIND_AUTO".to_owned(),
        }),
    }
}

/// The GPU that a placed group runs on; `None` for the processor.
pub(super) fn gpu_of(group: &InstanceGroup) -> Option<u32> {
    match &group.kind {
        InstanceKind::Gpu(ordinals) => ordinals.first().and_then(|ordinal| u32::try_from(*ordinal).ok()),
        InstanceKind::Auto | InstanceKind::Cpu | InstanceKind::Model => None,
    }
}

/// The device on which a placed group takes turns.
pub(super) fn device_of(group: &InstanceGroup) -> SharedDevice {
    gpu_of(group).map_or_else(SharedDevice::cpu, SharedDevice::cuda)
}
