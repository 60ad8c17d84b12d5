//! What follows an encoder: picking or pooling tokens, and a few layers on what was picked.

use std::sync::Arc;

use kernels::activation::Activation;
use kernels::pool::PoolSpec;

use super::build::columns;
use super::spec::{Embedding, EncoderSpec};
use crate::plan::{AttentionStep, Axis, BufferId, MatrixPart, MatrixRecipe, PlanBuilder, Step, Taken, VectorRecipe};
use crate::weights::Weights;

/// What follows an encoder.
#[derive(Debug, Clone)]
pub struct Head {
    /// On which vectors it works.
    pub pick: Pick,
    /// What it does with each of them.
    pub layers: Vec<HeadLayer>,
}

impl Head {
    /// Numbers per row of the result, behind an encoder of so many components and entries of the vocabulary.
    pub(crate) fn size(&self, hidden: usize, vocabulary: usize) -> usize {
        let picked = match &self.pick {
            Pick::Pool(pool) => hidden * pool.modes.len(),
            _ => hidden,
        };
        self.layers.iter().fold(picked, |size, layer| match layer {
            HeadLayer::Linear { size, .. } | HeadLayer::Dense { size, .. } => *size,
            HeadLayer::Decoder { .. } => vocabulary,
            HeadLayer::Norm { .. } | HeadLayer::Normalize => size,
        })
    }
}

/// Vectors that a head works on.
#[derive(Debug, Clone)]
pub enum Pick {
    /// All tokens, each on its own.
    Tokens,
    /// One token of each item.
    Take(Taken),
    /// Tokens of each item pooled.
    Pool(PoolSpec),
    /// The first token, joined with the mean of those behind the first `skip`.
    FirstAndMean {
        /// Tokens that the mean leaves out.
        skip: usize,
    },
    /// Attention of one learned query, then a feed-forward layer with a residual (SigLIP).
    Probe {
        /// What stands before the names of its tensors.
        name: String,
    },
}

/// The name of a tensor or layer of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadName {
    /// Behind the encoder's prefix.
    Inside(String),
    /// Beside the encoder.
    Beside(String),
}

impl HeadName {
    pub(crate) fn inside(name: &str) -> Self {
        HeadName::Inside(name.to_owned())
    }

    pub(crate) fn beside(name: &str) -> Self {
        HeadName::Beside(name.to_owned())
    }

    fn resolve(&self, prefix: &str) -> String {
        match self {
            HeadName::Inside(name) => format!("{prefix}{name}"),
            HeadName::Beside(name) => name.clone(),
        }
    }
}

/// One layer of a head.
#[derive(Debug, Clone)]
pub enum HeadLayer {
    /// `activation(x W^T + b)`.
    Linear {
        /// The layer.
        name: HeadName,
        /// Numbers of the result.
        size: usize,
        /// Whether it has a bias.
        bias: bool,
        /// What follows.
        activation: Activation,
    },
    /// Layer normalization.
    Norm {
        /// The layer.
        name: HeadName,
        /// What is added to the variance.
        eps: f64,
        /// Whether it has summands.
        bias: bool,
    },
    /// One number per entry of the vocabulary.
    Decoder {
        /// Its own matrix `[vocabulary, hidden]`; `None` if it is the word table.
        weight: Option<HeadName>,
        /// The tensor of its bias.
        bias: Option<HeadName>,
    },
    /// A `Dense` module of sentence-transformers, in a file of its own.
    Dense {
        /// The file: `linear.weight`, `linear.bias`.
        weights: Arc<Weights>,
        /// Numbers of the result.
        size: usize,
        /// Whether it has a bias.
        bias: bool,
        /// What follows.
        activation: Activation,
    },
    /// Scales each vector to unit length.
    Normalize,
}

