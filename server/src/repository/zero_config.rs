//! Models without a configuration: a Hugging Face directory becomes an ensemble over its tokenizer and encoder.

use std::collections::{BTreeMap, BTreeSet};

use proto::inference::{self as wire, model_config::SchedulingChoice, model_ensembling::Step};

use crate::config::{AutoModel, auto_complete};
use crate::instance::Described;

/// Parameter of the candle backend that says which model of a directory is meant.
pub(super) const MODEL_PARAMETER: &str = "model";

/// Outputs that the ensemble passes on where the encoder has them; others can be had from the encoder itself.
const PUBLIC_OUTPUTS: [&str; 3] = ["EMBEDDING", "LOGITS", "LAST_HIDDEN_STATE"];

/// Outputs of the tokenizer that the ensemble passes on: they say what the encoder's answers are about.
const PUBLIC_TOKENIZER_OUTPUTS: [&str; 1] = ["OFFSETS"];

/// Which of the models that a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The model that bears the directory's name.
    Whole,
    /// Text to tokens.
    Tokenizer,
    /// Tokens to embeddings or scores.
    Encoder,
}

impl Part {
    /// The part's word, as the backend's parameter and the suffix of its name.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Tokenizer => "tokenizer",
            Self::Encoder => "encoder",
        }
    }

    /// The name of this part of the model `base`.
    pub(super) fn name(self, base: &str) -> String {
        match self {
            Self::Whole => base.to_owned(),
            Self::Tokenizer | Self::Encoder => format!("{base}.{}", self.as_str()),
        }
    }

    /// The model of which `name` would be this part.
    pub(super) fn base_of(self, name: &str) -> Option<&str> {
        name.strip_suffix(self.as_str())?.strip_suffix('.')
    }
}

/// The configuration of one part of the model `base`.
pub(super) fn configuration(base: &str, part: Part, described: &Described) -> wire::ModelConfig {
    match (part, &described.tokenizer) {
        (Part::Whole, Some(tokenizer)) => ensemble(base, tokenizer, &described.encoder),
        // Without a tokenizer there is only the encoder, and it bears the directory's own name.
        (Part::Whole, None) => single(base.to_owned(), Part::Encoder, &described.encoder),
        (Part::Tokenizer, Some(tokenizer)) => single(part.name(base), part, tokenizer),
        (Part::Tokenizer | Part::Encoder, _) => single(part.name(base), Part::Encoder, &described.encoder),
    }
}

fn single(name: String, part: Part, auto: &AutoModel) -> wire::ModelConfig {
    let parameter = wire::ModelParameter { string_value: part.as_str().to_owned() };
    let mut written = wire::ModelConfig {
        name,
        backend: "candle".to_owned(),
        parameters: [(MODEL_PARAMETER.to_owned(), parameter)].into(),
        ..Default::default()
    };
    auto_complete(&mut written, auto);
    written
}

fn ensemble(base: &str, tokenizer: &AutoModel, encoder: &AutoModel) -> wire::ModelConfig {
    let first = single(Part::Tokenizer.name(base), Part::Tokenizer, tokenizer);
    let second = single(Part::Encoder.name(base), Part::Encoder, encoder);
    let is_public = |output: &&wire::ModelOutput| PUBLIC_OUTPUTS.contains(&output.name.as_str());
    let mut output: Vec<wire::ModelOutput> = second.output.iter().filter(is_public).cloned().collect();
    if output.is_empty() {
        output.clone_from(&second.output);
    }
    let same = |names: Vec<&String>| -> BTreeMap<String, String> {
        names.into_iter().map(|name| (name.clone(), name.clone())).collect()
    };
    // Of the tokens, exactly those that the encoder reads; the names agree by the backend's contract.
    let produced: BTreeSet<&String> = first.output.iter().map(|output| &output.name).collect();
    let read: Vec<&String> = second.input.iter().map(|input| &input.name).filter(|name| produced.contains(name)).collect();
    let told = first.output.iter().filter(|output| PUBLIC_TOKENIZER_OUTPUTS.contains(&output.name.as_str()));
    let told: Vec<wire::ModelOutput> = told.cloned().collect();
    let given = read.iter().copied().chain(told.iter().map(|output| &output.name)).collect();
    let step = vec![
        Step {
            model_name: first.name.clone(),
            model_version: -1,
            input_map: same(first.input.iter().map(|input| &input.name).collect()),
            output_map: same(given),
            ..Default::default()
        },
        Step {
            model_name: second.name.clone(),
            model_version: -1,
            input_map: same(read),
            output_map: same(output.iter().map(|output| &output.name).collect()),
            ..Default::default()
        },
    ];
    output.extend(told);
    wire::ModelConfig {
        name: base.to_owned(),
        platform: "ensemble".to_owned(),
        max_batch_size: first.max_batch_size.min(second.max_batch_size),
        input: first.input,
        output,
        scheduling_choice: Some(SchedulingChoice::EnsembleScheduling(wire::ModelEnsembling { step, ..Default::default() })),
        ..Default::default()
    }
}
