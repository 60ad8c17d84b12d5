//! Owns `alcedo infer`: from values on the command line to a request, and from its answers to text, JSON or files.
//! May import the words, `proto` and the rest of `cli`; must never import the server's own parts: it is a client
//! like any other.

mod elements;
mod npy;
mod payload;
mod picture;
mod render;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use proto::inference::{InferParameter, ModelConfigRequest, ModelInferRequest, ModelInferResponse};
use tonic::Request;

use super::client::{self, Client, ServerAddress};
use super::error::CliError;
use super::print;

pub(super) use self::payload::PayloadError;
use self::payload::{Given, ModelShape, Value};
pub(super) use self::render::{Answer, RenderError};

/// Flags of `alcedo infer`.
#[derive(Args, Clone, Debug)]
pub(super) struct InferArgs {
    #[command(flatten)]
    server: ServerAddress,
    /// Model to ask.
    model: String,
    /// Texts for the model's only BYTES input; several make a batch.
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// Version to ask; without it, the server's latest.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NUMBER")]
    version: String,
    /// Value of an input, repeatable. VALUE is `text:SOME TEXT`; `@FILE.npy`; `@FILE.json` (nested lists, or
    /// a tensor object of the protocol's JSON form); `@FILE.jpg` or `@FILE.png` (the file itself for a BYTES
    /// input, its RGB pixels for a numeric one); or JSON such as `[1,2]`. NAME= may be left out where only
    /// one input is possible. A missing batch dimension is added; several values for one input make a batch.
    #[arg(short, long = "input", value_name = "NAME=VALUE", verbatim_doc_comment)]
    inputs: Vec<Given>,
    /// Output to return, repeatable; without it, all.
    #[arg(short, long = "output", value_name = "NAME")]
    outputs: Vec<String>,
    /// Return the K highest values of each output, with labels where the model has them.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(i64).range(1..))]
    classes: Option<i64>,
    /// Parameter of the request, repeatable: true, false, a number or a text.
    #[arg(short, long = "parameter", value_name = "NAME=VALUE")]
    parameters: Vec<Parameter>,
    /// Id of the request, which its answers carry.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "ID")]
    id: String,
    /// Seconds that the whole request may take; without it, no limit.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    timeout: Option<Duration>,
    /// Use a stream, as decoupled models need and get by themselves.
    #[arg(long)]
    stream: bool,
    /// Form of the answer: text, json (one object per response), or npy:DIRECTORY (one file per output).
    #[arg(short, long, default_value = "text", value_name = "FORMAT")]
    format: Format,
    /// Show all elements in text, not the beginning.
    #[arg(long)]
    all: bool,
}

/// Form of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
    Npy(PathBuf),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => match text.strip_prefix("npy:") {
                Some(directory) if !directory.is_empty() => Ok(Self::Npy(directory.into())),
                _ => Err("expected text, json or npy:DIRECTORY".to_owned()),
            },
        }
    }
}

/// A named parameter of the request.
#[derive(Clone, Debug, PartialEq)]
struct Parameter {
    name: String,
    value: ParameterChoice,
}

impl FromStr for Parameter {
    type Err = PayloadError;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let refuse = || PayloadError::Parameter { got: written.to_owned() };
        let (name, text) = written.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(refuse)?;
        let value = if let Ok(flag) = text.parse() {
            ParameterChoice::BoolParam(flag)
        } else if let Ok(number) = text.parse() {
            ParameterChoice::Int64Param(number)
        } else if let Some(number) = text.parse().ok().filter(|_| text.starts_with(|first: char| "+-.0123456789".contains(first)))
        {
            ParameterChoice::DoubleParam(number)
        } else {
            // Quotes keep a text that looks like a number a text.
            let unquoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            ParameterChoice::StringParam(unquoted.unwrap_or(text).to_owned())
        };
        Ok(Self { name: name.to_owned(), value })
    }
}

/// Seconds, with a fraction where wanted.
pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Runs `alcedo infer`.
///
/// # Errors
/// What is wrong with the inputs, or what the server answered.
pub(super) fn run(args: &InferArgs) -> Result<(), CliError> {
    client::block_on(async {
        let mut client = args.server.connect().await?;
        let shape = model_shape(&mut client, args).await?;
        let texts = args.texts.iter().map(|text| Given { name: None, value: Value::Text(text.clone()) });
        let given: Vec<Given> = texts.chain(args.inputs.iter().cloned()).collect();
        let request = request(args, &shape, payload::tensors(&shape, &given)?);
        if args.stream || shape.decoupled {
            infer_stream(&mut client, args, request).await
        } else {
            let response = client.model_infer(with_timeout(args, request)).await;
            let response = response.map_err(|status| CliError::call("ModelInfer", &status))?;
            show(args, response.into_inner(), None)
        }
    })
}

async fn model_shape(client: &mut Client, args: &InferArgs) -> Result<ModelShape, CliError> {
    let request = ModelConfigRequest { name: args.model.clone(), version: args.version.clone() };
    let response = client.model_config(with_timeout(args, request)).await;
    let response = response.map_err(|status| CliError::call("ModelConfig", &status))?;
    let config = response.into_inner().config.ok_or(CliError::Incomplete { call: "ModelConfig", what: "config" })?;
    Ok(ModelShape::from_wire(&config)?)
}