/// Adds the steps of a head on the last hidden state: the buffer of the result.
pub(super) fn head(plan: &mut PlanBuilder, spec: &EncoderSpec, prefix: &str, hidden: BufferId, head: &Head) -> BufferId {
    let size = spec.hidden_size;
    let mut layers = &head.layers[..];
    let mut current = match &head.pick {
        Pick::Tokens => hidden,
        Pick::Take(taken) => {
            let output = plan.buffer(Axis::Items, size);
            plan.step(Step::Take { input: hidden, taken: *taken, output });
            output
        }
        Pick::Pool(pool) => pooled(plan, hidden, pool, 0),
        Pick::FirstAndMean { skip } => {
            let (result, rest) = first_and_mean(plan, size, prefix, hidden, *skip, layers);
            layers = rest;
            result
        }
        Pick::Probe { name } => probe(plan, spec, &format!("{prefix}{name}"), hidden),
    };
    for layer in layers {
        current = apply(plan, spec, prefix, current, layer);
    }
    current
}

fn pooled(plan: &mut PlanBuilder, input: BufferId, spec: &PoolSpec, skip: usize) -> BufferId {
    let output = plan.buffer(Axis::Items, plan.columns(input) * spec.modes.len());
    plan.step(Step::Pool { input, spec: spec.clone(), skip, output });
    output
}

fn apply(plan: &mut PlanBuilder, spec: &EncoderSpec, prefix: &str, input: BufferId, layer: &HeadLayer) -> BufferId {
    let inputs = plan.columns(input);
    match layer {
        HeadLayer::Linear { name, size, bias, activation } => {
            let linear = plan.exact_linear(&name.resolve(prefix), (*size, inputs), *bias);
            plan.applied(linear, *activation, input)
        }
        HeadLayer::Norm { name, eps, bias } => {
            let norm = plan.norm(&name.resolve(prefix), inputs, *eps, *bias);
            plan.normed(norm, input)
        }
        HeadLayer::Decoder { weight, bias } => {
            let (Embedding::Tokens { words, .. }, crate::plan::Input::Tokens(tokens)) = (&spec.embedding, &spec.input) else {
                unreachable!("only models of texts have a vocabulary")
            };
            let own = weight.as_ref().map(|weight| weight.resolve(prefix));
            // A decoder of its own may have a bias of its own too, which is then the one that is used.
            let own_bias = own.as_ref().and_then(|name| Some(format!("{}.bias", name.strip_suffix(".weight")?)));
            let name = own.unwrap_or_else(|| format!("{prefix}{words}"));
            let weight = plan.matrix(vec![MatrixPart::rows(&name, tokens.vocab_size)], inputs);
            let len = tokens.vocab_size;
            let bias = bias.as_ref().map(|bias| {
                let bias = bias.resolve(prefix);
                let name = bias.clone();
                let read = move |weights: &Weights| {
                    let own = own_bias.as_ref().filter(|own| weights.contains(own));
                    weights.floats(own.unwrap_or(&bias), &[len])
                };
                plan.computed_vector(VectorRecipe { name, len, read: Box::new(read) })
            });
            let output = plan.buffer(plan.axis(input), tokens.vocab_size);
            plan.step(Step::Linear { input, weight, bias, activation: Activation::Identity, residual: None, output });
            output
        }
        HeadLayer::Dense { weights, size, bias, activation } => {
            let (outputs, own) = (*size, weights.clone());
            let read = move |_: &Weights| own.floats("linear.weight", &[outputs, inputs]);
            let name = "linear.weight".to_owned();
            let weight = plan.computed_matrix(MatrixRecipe { name, outputs, inputs, exact: true, read: Box::new(read) });
            let own = weights.clone();
            let bias = bias.then(|| {
                let read = move |_: &Weights| own.floats("linear.bias", &[outputs]);
                let name = "linear.bias".to_owned();
                plan.computed_vector(VectorRecipe { name, len: outputs, read: Box::new(read) })
            });
            let output = plan.buffer(plan.axis(input), outputs);
            plan.step(Step::Linear { input, weight, bias, activation: *activation, residual: None, output });
            output
        }
        HeadLayer::Normalize => {
            plan.step(Step::Normalize { values: input });
            input
        }
    }
}

