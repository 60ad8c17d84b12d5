//! Products on a device, by cuBLASLt.
//!
//! Owns: what products take ([`DeviceMatrix`], [`DeviceEpilogue`]) and the [`Multiplier`], which makes them; plans and where they
//! come from (`plan`), and which of them is fastest (`tune`). May import: the CUDA runtime, activations. Must never import:
//! other operations.
//!
//! # Contract
//! `input: [rows, inputs]`, weights `[outputs, inputs]`, result `[rows, outputs]`: `activation(input W^T + bias)`, or
//! `input W^T + bias + residual` without an activation. Input and weights are of one type, f32, f16 or bf16; bias, residual and
//! result of the same, or all f32. Sums are f32, of exact products: f32 is never rounded to TF32. Which bits come out may depend
//! on `rows`, but with the same plan a row's do not depend on the others.
//!
//! Numbers of 16 bits need inputs and outputs that are multiples of 8, and addresses that are multiples of 16: the library may
//! refuse others, and says so. f32 takes any.
//!
//! Tolerance against the twin in f64 with the same rounded inputs: that of the sum in f32 (see [`super`]), what the library's
//! GELU adds, 2^-11 of the largest of `|x|` and `|result|`, and one rounding to the type of the result.

mod plan;
mod tune;

use std::collections::HashMap;

use crate::activation::Activation;
use crate::cuda::{Buffer, DeviceError, DeviceType, MemoryKind, Stream, Tag, View};

use plan::{Library, Operands, Plan, Shape};
pub use tune::Tuning;

/// Plans that a multiplier keeps; the one used longest ago goes first. Rows come in a few dozen sizes, and models have a few
/// shapes of weights.
const MOST_PLANS: usize = 1024;

/// Weights on a device, as `torch.nn.Linear` stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMatrix {
    /// `[outputs, inputs]`, f32, f16 or bf16.
    pub values: View,
    /// Numbers per row of the result.
    pub outputs: usize,
    /// Numbers per row of the input.
    pub inputs: usize,
}

/// What follows the product in the same launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceEpilogue {
    /// Added to every row, `[outputs]`, of the type of the result.
    pub bias: Option<View>,
    /// Applied to the sum; one that [`fuses`].
    pub activation: Activation,
    /// Added to the sum, `[rows, outputs]`, of the type of the result; may be the result itself. Only without an activation:
    /// the library would apply it after this.
    pub residual: Option<View>,
}

/// Whether a product can apply the activation itself. The others need a launch of their own.
pub fn fuses(activation: Activation) -> bool {
    matches!(activation, Activation::Identity | Activation::Relu | Activation::GeluTanh)
}

/// What makes products on one stream: a handle of the library, scratch memory, and plans.
#[derive(Debug)]
pub struct Multiplier {
    // Before the library: plans are its objects.
    plans: HashMap<Shape, Plan>,
    library: Library,
    workspace: Buffer,
    stream: Stream,
    tuning: Tuning,
    /// Counts products, to know which plan was used longest ago.
    clock: u64,
}

impl Multiplier {
    /// For products on `stream`, with so much scratch memory; 32 MiB is what the library asks for on the newest devices. The
    /// ledger has it as nobody's in particular.
    ///
    /// # Errors
    /// The device has no such memory left, or the library does not start.
    pub fn new(stream: &Stream, workspace_bytes: usize) -> Result<Self, DeviceError> {
        Self::for_owner(stream, workspace_bytes, "", Tuning::default())
    }

    /// The same, for an owner that the ledger knows, and with a way to choose plans.
    ///
    /// # Errors
    /// The device has no such memory left, or the library does not start.
    pub fn for_owner(stream: &Stream, workspace_bytes: usize, owner: &str, tuning: Tuning) -> Result<Self, DeviceError> {
        let library = Library::new(stream.gpu())?;
        let workspace = Buffer::tagged(stream, workspace_bytes, &Tag::new(owner, MemoryKind::Workspace))?;
        Ok(Multiplier { plans: HashMap::new(), library, workspace, stream: stream.clone(), tuning, clock: 0 })
    }

