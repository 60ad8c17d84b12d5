//! `instance_group`: how many instances of a model run, where, and what they share devices by.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use proto::inference::{ModelInstanceGroup, ModelRateLimiter, model_instance_group::Kind};

use crate::error::ConfigProblem;

/// Most instances of one model; each is an operating-system thread.
const MAX_INSTANCES: i32 = 256;

/// Most resources that one instance may need.
const MAX_RESOURCES: usize = 64;

/// Classes of device priority; the last is served last.
const DEVICE_PRIORITIES: std::ops::RangeInclusive<u8> = 1..=8;

/// Weights of models on a device.
const DEVICE_WEIGHTS: std::ops::RangeInclusive<u32> = 1..=1000;

/// What a group of instances runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstanceKind {
    /// A GPU where there is a usable one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// These GPUs; empty means every visible one.
    Gpu(Vec<i32>),
    /// Left to the backend.
    Model,
}

/// Instances of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceGroup {
    /// Name, for logs and load errors.
    pub name: Arc<str>,
    /// Where they run.
    pub kind: InstanceKind,
    /// How many per device, at least 1.
    pub count: usize,
    /// What each needs before it may run, where the server limits rates.
    pub rate_limiter: RateLimiter,
}

/// What an instance needs before it may run, and its weight against others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimiter {
    /// Resources, each of a name of its own.
    pub resources: Vec<Resource>,
    /// Divides the weight: an instance of priority 2 gets half of what one of priority 1 gets.
    pub priority: NonZeroU32,
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self { resources: Vec::new(), priority: NonZeroU32::MIN }
    }
}

/// A named and counted resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Name.
    pub name: String,
    /// There is one of the whole server, not one of each device.
    pub global: bool,
    /// What an execution holds of it.
    pub count: u32,
}

/// A model's part of the devices that its instances share with other models: `parameters["device_priority"]` and
/// `parameters["device_weight"]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceShare {
    /// Class; 1 is served first.
    pub priority: u8,
    /// Part of the device's time, against other models of the class.
    pub weight: NonZeroU32,
}

impl Default for DeviceShare {
    fn default() -> Self {
        Self { priority: 2, weight: NonZeroU32::MIN }
    }
}

impl DeviceShare {
    /// The parameters that say it.
    pub const PARAMETERS: [&'static str; 2] = ["device_priority", "device_weight"];

    pub(super) fn parse(model: &str, parameters: &BTreeMap<String, String>, problems: &mut Vec<ConfigProblem>) -> Self {
        let mut share = Self::default();
        let [priority, weight] = Self::PARAMETERS;
        let mut refuse = |name: &str, expected, got: &String| {
            problems.push(ConfigProblem::OutOfRange {
                model: model.to_owned(),
                field: format!("parameters['{name}']"),
                expected,
                got: got.clone(),
            });
        };
        if let Some(text) = parameters.get(priority) {
            match text.trim().parse().ok().filter(|priority| DEVICE_PRIORITIES.contains(priority)) {
                Some(parsed) => share.priority = parsed,
                None => refuse(priority, "an integer between 1 (served first) and 8", text),
            }
        }
        if let Some(text) = parameters.get(weight) {
            let parsed = text.trim().parse().ok().filter(|weight| DEVICE_WEIGHTS.contains(weight)).and_then(NonZeroU32::new);
            match parsed {
                Some(parsed) => share.weight = parsed,
                None => refuse(weight, "an integer between 1 and 1000", text),
            }
        }
        share
    }
}

impl RateLimiter {
    fn parse(model: &str, index: usize, written: &ModelRateLimiter) -> Result<Self, ConfigProblem> {
        let field = |place: usize, name: &str| format!("instance_group[{index}].rate_limiter.resources[{place}].{name}");
        if written.resources.len() > MAX_RESOURCES {
            return Err(ConfigProblem::OutOfRange {
                model: model.to_owned(),
                field: format!("instance_group[{index}].rate_limiter.resources"),
                expected: "at most 64 resources",
                got: written.resources.len().to_string(),
            });
        }
        let mut resources: Vec<Resource> = Vec::with_capacity(written.resources.len());
        for (place, resource) in written.resources.iter().enumerate() {
            let known = resources.iter().any(|before| before.name == resource.name);
            if resource.name.is_empty() || known {
                return Err(ConfigProblem::OutOfRange {
                    model: model.to_owned(),
                    field: field(place, "name"),
                    expected: "a name that no other resource of the group has",
                    got: format!("'{}'", resource.name),
                });
            }
            resources.push(Resource { name: resource.name.clone(), global: resource.global, count: resource.count });
        }
        Ok(Self { resources, priority: NonZeroU32::new(written.priority).unwrap_or(NonZeroU32::MIN) })
    }
}

impl InstanceGroup {
    /// Parses all groups; none means one group of one instance of kind auto.
    pub(super) fn parse_all(model: &str, groups: &[ModelInstanceGroup], problems: &mut Vec<ConfigProblem>) -> Vec<Self> {
        if groups.is_empty() {
            let name = format!("{model}_0").into();
            return vec![Self { name, kind: InstanceKind::Auto, count: 1, rate_limiter: RateLimiter::default() }];
        }
        let parsed: Vec<Self> = groups
            .iter()
            .enumerate()
            .filter_map(|(index, group)| match Self::parse(model, index, group) {
                Ok(group) => Some(group),
                Err(problem) => {
                    problems.push(problem);
                    None
                }
            })
            .collect();
        let total = parsed.iter().fold(0usize, |total, group| total.saturating_add(group.count));
        if !usize::try_from(MAX_INSTANCES).is_ok_and(|most| total <= most) {
            problems.push(ConfigProblem::OutOfRange {
                model: model.to_owned(),
                field: "instance_group".to_owned(),
                expected: "at most 256 instances in all groups together",
                got: total.to_string(),
            });
        }
        parsed
    }

