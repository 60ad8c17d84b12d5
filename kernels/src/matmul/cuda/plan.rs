//! Products as cuBLASLt describes them: its handle, its descriptions, and its proposals.
//!
//! The library thinks in columns: a matrix of ours, `[rows, n]` row by row, is one of its own, `n` by `rows`, column by column.
//! So `output = input W^T` is its `D = A^T B` with `A` the weights, `B` the input, and the numbers of an output row down a
//! column, which is where its bias goes. Nothing is copied.

use std::ffi::c_void;
use std::mem::{MaybeUninit, size_of};
use std::ptr;
use std::sync::Arc;

use cudarc::cublaslt::{result, sys};

use super::{DeviceEpilogue, DeviceMatrix};
use crate::activation::Activation;
use crate::cuda::{Buffer, DeviceError, DeviceType, Gpu, Handle, Stream, View};

/// The library's `CUBLAS_OP_N` and `CUBLAS_OP_T`, which the bindings lack.
const AS_IT_IS: i32 = 0;
const TRANSPOSED: i32 = 1;

/// The library on one device.
#[derive(Debug)]
pub(super) struct Library {
    gpu: Arc<Gpu>,
    handle: Handle<sys::cublasLtHandle_t>,
}

impl Library {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Result<Self, DeviceError> {
        gpu.enter()?;
        let handle = result::create_handle().map_err(|error| failed(gpu, "starting cuBLASLt", error))?;
        Ok(Library { gpu: Arc::clone(gpu), handle: Handle(handle) })
    }

    fn call<T>(&self, what: &str, result: Result<T, result::CublasError>) -> Result<T, DeviceError> {
        result.map_err(|error| failed(&self.gpu, what, error))
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // A device that fails takes the library's memory with it.
        if self.gpu.enter().is_ok() {
            // SAFETY: the handle is this one's own, and its plans are gone. It leaves no way to tell of a failure.
            let _ = unsafe { result::destroy_handle(self.handle.0) };
        }
    }
}

/// What a failure of the library means; if the device is broken, that explains it better.
fn failed(gpu: &Gpu, what: &str, error: result::CublasError) -> DeviceError {
    if let Err(poisoned) = gpu.memory() {
        return poisoned;
    }
    if error.0 == sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED {
        return gpu.out_of_memory(what.to_owned(), 0);
    }
    DeviceError::Failed { ordinal: gpu.ordinal(), what: what.to_owned(), reason: meaning(error.0) }
}

/// What a status says.
fn meaning(status: sys::cublasStatus_t) -> String {
    use sys::cublasStatus_t as S;
    let text = match status {
        S::CUBLAS_STATUS_NOT_SUPPORTED => "the library has no way to make this product on this device",
        S::CUBLAS_STATUS_INVALID_VALUE => "sizes, types or addresses do not fit together",
        S::CUBLAS_STATUS_ARCH_MISMATCH => "the library does not support this device",
        S::CUBLAS_STATUS_NOT_INITIALIZED => "the library could not be started on this device",
        S::CUBLAS_STATUS_EXECUTION_FAILED => "the device could not run it",
        S::CUBLAS_STATUS_INTERNAL_ERROR => "an error inside the library",
        _ => "see the documentation of cuBLAS",
    };
    format!("{status:?} ({text})")
}

/// Everything that a plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    rows: usize,
    outputs: usize,
    inputs: usize,
    from: DeviceType,
    to: DeviceType,
    activation: Activation,
    has_bias: bool,
    has_residual: bool,
    /// What the addresses of weights, input, residual and output are multiples of.
    alignments: [u32; 4],
}

/// What a product works on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands {
    pub(super) input: View,
    pub(super) weights: View,
    pub(super) bias: Option<View>,
    pub(super) residual: Option<View>,
    pub(super) output: View,
}

impl Operands {
    /// What is added; without a residual, the output, of which nothing is read then.
    fn added(&self) -> View {
        self.residual.unwrap_or(self.output)
    }
}

impl Shape {
    pub(super) fn new(rows: usize, matrix: &DeviceMatrix, epilogue: &DeviceEpilogue, operands: &Operands) -> Self {
        Shape {
            rows,
            outputs: matrix.outputs,
            inputs: matrix.inputs,
            from: operands.input.dtype,
            to: operands.output.dtype,
            activation: epilogue.activation,
            has_bias: epilogue.bias.is_some(),
            has_residual: epilogue.residual.is_some(),
            alignments: [operands.weights, operands.input, operands.added(), operands.output].map(View::alignment),
        }
    }

