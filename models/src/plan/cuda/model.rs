//! Weights on a GPU.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use kernels::cuda::{Buffer, DeviceType, MemoryKind, Stream, Tag, UploadRing, UploadSlot, View};
use kernels::embed::TableType;

use super::Precision;
use super::device::Gpu;
use super::lower::lower;
use super::memory::Planner;
use super::place::ALIGNMENT;
use super::program::{Program, Stored};
use super::residency::{Resident, Seat};
use super::shelf::Shelf;
use crate::error::ModelError;
use crate::plan::{BiasValues, Plan};
use crate::weights::Weights;

/// Pinned memory that weights go through, twice, on their way to the device.
const STAGE_BYTES: usize = 8 << 20;
/// The least compute capability with bf16, ten times.
const BF16_CAPABILITY: u32 = 80;

impl From<Stored> for DeviceType {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::F32 => DeviceType::F32,
            Stored::F16 => DeviceType::F16,
            Stored::Bf16 => DeviceType::Bf16,
            Stored::U32 => DeviceType::U32,
        }
    }
}

/// A position bias on the shelf: byte ranges of its arrays.
#[derive(Debug, Clone)]
pub(super) enum BiasPlace {
    /// f32.
    Distance { table: Range<usize>, reach: usize },
    /// Vectors in the type of activations, rows in u32.
    Disentangled { keys: Option<Range<usize>>, queries: Option<Range<usize>>, rows: Range<usize> },
}

/// A plan with its weights on a GPU. Shared by all lanes of a model.
#[derive(Debug)]
pub struct CudaModel {
    gpu: Arc<Gpu>,
    owner: Arc<str>,
    precision: Precision,
    pub(super) plan: Plan,
    pub(super) program: Program,
    pub(super) shelf: Shelf,
    pub(super) biases: Vec<BiasPlace>,
    planner: Planner,
    weights: Held,
}

/// Where the weights are.
#[derive(Debug)]
enum Held {
    /// On the device for as long as the model is there.
    Always(Option<Arc<Resident>>),
    /// On the device when needed.
    Seated(Arc<Seat>),
}

