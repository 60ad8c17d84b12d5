//! `alcedo models`: what a server has, and loading and unloading.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use proto::inference::model_metadata_response::TensorMetadata;
use proto::inference::model_repository_parameter::ParameterChoice;
use proto::inference::repository_index_response::ModelIndex;
use proto::inference::{
    ModelMetadataRequest, ModelMetadataResponse, ModelRepositoryParameter, ModelStatistics, ModelStatisticsRequest,
    RepositoryIndexRequest, RepositoryModelLoadRequest, RepositoryModelUnloadRequest,
};
use serde_json::{Value, json};

use super::client::{self, Client, ServerAddress};
use super::error::CliError;
use super::print;

/// Flags of `alcedo models`.
#[derive(Args, Clone, Debug)]
pub(super) struct ModelsArgs {
    #[command(flatten)]
    server: ServerAddress,
    /// Print a JSON array, one object per version of a model.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// Load a model, or load it anew.
    Load {
        /// Name of the model.
        name: String,
        /// Configuration to use instead of the one in the repository: JSON, or a .pbtxt file.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Unload a model.
    Unload {
        /// Name of the model.
        name: String,
        /// Unload also the composing models that were loaded along with it.
        #[arg(long)]
        dependents: bool,
    },
}

/// Runs `alcedo models`.
///
/// # Errors
/// What the server answered, or a configuration file that does not parse.
pub(super) fn run(args: &ModelsArgs) -> Result<(), CliError> {
    if args.json && args.action.is_some() {
        let reason = "it belongs to the list of models, not to load and unload".to_owned();
        return Err(CliError::Flag { flag: "--json", got: "true".to_owned(), reason });
    }
    client::block_on(async {
        match &args.action {
            None => list(&mut args.server.connect().await?, args.json).await,
            Some(Action::Load { name, config }) => {
                // The file is read first: a fault in it should not need a server to be found.
                let config = config.as_deref().map(read_config).transpose()?;
                load(&mut args.server.connect().await?, name, config).await
            }
            Some(Action::Unload { name, dependents }) => unload(&mut args.server.connect().await?, name, *dependents).await,
        }
    })
}

/// Reads a configuration as the JSON text that a load request carries.
fn read_config(path: &Path) -> Result<String, CliError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| CliError::Read { path: path.to_owned(), reason: error.to_string() })?;
    if path.extension().is_some_and(|extension| extension == "pbtxt") {
        let config =
            proto::pbtxt::parse(&text, &path.display().to_string()).map_err(|error| CliError::ConfigText(error.to_string()))?;
        return Ok(proto::json::to_json(&config).to_string());
    }
    proto::json::from_json(&text).map_err(|error| CliError::ConfigText(format!("{}: {error}", path.display())))?;
    Ok(text)
}

async fn load(client: &mut Client, name: &str, config: Option<String>) -> Result<(), CliError> {
    let parameters = config.map(|config| ("config".to_owned(), parameter(ParameterChoice::StringParam(config))));
    let request = RepositoryModelLoadRequest {
        model_name: name.to_owned(),
        parameters: parameters.into_iter().collect(),
        ..Default::default()
    };
    client.repository_model_load(request).await.map_err(|status| CliError::call("RepositoryModelLoad", &status))?;
    print(&format!("loaded {name}\n"))
}

async fn unload(client: &mut Client, name: &str, dependents: bool) -> Result<(), CliError> {
    let parameters: BTreeMap<_, _> = [("unload_dependents".to_owned(), parameter(ParameterChoice::BoolParam(dependents)))].into();
    let request = RepositoryModelUnloadRequest { model_name: name.to_owned(), parameters, ..Default::default() };
    client.repository_model_unload(request).await.map_err(|status| CliError::call("RepositoryModelUnload", &status))?;
    print(&format!("unloaded {name}\n"))
}

fn parameter(choice: ParameterChoice) -> ModelRepositoryParameter {
    ModelRepositoryParameter { parameter_choice: Some(choice) }
}

