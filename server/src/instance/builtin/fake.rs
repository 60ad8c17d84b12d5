//! `fake`: a device with a programmable cost curve, jitter and failures, on the real clock; its outputs are its inputs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{ExecuteError, LoadError};

use super::super::Execution;
use super::super::device::SharedDevice;
use super::Kind;
use super::identity::Identity;
use super::own_threads::OwnThreads;
use super::setup::Setup;
use super::waiting::{self, Pastime};

/// Parameters of the kind.
pub(super) const PARAMETERS: [&str; 12] = [
    "missing",
    "fixed_us",
    "per_row_us",
    "per_cost_us",
    "jitter",
    "slow_rate",
    "slow_factor",
    "fail_rate",
    "panic_rate",
    "seed",
    "device",
    "busy",
];

/// How much longer a slow execution takes, where the configuration does not say.
const SLOW_FACTOR: f64 = 10.0;

/// Longest name of a device.
const MAX_DEVICE_NAME_BYTES: usize = 64;

/// Beginnings of the names of real devices.
const REAL_DEVICES: [&str; 3] = [SharedDevice::CPU, "gpu", "cuda"];

/// A virtual device runs one execution at a time, unless the command line says otherwise.
struct Fake {
    curve: Curve,
    chances: Chances,
    /// One sequence for all instances of a version: executions draw from it in the order in which they begin.
    draws: Mutex<Draws>,
    pastime: Pastime,
    device: Option<SharedDevice>,
    identity: Identity,
}

/// Time of an execution: `fixed + per_row * rows + per_cost * cost`.
#[derive(Clone, Copy, Debug)]
struct Curve {
    fixed: Duration,
    per_row: Duration,
    per_cost: Duration,
}

/// What may become of an execution.
#[derive(Clone, Copy, Debug)]
struct Chances {
    /// Its time is multiplied by a factor drawn evenly from `1 - jitter` to `1 + jitter`.
    jitter: f64,
    slow_rate: f64,
    slow_factor: f64,
    fail_rate: f64,
    panic_rate: f64,
}

/// What becomes of one execution.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Fate {
    factor: f64,
    fails: bool,
    panics: bool,
}

/// Seeded numbers, evenly from 0 to 1 without 1.
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014), SplitMix64.
struct Draws(u64);

/// Opens the kind `fake`.
pub(super) fn open(setup: &Setup<'_>) -> Result<Arc<dyn Kind>, LoadError> {
    let identity = Identity::open(setup)?;
    let pastime = match setup.text("busy") {
        None | Some("sleep") => Pastime::Sleep,
        Some("spin") => Pastime::Spin,
        Some(_) => return Err(setup.bad_parameter("busy", "'sleep' or 'spin'")),
    };
    let chances = Chances {
        jitter: setup.fraction("jitter")?,
        slow_rate: setup.fraction("slow_rate")?,
        slow_factor: setup.factor("slow_factor")?.unwrap_or(SLOW_FACTOR),
        fail_rate: setup.fraction("fail_rate")?,
        panic_rate: setup.fraction("panic_rate")?,
    };
    let curve = Curve {
        fixed: setup.microseconds("fixed_us")?,
        per_row: setup.microseconds("per_row_us")?,
        per_cost: setup.microseconds("per_cost_us")?,
    };
    let draws = Mutex::new(Draws(setup.seed("seed")?));
    Ok(Arc::new(Fake { curve, chances, draws, pastime, device: device(setup)?, identity }))
}

fn device(setup: &Setup<'_>) -> Result<Option<SharedDevice>, LoadError> {
    let Some(name) = setup.text("device") else {
        return Ok(None);
    };
    let is_virtual = !REAL_DEVICES.iter().any(|real| name.to_ascii_lowercase().starts_with(real));
    let is_name = (1..=MAX_DEVICE_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    match is_virtual && is_name {
        true => Ok(Some(SharedDevice { name: name.into(), slots: std::num::NonZeroUsize::MIN })),
        false => Err(setup.bad_parameter(
            "device",
            "a name of up to 64 letters, digits, '_', '-' and '.' that does not begin with cpu, gpu or cuda",
        )),
    }
}

impl Kind for Fake {
    fn execute(&self, execution: &mut Execution, _threads: &OwnThreads) -> Result<(), ExecuteError> {
        let fate = self.draws.lock().unwrap_or_else(PoisonError::into_inner).fate(&self.chances);
        let cost = (0..execution.len()).map(|request| execution.request(request).cost).fold(0, u64::saturating_add);
        let rows = u64::try_from(execution.rows()).unwrap_or(u64::MAX);
        waiting::pause_exactly(self.curve.time(rows, cost, fate.factor), self.pastime);
        execution.mark_infer_done();
        assert!(!fate.panics, "the fake device panics, as 'panic_rate' wants it");
        if fate.fails {
            return Err(ExecuteError::Internal { message: "the fake device fails, as 'fail_rate' wants it".to_owned() });
        }
        self.identity.pass(execution)
    }

    fn device(&self) -> Option<SharedDevice> {
        self.device.clone()
    }
}

impl Curve {
    fn time(&self, rows: u64, cost: u64, factor: f64) -> Duration {
        let times = |unit: Duration, count: u64| unit.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX));
        let time = self.fixed.saturating_add(times(self.per_row, rows)).saturating_add(times(self.per_cost, cost));
        Duration::try_from_secs_f64(time.as_secs_f64() * factor)
            .unwrap_or(waiting::MAX_REQUESTED_DELAY)
            .min(waiting::MAX_REQUESTED_DELAY)
    }
}

impl Draws {
    /// The fate of the next execution. It takes the same number of draws whatever the chances, so that one chance
    /// does not change what the others decide.
    fn fate(&mut self, chances: &Chances) -> Fate {
        let [jitter, slow, fail, panic] = [self.next(), self.next(), self.next(), self.next()];
        let slowness = if slow < chances.slow_rate { chances.slow_factor } else { 1.0 };
        Fate {
            factor: (1.0 + chances.jitter * (2.0 * jitter - 1.0)) * slowness,
            fails: fail < chances.fail_rate,
            panics: panic < chances.panic_rate,
        }
    }

    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        // The upper 53 bits are what a double holds exactly.
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }
}
