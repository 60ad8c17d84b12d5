//! Tensors in shared memory: what requests say of them, inputs on their way in, outputs on their way out.
#![deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::as_conversions)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proto::inference::InferParameter;
use proto::inference::infer_parameter::ParameterChoice;

use crate::error::{InferError, SharedMemoryError};
use crate::request::{InferRequest, InferResponse};
use crate::shared_memory::{Place, Regions, Window};

/// Parameter that names the region of a tensor.
pub(super) const REGION: &str = "shared_memory_region";

/// Where in its region a tensor begins; 0 where it is left out.
const OFFSET: &str = "shared_memory_offset";

/// How many bytes an input has, or an output may have.
const BYTE_SIZE: &str = "shared_memory_byte_size";

/// Most bytes that the inputs of a request may have in shared memory: as many as a message can carry. A small message may
/// name much memory, and the same memory often.
const MAX_INPUT_BYTES: u64 = 0x7fff_ffff;

/// The tensors of a request that lie in shared memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Places {
    /// Inputs, by their number in the request, lowest first.
    pub(crate) inputs: Vec<(usize, Place)>,
    /// Outputs, by name.
    pub(crate) outputs: Vec<(String, Place)>,
}

impl Places {
    /// Whether the input of this number lies in shared memory.
    pub(super) fn has_input(&self, index: usize) -> bool {
        self.inputs.binary_search_by_key(&index, |(placed, _)| *placed).is_ok()
    }
}

/// Where a tensor's parameters say that it lies; `None` for one that travels in messages.
///
/// # Errors
/// A parameter of the wrong type, or a place that is named in part.
pub(super) fn place(tensor: &str, parameters: &BTreeMap<String, InferParameter>) -> Result<Option<Place>, SharedMemoryError> {
    let wrong_type = |parameter, expected| {
        let tensor = tensor.to_owned();
        SharedMemoryError::ParameterType { parameter, tensor, expected }
    };
    let number = |parameter: &'static str| match parameters.get(parameter).map(|value| &value.parameter_choice) {
        None => Ok(None),
        // A negative number is one that no region has room for, and is refused as such.
        Some(Some(ParameterChoice::Int64Param(number))) => Ok(Some(number.cast_unsigned())),
        Some(_) => Err(wrong_type(parameter, "int64_param")),
    };
    let region = match parameters.get(REGION).map(|value| &value.parameter_choice) {
        Some(Some(ParameterChoice::StringParam(region))) => region.clone(),
        Some(_) => return Err(wrong_type(REGION, "string_param")),
        None => {
            return match [OFFSET, BYTE_SIZE].into_iter().find(|parameter| parameters.contains_key(*parameter)) {
                Some(parameter) => Err(SharedMemoryError::NoRegion { parameter, tensor: tensor.to_owned() }),
                None => Ok(None),
            };
        }
    };
    let offset = number(OFFSET)?.unwrap_or_default();
    let byte_size = number(BYTE_SIZE)?.ok_or_else(|| SharedMemoryError::NoByteSize { tensor: tensor.to_owned() })?;
    Ok(Some(Place { region, offset, byte_size }))
}

/// How many bytes of an input will be copied from shared memory, as far as its parameters say.
pub(super) fn byte_size(parameters: &BTreeMap<String, InferParameter>) -> usize {
    match parameters.get(BYTE_SIZE).and_then(|value| value.parameter_choice.as_ref()) {
        Some(ParameterChoice::Int64Param(bytes)) if parameters.contains_key(REGION) => usize::try_from(*bytes).unwrap_or(0),
        _ => 0,
    }
}

/// The parameters of an output that has been written to shared memory: its place, and how many bytes of it are used.
pub(super) fn parameters(place: &Place, bytes: usize) -> BTreeMap<String, InferParameter> {
    let number = |number: u64| ParameterChoice::Int64Param(i64::try_from(number).unwrap_or(i64::MAX));
    let mut choices = vec![
        (REGION, ParameterChoice::StringParam(place.region.clone())),
        (BYTE_SIZE, number(u64::try_from(bytes).unwrap_or(u64::MAX))),
    ];
    if place.offset > 0 {
        choices.push((OFFSET, number(place.offset)));
    }
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    choices.into_iter().map(|(name, choice)| (name.to_owned(), parameter(choice))).collect()
}

/// The shared memory that one request uses; held until the request has been answered, so that its regions stay. Most
/// requests use none, and this is nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedTensors(Option<Arc<Windows>>);

#[derive(Debug)]
struct Windows {
    inputs: Vec<(usize, Window)>,
    outputs: Vec<(String, Window)>,
}