/// One version of a model with what its server says of it.
struct Listed {
    index: ModelIndex,
    metadata: Option<ModelMetadataResponse>,
    statistics: Option<ModelStatistics>,
}

async fn list(client: &mut Client, as_json: bool) -> Result<(), CliError> {
    let index = client.repository_index(RepositoryIndexRequest::default()).await;
    let index = index.map_err(|status| CliError::call("RepositoryIndex", &status))?.into_inner().models;
    let statistics = client.model_statistics(ModelStatisticsRequest::default()).await;
    let mut statistics = statistics.map_err(|status| CliError::call("ModelStatistics", &status))?.into_inner().model_stats;
    let mut listed = Vec::with_capacity(index.len());
    for entry in index {
        let metadata = if entry.state == "READY" { metadata(client, &entry).await? } else { None };
        let found = statistics.iter().position(|one| one.name == entry.name && one.version == entry.version);
        let statistics = found.map(|position| statistics.swap_remove(position));
        listed.push(Listed { index: entry, metadata, statistics });
    }
    if as_json {
        let array: Vec<Value> = listed.iter().map(to_json).collect();
        return print(&format!("{:#}\n", Value::from(array)));
    }
    print(&to_text(&listed))
}

/// The tensors of a ready version; `None` where it was unloaded since the index was made.
async fn metadata(client: &mut Client, entry: &ModelIndex) -> Result<Option<ModelMetadataResponse>, CliError> {
    let request = ModelMetadataRequest { name: entry.name.clone(), version: entry.version.clone() };
    match client.model_metadata(request).await {
        Ok(response) => Ok(Some(response.into_inner())),
        Err(status)
            if matches!(status.code(), tonic::Code::InvalidArgument | tonic::Code::NotFound | tonic::Code::Unavailable) =>
        {
            Ok(None)
        }
        Err(status) => Err(CliError::call("ModelMetadata", &status)),
    }
}

