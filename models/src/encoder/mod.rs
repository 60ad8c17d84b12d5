//! Transformer encoders of all families: one body, steered by a description of what differs.
//!
//! Owns: [`EncoderSpec`] (`spec`), what each family puts into it (`families`), and how it becomes a plan (`build`,
//! `positions`, `resize`, `head`). May import: kernels' enums, plans, this crate's card, JSON reader, weights and errors. Must
//! never import: tokenizers, anything that runs a plan.
//!
//! Source: Vaswani et al. 2017 (the layer); what each family does differently stands with it in `families`.

mod build;
pub(crate) mod families;
mod head;
mod positions;
mod resize;
mod spec;

pub use head::{Head, HeadLayer, HeadName, Pick};
pub use spec::*;

use crate::card::ModelCard;
use crate::error::ModelError;
use crate::plan::{Plan, PlanBuilder};
use crate::weights::Weights;

/// The plan of the model of `card`. Weights are looked up, and read only when a device loads the plan.
///
/// # Errors
/// The weight files lack what the plan cannot be made without.
pub fn plan(card: &ModelCard, weights: &Weights) -> Result<Plan, ModelError> {
    let spec = &card.encoder;
    let first = match &spec.embedding {
        Embedding::Tokens { words, .. } => words.clone(),
        Embedding::Patches { projection, .. } => format!("{projection}.weight"),
    };
    // If it is nowhere, the error of the plain name is the clearest.
    let prefix = weights.prefix(spec.prefixes, &first).unwrap_or_default();
    let mut plan = PlanBuilder::new(spec.input.clone());
    let hidden = build::encoder(&mut plan, spec, prefix);
    let result = head::head(&mut plan, spec, prefix, hidden, &card.head);
    plan.output(card.task.output(), result);
    Ok(plan.build())
}
