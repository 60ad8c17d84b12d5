//! All findings, and what they come to.

use super::super::error::CliError;
use super::machine::Host;
use crate::instance::{DeviceFindings, Machine, ModelTimes};

/// What is told.
pub(super) struct Report {
    pub(super) host: Host,
    pub(super) gpus: Machine,
    pub(super) examined: Examined,
    pub(super) models: Vec<ModelLine>,
    /// Whether only a part was examined.
    pub(super) is_quick: bool,
}

/// The device that was examined.
pub(super) enum Examined {
    /// None, which is as it should be.
    Nothing { because: String },
    /// None, though it was asked for.
    Unusable { ordinal: u32, reason: String },
    /// A GPU.
    Gpu { ordinal: u32, findings: Box<DeviceFindings> },
}

/// A version of a model, with its times; `None` where it runs on no GPU.
pub(super) struct ModelLine {
    pub(super) model: String,
    pub(super) version: String,
    pub(super) times: Result<Option<ModelTimes>, String>,
}

impl Report {
    /// What the command ends with.
    ///
    /// # Errors
    /// [`CliError::Device`], [`CliError::Examination`].
    pub(super) fn verdict(&self) -> Result<(), CliError> {
        let (ordinal, findings) = match &self.examined {
            Examined::Nothing { .. } => return Ok(()),
            Examined::Unusable { ordinal, reason } => {
                return Err(CliError::Device { device: format!("cuda:{ordinal}"), reason: reason.clone() });
            }
            Examined::Gpu { ordinal, findings } => (ordinal, findings),
        };
        let mut wrong: Vec<String> = findings.operations.iter().flat_map(|operation| operation.wrong.iter().cloned()).collect();
        if !wrong.is_empty() {
            let which = wrong.join("\n");
            return Err(CliError::Examination(format!("kernels of GPU {ordinal} compute something wrong:\n{which}")));
        }
        wrong.extend(findings.speed.as_ref().err().map(|reason| format!("speed: {reason}")));
        let failed = self.models.iter().filter_map(|line| Some(format!("{}: {}", line.model, line.times.as_ref().err()?)));
        wrong.extend(failed);
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(CliError::Examination(format!("not everything could be examined:\n{}", wrong.join("\n")))),
        }
    }
}
