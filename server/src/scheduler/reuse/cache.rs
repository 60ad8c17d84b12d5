//! The response cache: whole answers by key, for all models of the server, within a number of bytes.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use crate::request::{InferResponse, OutputTensor, Parameter, Parameters};
use crate::tensor::Tensor;

use super::key::{BuildKeyHasher, RequestKey};

/// Part of the cache that what has been asked for again may fill. The rest is for what is new, so that a stream of
/// answers that nobody asks for again does not push out those that many ask for.
const HOT_SHARE: f64 = 0.97;

/// What an answer takes besides its contents: its places in tables and lists, and what allocations round up to.
const ANSWER_OVERHEAD_BYTES: usize = 160;

/// The same for an output and for a parameter.
const PART_OVERHEAD_BYTES: usize = 96;

/// A guess at the size of an answer: from it the cache estimates how many answers it has to remember that it lost.
const TYPICAL_ANSWER_BYTES: u64 = 4096;

/// One answer as it is kept. Its bytes are its own, not slices of a batch that they would keep in memory.
#[derive(Debug)]
struct Kept {
    /// The load of the model that gave it.
    load: u64,
    parameters: Parameters,
    outputs: Vec<OutputTensor>,
    bytes: u64,
}

/// Answers weigh what they take in memory.
#[derive(Clone, Debug)]
struct Bytewise;

impl Weighter<RequestKey, Arc<Kept>> for Bytewise {
    fn weight(&self, _: &RequestKey, kept: &Arc<Kept>) -> u64 {
        kept.bytes
    }
}

/// The answers of all models that are cached. The least asked for make room for others.
pub struct ResponseCache {
    answers: Cache<RequestKey, Arc<Kept>, Bytewise, BuildKeyHasher, DefaultLifecycle<RequestKey, Arc<Kept>>>,
    /// The largest answer that is kept.
    largest_bytes: u64,
}

/// What is kept of an answer, but for the request's id and who answers.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedAnswer {
    /// Parameters that the model set.
    pub parameters: Parameters,
    /// Outputs.
    pub outputs: Vec<OutputTensor>,
}

impl ResponseCache {
    /// An empty cache that holds so many bytes.
    pub fn new(size_bytes: NonZeroU64) -> Self {
        let answers = (size_bytes.get() / TYPICAL_ANSWER_BYTES).clamp(32, 1 << 20);
        // One shard: an answer may fill the whole cache. A lookup holds its lock only to find the answer.
        let options = OptionsBuilder::new()
            .shards(1)
            .hot_allocation(HOT_SHARE)
            .estimated_items_capacity(usize::try_from(answers).unwrap_or(usize::MAX))
            .weight_capacity(size_bytes.get())
            .build()
            .expect("both sizes are set");
        let answers = Cache::with_options(options, Bytewise, BuildKeyHasher::default(), DefaultLifecycle::default());
        // The cache takes no answer that is larger than the part for hot ones; so such a one is not copied first.
        let largest_bytes = size_bytes.get() / 100 * 97;
        Self { answers, largest_bytes }
    }

    /// The answer under this key.
    pub fn find(&self, key: &RequestKey) -> Option<CachedAnswer> {
        let kept = self.answers.get(key)?;
        Some(CachedAnswer { parameters: kept.parameters.clone(), outputs: kept.outputs.clone() })
    }

    /// Keeps a copy of an answer that this load of its model gave, unless it is too large for the cache.
    pub fn keep(&self, key: RequestKey, load: u64, response: &InferResponse) {
        let bytes = weight(response);
        if bytes > self.largest_bytes {
            tracing::debug!(model = %response.model_name, bytes, largest = self.largest_bytes, "an answer is too large for the cache");
            return;
        }
        let outputs =
            response.outputs.iter().map(|output| OutputTensor { name: Arc::clone(&output.name), tensor: owned(&output.tensor) });
        let kept = Kept { load, parameters: response.parameters.clone(), outputs: outputs.collect(), bytes };
        self.answers.insert(key, Arc::new(kept));
    }

    /// Drops the answers of a load that answers no more. It looks at every answer.
    pub fn forget(&self, load: u64) {
        self.answers.retain(|_, kept| kept.load != load);
    }

    /// Answers that are kept.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether no answer is kept.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Bytes of the answers that are kept.
    pub fn weight_bytes(&self) -> u64 {
        self.answers.weight()
    }
}

/// A tensor whose bytes are its own.
fn owned(tensor: &Tensor) -> Tensor {
    let bytes = Bytes::copy_from_slice(tensor.bytes());
    // The same number of bytes always fits; sharing the bytes would only cost memory.
    Tensor::new(tensor.datatype(), tensor.shape().clone(), bytes).unwrap_or_else(|| tensor.clone())
}

