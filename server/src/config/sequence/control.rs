//! `control_input`: what the model is told about each row of a batch.

use std::collections::HashSet;

use bytes::Bytes;
use proto::inference::DataType as WireType;
use proto::inference::model_sequence_batching::{self as wire, control::Kind};

use crate::error::{ConfigProblem, SequenceProblem, TensorSide};
use crate::tensor::{DataType, Dim, TensorRole, TensorSpec};

use super::{Control, FalseTrue, Signal, Surroundings};

/// Parses all control inputs; each becomes an input of the model.
pub(super) fn parse_all(
    written: &[wire::ControlInput],
    around: &mut Surroundings<'_>,
    problems: &mut Vec<ConfigProblem>,
) -> Vec<Control> {
    let mut kinds = HashSet::new();
    let mut controls = Vec::new();
    for control in written {
        match parse_control(control, &mut kinds, around) {
            Ok(control) => controls.push(control),
            Err(problem) => problems.push(problem),
        }
    }
    controls
}

fn parse_control(
    written: &wire::ControlInput,
    kinds: &mut HashSet<Kind>,
    around: &mut Surroundings<'_>,
) -> Result<Control, ConfigProblem> {
    let model = || around.model.to_owned();
    if written.name.is_empty() {
        return Err(SequenceProblem::ControlWithoutName { model: model() }.into());
    }
    let control = match written.control.as_slice() {
        [control] => control,
        [] => return Err(SequenceProblem::NoControl { model: model(), tensor: written.name.clone() }.into()),
        _ => return Err(SequenceProblem::ManyKinds { model: model(), tensor: written.name.clone() }.into()),
    };
    let kind = Kind::try_from(control.kind)
        .map_err(|_| around.out_of_range("control_input.control.kind", "a known kind", control.kind))?;
    if !kinds.insert(kind) {
        return Err(SequenceProblem::KindTwice { model: model(), kind: kind.as_str_name() }.into());
    }
    let signal = match kind {
        Kind::ControlSequenceStart => Signal::Start(FalseTrue::parse(control, kind, around.model)?),
        Kind::ControlSequenceReady => Signal::Ready(FalseTrue::parse(control, kind, around.model)?),
        Kind::ControlSequenceEnd => Signal::End(FalseTrue::parse(control, kind, around.model)?),
        Kind::ControlSequenceCorrid => Signal::CorrelationId(parse_id_type(control, kind, around.model)?),
    };
    let datatype = match &signal {
        Signal::Start(values) | Signal::Ready(values) | Signal::End(values) => values.datatype,
        Signal::CorrelationId(datatype) => *datatype,
    };
    let spec = TensorSpec::new(written.name.as_str(), datatype, [Dim::Fixed(1)]).with_role(TensorRole::Control);
    let input = around.add(TensorSide::Input, spec)?;
    Ok(Control { input, signal })
}

fn parse_id_type(control: &wire::Control, kind: Kind, model: &str) -> Result<DataType, SequenceProblem> {
    let (model, kind) = (model.to_owned(), kind.as_str_name());
    if lists(control).iter().any(|(_, length)| *length > 0) {
        return Err(SequenceProblem::IdWithFalseTrue { model, kind });
    }
    match WireType::try_from(control.data_type) {
        Ok(WireType::TypeUint64) => Ok(DataType::Uint64),
        Ok(WireType::TypeInt64) => Ok(DataType::Int64),
        Ok(WireType::TypeUint32) => Ok(DataType::Uint32),
        Ok(WireType::TypeInt32) => Ok(DataType::Int32),
        Ok(WireType::TypeString) => Ok(DataType::Bytes),
        _ => Err(SequenceProblem::IdType { model, kind }),
    }
}

/// The three lists of false and true, with their lengths.
fn lists(control: &wire::Control) -> [(&'static str, usize); 3] {
    [
        ("int32_false_true", control.int32_false_true.len()),
        ("fp32_false_true", control.fp32_false_true.len()),
        ("bool_false_true", control.bool_false_true.len()),
    ]
}

impl FalseTrue {
    fn parse(control: &wire::Control, kind: Kind, model: &str) -> Result<Self, SequenceProblem> {
        let (model, kind) = (model.to_owned(), kind.as_str_name());
        let written: Vec<(&'static str, usize)> = lists(control).into_iter().filter(|(_, length)| *length > 0).collect();
        match written.as_slice() {
            [] => return Err(SequenceProblem::NoFalseTrue { model, kind }),
            [(list, length)] if *length != 2 => return Err(SequenceProblem::NotTwoEntries { model, kind, list }),
            [_] => {}
            _ => return Err(SequenceProblem::ManyFalseTrue { model, kind }),
        }
        if control.data_type != 0 {
            return Err(SequenceProblem::FlagWithType { model, kind });
        }
        let (datatype, values) = if let [no, yes] = control.int32_false_true.as_slice() {
            (DataType::Int32, [no, yes].map(|value| Bytes::copy_from_slice(&value.to_le_bytes())))
        } else if let [no, yes] = control.fp32_false_true.as_slice() {
            (DataType::Fp32, [no, yes].map(|value| Bytes::copy_from_slice(&value.to_le_bytes())))
        } else if let [no, yes] = control.bool_false_true.as_slice() {
            (DataType::Bool, [no, yes].map(|value| Bytes::copy_from_slice(&[u8::from(*value)])))
        } else {
            return Err(SequenceProblem::NoFalseTrue { model, kind });
        };
        Ok(Self { datatype, values })
    }
}