    /// Enqueues a product. See the [contract](self). The first of a shape makes a plan, and with [`Tuning::Timed`] waits for the
    /// device while it compares the candidates, unless launches are being recorded; the others only enqueue.
    ///
    /// # Errors
    /// The library has no way to make the product, or the device fails.
    ///
    /// # Panics
    /// If sizes or types disagree, the activation does not [fuse](fuses) or comes with a residual, the result overlaps what it is
    /// computed from, or `stream` is not the one of [`Multiplier::new`].
    pub fn run(
        &mut self,
        stream: &Stream,
        input: View,
        rows: usize,
        matrix: &DeviceMatrix,
        epilogue: DeviceEpilogue,
        output: View,
    ) -> Result<(), DeviceError> {
        assert!(stream.is(&self.stream), "a multiplier has its scratch memory on another stream");
        check(input, rows, matrix, &epilogue, output);
        if rows == 0 || matrix.outputs == 0 {
            return Ok(());
        }
        let operands = Operands { input, weights: matrix.values, bias: epilogue.bias, residual: epilogue.residual, output };
        let shape = Shape::new(rows, matrix, &epilogue, &operands);
        self.clock += 1;
        let tuned = self.plans.get(&shape).is_some_and(|plan| plan.is_tuned || stream.is_recording());
        if !tuned {
            self.make_room();
            let plan = tune::choose(&self.library, stream, self.tuning, shape, &operands, &self.workspace)?;
            self.plans.insert(shape, plan);
        }
        let plan = self.plans.get_mut(&shape).expect("it has just been made");
        plan.used = self.clock;
        plan.run(&self.library, stream, &operands, &self.workspace)
    }

    /// How many plans it keeps.
    pub fn plans(&self) -> usize {
        self.plans.len()
    }

    fn make_room(&mut self) {
        if self.plans.len() >= MOST_PLANS {
            let oldest = self.plans.iter().min_by_key(|(_, plan)| plan.used).map(|(shape, _)| *shape);
            if let Some(shape) = oldest {
                self.plans.remove(&shape);
            }
        }
    }
}

/// Sizes and types of a product.
fn check(input: View, rows: usize, matrix: &DeviceMatrix, epilogue: &DeviceEpilogue, output: View) {
    let DeviceMatrix { values, outputs, inputs } = *matrix;
    assert!(inputs > 0, "a product has inputs");
    assert_eq!(Some(values.len), outputs.checked_mul(inputs), "the weights and their sizes disagree");
    assert_eq!(Some(input.len), rows.checked_mul(inputs), "the input and the weights disagree");
    assert_eq!(Some(output.len), rows.checked_mul(outputs), "the output and the weights disagree");
    let (from, to) = (input.dtype, output.dtype);
    assert!(matches!(from, DeviceType::F32 | DeviceType::F16 | DeviceType::Bf16), "products of {from:?} are not supported");
    assert_eq!(from, values.dtype, "the input and the weights are of different types");
    assert!(to == from || to == DeviceType::F32, "products of {from:?} cannot be {to:?}");
    if let Some(bias) = epilogue.bias {
        assert_eq!((bias.len, bias.dtype), (outputs, to), "the bias and the output disagree");
    }
    assert!(fuses(epilogue.activation), "{:?} does not fuse with a product", epilogue.activation);
    if let Some(residual) = epilogue.residual {
        assert_eq!((residual.len, residual.dtype), (output.len, to), "the residual and the output disagree");
        assert_eq!(epilogue.activation, Activation::Identity, "a residual and an activation do not go into one product");
        assert!(residual == output || !residual.overlaps(output), "the output overlaps the residual");
    }
    let others = [Some(input), Some(values), epilogue.bias];
    assert!(!others.iter().flatten().any(|view| view.overlaps(output)), "the output overlaps what it is computed from");
}