fn with_timeout<T>(args: &InferArgs, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(timeout) = args.timeout {
        request.set_timeout(timeout);
    }
    request
}

fn request(args: &InferArgs, shape: &ModelShape, tensors: Vec<(String, crate::tensor::Tensor)>) -> ModelInferRequest {
    let wanted = if args.outputs.is_empty() && args.classes.is_some() { &shape.outputs } else { &args.outputs };
    let output_parameters = args.classes.map(|classes| ("classification".to_owned(), int64(classes)));
    ModelInferRequest {
        model_name: args.model.clone(),
        model_version: args.version.clone(),
        id: args.id.clone(),
        parameters: args
            .parameters
            .iter()
            .map(|parameter| (parameter.name.clone(), InferParameter { parameter_choice: Some(parameter.value.clone()) }))
            .collect(),
        outputs: wanted
            .iter()
            .map(|name| InferRequestedOutputTensor {
                name: name.clone(),
                parameters: output_parameters.clone().into_iter().collect(),
            })
            .collect(),
        raw_input_contents: tensors.iter().map(|(_, tensor)| tensor.bytes().clone()).collect(),
        inputs: tensors.iter().map(|(name, tensor)| input(name, tensor)).collect(),
    }
}

/// The description of an input tensor; its contents travel apart from it.
pub(super) fn input(name: &str, tensor: &crate::tensor::Tensor) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: tensor.datatype().as_str().to_owned(),
        shape: tensor.shape().sizes().iter().map(|size| i64::try_from(*size).unwrap_or(i64::MAX)).collect(),
        ..Default::default()
    }
}

fn int64(value: i64) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(value)) }
}

async fn infer_stream(client: &mut Client, args: &InferArgs, request: ModelInferRequest) -> Result<(), CliError> {
    let model = request.model_name.clone();
    let failed = |status: tonic::Status| CliError::call("ModelStreamInfer", &status);
    let requests = with_timeout(args, tokio_stream::once(request));
    let mut responses = client.model_stream_infer(requests).await.map_err(failed)?.into_inner();
    let mut number = 0;
    while let Some(response) = responses.message().await.map_err(failed)? {
        if !response.error_message.is_empty() {
            return Err(CliError::Answer { model, message: response.error_message });
        }
        let response =
            response.infer_response.ok_or(CliError::Incomplete { call: "ModelStreamInfer", what: "infer_response" })?;
        show(args, response, Some(number))?;
        number += 1;
    }
    Ok(())
}

fn show(args: &InferArgs, response: ModelInferResponse, number: Option<usize>) -> Result<(), CliError> {
    let answer = Answer::decode(response)?;
    match &args.format {
        Format::Text => print(&answer.text(args.all)),
        Format::Json => print(&format!("{}\n", answer.json())),
        Format::Npy(directory) => save(&answer, directory, number),
    }
}

fn save(answer: &Answer, directory: &Path, number: Option<usize>) -> Result<(), CliError> {
    let refuse = |path: &Path, error: std::io::Error| CliError::Write { path: path.to_owned(), reason: error.to_string() };
    std::fs::create_dir_all(directory).map_err(|error| refuse(directory, error))?;
    for (path, contents) in answer.files(directory, number)? {
        let mut file = std::fs::File::create(&path).map_err(|error| refuse(&path, error))?;
        file.write_all(&contents).map_err(|error| refuse(&path, error))?;
        print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Format, Parameter, ParameterChoice, parse_seconds};
    use std::time::Duration;

    #[test]
    fn parameters_have_types() {
        let value =
            |written: &str| written.parse::<Parameter>().map(|parameter| parameter.value).map_err(|error| error.to_string());
        assert_eq!(value("k=true"), Ok(ParameterChoice::BoolParam(true)));
        assert_eq!(value("k=-5"), Ok(ParameterChoice::Int64Param(-5)));
        assert_eq!(value("k=1.5"), Ok(ParameterChoice::DoubleParam(1.5)));
        assert_eq!(value("k=nan"), Ok(ParameterChoice::StringParam("nan".to_owned())));
        assert_eq!(value("k=\"5\""), Ok(ParameterChoice::StringParam("5".to_owned())));
        assert_eq!(value("k="), Ok(ParameterChoice::StringParam(String::new())));
        assert!(value("k").unwrap_err().contains("'k' is no parameter"));
        assert!(value("=k").is_err());
    }

    #[test]
    fn formats_and_seconds() {
        assert_eq!("npy:out".parse(), Ok(Format::Npy("out".into())));
        assert!("npy:".parse::<Format>().is_err());
        assert!("yaml".parse::<Format>().is_err());
        assert_eq!(parse_seconds("2.5"), Ok(Duration::from_millis(2500)));
        assert!(parse_seconds("-1").is_err());
        assert!(parse_seconds("soon").is_err());
    }
}
