//! Kernels against their specifications, on the device that is there.
//!
//! Owns: [`all`], the list of comparisons that the tests and `alcedo doctor` run, and what they are made of (`trial`); one
//! file per operation with its shapes; and how fast the device is ([`measure`]). May import: operations and their twins. Must never import: anything that knows models.
//!
//! Inputs are pseudo-random and rounded to the type of the case before the twin computes from them in f64, so what is measured
//! is the kernel. Outputs stand between canaries that must survive.

mod activation;
mod attention;
mod embed;
mod matmul;
pub mod measure;
mod norm;
mod patches;
mod pool;
mod rotary;
mod rows;
mod trial;

use std::fmt;

use super::{DeviceError, DeviceType, Stream};
use trial::Outcome;

/// A comparison and what came out of it.
#[derive(Debug, Clone)]
pub struct Case {
    /// The operation.
    pub operation: &'static str,
    /// What the numbers are that it works on.
    pub dtype: DeviceType,
    /// Sizes, and what is particular.
    pub shape: String,
    /// Largest difference from the specification.
    pub error: f64,
    /// The largest difference as a part of what is tolerated at its place; right up to 1.
    pub of_tolerance: f64,
    /// What else is wrong: numbers written outside the output, NaN where there should be none.
    pub fault: Option<String>,
}

impl Case {
    /// Whether the kernel kept its contract.
    pub fn is_right(&self) -> bool {
        self.fault.is_none() && self.of_tolerance <= 1.0
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { operation, dtype, shape, error, of_tolerance, fault } = self;
        write!(f, "{operation} {} {shape}: largest error {error:.1e}, {of_tolerance:.3} of the tolerance", dtype.suffix())?;
        fault.iter().try_for_each(|fault| write!(f, "; {fault}"))
    }
}

/// Runs a comparison.
type Run = dyn Fn(&Stream) -> Result<Outcome, DeviceError>;

/// A comparison that has not been run.
pub struct Check {
    operation: &'static str,
    dtype: DeviceType,
    shape: String,
    run: Box<Run>,
}

impl Check {
    /// A comparison of `operation` on numbers of type `dtype`.
    fn new(
        operation: &'static str,
        dtype: DeviceType,
        shape: String,
        run: impl Fn(&Stream) -> Result<Outcome, DeviceError> + 'static,
    ) -> Self {
        Check { operation, dtype, shape, run: Box::new(run) }
    }

    /// The operation.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// What the numbers are that it works on.
    pub fn dtype(&self) -> DeviceType {
        self.dtype
    }

    /// Sizes, and what is particular.
    pub fn shape(&self) -> &str {
        &self.shape
    }

    /// Runs it.
    ///
    /// # Errors
    /// The device failed.
    pub fn run(&self, stream: &Stream) -> Result<Case, DeviceError> {
        let Outcome { error, of_tolerance, fault } = (self.run)(stream)?;
        Ok(Case { operation: self.operation, dtype: self.dtype, shape: self.shape.clone(), error, of_tolerance, fault })
    }
}

/// All comparisons that a device with this compute capability (ten times: 80 for 8.0) can make.
pub fn checks(capability: u32) -> impl Iterator<Item = Check> {
    let operations: [fn() -> Vec<Check>; 9] = [
        embed::checks,
        norm::checks,
        rotary::checks,
        matmul::checks,
        activation::checks,
        pool::checks,
        rows::checks,
        patches::checks,
        attention::checks,
    ];
    let possible = move |check: &Check| check.dtype != DeviceType::Bf16 || capability >= 80;
    operations.into_iter().flat_map(|checks| checks()).filter(possible)
}

/// Makes all comparisons on the device of `stream`, one at a time.
pub fn all(stream: &Stream) -> impl Iterator<Item = Result<Case, DeviceError>> + '_ {
    checks(stream.gpu().capability()).map(|check| check.run(stream))
}