fn to_json(listed: &Listed) -> Value {
    let Listed { index, metadata, statistics } = listed;
    let mut object = json!({"name": index.name, "version": index.version, "state": index.state, "reason": index.reason});
    if let Some(metadata) = metadata {
        object["platform"] = metadata.platform.clone().into();
        for (key, tensors) in [("inputs", &metadata.inputs), ("outputs", &metadata.outputs)] {
            let tensors =
                tensors.iter().map(|tensor| json!({"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}));
            object[key] = tensors.collect();
        }
    }
    if let Some(statistics) = statistics {
        let (succeeded, failed) = outcomes(statistics);
        object["statistics"] = json!({
            "requests_succeeded": succeeded,
            "requests_failed": failed,
            "inference_count": statistics.inference_count,
            "execution_count": statistics.execution_count,
        });
    }
    object
}

fn outcomes(statistics: &ModelStatistics) -> (u64, u64) {
    let count = |duration: Option<&proto::inference::StatisticDuration>| duration.map_or(0, |duration| duration.count);
    let all = statistics.inference_stats.as_ref();
    (count(all.and_then(|all| all.success.as_ref())), count(all.and_then(|all| all.fail.as_ref())))
}

fn to_text(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "the repository holds no models\n".to_owned();
    }
    let mut lines =
        vec![["MODEL", "VERSION", "STATE", "REQUESTS", "FAILED", "ROWS", "BATCHES", "INPUTS -> OUTPUTS"].map(str::to_owned)];
    for Listed { index, metadata, statistics } in listed {
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let counts = statistics.as_ref().map(|statistics| {
            let (succeeded, failed) = outcomes(statistics);
            [succeeded, failed, statistics.inference_count, statistics.execution_count].map(|count| count.to_string())
        });
        let [requests, failed, rows, batches] = counts.unwrap_or_else(|| [(); 4].map(|()| "-".to_owned()));
        let tensors = match metadata {
            Some(metadata) => format!("{} -> {}", signature(&metadata.inputs), signature(&metadata.outputs)),
            None => index.reason.clone(),
        };
        lines.push([dash(&index.name), dash(&index.version), dash(&index.state), requests, failed, rows, batches, tensors]);
    }
    table(&lines)
}

fn signature(tensors: &[TensorMetadata]) -> String {
    let tensor = |tensor: &TensorMetadata| {
        let shape = tensor.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        format!("{} {} [{shape}]", tensor.name, tensor.datatype)
    };
    tensors.iter().map(tensor).collect::<Vec<_>>().join(", ")
}

/// Columns as wide as their widest cell, two spaces apart; the last one is not padded.
pub(super) fn table<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for line in lines {
        let padded = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect::<Vec<_>>().join("  ");
        text.push_str(padded.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proto::inference::{InferStatistics, StatisticDuration};

    use super::*;

    fn listed() -> Vec<Listed> {
        let tensor = |name: &str| TensorMetadata { name: name.to_owned(), datatype: "FP32".to_owned(), shape: vec![-1, 4] };
        let count = |count| Some(StatisticDuration { count, ns: 1 });
        let ready = Listed {
            index: ModelIndex {
                name: "minilm".to_owned(),
                version: "1".to_owned(),
                state: "READY".to_owned(),
                reason: String::new(),
            },
            metadata: Some(ModelMetadataResponse {
                inputs: vec![tensor("A"), tensor("B")],
                outputs: vec![tensor("C")],
                ..Default::default()
            }),
            statistics: Some(ModelStatistics {
                inference_count: 12,
                execution_count: 3,
                inference_stats: Some(InferStatistics { success: count(7), fail: count(2), ..Default::default() }),
                ..Default::default()
            }),
        };
        let broken = ModelIndex {
            name: "b".to_owned(),
            version: "2".to_owned(),
            state: "UNAVAILABLE".to_owned(),
            reason: "no weights".to_owned(),
        };
        let unknown = ModelIndex { name: "never-loaded".to_owned(), ..Default::default() };
        let bare = |index| Listed { index, metadata: None, statistics: None };
        vec![ready, bare(broken), bare(unknown)]
    }

    #[test]
    fn text_is_a_table() {
        expect![[r"
            MODEL         VERSION  STATE        REQUESTS  FAILED  ROWS  BATCHES  INPUTS -> OUTPUTS
            minilm        1        READY        7         2       12    3        A FP32 [-1,4], B FP32 [-1,4] -> C FP32 [-1,4]
            b             2        UNAVAILABLE  -         -       -     -        no weights
            never-loaded  -        -            -         -       -     -
        "]]
        .assert_eq(&to_text(&listed()));
    }

    #[test]
    fn json_has_the_counts() {
        let object = to_json(&listed()[0]);
        assert_eq!(object["statistics"]["requests_failed"], 2);
        assert_eq!(object["outputs"][0]["shape"], json!([-1, 4]));
        assert_eq!(to_json(&listed()[1])["reason"], "no weights");
    }

    #[test]
    fn configurations_are_read_in_both_forms() {
        let directory = tempfile::tempdir().unwrap();
        let save = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let json = read_config(&save("c.pbtxt", "backend: 'builtin'")).unwrap();
        assert!(json.contains(r#""backend":"builtin""#), "{json}");
        assert!(read_config(&save("c.json", r#"{"max_batch_size": 4}"#)).is_ok());
        let error = read_config(&save("bad.pbtxt", "backend: 'builtin'\nbatch: 4")).unwrap_err().to_string();
        assert!(error.contains("bad.pbtxt:2:1: unknown field `batch`"), "{error}");
        assert!(read_config(&save("bad.json", "{")).unwrap_err().to_string().contains("bad.json"));
        assert!(read_config(Path::new("/no/such/config.json")).unwrap_err().to_string().contains("unable to read"));
    }
}
