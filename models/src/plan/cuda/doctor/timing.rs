//! How long batches of a model take.

use std::sync::Arc;
use std::time::Instant;

use super::cost::Rates;
use super::findings::PlanFinding;
use crate::error::ModelError;
use crate::plan::Input;
use crate::plan::batch::{Batch, Integers, Texts};
use crate::plan::cuda::{CudaExecutor, CudaModel, LaneOptions, Ticket};

/// Texts and tokens of each, of the batches that are timed.
const TEXTS: [(usize, usize); 4] = [(1, 128), (32, 32), (32, 128), (32, 512)];
/// The same for a quick examination.
const QUICK_TEXTS: [(usize, usize); 2] = [(1, 32), (4, 32)];
/// Images of the batches that are timed.
const IMAGES: [usize; 2] = [1, 16];
/// Batches before the measurement: products are tuned, launches recorded.
const WARM_UP: usize = 3;
/// Seconds that a measurement is to take.
const ENOUGH: f64 = 0.1;
/// Batches that are enough in any case.
const MOST_BATCHES: usize = 1000;

/// Times batches of a model on a lane of its own, and says what the device could do at best. Batches that the lane has no room
/// for are made smaller.
///
/// # Errors
/// The device fails, or has no memory for the lane.
pub fn time_model(
    model: &Arc<CudaModel>,
    options: LaneOptions,
    rates: &Rates,
    quick: bool,
) -> Result<Vec<PlanFinding>, ModelError> {
    let mut lane = CudaExecutor::new(Arc::clone(model), options)?;
    let input = model.plan().input();
    let mut findings = Vec::new();
    for (items, tokens) in sizes(input, &options, quick) {
        let numbers = Numbers::new(input, items, tokens);
        let seconds = seconds(&mut lane, &numbers.batch(input, items, tokens)?)?;
        let limit = rates.limit(model.plan(), model.precision(), items, tokens);
        let (limit_seconds, computing) = (limit.seconds, limit.computing / limit.seconds);
        findings.push(PlanFinding { items, tokens, seconds, limit_seconds, computing });
    }
    Ok(findings)
}

/// Items and tokens of each, that the model takes and the lane has room for.
fn sizes(input: &Input, options: &LaneOptions, quick: bool) -> Vec<(usize, usize)> {
    let wanted: Vec<(usize, usize)> = match input {
        Input::Tokens(texts) => {
            let all = if quick { QUICK_TEXTS.to_vec() } else { TEXTS.to_vec() };
            all.into_iter().map(|(items, tokens)| (items, tokens.min(texts.positions).min(options.max_tokens))).collect()
        }
        Input::Images(image) => {
            let all = if quick { &IMAGES[..1] } else { &IMAGES[..] };
            all.iter().map(|items| (*items, image.tokens())).collect()
        }
    };
    let fits = |(items, tokens): (usize, usize)| (items.min(options.max_tokens / tokens.max(1)).min(options.max_items), tokens);
    let mut sizes: Vec<(usize, usize)> = wanted.into_iter().map(fits).filter(|(items, tokens)| items * tokens > 0).collect();
    sizes.dedup();
    sizes
}

/// What a batch reads.
struct Numbers(Vec<u8>);

impl Numbers {
    fn new(input: &Input, items: usize, tokens: usize) -> Self {
        let mut state = 1u64;
        let mut next = |end: u64| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 33) % end
        };
        Numbers(match input {
            Input::Tokens(texts) => {
                let id = |drawn: u64| if texts.counted_after == u32::try_from(drawn).ok() { drawn + 1 } else { drawn };
                // Of the last one there is none behind.
                let end = (texts.vocab_size as u64).saturating_sub(1).max(1);
                (0..items * tokens).flat_map(|_| id(next(end)).to_le_bytes()).collect()
            }
            Input::Images(image) => {
                let count = items * image.bytes() / size_of::<f32>();
                (0..count).flat_map(|_| (next(1 << 16) as f32 / 32_768.0 - 1.0).to_le_bytes()).collect()
            }
        })
    }

    fn batch(&self, input: &Input, items: usize, tokens: usize) -> Result<Batch<'_>, ModelError> {
        let mut batch = Batch::new();
        match input {
            Input::Tokens(texts) => {
                let ids = Integers::new(&self.0);
                batch.push_texts(texts, &Texts { rows: items, width: tokens, ids, mask: None, types: None })?;
            }
            Input::Images(image) => batch.push_images(image, &self.0)?,
        }
        Ok(batch)
    }
}

/// Seconds from batch to batch, with two under way: as a server runs them under load.
fn seconds(lane: &mut CudaExecutor, batch: &Batch<'_>) -> Result<f64, ModelError> {
    run(lane, batch, WARM_UP)?;
    let mut batches = 2;
    loop {
        let seconds = run(lane, batch, batches)?;
        if seconds >= ENOUGH || batches >= MOST_BATCHES {
            return Ok((seconds / batches as f64).max(1e-12));
        }
        batches = (2 * batches).min(MOST_BATCHES);
    }
}

/// Seconds of so many batches.
fn run(lane: &mut CudaExecutor, batch: &Batch<'_>, batches: usize) -> Result<f64, ModelError> {
    let start = Instant::now();
    let mut before: Option<Ticket> = None;
    for _ in 0..batches {
        let ticket = lane.launch(batch)?;
        if let Some(before) = before.replace(ticket) {
            before.wait()?;
        }
    }
    if let Some(last) = before {
        last.wait()?;
    }
    Ok(start.elapsed().as_secs_f64())
}
