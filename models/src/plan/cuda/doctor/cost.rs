//! The least time that a batch can take: no launch takes less than its arithmetic at the rate of the fastest product of its
//! type, nor less than reading its inputs and writing its outputs once at the rate of memory; and no copy less than its bytes.

use crate::plan::cuda::Precision;
use crate::plan::cuda::bucket::Bucket;
use crate::plan::cuda::layout::Layout;
use crate::plan::cuda::lower::lower;
use crate::plan::cuda::program::{Action, Program, Stored, ValueId};
use crate::plan::{AttentionStep, Plan};

/// What a device can do in a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// Multiplications and additions of f32.
    pub f32: f64,
    /// The same of f16.
    pub f16: f64,
    /// The same of bf16.
    pub bf16: f64,
    /// Bytes of its memory, reads and writes together.
    pub memory: f64,
    /// Bytes from pinned memory of the host.
    pub to_device: f64,
    /// Bytes to pinned memory of the host.
    pub to_host: f64,
}

/// The least time of a batch, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// All of it.
    pub seconds: f64,
    /// What of it arithmetic takes.
    pub computing: f64,
}

/// What a launch cannot do without.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cost {
    /// Multiplications and additions.
    operations: f64,
    /// What they are made on.
    stored: Stored,
    /// Bytes that are read and written.
    bytes: f64,
}

impl Rates {
    /// The least time of a batch of `items` texts or images of `tokens` tokens each, all launches and copies of which follow
    /// each other.
    pub fn limit(&self, plan: &Plan, precision: Precision, items: usize, tokens: usize) -> Limit {
        let program = lower(plan, precision);
        let bucket = Bucket::of(plan.input(), items * tokens, items, tokens);
        let layout = Layout::of(&program, plan.input(), &bucket);
        let copies = layout.input_bytes as f64 / self.to_device + layout.output_bytes as f64 / self.to_host;
        let mut limit = Limit { seconds: copies, computing: 0.0 };
        let counted = Counted { plan, program: &program, bucket: &bucket, tokens };
        for action in &program.actions {
            let cost = counted.cost(action);
            let computing = cost.operations / self.operations(cost.stored);
            let moving = cost.bytes / self.memory;
            limit.seconds += computing.max(moving);
            limit.computing += if computing > moving { computing } else { 0.0 };
        }
        limit
    }

    fn operations(&self, stored: Stored) -> f64 {
        match stored {
            Stored::F16 => self.f16,
            Stored::Bf16 => self.bf16,
            Stored::F32 | Stored::U32 => self.f32,
        }
    }
}

/// A batch whose launches are counted.
struct Counted<'a> {
    plan: &'a Plan,
    program: &'a Program,
    bucket: &'a Bucket,
    /// Of each item.
    tokens: usize,
}

impl Counted<'_> {
    fn cost(&self, action: &Action) -> Cost {
        // In place, values are read and written.
        let touched = action.values();
        let times = if touched.len() == 1 && is_in_place(action) { 2.0 } else { 1.0 };
        let values: f64 = touched.iter().map(|id| times * self.value_bytes(*id)).sum();
        let plain = |bytes: f64| Cost { operations: 0.0, stored: self.program.working, bytes };
        match action {
            Action::Multiply { weight, output, .. } => {
                let recipe = &self.plan.recipes.matrices[weight.0];
                let (stored, numbers) = (self.program.matrices[weight.0], recipe.outputs * recipe.inputs);
                let operations = 2.0 * (self.rows(*output) * numbers) as f64;
                Cost { operations, stored, bytes: values + (numbers * stored.bytes()) as f64 }
            }
            Action::Attention { attention, .. } => {
                let seen: f64 = (0..self.tokens).map(|query| visible(attention, query, self.tokens) as f64).sum();
                self.attention(attention, seen * self.bucket.items as f64, values)
            }
            Action::Probe { attention, .. } => self.attention(attention, (self.tokens * self.bucket.items) as f64, values),
            Action::Embed { positions, types, output, .. } => {
                // A row of each table for each token.
                let tables = 1 + usize::from(positions.is_some()) + usize::from(types.is_some());
                plain(values + tables as f64 * self.value_bytes(*output))
            }
            Action::Patches { output, .. } => {
                // Every pixel is a number of a patch.
                plain(values + (self.rows(*output) * self.columns(*output) * Stored::F32.bytes()) as f64)
            }
            _ => plain(values),
        }
    }

    fn attention(&self, step: &AttentionStep, pairs: f64, bytes: f64) -> Cost {
        // A product of a query and a key, and a number times a value, for each pair of tokens that sees another.
        let operations = 4.0 * (step.heads * step.head_size) as f64 * pairs;
        Cost { operations, stored: self.program.working, bytes }
    }

    fn rows(&self, id: ValueId) -> usize {
        self.bucket.rows(self.program.values[id.0].axis)
    }

    fn columns(&self, id: ValueId) -> usize {
        self.program.values[id.0].columns
    }

    fn value_bytes(&self, id: ValueId) -> f64 {
        (self.rows(id) * self.columns(id) * self.program.values[id.0].stored.bytes()) as f64
    }
}

