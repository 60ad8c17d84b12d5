//! `input` and `output`: the tensors a model declares.

use std::collections::HashSet;

use proto::inference::{DataType as WireType, ModelInput, ModelOutput, ModelTensorReshape, model_input::Format};

use crate::error::{ConfigProblem, TensorSide};
use crate::tensor::{DataType, Dim, Dims, TensorSpec};

/// What inputs and outputs have in common on the wire.
struct Declared<'a> {
    name: &'a str,
    data_type: i32,
    dims: &'a [i64],
    reshape: Option<&'a ModelTensorReshape>,
    engine_only: [(bool, &'static str); 2],
}

/// Parses all inputs.
pub(super) fn parse_inputs(
    model: &str,
    batching: bool,
    inputs: &[ModelInput],
    problems: &mut Vec<ConfigProblem>,
) -> Vec<TensorSpec> {
    let mut parser = Parser::new(model, batching, TensorSide::Input);
    for input in inputs {
        let declared = Declared {
            name: &input.name,
            data_type: input.data_type,
            dims: &input.dims,
            reshape: input.reshape.as_ref(),
            engine_only: [(input.is_shape_tensor, "is_shape_tensor"), (input.is_non_linear_format_io, "is_non_linear_format_io")],
        };
        let result = parser.parse(&declared).and_then(|spec| {
            check_format(input, &spec)?;
            Ok(TensorSpec { optional: input.optional, ragged: input.allow_ragged_batch, ..spec })
        });
        parser.keep(result, problems);
    }
    parser.specs
}

/// Parses all outputs; the label files are read by whoever has the model's directory.
pub(super) fn parse_outputs(
    model: &str,
    batching: bool,
    outputs: &[ModelOutput],
    problems: &mut Vec<ConfigProblem>,
) -> Vec<TensorSpec> {
    let mut parser = Parser::new(model, batching, TensorSide::Output);
    for output in outputs {
        let declared = Declared {
            name: &output.name,
            data_type: output.data_type,
            dims: &output.dims,
            reshape: output.reshape.as_ref(),
            engine_only: [
                (output.is_shape_tensor, "is_shape_tensor"),
                (output.is_non_linear_format_io, "is_non_linear_format_io"),
            ],
        };
        let result = parser.parse(&declared);
        parser.keep(result, problems);
    }
    parser.specs
}

struct Parser<'a> {
    model: &'a str,
    batching: bool,
    side: TensorSide,
    names: HashSet<String>,
    specs: Vec<TensorSpec>,
}

impl<'a> Parser<'a> {
    fn new(model: &'a str, batching: bool, side: TensorSide) -> Self {
        Self { model, batching, side, names: HashSet::new(), specs: Vec::new() }
    }

    fn keep(&mut self, result: Result<TensorSpec, ConfigProblem>, problems: &mut Vec<ConfigProblem>) {
        match result {
            Ok(spec) => self.specs.push(spec),
            Err(problem) => problems.push(problem),
        }
    }

    fn parse(&mut self, declared: &Declared<'_>) -> Result<TensorSpec, ConfigProblem> {
        let (side, tensor) = (self.side, declared.name.to_owned());
        if declared.name.is_empty() {
            return Err(ConfigProblem::TensorWithoutName { side });
        }
        let known = WireType::try_from(declared.data_type).map_err(|_| ConfigProblem::OutOfRange {
            model: self.model.to_owned(),
            field: format!("{side}['{tensor}'].data_type"),
            expected: "the number of a datatype, 1 to 14",
            got: declared.data_type.to_string(),
        })?;
        let Some(datatype) = datatype(known) else {
            return Err(ConfigProblem::TensorWithoutType { side, tensor });
        };
        if declared.dims.is_empty() {
            return Err(ConfigProblem::TensorWithoutDims { side, tensor });
        }
        let dims = parse_dims(declared.dims, 1).ok_or_else(|| ConfigProblem::BadDim { side, tensor: tensor.clone() })?;
        let reshape = match declared.reshape {
            None => None,
            Some(reshape) => Some(self.parse_reshape(&tensor, &dims, &reshape.shape)?),
        };
        for (is_set, field) in declared.engine_only {
            if is_set {
                return Err(ConfigProblem::Unsupported {
                    model: self.model.to_owned(),
                    field: format!("{side} '{tensor}' {field}"),
                });
            }
        }
        if !self.names.insert(tensor.clone()) {
            return Err(ConfigProblem::DuplicateTensor { side, tensor, model: self.model.to_owned() });
        }
        Ok(TensorSpec { reshape, ..TensorSpec::new(tensor, datatype, dims.as_slice()) })
    }