    fn what(&self) -> String {
        let Shape { rows, outputs, inputs, from, to, .. } = self;
        format!("multiplying [{rows}, {inputs}] {} by [{outputs}, {inputs}] to {}", from.suffix(), to.suffix())
    }

    fn epilogue(&self) -> sys::cublasLtEpilogue_t {
        use sys::cublasLtEpilogue_t as E;
        match (self.activation, self.has_bias) {
            (Activation::Identity, false) => E::CUBLASLT_EPILOGUE_DEFAULT,
            (Activation::Identity, true) => E::CUBLASLT_EPILOGUE_BIAS,
            (Activation::Relu, false) => E::CUBLASLT_EPILOGUE_RELU,
            (Activation::Relu, true) => E::CUBLASLT_EPILOGUE_RELU_BIAS,
            (Activation::GeluTanh, false) => E::CUBLASLT_EPILOGUE_GELU,
            (Activation::GeluTanh, true) => E::CUBLASLT_EPILOGUE_GELU_BIAS,
            (other, _) => panic!("{other:?} does not fuse with a product"),
        }
    }
}

fn library_type(dtype: DeviceType) -> sys::cudaDataType {
    match dtype {
        DeviceType::F32 => sys::cudaDataType::CUDA_R_32F,
        DeviceType::F16 => sys::cudaDataType::CUDA_R_16F,
        DeviceType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        DeviceType::U32 | DeviceType::U8 => panic!("products of {dtype:?} are not supported"),
    }
}

/// The library's description of a matrix.
#[derive(Debug)]
struct Layout(Handle<sys::cublasLtMatrixLayout_t>);

impl Layout {
    /// Rows of `n` numbers, one behind the other.
    fn new(library: &Library, dtype: DeviceType, rows: usize, n: usize) -> Result<Self, DeviceError> {
        let layout = result::create_matrix_layout(library_type(dtype), n as u64, rows as u64, n as i64);
        Ok(Layout(Handle(library.call("describing a matrix", layout)?)))
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: the description is this one's own. It is memory of the host, and freeing it cannot fail.
        let _ = unsafe { result::destroy_matrix_layout(self.0.0) };
    }
}

/// The library's description of a product.
#[derive(Debug)]
struct Description(Handle<sys::cublasLtMatmulDesc_t>);

impl Description {
    fn new(library: &Library, shape: &Shape) -> Result<Self, DeviceError> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F);
        let description = library.call("describing a product", result::create_matmul_desc(compute, scale))?;
        let description = Description(Handle(description));
        description.set(library, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, TRANSPOSED)?;
        description.set(library, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, AS_IT_IS)?;
        description.set(library, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, shape.epilogue() as u32)?;
        if shape.has_bias {
            let dtype = library_type(shape.to) as u32;
            description.set(library, Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, dtype)?;
        }
        Ok(description)
    }

    /// Sets a number of the size that the attribute has.
    fn set<T: Copy>(
        &self,
        library: &Library,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: T,
    ) -> Result<(), DeviceError> {
        // SAFETY: the description is alive, and the library copies the value, whose size it checks, before it returns.
        let set = unsafe { result::set_matmul_desc_attribute(self.0.0, attribute, (&raw const value).cast(), size_of::<T>()) };
        library.call("describing a product", set)
    }
}

impl Drop for Description {
    fn drop(&mut self) {
        // SAFETY: the description is this one's own. It is memory of the host, and freeing it cannot fail.
        let _ = unsafe { result::destroy_matmul_desc(self.0.0) };
    }
}

/// What a proposal must keep to.
struct Preference(sys::cublasLtMatmulPreference_t);

impl Preference {
    fn new(library: &Library, shape: &Shape, workspace_bytes: usize) -> Result<Self, DeviceError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = Preference(library.call("asking for a plan", result::create_matmul_pref())?);
        preference.set(library, Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes as u64)?;
        // Sums that are split over blocks are added in f32: the other ways add them after rounding to the type of the output.
        let schemes = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(library, Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes)?;
        let attributes = [
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
            Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
        ];
        for (attribute, alignment) in attributes.into_iter().zip(shape.alignments) {
            preference.set(library, attribute, alignment)?;
        }
        Ok(preference)
    }

    fn set<T: Copy>(
        &self,
        library: &Library,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: T,
    ) -> Result<(), DeviceError> {
        // SAFETY: the preference is alive, and the library copies the value, whose size it checks, before it returns.
        let set = unsafe { result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>()) };
        library.call("asking for a plan", set)
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: the preference is this one's own. It is memory of the host, and freeing it cannot fail.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

/// How the library would make a product.
pub(super) type Algorithm = sys::cublasLtMatmulAlgo_t;