/// Bytes that an answer takes in the cache.
fn weight(response: &InferResponse) -> u64 {
    let output = |output: &OutputTensor| {
        let shape = output.tensor.shape().rank().saturating_mul(size_of::<usize>());
        size_of::<OutputTensor>()
            .saturating_add(shape)
            .saturating_add(output.tensor.bytes().len())
            .saturating_add(PART_OVERHEAD_BYTES)
    };
    let parameter = |(name, value): (&String, &Parameter)| {
        let text = if let Parameter::String(text) = value { text.len() } else { 0 };
        size_of::<(String, Parameter)>().saturating_add(name.len()).saturating_add(text).saturating_add(PART_OVERHEAD_BYTES)
    };
    let parts = response.outputs.iter().map(output).chain(response.parameters.iter().map(parameter));
    let bytes = parts.fold(size_of::<Kept>() + size_of::<RequestKey>() + ANSWER_OVERHEAD_BYTES, usize::saturating_add);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{ComputeTiming, ValidRequest};
    use crate::scheduler::reuse::key::Target;
    use crate::tensor::{DataType, Shape};

    fn key(number: u64) -> RequestKey {
        let request = ValidRequest::empty("");
        RequestKey::of(&Target { model: "m", version: 1, load: number, composing: &[] }, &request).unwrap()
    }

    fn response(contents: Bytes) -> InferResponse {
        let tensor = Tensor::new(DataType::Uint8, Shape::new([contents.len()]), contents).unwrap();
        InferResponse {
            model_name: "m".into(),
            model_version: 1,
            id: "its".to_owned(),
            parameters: Parameters::from([("p".to_owned(), Parameter::String("text".to_owned()))]),
            outputs: vec![OutputTensor { name: "O".into(), tensor }],
            timing: ComputeTiming::default(),
            timeline: None,
        }
    }

    fn cache(size_bytes: u64) -> ResponseCache {
        ResponseCache::new(NonZeroU64::new(size_bytes).unwrap())
    }

    #[test]
    fn what_is_kept_is_found_and_shares_no_memory_with_its_batch() {
        let cache = cache(1 << 20);
        let batch = Bytes::from(vec![9; 1000]);
        let whole = response(batch.slice(10..20));
        assert_eq!(cache.find(&key(1)), None);
        cache.keep(key(1), 7, &whole);
        let found = cache.find(&key(1)).unwrap();
        assert_eq!((&found.parameters, &found.outputs), (&whole.parameters, &whole.outputs));
        assert_ne!(found.outputs[0].tensor.bytes().as_ptr(), whole.outputs[0].tensor.bytes().as_ptr());
        assert_eq!(cache.find(&key(2)), None);
    }

    #[test]
    fn the_weight_stays_within_the_size() {
        let size = 100_000;
        let cache = cache(size);
        for number in 0..500 {
            cache.keep(key(number), 1, &response(Bytes::from(vec![0; 1000])));
            assert!(cache.weight_bytes() <= size, "{} of {size}", cache.weight_bytes());
        }
        assert!((50..100).contains(&cache.len()), "{} answers of a bit more than 1000 bytes", cache.len());
        // What was put there last is there, and an answer of each size has room.
        assert!(cache.find(&key(499)).is_some());
        cache.keep(key(1000), 1, &response(Bytes::from(vec![0; 90_000])));
        assert!(cache.find(&key(1000)).is_some() && cache.weight_bytes() <= size);
    }

    #[test]
    fn answers_that_are_asked_for_again_outlive_those_that_are_not() {
        let cache = cache(100_000);
        for number in 0..1000 {
            cache.keep(key(number), 1, &response(Bytes::from(vec![0; 1000])));
            assert!(cache.find(&key(0)).is_some(), "lost after {number} others");
        }
    }

    #[test]
    fn too_large_an_answer_is_not_kept_and_pushes_nothing_out() {
        let cache = cache(10_000);
        cache.keep(key(1), 1, &response(Bytes::from(vec![0; 1000])));
        cache.keep(key(2), 1, &response(Bytes::from(vec![0; 10_000])));
        assert!(cache.find(&key(1)).is_some());
        assert!(cache.find(&key(2)).is_none());
    }

    #[test]
    fn a_load_that_is_forgotten_leaves_the_others() {
        let cache = cache(1 << 20);
        for number in 0..10 {
            cache.keep(key(number), number % 2, &response(Bytes::from(vec![0; 10])));
        }
        cache.forget(1);
        assert_eq!(cache.len(), 5);
        assert!(cache.find(&key(0)).is_some() && cache.find(&key(1)).is_none());
        cache.forget(0);
        assert!(cache.is_empty());
        assert_eq!(cache.weight_bytes(), 0);
    }
}
