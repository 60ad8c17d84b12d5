//! Fixtures of families with other sizes: heads of 32 and rows of multiples of eight numbers, as published models have them, so
//! that products and attention run on tensor cores. Weights are random; what is right is what the processor computes in f32.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use models::weights::WEIGHTS_FILE;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;

/// Sizes of fixtures, and what they become.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) hidden: (usize, usize),
    pub(crate) inner: (usize, usize),
    pub(crate) heads: (usize, usize),
}

/// Fields of configurations that hold sizes of vectors.
const HIDDEN: [&str; 8] = [
    "hidden_size",
    "pooler_hidden_size",
    "dim",
    "n_embd",
    "projection_size",
    "embedding_dimension",
    "word_embedding_dimension",
    "in_features",
];
const INNER: [&str; 3] = ["intermediate_size", "hidden_dim", "n_inner"];
const HEADS: [&str; 3] = ["num_attention_heads", "n_heads", "n_head"];

impl Sizes {
    fn resize(self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let lists = [(&HIDDEN[..], self.hidden), (&INNER, self.inner), (&HEADS, self.heads)];
                    let change = lists.iter().find(|(names, _)| names.contains(&&name[..])).map(|(_, change)| *change);
                    match change {
                        Some((from, to)) if value.as_u64() == Some(from as u64) => *value = Value::from(to),
                        _ => self.resize(value),
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.resize(value)),
            _ => {}
        }
    }

    /// A dimension of a tensor: a multiple of a size becomes the same multiple of what that becomes.
    fn dimension(self, name: &str, dimension: usize) -> usize {
        let (hidden, inner) = (self.hidden, self.inner);
        for times in [1, 2, 3, 4] {
            for (from, to) in [hidden, inner] {
                if dimension == times * from {
                    return times * to;
                }
            }
        }
        if name.contains("relative_attention_bias") && dimension == self.heads.0 { self.heads.1 } else { dimension }
    }
}

/// A generator of numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    /// From -1 to 1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A copy of a fixture with other sizes.
pub(crate) fn widened(dir: &Path, sizes: Sizes) -> tempfile::TempDir {
    let target = tempfile::tempdir().unwrap();
    copy(dir, target.path(), sizes);
    target
}

fn copy(from: &Path, to: &Path, sizes: Sizes) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name().into_string().unwrap();
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target, sizes);
        } else if name == WEIGHTS_FILE {
            fs::write(&target, []).unwrap();
            resize_weights(&path, &target, sizes);
        } else if name.contains("config") && name.ends_with(".json") {
            let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            sizes.resize(&mut value);
            fs::write(&target, value.to_string()).unwrap();
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn resize_weights(from: &Path, to: &Path, sizes: Sizes) {
    let bytes = fs::read(from).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let mut numbers = Numbers(1);
    let mut names: Vec<String> = stored.names().into_iter().map(str::to_owned).collect();
    names.sort();
    let mut tensors = HashMap::new();
    for name in names {
        let mut shape = stored.tensor(&name).unwrap().shape().to_vec();
        // Tables keep their rows.
        let is_table = name.contains("embed") && shape.len() == 2;
        for size in shape.iter_mut().skip(usize::from(is_table)) {
            *size = sizes.dimension(&name, *size);
        }
        let count: usize = shape.iter().product();
        // Matrices that keep the size of what they are multiplied with, factors about 1, and small summands.
        let inputs = shape.iter().skip(1).product::<usize>().max(1) as f32;
        let is_factor = shape.len() == 1 && name.ends_with("weight") || name.contains("lambda");
        let values: Vec<u8> = (0..count)
            .map(|_| match (is_factor, shape.len()) {
                (true, _) => 1.0 + 0.2 * numbers.next(),
                (_, 0 | 1) => 0.1 * numbers.next(),
                _ if name.contains("embedding") => numbers.next(),
                _ => numbers.next() * (3.0 / inputs).sqrt(),
            })
            .flat_map(f32::to_le_bytes)
            .collect();
        tensors.insert(name, (shape, values));
    }
    let views =
        tensors.iter().map(|(name, (shape, values))| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), values).unwrap()));
    serialize_to_file(views.collect::<HashMap<_, _>>(), None, to).unwrap();
}