/// The first token and the mean of the others are multiplied each with its half of the first layer's matrix and added, so
/// that they need not be joined: the result of that layer, and the layers behind it.
fn first_and_mean<'l>(
    plan: &mut PlanBuilder,
    size: usize,
    prefix: &str,
    hidden: BufferId,
    skip: usize,
    layers: &'l [HeadLayer],
) -> (BufferId, &'l [HeadLayer]) {
    let [HeadLayer::Linear { name, size: outputs, bias, activation: Activation::Identity }, rest @ ..] = layers else {
        unreachable!("a family puts a plain layer behind the joined vectors")
    };
    let name = name.resolve(prefix);
    let first = plan.buffer(Axis::Items, size);
    plan.step(Step::Take { input: hidden, taken: Taken::First, output: first });
    let mean = pooled(plan, hidden, &PoolSpec { modes: vec![kernels::pool::Pooling::Mean], normalize: false }, skip);
    let output = plan.buffer(Axis::Items, *outputs);
    for (input, range, added) in [(first, 0..size, false), (mean, size..2 * size, true)] {
        let weight = plan.computed_matrix(columns(format!("{name}.weight"), *outputs, 2 * size, range));
        let bias = (*bias && !added).then(|| plan.vector(&format!("{name}.bias"), &[*outputs]));
        let residual = added.then_some(output);
        plan.step(Step::Linear { input, weight, bias, activation: Activation::Identity, residual, output });
    }
    (output, rest)
}

/// SigLIP's pooling head: a learned query attends to all tokens.
fn probe(plan: &mut PlanBuilder, spec: &EncoderSpec, name: &str, hidden: BufferId) -> BufferId {
    let size = spec.hidden_size;
    let (in_weight, in_bias) = (format!("{name}.attention.in_proj_weight"), format!("{name}.attention.in_proj_bias"));
    let (probe, weight, bias) = (format!("{name}.probe"), in_weight.clone(), in_bias.clone());
    // The query is the same for all images, so it is projected when the model is loaded.
    let read = move |weights: &Weights| {
        let probe = weights.floats(&probe, &[1, 1, size])?;
        let (weight, bias) = (weights.floats(&weight, &[3 * size, size])?, weights.floats(&bias, &[3 * size])?);
        let product = |row: &[f32]| row.iter().zip(&probe).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
        Ok(weight.chunks_exact(size).zip(bias).take(size).map(|(row, bias)| (product(row) + f64::from(bias)) as f32).collect())
    };
    let query = plan.computed_vector(VectorRecipe { name: format!("{name}.probe"), len: size, read: Box::new(read) });
    let called = [in_weight.clone(), in_bias.clone()];
    let read = move |weights: &Weights| Ok(weights.floats(&in_weight, &[3 * size, size])?.split_off(size * size));
    let [weight_name, bias_name] = called;
    let read = Box::new(read);
    let weight = plan.computed_matrix(MatrixRecipe { name: weight_name, outputs: 2 * size, inputs: size, exact: false, read });
    let read = move |weights: &Weights| Ok(weights.floats(&in_bias, &[3 * size])?.split_off(size));
    let bias = plan.computed_vector(VectorRecipe { name: bias_name, len: 2 * size, read: Box::new(read) });
    let (kv, attended) = (plan.buffer(Axis::Tokens, 2 * size), plan.buffer(Axis::Items, size));
    plan.step(Step::Linear {
        input: hidden,
        weight,
        bias: Some(bias),
        activation: Activation::Identity,
        residual: None,
        output: kv,
    });
    let (heads, head_size) = (spec.heads, spec.head_size());
    let scale = 1.0 / (head_size as f32).sqrt();
    let attention = AttentionStep { heads, head_size, scale, causal: false, window: None, bias: None };
    plan.step(Step::Probe { query, kv, attention, output: attended });
    let out = plan.exact_linear(&format!("{name}.attention.out_proj"), (size, size), true);
    let result = plan.applied(out, Activation::Identity, attended);
    let norm = plan.norm(&format!("{name}.layernorm"), size, spec.norm.eps, true);
    let normed = plan.normed(norm, result);
    let up = plan.exact_linear(&format!("{name}.mlp.fc1"), (spec.intermediate_size, size), true);
    let inner = plan.applied(up, spec.activation, normed);
    let down = plan.exact_linear(&format!("{name}.mlp.fc2"), (size, spec.intermediate_size), true);
    plan.step(Step::Linear {
        input: inner,
        weight: down.weight,
        bias: down.bias,
        activation: Activation::Identity,
        residual: Some(result),
        output: result,
    });
    result
}