/// A product that can be enqueued.
#[derive(Debug)]
pub(super) struct Plan {
    shape: Shape,
    description: Description,
    weights: Layout,
    input: Layout,
    output: Layout,
    algorithm: Option<Algorithm>,
    /// Whether a better algorithm need not be looked for.
    pub(super) is_tuned: bool,
    /// When it was used last.
    pub(super) used: u64,
}

impl Plan {
    /// Everything but the algorithm.
    pub(super) fn new(library: &Library, shape: Shape) -> Result<Self, DeviceError> {
        Ok(Plan {
            description: Description::new(library, &shape)?,
            weights: Layout::new(library, shape.from, shape.outputs, shape.inputs)?,
            input: Layout::new(library, shape.from, shape.rows, shape.inputs)?,
            output: Layout::new(library, shape.to, shape.rows, shape.outputs)?,
            shape,
            algorithm: None,
            is_tuned: false,
            used: 0,
        })
    }

    /// The library's proposals, the most promising first.
    pub(super) fn proposals(
        &self,
        library: &Library,
        most: usize,
        operands: &Operands,
        workspace_bytes: usize,
    ) -> Result<Vec<Algorithm>, DeviceError> {
        let preference = Preference::new(library, &self.shape, workspace_bytes)?;
        // Proposals depend on whether there is a bias, which the library takes from its address.
        self.set_bias(library, operands)?;
        let mut results = vec![MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit(); most];
        let mut count = 0;
        // SAFETY: all descriptions are alive, and there is room for so many results.
        let asked = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                library.handle.0,
                self.description.0.0,
                self.weights.0.0,
                self.input.0.0,
                self.output.0.0,
                self.output.0.0,
                preference.0,
                most as i32,
                results.as_mut_ptr().cast(),
                &mut count,
            )
        };
        library.call(&self.shape.what(), asked.result())?;
        let written = usize::try_from(count).unwrap_or(0).min(most);
        // SAFETY: the library has written so many results.
        let results = results[..written].iter().map(|result| unsafe { result.assume_init() });
        let usable = |result: &sys::cublasLtMatmulHeuristicResult_t| {
            result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && result.workspaceSize <= workspace_bytes
        };
        let algorithms: Vec<Algorithm> = results.filter(usable).map(|result| result.algo).collect();
        if algorithms.is_empty() {
            let unsupported = result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
            return library.call(&self.shape.what(), Err(unsupported));
        }
        Ok(algorithms)
    }

    /// Settles how the product is made.
    pub(super) fn with_algorithm(self, algorithm: Algorithm, is_tuned: bool) -> Self {
        Plan { algorithm: Some(algorithm), is_tuned, ..self }
    }

    fn set_bias(&self, library: &Library, operands: &Operands) -> Result<(), DeviceError> {
        let Some(bias) = operands.bias else { return Ok(()) };
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
        self.description.set(library, attribute, bias.address)
    }

    /// Enqueues the product with the plan's algorithm.
    pub(super) fn run(
        &self,
        library: &Library,
        stream: &Stream,
        operands: &Operands,
        workspace: &Buffer,
    ) -> Result<(), DeviceError> {
        let algorithm = self.algorithm.as_ref().expect("a plan has its algorithm before it is used");
        self.run_with(library, stream, algorithm, operands, workspace)
    }

    /// Enqueues the product with one algorithm.
    pub(super) fn run_with(
        &self,
        library: &Library,
        stream: &Stream,
        algorithm: &Algorithm,
        operands: &Operands,
        workspace: &Buffer,
    ) -> Result<(), DeviceError> {
        library.gpu.enter()?;
        self.set_bias(library, operands)?;
        let (alpha, beta) = (1f32, if operands.residual.is_some() { 1f32 } else { 0f32 });
        let place = |view: View| ptr::without_provenance_mut::<c_void>(view.address as usize);
        let scratch = workspace.view(DeviceType::U8);
        // SAFETY: all descriptions are alive; the two factors are read before the call returns; the operands have the sizes
        // that the descriptions say (`check`), and are memory of the device, which is not memory of this process. The
        // workspace is used on this stream alone, where work runs in order.
        let enqueued = unsafe {
            result::matmul(
                library.handle.0,
                self.description.0.0,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                place(operands.weights),
                self.weights.0.0,
                place(operands.input),
                self.input.0.0,
                place(operands.added()),
                self.output.0.0,
                place(operands.output),
                self.output.0.0,
                algorithm,
                place(scratch),
                scratch.len,
                stream.handle().cast(),
            )
        };
        enqueued.map_err(|error| failed(&library.gpu, &self.shape.what(), error))
    }
}