fn is_in_place(action: &Action) -> bool {
    matches!(action, Action::Activate { .. } | Action::Rotary { .. } | Action::Normalize { .. })
}

/// How many keys a query sees.
fn visible(step: &AttentionStep, query: usize, tokens: usize) -> usize {
    let reach = step.window.unwrap_or(tokens);
    let behind = query.min(reach);
    let ahead = if step.causal { 0 } else { (tokens - 1 - query).min(reach) };
    behind + 1 + ahead
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::{ModelCard, Weights, encoder};

    /// A small BERT, with its configuration.
    fn bert() -> (Plan, Value) {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert");
        let card = ModelCard::read(&directory).unwrap();
        let weights = Weights::open(&card.directory).unwrap();
        let config = std::fs::read_to_string(directory.join("config.json")).unwrap();
        (encoder::plan(&card, &weights).unwrap(), serde_json::from_str(&config).unwrap())
    }

    const UNLIMITED: Rates = Rates {
        f32: f64::INFINITY,
        f16: f64::INFINITY,
        bf16: f64::INFINITY,
        memory: f64::INFINITY,
        to_device: f64::INFINITY,
        to_host: f64::INFINITY,
    };

    #[test]
    fn arithmetic_is_that_of_the_layers() {
        let (plan, config) = bert();
        let number = |name: &str| config[name].as_f64().unwrap();
        let (hidden, inner, layers) = (number("hidden_size"), number("intermediate_size"), number("num_hidden_layers"));
        let (items, tokens) = (2, 32);
        let limit = Rates { f32: 1.0, ..UNLIMITED }.limit(&plan, Precision::F32, items, tokens);
        let of_a_token = 2.0 * (4.0 * hidden * hidden + 2.0 * hidden * inner) + 4.0 * hidden * tokens as f64;
        let want = (items * tokens) as f64 * layers * of_a_token;
        assert!((limit.seconds / want - 1.0).abs() < 1e-9, "{limit:?}, want {want}");
        assert_eq!(limit.computing, limit.seconds);
        // Numbers of 16 bits are multiplied at a rate of their own.
        let half = Rates { f16: 2.0, ..UNLIMITED }.limit(&plan, Precision::F16, items, tokens);
        assert!(half.seconds > 0.0 && half.seconds < want, "{half:?}");
    }

    #[test]
    fn bytes_are_at_least_those_of_the_weights_and_of_the_results() {
        let (plan, _) = bert();
        let matrices: usize = plan.recipes.matrices.iter().map(|matrix| matrix.outputs * matrix.inputs * 4).sum();
        let of_memory = |items| Rates { memory: 1.0, ..UNLIMITED }.limit(&plan, Precision::F32, items, 32);
        let (one, two) = (of_memory(1), of_memory(2));
        assert!(one.seconds > matrices as f64 && two.seconds > one.seconds && two.seconds < 2.0 * one.seconds, "{one:?} {two:?}");
        assert_eq!(one.computing, 0.0);
        let columns: usize = plan.outputs().iter().map(|output| output.columns).sum();
        let home = Rates { to_host: 1.0, ..UNLIMITED }.limit(&plan, Precision::F32, 2, 32);
        assert!(home.seconds >= (2 * columns * 4) as f64, "{home:?}");
    }

    #[test]
    fn tokens_see_what_masks_and_windows_leave() {
        let step = |causal, window| AttentionStep { heads: 1, head_size: 1, scale: 1.0, causal, window, bias: None };
        for tokens in [1usize, 2, 7] {
            for (causal, window) in [(false, None), (true, None), (false, Some(2)), (true, Some(2)), (false, Some(0))] {
                for query in 0..tokens {
                    let sees = |key: &usize| {
                        let near = window.is_none_or(|window| query.abs_diff(*key) <= window);
                        near && (!causal || *key <= query)
                    };
                    let want = (0..tokens).filter(sees).count();
                    assert_eq!(visible(&step(causal, window), query, tokens), want, "{query} of {tokens}, {causal} {window:?}");
                }
            }
        }
    }
}
