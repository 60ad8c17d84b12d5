//! From the description of an encoder to the steps of a plan.

use kernels::activation::Activation;

use super::positions;
use super::spec::{Embedding, EncoderSpec, LayerNames, Placement, Positions, Qkv, Up};
use crate::plan::{
    AttentionStep, Axis, BiasId, BufferId, Input, LinearIds, MatrixPart, MatrixRecipe, NormStep, PlanBuilder, RotaryId,
    RotaryRecipe, Step, VectorRecipe,
};
use crate::weights::Weights;

/// Buffers that all layers use in turn.
struct Buffers {
    /// The residual stream.
    hidden: BufferId,
    /// Sums before a normalization (post), or normalized (pre).
    other: BufferId,
    /// Queries, keys and values.
    qkv: BufferId,
    /// The result of attention.
    context: BufferId,
    /// The feed-forward layer, both halves if it is gated.
    inner: BufferId,
    /// The feed-forward layer after its gate.
    gated: Option<BufferId>,
}

/// Adds the steps of the encoder: the buffer of the last hidden state, `[tokens, hidden]`.
pub(super) fn encoder(plan: &mut PlanBuilder, spec: &EncoderSpec, prefix: &str) -> BufferId {
    let hidden_size = spec.hidden_size;
    let gated = !matches!(spec.layer.up, Up::Plain(_));
    let (hidden, other) = (plan.buffer(Axis::Tokens, hidden_size), plan.buffer(Axis::Tokens, hidden_size));
    let buffers = Buffers {
        hidden,
        other,
        qkv: plan.buffer(Axis::Tokens, 3 * hidden_size),
        context: plan.buffer(Axis::Tokens, hidden_size),
        inner: plan.buffer(Axis::Tokens, spec.intermediate_size * if gated { 2 } else { 1 }),
        gated: gated.then(|| plan.buffer(Axis::Tokens, spec.intermediate_size)),
    };
    embedding(plan, spec, prefix, &buffers);
    let positions = LayerPositions::of(plan, spec, prefix);
    for index in 0..spec.layers {
        layer(plan, spec, &format!("{prefix}{}{index}.", spec.layer_prefix), index, &positions, &buffers);
    }
    match &spec.final_norm {
        Some(name) => {
            let norm = plan.norm(&format!("{prefix}{name}"), hidden_size, spec.norm.eps, spec.norm.bias);
            plan.step(Step::Norm { input: hidden, norm, output: other });
            other
        }
        None => hidden,
    }
}

fn embedding(plan: &mut PlanBuilder, spec: &EncoderSpec, prefix: &str, buffers: &Buffers) {
    let hidden = spec.hidden_size;
    let name = |name: &str| format!("{prefix}{name}");
    let norm = match &spec.embedding {
        Embedding::Tokens { norm, .. } | Embedding::Patches { norm, .. } => norm.as_ref(),
    };
    let sum = if norm.is_some() { buffers.other } else { buffers.hidden };
    match (&spec.embedding, &spec.input) {
        (Embedding::Tokens { words, positions, types, .. }, Input::Tokens(input)) => {
            let words = plan.table(&name(words), input.vocab_size, hidden);
            let positions = positions.as_ref().map(|(table, rows)| plan.table(&name(table), *rows, hidden));
            let types = types.as_ref().map(|(table, rows)| plan.table(&name(table), *rows, hidden));
            plan.step(Step::Embed { words, positions, types, output: sum });
        }
        (Embedding::Patches { projection, bias, first, positions, .. }, Input::Images(image)) => {
            let pixels = image.channels * image.patch.0 * image.patch.1;
            let (patches, projected) = (plan.buffer(Axis::Patches, pixels), plan.buffer(Axis::Patches, hidden));
            let shape = Some(vec![hidden, image.channels, image.patch.0, image.patch.1]);
            let part = MatrixPart { shape, ..MatrixPart::rows(&name(projection), hidden) };
            let linear = plan.linear(&[part], pixels, *bias);
            plan.step(Step::Patches { output: patches });
            plan.apply(linear, Activation::Identity, patches, projected);
            let first_tokens = (!first.is_empty()).then(|| {
                let tensors: Vec<_> = first.iter().map(|first| (name(&first.tensor), first.shape.clone())).collect();
                let len = image.first_tokens * hidden;
                let name = tensors.first().map_or_else(String::new, |(name, _)| name.clone());
                let read = move |weights: &Weights| {
                    let parts = tensors.iter().map(|(name, shape)| weights.floats(name, shape));
                    Ok(parts.collect::<Result<Vec<_>, _>>()?.concat())
                };
                plan.computed_vector(VectorRecipe { name, len, read: Box::new(read) })
            });
            let positions = positions::of_patches(plan, image, first, positions, prefix, hidden);
            plan.step(Step::Assemble { patches: projected, first: first_tokens, positions, output: sum });
        }
        _ => unreachable!("a family describes embedding and input alike"),
    }
    if let Some(norm) = norm {
        let norm = plan.norm(&name(norm), hidden, spec.norm.eps, spec.norm.bias);
        plan.step(Step::Norm { input: sum, norm, output: buffers.hidden });
    }
}

