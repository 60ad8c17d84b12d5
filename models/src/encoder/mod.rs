//! The post-norm transformer encoder of BERT, RoBERTa and DistilBERT: one body, configured by what differs.
//!
//! Owns: [`Encoder`] and its layers (`layer`), the tensor names of each family (`names`), and [`TokenBatch`], the checked
//! input (`tokens`). May import: candle, kernels, this crate's card, weights, errors and signature. Must never import:
//! pooling, heads, tokenizers.
//!
//! Source: Vaswani et al. 2017 (the layer), Devlin et al. 2019 (the embeddings), Hendrycks and Gimpel 2016 (GELU with the
//! error function). What each family does differently is listed at [`Family`] and in `names`.

mod layer;
mod names;
mod tokens;

use candle_core::{Device, Tensor};

pub use tokens::TokenBatch;
use tokens::TokenLimits;

use crate::card::{Family, ModelCard};
use crate::error::{During, ModelError};
use crate::signature::{DataType, Signature, TensorInfo};
use crate::weights::Weights;
pub(crate) use layer::Linear;
use layer::{Layer, Norm};
use names::Names;

/// The input of token ids.
pub const INPUT_IDS: &str = "input_ids";
/// The input that tells tokens (1) from padding (0).
pub const ATTENTION_MASK: &str = "attention_mask";
/// The optional input of segment numbers.
pub const TOKEN_TYPE_IDS: &str = "token_type_ids";

/// The most elements of one intermediate tensor (128 MiB in f32). Attention scores grow with the square of the width, so
/// a large batch of long texts would otherwise need gigabytes; more rows than fit are run in parts.
const ELEMENTS_AT_ONCE: usize = 1 << 25;

/// A loaded encoder. Clones share the weights.
#[derive(Debug, Clone)]
pub struct Encoder {
    words: Tensor,
    positions: Tensor,
    token_types: Option<Tensor>,
    norm: Norm,
    layers: Vec<Layer>,
    hidden_size: usize,
    limits: TokenLimits,
    device: Device,
    prefix: &'static str,
}

impl Encoder {
    /// Reads the encoder of `card` from `weights` to `device`. All weights are kept as f32.
    ///
    /// # Errors
    /// Those of [`Weights::tensor`], and [`ModelError::Tensor`] if a copy to the device fails.
    pub fn load(card: &ModelCard, weights: &Weights, device: &Device) -> Result<Self, ModelError> {
        let names = Names::of(card.family);
        let prefix = weights.prefix(names.prefixes, names.words).unwrap_or_default();
        let read = |name: &str, shape: &[usize]| weights.tensor(&format!("{prefix}{name}"), shape, device);
        let hidden = card.hidden_size;
        let token_types = match card.token_types {
            0 => None,
            rows => Some(read(names.token_types, &[rows, hidden])?),
        };
        let mut layers = Vec::new();
        for index in 0..card.layers {
            layers.push(Layer::load(card, &names, weights, &format!("{prefix}{}{index}.", names.layer), device)?);
        }
        Ok(Encoder {
            words: read(names.words, &[card.vocab_size, hidden])?,
            positions: read(names.positions, &[card.position_rows, hidden])?,
            token_types,
            norm: Norm::load(weights, &format!("{prefix}{}", names.norm), hidden, card.layer_norm_eps, device)?,
            layers,
            hidden_size: hidden,
            limits: TokenLimits {
                vocab_size: card.vocab_size,
                positions: card.positions,
                token_types: card.token_types,
                padding_id: match card.family {
                    Family::Roberta => card.pad_token_id,
                    Family::Bert | Family::DistilBert => None,
                },
            },
            device: device.clone(),
            prefix,
        })
    }

    /// The inputs of every model that is built on this encoder.
    pub fn inputs(&self) -> Vec<TensorInfo> {
        let mut inputs = vec![
            TensorInfo::required(INPUT_IDS, DataType::I64, &[None]),
            TensorInfo::required(ATTENTION_MASK, DataType::I64, &[None]),
        ];
        if self.token_types.is_some() {
            inputs.push(TensorInfo::optional(TOKEN_TYPE_IDS, DataType::I64, &[None]));
        }
        inputs
    }

    /// Checks a batch of tokens and moves it to the encoder's device.
    /// `ids`, `mask`, `types`: `[rows, width] i64`; without `types` every token is of type 0.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] names input, row, column, value and allowed range: ids outside the vocabulary, token
    /// types outside their table, mask values other than 0 and 1, a row without tokens, more columns than positions,
    /// shapes that disagree.
    pub fn check(&self, ids: &Tensor, mask: &Tensor, types: Option<&Tensor>) -> Result<TokenBatch, ModelError> {
        TokenBatch::parse(ids, mask, types, &self.limits, &self.device)
    }

    /// As [`Encoder::check`], for inputs by name. `signature` must begin with [`Encoder::inputs`].
    pub(crate) fn batch(&self, signature: &Signature, inputs: &[(&str, Tensor)]) -> Result<TokenBatch, ModelError> {
        let arranged = signature.arrange(inputs)?;
        match arranged[..] {
            [Some(ids), Some(mask)] => self.check(ids, mask, None),
            [Some(ids), Some(mask), types] => self.check(ids, mask, types),
            _ => unreachable!("the signature makes ids and mask required"),
        }
    }

