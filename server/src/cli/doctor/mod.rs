//! Owns `alcedo doctor`: what there is on a machine (`machine`), the findings on its GPU (`report`), and how they are told, as
//! text (`text`) and as JSON (`json`). May import what `cli` may.
//!
//! What can be known anywhere is told anywhere. A GPU that was not asked for and cannot be used is no fault, and the reason is
//! told.

mod json;
mod machine;
mod report;
#[cfg(test)]
mod tests;
mod text;

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::error::CliError;
use super::print;
use crate::instance::device::DeviceChoice;
use crate::instance::{examine_gpu, gpu_machine};
use crate::repository::read_repositories;
use machine::Host;
use report::{Examined, ModelLine, Report};

/// Flags of `alcedo doctor`.
#[derive(Args, Clone, Debug)]
pub(super) struct DoctorArgs {
    /// Device that is examined: the first GPU where that can be used, none, or that GPU.
    #[arg(long, default_value = "auto", value_name = "auto|cpu|cuda:N", value_parser = DeviceChoice::from_str)]
    device: DeviceChoice,
    /// Repository, or one Hugging Face directory, whose models are timed on the GPU; repeatable.
    #[arg(long = "model-repository", value_name = "PATH")]
    repositories: Vec<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
    /// Make an eighth of the comparisons, and measure small sizes only: whether everything works, not how fast.
    #[arg(long)]
    quick: bool,
}

/// Runs `alcedo doctor`.
///
/// # Errors
/// [`CliError::Device`]: the device that was asked for cannot be used. [`CliError::Examination`]: a kernel is wrong, or not
/// everything could be examined.
pub(super) fn run(args: &DoctorArgs) -> Result<(), CliError> {
    for repository in &args.repositories {
        repository.metadata().map_err(|error| CliError::Read { path: repository.clone(), reason: error.to_string() })?;
    }
    let gpus = gpu_machine();
    let examined = examine(args);
    let models = models(args, &examined);
    let report = Report { host: Host::look(), gpus, examined, models, is_quick: args.quick };
    print(&if args.json { json::to_text(&report) } else { text::to_text(&report) })?;
    report.verdict()
}

/// Says on the standard error what takes its time now.
fn tell(what: &str) {
    drop(writeln!(std::io::stderr(), "examining {what}"));
}

fn examine(args: &DoctorArgs) -> Examined {
    let ordinal = match args.device {
        DeviceChoice::Cpu => return Examined::Nothing { because: "--device cpu asks for no GPU".to_owned() },
        DeviceChoice::Auto => 0,
        DeviceChoice::Cuda(ordinal) => ordinal,
    };
    match (examine_gpu(ordinal, args.quick, &mut tell), args.device) {
        (Ok(findings), _) => Examined::Gpu { ordinal, findings: Box::new(findings) },
        (Err(reason), DeviceChoice::Cuda(_)) => Examined::Unusable { ordinal, reason },
        (Err(because), _) => Examined::Nothing { because },
    }
}

/// Times every version of every model, where there is a GPU whose speed is known and whose kernels are right.
fn models(args: &DoctorArgs, examined: &Examined) -> Vec<ModelLine> {
    let Examined::Gpu { ordinal, findings } = examined else { return Vec::new() };
    let (Ok(speed), true) = (&findings.speed, findings.is_right()) else { return Vec::new() };
    let mut lines = Vec::new();
    for (model, read) in read_repositories(&args.repositories) {
        match read {
            Ok(read) => {
                for (version, directory) in &read.versions {
                    tell(&format!("model {model}, version {version}"));
                    let times = crate::instance::time_model(&read.config, directory, *ordinal, speed, args.quick);
                    let times = times.map_err(|error| error.to_string());
                    lines.push(ModelLine { model: model.clone(), version: version.to_string(), times });
                }
            }
            Err(reason) => lines.push(ModelLine { model, version: "-".to_owned(), times: Err(reason) }),
        }
    }
    lines
}