/// What positions add to each layer.
struct LayerPositions {
    rotaries: Vec<RotaryId>,
    /// One for all layers, or one per layer.
    biases: Vec<BiasId>,
}

impl LayerPositions {
    fn of(plan: &mut PlanBuilder, spec: &EncoderSpec, prefix: &str) -> Self {
        let mut of = LayerPositions { rotaries: Vec::new(), biases: Vec::new() };
        let longest = spec.input.longest();
        match &spec.positions {
            Positions::Embedded => {}
            Positions::Rotary { bases, dims, pairs } => {
                let recipe = |base: &f64| RotaryRecipe { positions: longest, dims: *dims, base: *base, pairs: *pairs };
                of.rotaries = bases.iter().map(|base| plan.rotary(recipe(base))).collect();
            }
            Positions::Alibi => of.biases = vec![plan.bias(positions::alibi(spec.heads, longest))],
            Positions::Buckets { tensor, buckets } => {
                let recipe = positions::buckets(format!("{prefix}{tensor}"), *buckets, spec.heads, longest);
                of.biases = vec![plan.bias(recipe)];
            }
            Positions::Disentangled(relative) => {
                for index in 0..spec.layers {
                    let layer = format!("{prefix}{}{index}.", spec.layer_prefix);
                    of.biases.push(plan.bias(positions::disentangled(spec, relative, prefix, &layer)));
                }
            }
        }
        of
    }

    fn bias(&self, layer: usize) -> Option<BiasId> {
        self.biases.get(layer).or(self.biases.first()).copied()
    }
}

fn layer(plan: &mut PlanBuilder, spec: &EncoderSpec, base: &str, index: usize, positions: &LayerPositions, buffers: &Buffers) {
    let (names, hidden) = (&spec.layer, spec.hidden_size);
    let norm = |plan: &mut PlanBuilder, name: &str| plan.norm(&format!("{base}{name}"), hidden, spec.norm.eps, spec.norm.bias);
    let post = spec.norm.placement == Placement::Post;
    let Buffers { hidden: stream, other, qkv, context, .. } = *buffers;

    let has_norm = index > 0 || names.first_attention_norm;
    let attention_norm = has_norm.then(|| norm(plan, names.attention_norm));
    let attended = match attention_norm.filter(|_| !post) {
        Some(norm) => {
            plan.step(Step::Norm { input: stream, norm, output: other });
            other
        }
        None => stream,
    };
    let projection = qkv_linear(plan, names, base, hidden);
    plan.apply(projection, Activation::Identity, attended, qkv);
    if let Some(table) = positions.rotaries.get(index) {
        plan.step(Step::Rotary { values: qkv, heads: spec.heads, head_size: spec.head_size(), table: *table });
    }
    let attention = AttentionStep {
        heads: spec.heads,
        head_size: spec.head_size(),
        scale: spec.score_scale,
        causal: spec.causal,
        window: spec.windows.get(index).copied().flatten(),
        bias: positions.bias(index),
    };
    plan.step(Step::Attention { qkv, attention, output: context });
    let out = scaled_linear(plan, names.out, (hidden, hidden), names.out_bias, names.scales.map(|scales| scales[0]), base);
    residual(plan, out, context, buffers, attention_norm.filter(|_| post));

    let output_norm = norm(plan, names.output_norm);
    let fed = if post {
        stream
    } else {
        plan.step(Step::Norm { input: stream, norm: output_norm, output: other });
        other
    };
    let inner = feed_forward(plan, spec, base, fed, buffers);
    let shape = (hidden, spec.intermediate_size);
    let down = scaled_linear(plan, names.down, shape, names.down_bias, names.scales.map(|scales| scales[1]), base);
    residual(plan, down, inner, buffers, post.then_some(output_norm));
}

