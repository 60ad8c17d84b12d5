//! What the emulated machine is, from the environment.

use std::path::PathBuf;

/// The emulated machine.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Devices.
    pub devices: u32,
    /// Compute capability, as ten times its number: 80 is 8.0.
    pub capability: u32,
    /// The driver's version as CUDA writes it: 13000 is 13.0.
    pub driver_version: u32,
    /// Memory of each device, in bytes.
    pub memory_bytes: u64,
    /// Chooses the order in which streams advance.
    pub seed: u64,
    /// Whether pinned memory in flight is kept from the host.
    pub protect_pinned: bool,
    /// Whether an error of discipline poisons the device; otherwise it is only reported.
    pub strict: bool,
    /// What fails, as `emulator_fail` takes it.
    pub fail: Option<String>,
    /// A folder of PTX that is run in place of modules for the same target with the same kernels.
    pub kernels: Option<PathBuf>,
}

impl Settings {
    /// Reads `ALCEDO_EMULATOR_*`.
    ///
    /// # Panics
    /// If one of them cannot be read: a test of another machine than the one asked for would prove nothing.
    pub(crate) fn from_environment() -> Self {
        let text = |name: &str| std::env::var(format!("ALCEDO_EMULATOR_{name}")).ok();
        let number = |name: &str, default: u64| {
            text(name).map_or(default, |value| {
                value.parse().unwrap_or_else(|_| panic!("ALCEDO_EMULATOR_{name} is '{value}': a whole number is expected"))
            })
        };
        let capability = text("CAPABILITY").map_or(80, |value| {
            let parts = value.split_once('.').and_then(|(a, b)| Some(a.parse::<u32>().ok()? * 10 + b.parse::<u32>().ok()?));
            parts.unwrap_or_else(|| panic!("ALCEDO_EMULATOR_CAPABILITY is '{value}': a capability such as 8.0 is expected"))
        });
        Settings {
            devices: number("DEVICES", 1) as u32,
            capability,
            driver_version: number("DRIVER", 13000) as u32,
            memory_bytes: number("MEMORY", 8 << 30),
            seed: number("SEED", 1),
            protect_pinned: number("PROTECT", 1) != 0,
            strict: number("STRICT", 1) != 0,
            fail: text("FAIL"),
            kernels: text("KERNELS").map(PathBuf::from),
        }
    }
}