    fn parse(model: &str, index: usize, group: &ModelInstanceGroup) -> Result<Self, ConfigProblem> {
        if !(0..=MAX_INSTANCES).contains(&group.count) {
            return Err(ConfigProblem::OutOfRange {
                model: model.to_owned(),
                field: format!("instance_group[{index}].count"),
                expected: "between 0 and 256",
                got: group.count.to_string(),
            });
        }
        for (is_set, field) in [(group.passive, "passive"), (!group.secondary_devices.is_empty(), "secondary_devices")] {
            if is_set {
                return Err(ConfigProblem::Unsupported {
                    model: model.to_owned(),
                    field: format!("instance_group[{index}].{field}"),
                });
            }
        }
        let kind = match Kind::try_from(group.kind) {
            Ok(Kind::Auto) => InstanceKind::Auto,
            Ok(Kind::Cpu) => InstanceKind::Cpu,
            Ok(Kind::Gpu) => InstanceKind::Gpu(group.gpus.clone()),
            Ok(Kind::Model) => InstanceKind::Model,
            Err(_) => {
                return Err(ConfigProblem::OutOfRange {
                    model: model.to_owned(),
                    field: format!("instance_group[{index}].kind"),
                    expected: "a known kind",
                    got: group.kind.to_string(),
                });
            }
        };
        let name = if group.name.is_empty() { format!("{model}_{index}") } else { group.name.clone() };
        let limiter = group.rate_limiter.as_ref().map(|limiter| RateLimiter::parse(model, index, limiter)).transpose()?;
        let count = usize::try_from(group.count.max(1)).unwrap_or(1);
        Ok(Self { name: name.into(), kind, count, rate_limiter: limiter.unwrap_or_default() })
    }

    /// The group as the protocol writes it, with everything else of `written` kept.
    pub(super) fn to_wire(&self, written: Option<&ModelInstanceGroup>) -> ModelInstanceGroup {
        let kind = match self.kind {
            InstanceKind::Auto => Kind::Auto,
            InstanceKind::Cpu => Kind::Cpu,
            InstanceKind::Gpu(_) => Kind::Gpu,
            InstanceKind::Model => Kind::Model,
        };
        ModelInstanceGroup {
            name: self.name.to_string(),
            kind: kind.into(),
            count: i32::try_from(self.count).unwrap_or(i32::MAX),
            ..written.cloned().unwrap_or_default()
        }
    }
}
