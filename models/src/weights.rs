//! Weight files: tensors looked up by name and expected shape in memory-mapped safetensors files.
//!
//! One `model.safetensors`, or several files listed by `model.safetensors.index.json`.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use kernels::embed::TableType;
use kernels::mapped::MappedFile;
use safetensors::{Dtype, SafeTensors};

use crate::error::ModelError;
use crate::json::{JsonFile, describe};
use crate::plan::MappedTable;

/// The file name of unsharded weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The file name of the list of shards.
pub const INDEX_FILE: &str = "model.safetensors.index.json";
/// The most files that an index may name. The largest published models have fewer than two hundred.
const MAX_SHARDS: usize = 4096;

const MISSING_HINT: &str = "the weights must be stored as model.safetensors, or as shards with \
                            model.safetensors.index.json; convert pytorch_model.bin with save_pretrained";

/// Element types that a configuration may give for stored weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// Unsigned 8-bit integers.
    U8,
    /// Signed 64-bit integers.
    I64,
    /// IEEE half precision.
    F16,
    /// The upper half of a single-precision number.
    BF16,
    /// IEEE single precision.
    F32,
    /// IEEE double precision.
    F64,
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DataType::U8 => "U8",
            DataType::I64 => "I64",
            DataType::F16 => "F16",
            DataType::BF16 => "BF16",
            DataType::F32 => "F32",
            DataType::F64 => "F64",
        })
    }
}

/// The tensors of a model directory.
#[derive(Debug)]
pub struct Weights {
    files: Vec<Arc<MappedFile>>,
    tensors: HashMap<String, Stored>,
    /// What an error names when a tensor is nowhere: the only file, or the directory.
    origin: PathBuf,
}

/// Where one tensor lies.
#[derive(Debug)]
struct Stored {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Weights {
    /// Opens the weight files of `dir` and reads their headers; no tensor is read yet.
    ///
    /// # Errors
    /// [`ModelError::FileMissing`] without weight files (or with a shard missing), [`ModelError::BadWeights`] for a file
    /// whose header is malformed or does not agree with the file's length, [`ModelError::BadJson`] and
    /// [`ModelError::FieldInvalid`] for a bad index.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let single = dir.join(WEIGHTS_FILE);
        if single.exists() {
            return Weights::open_file(&single);
        }
        let Some(index) = JsonFile::read(&dir.join(INDEX_FILE))? else {
            return Err(ModelError::FileMissing { path: single, hint: MISSING_HINT });
        };
        let mut weights = Weights { files: Vec::new(), tensors: HashMap::new(), origin: dir.to_path_buf() };
        for shard in shards(&index)? {
            weights.add(&dir.join(shard))?;
        }
        Ok(weights)
    }

    /// Opens one safetensors file, whatever its name.
    ///
    /// # Errors
    /// Those of [`Weights::open`].
    pub fn open_file(path: &Path) -> Result<Self, ModelError> {
        let mut weights = Weights { files: Vec::new(), tensors: HashMap::new(), origin: path.to_path_buf() };
        weights.add(path)?;
        Ok(weights)
    }