/// Adds a layer's result to the stream: in place, or through a normalization.
fn residual(plan: &mut PlanBuilder, linear: LinearIds, input: BufferId, buffers: &Buffers, norm: Option<NormStep>) {
    let Buffers { hidden, other, .. } = *buffers;
    let output = if norm.is_some() { other } else { hidden };
    plan.step(Step::Linear {
        input,
        weight: linear.weight,
        bias: linear.bias,
        activation: Activation::Identity,
        residual: Some(hidden),
        output,
    });
    if let Some(norm) = norm {
        plan.step(Step::Norm { input: other, norm, output: hidden });
    }
}

fn qkv_linear(plan: &mut PlanBuilder, names: &LayerNames, base: &str, hidden: usize) -> LinearIds {
    let parts: Vec<MatrixPart> = match names.qkv {
        Qkv::Separate(names) => names.iter().map(|name| MatrixPart::rows(&format!("{base}{name}"), hidden)).collect(),
        Qkv::Fused(name) => vec![MatrixPart::rows(&format!("{base}{name}"), 3 * hidden)],
    };
    plan.linear(&parts, hidden, names.qkv_bias)
}

fn scaled_linear(
    plan: &mut PlanBuilder,
    name: &str,
    (outputs, inputs): (usize, usize),
    bias: bool,
    scale: Option<&str>,
    base: &str,
) -> LinearIds {
    let scale = scale.map(|scale| format!("{base}{scale}"));
    let part = MatrixPart { scale, ..MatrixPart::rows(&format!("{base}{name}"), outputs) };
    plan.linear(&[part], inputs, bias)
}

/// The feed-forward layer up to its second projection: the buffer of `[tokens, intermediate]`.
fn feed_forward(plan: &mut PlanBuilder, spec: &EncoderSpec, base: &str, input: BufferId, buffers: &Buffers) -> BufferId {
    let (size, names) = (spec.intermediate_size, &spec.layer);
    let part = |name: &str, rows: usize| MatrixPart::rows(&format!("{base}{name}"), rows);
    let parts = match names.up {
        Up::Plain(name) => vec![part(name, size)],
        Up::Gated(name) => vec![part(name, 2 * size)],
        Up::GatedParts([activated, factor]) => vec![part(activated, size), part(factor, size)],
    };
    let up = plan.linear(&parts, spec.hidden_size, names.up_bias);
    match buffers.gated {
        None => {
            plan.apply(up, spec.activation, input, buffers.inner);
            buffers.inner
        }
        Some(gated) => {
            plan.apply(up, Activation::Identity, input, buffers.inner);
            plan.step(Step::Gate { input: buffers.inner, activation: spec.activation, output: gated });
            gated
        }
    }
}

/// A matrix recipe of a head that reads part of the columns of a tensor `[outputs, columns]`.
pub(super) fn columns(name: String, outputs: usize, columns: usize, range: std::ops::Range<usize>) -> MatrixRecipe {
    let inputs = range.len();
    let called = name.clone();
    let read = move |weights: &Weights| {
        let all = weights.floats(&name, &[outputs, columns])?;
        Ok(all.chunks_exact(columns).flat_map(|row| row[range.clone()].iter().copied()).collect())
    };
    MatrixRecipe { name: called, outputs, inputs, exact: true, read: Box::new(read) }
}
