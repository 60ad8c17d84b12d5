//! `sequence_sum`: the running sum of a sequence's inputs, element by element.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::config::{FalseTrue, ModelConfig, Scheduling, SequenceStrategy, Signal};
use crate::error::{ExecuteError, LoadError};
use crate::request::ValidRequest;
use crate::tensor::{DataType, Shape, Tensor, TensorRole, TensorSpec};

use super::super::Execution;
use super::own_threads::OwnThreads;
use super::setup::{Needed, ONE, Setup, model_dims};
use super::{Kind, values};

/// Adds `INPUT` to what it has of the sequence. That is the model's state, where it has one; else, with the strategy
/// direct, a sum for each row of this instance's batches, begun anew by the control START.
///
/// Outputs besides `OUTPUT` are optional: `INSTANCE` and `SLOT` say where a row ran, and `ECHO_<input>` is what
/// control or state input `<input>` held.
struct SequenceSum {
    layout: Arc<Layout>,
    ordinal: usize,
    /// The sums of this instance, by row; empty where the server keeps them.
    sums: Mutex<Vec<Option<Tensor>>>,
}

#[derive(Debug)]
struct Layout {
    input: usize,
    output: usize,
    datatype: DataType,
    /// Input and output of the state.
    state: Option<(usize, usize)>,
    start: Option<(usize, Bytes)>,
    ready: Option<(usize, Bytes)>,
    echoes: Vec<(usize, usize)>,
    instance: Option<usize>,
    slot: Option<usize>,
}

/// Opens the kind `sequence_sum`.
pub(super) fn open(setup: &Setup<'_>) -> Result<Arc<dyn Kind>, LoadError> {
    let layout = Arc::new(Layout::parse(setup)?);
    Ok(Arc::new(SequenceSum { layout, ordinal: 0, sums: Mutex::default() }))
}

impl Layout {
    fn parse(setup: &Setup<'_>) -> Result<Self, LoadError> {
        let config = setup.config;
        let Scheduling::Sequence(sequence) = &config.scheduling else {
            return Err(setup.unsuited("'sequence_batching'", "none"));
        };
        let find = |specs: &[TensorSpec], name: &str| specs.iter().position(|spec| spec.is_for_clients() && &*spec.name == name);
        let input = find(&config.inputs, "INPUT").filter(|index| !config.inputs[*index].optional);
        let (Some(input), Some(output)) = (input, find(&config.outputs, "OUTPUT")) else {
            return Err(setup.unsuited("input 'INPUT', not optional, and output 'OUTPUT'", "no such tensors"));
        };
        let datatype = config.inputs[input].datatype;
        if !matches!(datatype, DataType::Int32 | DataType::Fp32) {
            return Err(setup.unsuited("'INPUT' of INT32 or FP32", datatype.as_str()));
        }
        let state = match sequence.states.as_slice() {
            [] => None,
            [state] => Some((state.input, state.output)),
            states => return Err(setup.unsuited("at most one state", format!("{} states", states.len()))),
        };
        let same = [Some(&config.outputs[output]), state.map(|(input, _)| &config.inputs[input])];
        for spec in same.into_iter().flatten() {
            let (expected, dims) = (model_dims(&config.inputs[input]), model_dims(spec));
            if spec.datatype != datatype || dims != expected {
                let got = format!("{} {dims}", spec.datatype);
                return Err(setup.unsuited(format!("'{}' of {datatype} {expected}, as 'INPUT'", spec.name), got));
            }
        }
        let mut layout = Self {
            input,
            output,
            datatype,
            state,
            start: None,
            ready: None,
            echoes: Vec::new(),
            instance: setup.output_if_any(&place("INSTANCE"))?,
            slot: setup.output_if_any(&place("SLOT"))?,
        };
        for control in &sequence.controls {
            let yes = |values: &FalseTrue| Some((control.input, values.values[1].clone()));
            match &control.signal {
                Signal::Start(values) => layout.start = yes(values),
                Signal::Ready(values) => layout.ready = yes(values),
                Signal::End(_) | Signal::CorrelationId(_) => {}
            }
        }
        let keeps_rows = matches!(sequence.strategy, SequenceStrategy::Direct { .. }) && layout.start.is_some();
        if layout.state.is_none() && !keeps_rows {
            return Err(setup.unsuited("a state, or the strategy direct with the control START", "neither"));
        }
        layout.echoes = echoes(setup, config)?;
        Ok(layout)
    }

    /// The control of this request, compared with its value for true; `default` where the model has none.
    fn is_set(control: Option<&(usize, Bytes)>, request: &ValidRequest, default: bool) -> bool {
        let Some((input, yes)) = control else { return default };
        request.inputs.get(*input).and_then(Option::as_ref).is_some_and(|tensor| tensor.bytes() == yes)
    }
}

fn place(name: &'static str) -> Needed {
    Needed { name, datatype: DataType::Int32, dims: ONE }
}

