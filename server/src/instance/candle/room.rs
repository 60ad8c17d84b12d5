//! How large the batches are that a lane has room for: as large as those that the batcher forms.

use std::num::NonZeroUsize;

use models::cuda::Room;

use crate::config::ModelConfig;

/// The parameter that limits the tokens of a batch; the batcher reads it, too.
const MAX_BATCH_TOKENS: &str = "max_batch_tokens";

/// The limit where none is written: that of the batcher for encoders.
const USUAL_TOKENS: usize = 16_384;

/// The largest batch of a model whose longest item has `longest` tokens. A request above the limit runs alone and is cut
/// between its items, and the longest of those must fit.
pub(super) fn room(config: &ModelConfig, longest: usize) -> Room {
    let max_items = config.max_batch_rows.map_or(1, NonZeroUsize::get);
    let written = config.parameters.get(MAX_BATCH_TOKENS).and_then(|text| text.trim().parse().ok());
    let most = max_items.saturating_mul(longest);
    Room { max_tokens: written.unwrap_or(USUAL_TOKENS).min(most).max(longest), max_items }
}