impl SharedTensors {
    /// Finds the regions of all tensors, before anything is copied.
    ///
    /// # Errors
    /// Shared memory is off, a region is not there, a place lies outside its region, or the inputs are too large.
    pub(super) fn find(regions: &Regions, places: Places) -> Result<Self, SharedMemoryError> {
        if places.inputs.is_empty() && places.outputs.is_empty() {
            return Ok(Self(None));
        }
        let got = places.inputs.iter().map(|(_, place)| place.byte_size).fold(0, u64::saturating_add);
        let inputs = places.inputs.into_iter().map(|(index, place)| Ok((index, regions.window(&place)?)));
        let inputs = inputs.collect::<Result<_, SharedMemoryError>>()?;
        if got > MAX_INPUT_BYTES {
            return Err(SharedMemoryError::InputsTooLarge { got, limit: MAX_INPUT_BYTES });
        }
        let outputs = places.outputs.into_iter().map(|(name, place)| Ok((name, regions.window(&place)?)));
        let outputs = outputs.collect::<Result<_, SharedMemoryError>>()?;
        Ok(Self(Some(Arc::new(Windows { inputs, outputs }))))
    }

    /// Copies inputs into the request: from here on, what their owner does to them changes nothing. What takes long is
    /// copied on a thread that may wait.
    ///
    /// # Errors
    /// The memory cannot be read.
    pub(super) async fn fetch(&self, request: &mut InferRequest) -> Result<(), InferError> {
        let Some(windows) = self.0.as_ref().filter(|windows| !windows.inputs.is_empty()) else {
            return Ok(());
        };
        let contents = if windows.are_quick() {
            windows.read()?
        } else {
            let windows = Arc::clone(windows);
            tokio::task::spawn_blocking(move || windows.read()).await.map_err(|_| InferError::Abandoned)??
        };
        for ((index, _), contents) in windows.inputs.iter().zip(contents) {
            if let Some(input) = request.inputs.get_mut(*index) {
                input.contents = contents;
            }
        }
        Ok(())
    }

    /// Whether writing the outputs of this response takes so long that a thread should do it that may wait.
    pub(super) fn is_slow_for(&self, response: &InferResponse) -> bool {
        self.outputs_of(response).any(|(_, window, bytes)| !window.is_quick(u64::try_from(bytes.len()).unwrap_or(u64::MAX)))
    }

    /// Writes the outputs of a response that belong into shared memory. Nothing is written unless all have room.
    ///
    /// # Errors
    /// An output has no room, or the memory cannot be written.
    pub(super) fn write(&self, response: &InferResponse) -> Result<(), SharedMemoryError> {
        self.outputs_of(response).try_for_each(|(name, window, bytes)| window.refuse_larger(name, bytes.len()))?;
        self.outputs_of(response).try_for_each(|(name, window, bytes)| window.write(name, bytes))
    }

    /// As [`SharedTensors::write`], on a thread that may wait where it takes long.
    ///
    /// # Errors
    /// As there.
    pub(super) async fn deliver(&self, response: Box<InferResponse>) -> Result<Box<InferResponse>, InferError> {
        if !self.is_slow_for(&response) {
            self.write(&response)?;
            return Ok(response);
        }
        let shared = self.clone();
        let writing = tokio::task::spawn_blocking(move || shared.write(&response).map(|()| response));
        Ok(writing.await.map_err(|_| InferError::Abandoned)??)
    }

    /// Where an output is, if it is not in the message.
    pub(super) fn place_of(&self, output: &str) -> Option<&Place> {
        let windows = self.0.as_ref()?;
        windows.outputs.iter().find(|(name, _)| name == output).map(|(_, window)| window.place())
    }

    fn outputs_of<'a>(&'a self, response: &'a InferResponse) -> impl Iterator<Item = (&'a str, &'a Window, &'a Bytes)> {
        let outputs = self.0.iter().flat_map(|windows| &windows.outputs);
        outputs.filter_map(|(name, window)| {
            let output = response.outputs.iter().find(|output| *output.name == **name)?;
            Some((name.as_str(), window, output.tensor.bytes()))
        })
    }
}

impl Windows {
    fn are_quick(&self) -> bool {
        let total = self.inputs.iter().map(|(_, window)| window.place().byte_size).fold(0, u64::saturating_add);
        self.inputs.iter().all(|(_, window)| window.is_quick(total))
    }

    fn read(&self) -> Result<Vec<Bytes>, SharedMemoryError> {
        self.inputs.iter().map(|(_, window)| window.read()).collect()
    }
}