    /// Runs the encoder: the last layer's token vectors, `[rows, width, hidden] f32`. Values at masked positions are
    /// finite and without meaning. A row's vectors do not depend on the other rows nor (beyond rounding) on the width.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] or [`ModelError::Kernel`] if the computation fails.
    pub fn forward(&self, batch: &TokenBatch) -> Result<Tensor, ModelError> {
        self.forward_in_parts(batch, self.rows_at_once(batch.width()))
    }

    /// How many rows of `width` columns keep the largest intermediate tensor below [`ELEMENTS_AT_ONCE`]; at least one.
    fn rows_at_once(&self, width: usize) -> usize {
        let per_token = self.layers.iter().map(|layer| layer.elements_per_token(width)).max().unwrap_or(1);
        (ELEMENTS_AT_ONCE / per_token.saturating_mul(width).max(1)).max(1)
    }

    fn forward_in_parts(&self, batch: &TokenBatch, rows_at_once: usize) -> Result<Tensor, ModelError> {
        if batch.rows() <= rows_at_once {
            return self.forward_whole(batch);
        }
        let mut parts = Vec::new();
        for start in (0..batch.rows()).step_by(rows_at_once) {
            let rows = rows_at_once.min(batch.rows() - start);
            let part = batch.part(start, rows).during("taking rows of a batch")?;
            parts.push(self.forward_whole(&part)?);
        }
        Tensor::cat(&parts, 0).during("joining the parts of a batch")
    }

    fn forward_whole(&self, batch: &TokenBatch) -> Result<Tensor, ModelError> {
        let (rows, width) = (batch.rows(), batch.width());
        let mut hidden = self.embed(batch)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, batch)?;
        }
        hidden.reshape((rows, width, self.hidden_size)).during("shaping the last hidden state")
    }

    /// The sum of word, position and token type vectors, normalized: `[rows * width, hidden] f32`.
    fn embed(&self, batch: &TokenBatch) -> Result<Tensor, ModelError> {
        let (rows, width) = (batch.rows(), batch.width());
        let sum = || -> candle_core::Result<Tensor> {
            let words = self.words.index_select(batch.ids(), 0)?;
            let positioned = match batch.position_ids() {
                Some(ids) => (words + self.positions.index_select(ids, 0)?)?,
                None => {
                    let positions = self.positions.narrow(0, 0, width)?;
                    words.reshape((rows, width, self.hidden_size))?.broadcast_add(&positions)?.flatten(0, 1)?
                }
            };
            match (&self.token_types, batch.type_ids()) {
                (Some(table), Some(ids)) => positioned + table.index_select(ids, 0)?,
                (Some(table), None) => positioned.broadcast_add(&table.narrow(0, 0, 1)?),
                (None, _) => Ok(positioned),
            }
        };
        self.norm.forward(&sum().during("adding up the embeddings")?, None, None)
    }

    /// The device that the weights are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Components of a token vector.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// What stands before the encoder's tensor names in its weight file, such as `bert.`.
    pub(crate) fn prefix(&self) -> &'static str {
        self.prefix
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn encoder() -> Encoder {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/roberta");
        let card = ModelCard::read(&dir).unwrap();
        Encoder::load(&card, &Weights::open(&dir).unwrap(), &Device::Cpu).unwrap()
    }

    #[test]
    fn parts_give_what_the_whole_gives() {
        let encoder = encoder();
        let ids: Vec<i64> = (0..35).map(|i| 3 + i % 40).collect();
        let mask: Vec<i64> = (0..35).map(|i| i64::from(i % 7 <= i / 7 + 1)).collect();
        let tensor = |values: Vec<i64>| Tensor::from_vec(values, (5, 7), &Device::Cpu).unwrap();
        let (ids, mask) = (tensor(ids), tensor(mask));
        for types in [None, Some(ids.zeros_like().unwrap())] {
            let batch = encoder.check(&ids, &mask, types.as_ref()).unwrap();
            let flat = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let whole = flat(encoder.forward(&batch).unwrap());
            for rows_at_once in 1..5 {
                let parts = flat(encoder.forward_in_parts(&batch, rows_at_once).unwrap());
                let largest = whole.iter().zip(&parts).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert_eq!(whole.len(), parts.len());
                assert!(largest <= 2e-6, "{rows_at_once}: {largest:e}");
            }
        }
    }

    #[test]
    fn long_rows_are_run_in_parts() {
        let encoder = encoder();
        // Three heads: 3 * width scores per token outgrow the other tensors (3 * hidden = 72) from width 25 on.
        assert_eq!(encoder.rows_at_once(10), (1 << 25) / (72 * 10));
        assert_eq!(encoder.rows_at_once(1000), (1 << 25) / (3000 * 1000));
        assert_eq!(encoder.rows_at_once(1 << 40), 1);
        assert_eq!(encoder.rows_at_once(0), 1 << 25);
    }
}