impl CudaModel {
    /// Reads the weights of `plan` and uploads them, one at a time. `owner` is what the ledger calls them.
    ///
    /// # Errors
    /// A tensor is missing or has another shape or type than the plan expects, or a number that the precision cannot hold;
    /// the GPU has no bf16; or it has too little free memory ([`ModelError::OutOfMemory`]).
    pub fn load(
        gpu: &Arc<Gpu>,
        plan: Plan,
        weights: &Weights,
        precision: Precision,
        owner: &str,
    ) -> Result<Arc<Self>, ModelError> {
        let capability = gpu.device().capability();
        if precision == Precision::Bf16 && capability < BF16_CAPABILITY {
            let reason = format!(
                "GPU {} has compute capability {}.{}, and bf16 needs 8.0; set dtype to f16 or f32",
                gpu.ordinal(),
                capability / 10,
                capability % 10
            );
            return Err(ModelError::GpuUnusable { reason });
        }
        let program = lower(&plan, precision);
        let shelf = Shelf::of(&plan, &program, weights)?;
        let planner = Planner::of(&plan, &program, &shelf);
        let stream = Stream::new(gpu.device())?;
        let tag = Tag::new(owner, MemoryKind::Weights);
        let (held, biases) = if gpu.options().overcommit {
            let mut host = UploadSlot::new(gpu.device(), shelf.bytes, owner)?;
            let biases = host.fill(|bytes| {
                let mut put = |offset: usize, part: &[u8]| {
                    bytes[offset..offset + part.len()].copy_from_slice(part);
                    Ok(())
                };
                shelve(&plan, &program, &shelf, weights, precision, &mut put)
            })??;
            (Held::Seated(gpu.residency().seat(&stream, tag, host)?), biases)
        } else {
            let buffer = Buffer::tagged(&stream, shelf.bytes, &tag)?;
            let mut ring = UploadRing::new(gpu.device(), 2, STAGE_BYTES.min(shelf.bytes), owner)?;
            let view = buffer.view(DeviceType::U8);
            let mut put = |offset: usize, part: &[u8]| {
                let slot = ring.next_slot();
                slot.fill(|bytes| bytes[..part.len()].copy_from_slice(part))?;
                Ok(slot.upload(&stream, 0..part.len(), view.part(offset, part.len()))?)
            };
            let biases = shelve(&plan, &program, &shelf, weights, precision, &mut put)?;
            // Lanes read them on streams of their own, from now on.
            stream.synchronize()?;
            (Held::Always(Some(Arc::new(Resident::new(buffer, &stream, 0)))), biases)
        };
        let (gpu, owner) = (Arc::clone(gpu), Arc::from(owner));
        Ok(Arc::new(CudaModel { gpu, owner, precision, plan, program, shelf, biases, planner, weights: held }))
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Its GPU.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// What the ledger calls its memory.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// What weights and activations are stored in.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How much memory it takes, and would take with other sizes of batches.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// The weights on the device, for as long as the result is held.
    pub(super) fn resident(&self) -> Result<Arc<Resident>, ModelError> {
        match &self.weights {
            Held::Always(resident) => Ok(Arc::clone(resident.as_ref().expect("weights stay until the model is dropped"))),
            Held::Seated(seat) => self.gpu.residency().acquire(seat),
        }
    }
}

impl Drop for CudaModel {
    fn drop(&mut self) {
        // Lanes hold the model until their streams are done. Batches that nobody has waited for yet hold the weights, and then
        // whoever waits for the last of them gives the memory back.
        match &mut self.weights {
            Held::Always(resident) => drop(resident.take()),
            Held::Seated(seat) => self.gpu.residency().leave(seat),
        }
    }
}

/// Part of the memory of the weights.
pub(super) fn shelf_view(resident: &Resident, range: &Range<usize>, stored: Stored) -> View {
    let View { address, len, .. } = resident.view();
    assert!(range.end <= len, "a weight lies outside its memory");
    View { address: address + range.start as u64, len: range.len() / stored.bytes(), dtype: stored.into() }
}

/// Takes bytes for an offset on the shelf, at most [`STAGE_BYTES`] at a time.
type Put<'a> = dyn FnMut(usize, &[u8]) -> Result<(), ModelError> + 'a;

/// Reads all weights and puts them in their places; one at a time, so that loading needs little memory of the host.
fn shelve(
    plan: &Plan,
    program: &Program,
    shelf: &Shelf,
    weights: &Weights,
    precision: Precision,
    put: &mut Put<'_>,
) -> Result<Vec<BiasPlace>, ModelError> {
    let recipes = &plan.recipes;
    for ((recipe, stored), range) in recipes.matrices.iter().zip(&program.matrices).zip(&shelf.matrices) {
        numbers(put, range.start, &(recipe.read)(weights)?, *stored, &recipe.name)?;
    }
    for ((recipe, exact), working) in recipes.vectors.iter().zip(&shelf.exact).zip(&shelf.working) {
        let values = (recipe.read)(weights)?;
        for (range, stored) in [(exact, Stored::F32), (working, program.working)] {
            if let Some(range) = range {
                numbers(put, range.start, &values, stored, &recipe.name)?;
            }
        }
    }
    for (recipe, (range, _)) in recipes.tables.iter().zip(&shelf.tables) {
        let table = weights.table(&recipe.tensor, &[recipe.rows, recipe.columns])?;
        if precision == Precision::F16 && table.dtype() != TableType::F16 {
            // What is looked up is stored in 16 bits as soon as it is added up.
            check_table(table.as_bytes(), table.dtype(), &recipe.tensor)?;
        }
        bytes(put, range.start, table.as_bytes())?;
    }
    for (recipe, [cosines, sines]) in recipes.rotaries.iter().zip(&shelf.rotaries) {
        let table = recipe.make();
        numbers(put, cosines.start, table.cosines(), Stored::F32, "cosines")?;
        numbers(put, sines.start, table.sines(), Stored::F32, "sines")?;
    }
    let mut biases = Vec::with_capacity(recipes.biases.len());
    for ((recipe, range), stored) in recipes.biases.iter().zip(&shelf.biases).zip(&program.biases) {
        biases.push(bias(put, range, (recipe.read)(weights)?, *stored)?);
    }
    Ok(biases)
}

/// Puts the arrays of a position bias one behind the other.
fn bias(put: &mut Put<'_>, range: &Range<usize>, values: BiasValues, stored: Stored) -> Result<BiasPlace, ModelError> {
    let mut end = range.start;
    let mut place = |len: usize| {
        let start = end.next_multiple_of(ALIGNMENT);
        end = start + len;
        assert!(end <= range.end, "a position bias is larger than it was said to be");
        start..end
    };
    match values {
        BiasValues::Distance { table, reach } => {
            let place = place(size_of_val(&table[..]));
            numbers(put, place.start, &table, Stored::F32, "distances")?;
            Ok(BiasPlace::Distance { table: place, reach })
        }
        BiasValues::Disentangled { keys, queries, rows } => {
            let mut vectors = |values: Option<Vec<f32>>, name: &str| -> Result<Option<Range<usize>>, ModelError> {
                let Some(values) = values else { return Ok(None) };
                let place = place(values.len() * stored.bytes());
                numbers(put, place.start, &values, stored, name)?;
                Ok(Some(place))
            };
            let (keys, queries) = (vectors(keys, "keys of positions")?, vectors(queries, "queries of positions")?);
            let place = place(size_of_val(&rows[..]));
            bytes(put, place.start, &rows.iter().flat_map(|row| row.to_le_bytes()).collect::<Vec<u8>>())?;
            Ok(BiasPlace::Disentangled { keys, queries, rows: place })
        }
    }
}

/// Puts numbers in their type on the device.
fn numbers(put: &mut Put<'_>, offset: usize, values: &[f32], stored: Stored, name: &str) -> Result<(), ModelError> {
    let limit = |stored: Stored| if stored == Stored::F16 { f16::MAX.to_f32() } else { bf16::MAX.to_f32() };
    let beyond = |value: f32| ModelError::BeyondRange {
        tensor: name.to_owned(),
        value,
        limit: limit(stored),
        dtype: if stored == Stored::F16 { "f16" } else { "bf16" },
    };
    let mut converted = Vec::with_capacity(STAGE_BYTES.min(values.len() * stored.bytes()));
    let mut offset = offset;
    for part in values.chunks(STAGE_BYTES / size_of::<f32>()) {
        converted.clear();
        match stored {
            Stored::F16 => {
                for value in part {
                    let short = f16::from_f32(*value);
                    if short.is_infinite() && value.is_finite() {
                        return Err(beyond(*value));
                    }
                    converted.extend_from_slice(&short.to_le_bytes());
                }
            }
            Stored::Bf16 => {
                for value in part {
                    let short = bf16::from_f32(*value);
                    if short.is_infinite() && value.is_finite() {
                        return Err(beyond(*value));
                    }
                    converted.extend_from_slice(&short.to_le_bytes());
                }
            }
            Stored::F32 | Stored::U32 => converted.extend(part.iter().flat_map(|value| value.to_le_bytes())),
        }
        put(offset, &converted)?;
        offset += converted.len();
    }
    Ok(())
}

/// Puts bytes as they are.
fn bytes(put: &mut Put<'_>, offset: usize, values: &[u8]) -> Result<(), ModelError> {
    values.chunks(STAGE_BYTES).enumerate().try_for_each(|(index, part)| put(offset + index * STAGE_BYTES, part))
}

/// Refuses tables with numbers beyond f16.
fn check_table(bytes: &[u8], dtype: TableType, name: &str) -> Result<(), ModelError> {
    let limit = f16::MAX.to_f32();
    let beyond = |value: f32| value.is_finite() && value.abs() > limit;
    let found = match dtype {
        TableType::F32 => bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).find(|value| beyond(*value)),
        TableType::Bf16 => {
            bytes.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).find(|value| beyond(*value))
        }
        TableType::F16 => None,
    };
    match found {
        Some(value) => Err(ModelError::BeyondRange { tensor: name.to_owned(), value, limit, dtype: "f16" }),
        None => Ok(()),
    }
}