    fn parse_reshape(&self, tensor: &str, dims: &Dims, shape: &[i64]) -> Result<Dims, ConfigProblem> {
        let (side, tensor) = (self.side, tensor.to_owned());
        if shape.is_empty() && !self.batching {
            return Err(ConfigProblem::EmptyReshape { side, tensor });
        }
        let reshape = parse_dims(shape, 1).ok_or_else(|| ConfigProblem::BadDim { side, tensor: tensor.clone() })?;
        if segments(dims) == segments(&reshape) {
            Ok(reshape)
        } else {
            Err(ConfigProblem::ReshapeMismatch { side, tensor, dims: dims.clone(), reshape })
        }
    }
}

/// The products of the fixed sizes before, between and behind the variable dimensions. Two patterns
/// describe the same elements when these are equal pairwise. `None` stands for a product too large to hold.
fn segments(dims: &Dims) -> Vec<Option<usize>> {
    let mut products = vec![Some(1usize)];
    for dim in dims.as_slice() {
        match dim {
            Dim::Variable => products.push(Some(1)),
            Dim::Fixed(size) => {
                if let Some(product) = products.last_mut() {
                    *product = product.and_then(|product| product.checked_mul(*size));
                }
            }
        }
    }
    products
}

/// Configured dimensions: -1, or an integer of at least `least`.
pub(super) fn parse_dims(dims: &[i64], least: usize) -> Option<Dims> {
    dims.iter()
        .map(|dim| match dim {
            -1 => Some(Dim::Variable),
            size => usize::try_from(*size).ok().filter(|size| *size >= least).map(Dim::Fixed),
        })
        .collect::<Option<Vec<_>>>()
        .map(Dims::new)
}

fn check_format(input: &ModelInput, spec: &TensorSpec) -> Result<(), ConfigProblem> {
    let format = match input.format() {
        Format::None => return Ok(()),
        Format::Nhwc => "FORMAT_NHWC",
        Format::Nchw => "FORMAT_NCHW",
    };
    if spec.dims.as_slice().len() == 3 {
        return Ok(());
    }
    Err(ConfigProblem::FormatNeedsThreeDims {
        side: TensorSide::Input,
        tensor: spec.name.to_string(),
        format,
        dims: spec.dims.clone(),
    })
}

/// The datatype behind a configured one; `None` for "invalid".
pub(super) fn datatype(wire: WireType) -> Option<DataType> {
    Some(match wire {
        WireType::TypeInvalid => return None,
        WireType::TypeBool => DataType::Bool,
        WireType::TypeUint8 => DataType::Uint8,
        WireType::TypeUint16 => DataType::Uint16,
        WireType::TypeUint32 => DataType::Uint32,
        WireType::TypeUint64 => DataType::Uint64,
        WireType::TypeInt8 => DataType::Int8,
        WireType::TypeInt16 => DataType::Int16,
        WireType::TypeInt32 => DataType::Int32,
        WireType::TypeInt64 => DataType::Int64,
        WireType::TypeFp16 => DataType::Fp16,
        WireType::TypeFp32 => DataType::Fp32,
        WireType::TypeFp64 => DataType::Fp64,
        WireType::TypeBf16 => DataType::Bf16,
        WireType::TypeString => DataType::Bytes,
    })
}

/// The configured form of a datatype.
pub(super) fn wire_type(datatype: DataType) -> WireType {
    match datatype {
        DataType::Bool => WireType::TypeBool,
        DataType::Uint8 => WireType::TypeUint8,
        DataType::Uint16 => WireType::TypeUint16,
        DataType::Uint32 => WireType::TypeUint32,
        DataType::Uint64 => WireType::TypeUint64,
        DataType::Int8 => WireType::TypeInt8,
        DataType::Int16 => WireType::TypeInt16,
        DataType::Int32 => WireType::TypeInt32,
        DataType::Int64 => WireType::TypeInt64,
        DataType::Fp16 => WireType::TypeFp16,
        DataType::Fp32 => WireType::TypeFp32,
        DataType::Fp64 => WireType::TypeFp64,
        DataType::Bf16 => WireType::TypeBf16,
        DataType::Bytes => WireType::TypeString,
    }
}
