//! `alcedo config`: the configuration with which a model directory would be served.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::error::CliError;
use super::print;
use crate::config::ModelConfig;
use crate::repository;

/// Flags of `alcedo config`.
#[derive(Args, Clone, Debug)]
pub(super) struct ConfigArgs {
    /// Model directory of a repository, or Hugging Face directory.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Print JSON: the configuration, or an array where the directory stands for several models.
    #[arg(long)]
    json: bool,
    /// Use configs/NAME.pbtxt of the model directory where there is one.
    #[arg(long, value_name = "NAME")]
    model_config_name: Option<String>,
    /// Fill in nothing from the model's files.
    #[arg(long)]
    disable_auto_complete_config: bool,
}

/// Runs `alcedo config`.
///
/// # Errors
/// What keeps the directory from being served; faults of a configuration file carry file, line and column.
pub(super) fn run(args: &ConfigArgs) -> Result<(), CliError> {
    // A link keeps its own name, by which the server would know the model.
    let directory = &args.directory;
    directory.metadata().map_err(|error| CliError::Read { path: directory.clone(), reason: error.to_string() })?;
    let auto_complete = !args.disable_auto_complete_config;
    let configs = repository::read_directory(directory, args.model_config_name.as_deref(), auto_complete)
        .map_err(|problem| CliError::Load { path: args.directory.clone(), problem })?;
    print(&if args.json { to_json(&configs) } else { to_text(&configs) })
}

fn to_text(configs: &[ModelConfig]) -> String {
    let mut text = String::new();
    for (index, config) in configs.iter().enumerate() {
        if configs.len() > 1 {
            // Several messages are no valid config.pbtxt together; the comment shows where each begins.
            text.push_str(&format!("{}# {}\n", if index > 0 { "\n" } else { "" }, config.name));
        }
        for warning in &config.warnings {
            text.push_str(&format!("# {warning} has no effect here\n"));
        }
        text.push_str(&proto::pbtxt::print(&config.wire));
    }
    text
}

fn to_json(configs: &[ModelConfig]) -> String {
    let json = match configs {
        [config] => proto::json::to_json(&config.wire),
        several => several.iter().map(|config| proto::json::to_json(&config.wire)).collect::<Value>(),
    };
    format!("{json:#}\n")
}

#[cfg(test)]
mod tests {
    use super::{to_json, to_text};
    use crate::config::ModelConfig;

    fn config(name: &str) -> ModelConfig {
        let text = "backend: 'builtin' input { name: 'I' data_type: TYPE_FP32 dims: 1 } output { name: 'O' data_type: TYPE_FP32 dims: 1 } runtime: 'x'";
        ModelConfig::parse(proto::pbtxt::parse(text, "config.pbtxt").unwrap(), name).unwrap()
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let one = [config("one")];
        let text = to_text(&one);
        assert!(text.starts_with("# runtime has no effect here\n"), "{text}");
        assert_eq!(proto::pbtxt::parse(&text, "printed").unwrap(), one[0].wire);
        assert_eq!(proto::json::from_json(&to_json(&one)).unwrap(), one[0].wire);
    }

    #[test]
    fn several_models_are_told_apart() {
        let two = [config("one"), config("two")];
        let text = to_text(&two);
        assert!(text.starts_with("# one\n") && text.contains("\n\n# two\n"), "{text}");
        let array: serde_json::Value = serde_json::from_str(&to_json(&two)).unwrap();
        assert_eq!(array[1]["name"], "two");
    }
}
