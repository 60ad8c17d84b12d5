//! What every model looks like from outside: named tensors in, named tensors out.

use std::fmt;

use candle_core::{DType, Tensor};

use crate::error::{ModelError, Position};

/// A loaded model. One value is shared by all threads that run it; `forward` keeps no state between calls.
pub trait Model: Send + Sync {
    /// The inputs and outputs, fixed at load.
    fn signature(&self) -> &Signature;

    /// Runs the model on one batch. Every tensor has the rows of the batch as dimension 0; the outputs are in the order
    /// of the signature and have as many rows as the inputs.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] for what the caller can mend; [`ModelError::Tensor`] and [`ModelError::Kernel`] for
    /// failures of the computation itself.
    fn forward(&self, inputs: &[(&str, Tensor)]) -> Result<Vec<(String, Tensor)>, ModelError>;
}

/// The inputs and outputs of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// The inputs.
    pub inputs: Vec<TensorInfo>,
    /// The outputs.
    pub outputs: Vec<TensorInfo>,
}

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name.
    pub name: String,
    /// The element type.
    pub dtype: DataType,
    /// The dimensions after the rows; `None` where the size may differ from call to call.
    pub dims: Vec<Option<usize>>,
    /// Whether an input may be left out. Never set for an output.
    pub optional: bool,
}

impl TensorInfo {
    /// A tensor that is always there.
    pub fn required(name: &str, dtype: DataType, dims: &[Option<usize>]) -> Self {
        TensorInfo { name: name.to_owned(), dtype, dims: dims.to_vec(), optional: false }
    }

    /// An input that may be left out.
    pub fn optional(name: &str, dtype: DataType, dims: &[Option<usize>]) -> Self {
        TensorInfo { optional: true, ..TensorInfo::required(name, dtype, dims) }
    }
}

/// Element types of model inputs, outputs and stored weights.
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

impl DataType {
    /// The same type in candle's words.
    pub fn as_candle(self) -> DType {
        match self {
            DataType::U8 => DType::U8,
            DataType::I64 => DType::I64,
            DataType::F16 => DType::F16,
            DataType::BF16 => DType::BF16,
            DataType::F32 => DType::F32,
            DataType::F64 => DType::F64,
        }
    }
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

impl Signature {
    /// Checks names, element types, ranks and fixed sizes, and returns the inputs in the order of the signature, `None`
    /// for an optional one that was left out.
    ///
    /// # Errors
    /// [`ModelError::InvalidInput`] for an input that is unknown, given twice, missing, of another type or shape.
    pub fn arrange<'a>(&self, given: &'a [(&str, Tensor)]) -> Result<Vec<Option<&'a Tensor>>, ModelError> {
        let mut slots: Vec<Option<&Tensor>> = vec![None; self.inputs.len()];
        for (name, tensor) in given {
            let Some(index) = self.inputs.iter().position(|info| info.name == *name) else {
                let known: Vec<&str> = self.inputs.iter().map(|info| info.name.as_str()).collect();
                return Err(whole(name, "an input of that name".to_owned(), format!("one of {}", known.join(", "))));
            };
            if slots[index].is_some() {
                return Err(whole(name, "the input twice".to_owned(), "it once".to_owned()));
            }
            self.inputs[index].check(tensor)?;
            slots[index] = Some(tensor);
        }
        for (info, slot) in self.inputs.iter().zip(&slots) {
            if slot.is_none() && !info.optional {
                return Err(whole(&info.name, "nothing".to_owned(), format!("a tensor of {}", info.dtype)));
            }
        }
        Ok(slots)
    }
}

impl TensorInfo {
    fn check(&self, tensor: &Tensor) -> Result<(), ModelError> {
        if tensor.dtype() != self.dtype.as_candle() {
            return Err(whole(&self.name, format!("element type {:?}", tensor.dtype()), format!("{}", self.dtype)));
        }
        let dims = tensor.dims();
        let fits = dims.len() == self.dims.len() + 1
            && self.dims.iter().zip(&dims[1..]).all(|(want, got)| want.is_none_or(|want| want == *got));
        if fits {
            return Ok(());
        }
        let mut expected = "[rows".to_owned();
        for dim in &self.dims {
            match dim {
                Some(size) => expected.push_str(&format!(", {size}")),
                None => expected.push_str(", any"),
            }
        }
        Err(whole(&self.name, format!("shape {dims:?}"), format!("{expected}]")))
    }
}

fn whole(input: &str, got: String, expected: String) -> ModelError {
    ModelError::InvalidInput { input: input.to_owned(), at: Position::Whole, got, expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn signature() -> Signature {
        Signature {
            inputs: vec![
                TensorInfo::required("a", DataType::I64, &[None]),
                TensorInfo::optional("b", DataType::F32, &[Some(2), None]),
            ],
            outputs: vec![],
        }
    }

    fn zeros(shape: &[usize], dtype: DType) -> Tensor {
        Tensor::zeros(shape, dtype, &Device::Cpu).unwrap()
    }

    #[test]
    fn inputs_come_back_in_the_order_of_the_signature() {
        let given = [("b", zeros(&[3, 2, 9], DType::F32)), ("a", zeros(&[3, 5], DType::I64))];
        let signature = signature();
        let arranged = signature.arrange(&given).unwrap();
        assert_eq!(arranged[0].unwrap().dims(), [3, 5]);
        assert_eq!(arranged[1].unwrap().dims(), [3, 2, 9]);
        assert!(signature.arrange(&given[1..]).unwrap()[1].is_none());
    }

    #[test]
    fn refusals_name_the_input() {
        let a = || ("a", zeros(&[3, 5], DType::I64));
        let text = |given: &[(&str, Tensor)]| signature().arrange(given).unwrap_err().to_string();
        assert_eq!(text(&[]), "input 'a': got nothing; expected a tensor of I64");
        assert_eq!(text(&[a(), a()]), "input 'a': got the input twice; expected it once");
        assert_eq!(text(&[("c", a().1)]), "input 'c': got an input of that name; expected one of a, b");
        assert_eq!(text(&[("a", zeros(&[3, 5], DType::U8))]), "input 'a': got element type U8; expected I64");
        assert_eq!(text(&[("a", zeros(&[3], DType::I64))]), "input 'a': got shape [3]; expected [rows, any]");
        assert_eq!(text(&[a(), ("b", zeros(&[3, 3, 1], DType::F32))]), "input 'b': got shape [3, 3, 1]; expected [rows, 2, any]");
    }
}