    /// Maps one file and takes its tensors in.
    fn add(&mut self, path: &Path) -> Result<(), ModelError> {
        let mapped = MappedFile::open(path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => ModelError::FileMissing { path: path.to_path_buf(), hint: MISSING_HINT },
            _ => ModelError::FileUnreadable { path: path.to_path_buf(), source },
        })?;
        // The parser checks the header's length, that offsets neither overlap nor leave the file, and that every
        // tensor's bytes are as many as its shape and type need, all before anything of that size is allocated.
        let (header_bytes, metadata) = SafeTensors::read_metadata(mapped.as_bytes())
            .map_err(|source| ModelError::BadWeights { path: path.to_path_buf(), source })?;
        let data_start = header_bytes + size_of::<u64>();
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let bytes = data_start + start..data_start + end;
            self.tensors.insert(name, Stored { file, dtype: info.dtype, shape: info.shape.clone(), bytes });
        }
        self.files.push(Arc::new(mapped));
        Ok(())
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The stored shape of a tensor; `None` if there is none of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|stored| &stored.shape[..])
    }

    /// The first of `prefixes` for which `prefix + name` is a tensor.
    pub fn prefix<'a>(&self, prefixes: &[&'a str], name: &str) -> Option<&'a str> {
        prefixes.iter().copied().find(|prefix| self.contains(&format!("{prefix}{name}")))
    }

    /// Where the tensor `name` of shape `expected` lies.
    fn find(&self, name: &str, expected: &[usize]) -> Result<(&Stored, &Arc<MappedFile>), ModelError> {
        let Some(stored) = self.tensors.get(name) else {
            return Err(ModelError::TensorMissing {
                tensor: name.to_owned(),
                path: self.origin.clone(),
                expected: expected.to_vec(),
            });
        };
        let file = &self.files[stored.file];
        if stored.shape != expected {
            return Err(ModelError::TensorShape {
                tensor: name.to_owned(),
                path: file.path().to_path_buf(),
                expected: expected.to_vec(),
                got: stored.shape.clone(),
            });
        }
        Ok((stored, file))
    }

    /// The tensor `name`, which must have shape `expected`, as plain numbers in row-major order. F32, F16, BF16 and F64 are
    /// converted.
    ///
    /// # Errors
    /// [`ModelError::TensorMissing`], [`ModelError::TensorShape`] and [`ModelError::TensorDType`] name the tensor, the
    /// file, what was expected and what is there.
    pub fn floats(&self, name: &str, expected: &[usize]) -> Result<Vec<f32>, ModelError> {
        let (stored, file) = self.find(name, expected)?;
        let bytes = &file.as_bytes()[stored.bytes.clone()];
        match stored.dtype {
            Dtype::F32 => Ok(convert(bytes, f32::from_le_bytes)),
            Dtype::F16 => Ok(convert(bytes, |bytes| f16::from_le_bytes(bytes).to_f32())),
            Dtype::BF16 => Ok(convert(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32())),
            Dtype::F64 => Ok(convert(bytes, |bytes| f64::from_le_bytes(bytes) as f32)),
            other => Err(wrong_dtype(name, file, other)),
        }
    }

    /// The factors (`kind` 0) or summands (`kind` 1) of the layer normalization `name`: `{name}.weight` and `{name}.bias`, or
    /// the `gamma` and `beta` of files converted from TensorFlow.
    ///
    /// # Errors
    /// Those of [`Weights::floats`].
    pub(crate) fn norm(&self, name: &str, kind: usize, size: usize) -> Result<Vec<f32>, ModelError> {
        let converted = !self.contains(&format!("{name}.weight")) && self.contains(&format!("{name}.gamma"));
        let ends = if converted { ["gamma", "beta"] } else { ["weight", "bias"] };
        self.floats(&format!("{name}.{}", ends[kind]), &[size])
    }

    /// The tensor `name` of shape `expected` where it lies, without a copy.
    ///
    /// # Errors
    /// Those of [`Weights::floats`]; F64 is refused too.
    pub fn table(&self, name: &str, expected: &[usize]) -> Result<MappedTable, ModelError> {
        let (stored, file) = self.find(name, expected)?;
        let dtype = match stored.dtype {
            Dtype::F32 => TableType::F32,
            Dtype::F16 => TableType::F16,
            Dtype::BF16 => TableType::Bf16,
            other => return Err(wrong_dtype(name, file, other)),
        };
        Ok(MappedTable::new(file.clone(), stored.bytes.clone(), dtype))
    }
}

/// Numbers of `N` bytes each, which lie at any address.
fn convert<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
}

fn wrong_dtype(name: &str, file: &MappedFile, got: Dtype) -> ModelError {
    ModelError::TensorDType { tensor: name.to_owned(), path: file.path().to_path_buf(), got: format!("{got:?}") }
}

/// The files that an index names, each once, in order of first mention. Only plain file names are accepted: an index
/// must not reach outside its own directory.
fn shards(index: &JsonFile) -> Result<Vec<String>, ModelError> {
    let expected = "an object that maps tensor names to file names";
    let Some((field, value)) = index.value(&["weight_map"]) else { return Err(index.missing("weight_map", expected)) };
    let Some(map) = value.as_object() else { return Err(index.invalid(field, value, expected)) };
    let mut shards: Vec<String> = Vec::new();
    for (tensor, file) in map {
        let plain = file.as_str().filter(|name| is_plain_name(name));
        let Some(name) = plain else {
            let field = format!("weight_map.{tensor}");
            return Err(index.invalid(&field, file, "the plain name of a .safetensors file beside the index"));
        };
        if !shards.iter().any(|shard| shard == name) {
            shards.push(name.to_owned());
        }
        if shards.len() > MAX_SHARDS {
            let expected = format!("at most {MAX_SHARDS} different files");
            return Err(ModelError::FieldInvalid {
                path: index.path().to_path_buf(),
                field: field.to_owned(),
                expected,
                got: describe(value),
            });
        }
    }
    Ok(shards)
}

/// Whether `name` is one path component that can only mean a file in the directory it is joined to.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0', ':'])
}
