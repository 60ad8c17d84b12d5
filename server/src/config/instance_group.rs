//! `instance_group`: how many instances of a model run, and where.

use std::sync::Arc;

use proto::inference::{ModelInstanceGroup, model_instance_group::Kind};

use crate::error::ConfigProblem;

/// Most instances of one model; each is an operating-system thread.
const MAX_INSTANCES: i32 = 256;

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
}

impl InstanceGroup {
    /// Parses all groups; none means one group of one instance of kind auto.
    pub(super) fn parse_all(model: &str, groups: &[ModelInstanceGroup], problems: &mut Vec<ConfigProblem>) -> Vec<Self> {
        if groups.is_empty() {
            return vec![Self { name: format!("{model}_0").into(), kind: InstanceKind::Auto, count: 1 }];
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
        Ok(Self { name: name.into(), kind, count: usize::try_from(group.count.max(1)).unwrap_or(1) })
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
