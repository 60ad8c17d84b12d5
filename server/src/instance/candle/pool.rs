//! The threads on which all tokenizer models of a server encode their texts.

use std::num::NonZeroUsize;
use std::sync::OnceLock;

use models::{Tokenizer, Tokens};
use rayon::prelude::*;

/// Bytes of text of a batch below which it is encoded where it is: that takes about as long as waking up another thread,
/// and letting it take over, costs on a machine whose cores are all busy.
const INLINE_BYTES: usize = 2048;

/// Bytes of text that a thread takes at a time, at least: so short texts do not pay for being dealt out one by one.
const SHARE_BYTES: usize = 1024;

static POOL: OnceLock<rayon::ThreadPool> = OnceLock::new();

/// Starts the threads, for the rest of the process. Later calls, and those after the first batch, change nothing.
///
/// # Errors
/// The system does not give the threads.
pub fn start_tokenizer_threads(threads: NonZeroUsize) -> Result<(), rayon::ThreadPoolBuildError> {
    let pool = build(threads)?;
    // Of two that are made the second is dropped, and its threads end.
    let _ = POOL.set(pool);
    Ok(())
}

/// Threads where nobody says otherwise: a quarter of the cores, at least one, so that encoders keep theirs.
pub fn default_tokenizer_threads() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    NonZeroUsize::new(cores.get() / 4).unwrap_or(NonZeroUsize::MIN)
}

fn build(threads: NonZeroUsize) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(threads.get()).thread_name(|thread| format!("tokenizer-{thread}")).build()
}

/// A text to be encoded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) text: &'a str,
    pub(super) pair: Option<&'a str>,
    pub(super) offsets: bool,
}

impl Row<'_> {
    fn bytes(&self) -> usize {
        self.text.len() + self.pair.map_or(0, str::len)
    }

    fn encode(&self, tokenizer: &Tokenizer) -> Result<Tokens, String> {
        tokenizer.encode(self.text, self.pair, self.offsets)
    }
}

/// Encodes the texts of a batch, in their order. The calling thread waits; where there are few short texts it does the work
/// itself.
pub(super) fn encode(tokenizer: &Tokenizer, rows: &[Row<'_>]) -> Vec<Result<Tokens, String>> {
    let bytes: usize = rows.iter().map(Row::bytes).sum();
    let alone = || rows.iter().map(|row| row.encode(tokenizer)).collect();
    if bytes <= INLINE_BYTES {
        return alone();
    }
    let pool = match POOL.get() {
        Some(pool) => pool,
        None => match start_tokenizer_threads(default_tokenizer_threads()).ok().and_then(|()| POOL.get()) {
            Some(pool) => pool,
            // Without threads the work is done all the same.
            None => return alone(),
        },
    };
    let least = (rows.len() * SHARE_BYTES).div_ceil(bytes.max(1)).clamp(1, rows.len().max(1));
    pool.install(|| rows.par_iter().with_min_len(least).map(|row| row.encode(tokenizer)).collect())
}