/// The inputs that are echoed, each with the output that does so.
fn echoes(setup: &Setup<'_>, config: &ModelConfig) -> Result<Vec<(usize, usize)>, LoadError> {
    let mut echoes = Vec::new();
    for (output, spec) in config.outputs.iter().enumerate().filter(|(_, spec)| spec.role == TensorRole::Client) {
        let name = &*spec.name;
        if ["OUTPUT", "INSTANCE", "SLOT"].contains(&name) {
            continue;
        }
        let echoed = name.strip_prefix("ECHO_").and_then(|name| config.input_index(name));
        let echoed = echoed.filter(|input| !config.inputs[*input].is_for_clients());
        let Some(input) = echoed else {
            let expected = "no output but OUTPUT, INSTANCE, SLOT, and ECHO_<input> for control and state inputs";
            return Err(setup.unsuited(expected, format!("output '{name}'")));
        };
        let from = &config.inputs[input];
        if from.datatype != spec.datatype || model_dims(spec) != model_dims(from) {
            let got = format!("{} {}", spec.datatype, model_dims(spec));
            return Err(setup.unsuited(format!("output '{name}' of {} {}", from.datatype, model_dims(from)), got));
        }
        echoes.push((input, output));
    }
    Ok(echoes)
}

impl Kind for SequenceSum {
    fn for_instance(&self, ordinal: usize) -> Option<Arc<dyn Kind>> {
        Some(Arc::new(Self { layout: Arc::clone(&self.layout), ordinal, sums: Mutex::default() }))
    }

    fn execute(&self, execution: &mut Execution, _threads: &OwnThreads) -> Result<(), ExecuteError> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        for request in 0..execution.len() {
            let row = execution.request_rows(request).start;
            if !Layout::is_set(self.layout.ready.as_ref(), execution.request(request), execution.is_waiting(request)) {
                continue;
            }
            match self.add(execution.request(request), row, &mut sums) {
                Ok(sum) => self.answer(execution, request, row, sum)?,
                Err(error) => execution.fail(request, error),
            }
        }
        Ok(())
    }
}

impl SequenceSum {
    /// The new sum of one row.
    fn add(&self, request: &ValidRequest, row: usize, sums: &mut Vec<Option<Tensor>>) -> Result<Tensor, ExecuteError> {
        let layout = &self.layout;
        let input = values::required(request, layout.input)?;
        let before = match layout.state {
            Some((state, _)) => Some(values::required(request, state)?),
            None if Layout::is_set(layout.start.as_ref(), request, false) => None,
            None => sums.get(row).and_then(Option::as_ref),
        };
        let sum = match before {
            None => input.clone(),
            Some(before) if before.shape() != input.shape() => {
                return Err(ExecuteError::InvalidArgument {
                    message: format!("expected INPUT of the sequence's shape {}, got {}", before.shape(), input.shape()),
                });
            }
            Some(before) => sum_of(layout.datatype, before, input)?,
        };
        if layout.state.is_none() {
            if sums.len() <= row {
                sums.resize(row + 1, None);
            }
            sums[row] = Some(sum.clone());
        }
        Ok(sum)
    }

    fn answer(&self, execution: &mut Execution, request: usize, row: usize, sum: Tensor) -> Result<(), ExecuteError> {
        let layout = &self.layout;
        for (input, output) in &layout.echoes {
            let echo = values::required(execution.request(request), *input)?.clone();
            execution.set_request_output(request, *output, echo);
        }
        for (output, number) in [(layout.instance, self.ordinal), (layout.slot, row)] {
            if let Some(output) = output {
                let number = i32::try_from(number).unwrap_or(i32::MAX);
                let tensor = values::single(execution, DataType::Int32, &number.to_le_bytes())?;
                execution.set_request_output(request, output, tensor);
            }
        }
        if let Some((_, output)) = layout.state {
            execution.set_request_output(request, output, sum.clone());
        }
        execution.set_request_output(request, layout.output, sum);
        Ok(())
    }
}

/// The sum of two tensors of 4-byte numbers; integers wrap around.
fn sum_of(datatype: DataType, a: &Tensor, b: &Tensor) -> Result<Tensor, ExecuteError> {
    let mut bytes = Vec::with_capacity(a.bytes().len());
    for (a, b) in values::elements::<4>(a).zip(values::elements::<4>(b)) {
        bytes.extend(match datatype {
            DataType::Int32 => i32::from_le_bytes(a).wrapping_add(i32::from_le_bytes(b)).to_le_bytes(),
            _ => (f32::from_le_bytes(a) + f32::from_le_bytes(b)).to_le_bytes(),
        });
    }
    let shape = Shape::new(a.shape().sizes());
    Tensor::new(datatype, shape, bytes.into())
        .ok_or_else(|| ExecuteError::Internal { message: "a sum of another size".to_owned() })
}
