//! Which device models run on whose configuration leaves that to the server.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::SharedDevice;

/// Highest number that a GPU may have on the command line; no machine has as many.
const MOST_GPUS: u32 = 256;

/// What the command line says of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU where that can be used, else the processor.
    #[default]
    Auto,
    /// The processor, and no model runs on a GPU.
    Cpu,
    /// This GPU, and the server does not start without it.
    Cuda(u32),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ordinal = |text: &str| text.parse().ok().filter(|ordinal| *ordinal < MOST_GPUS);
        match text {
            "auto" => Ok(Self::Auto),
            SharedDevice::CPU => Ok(Self::Cpu),
            other => match other.strip_prefix(SharedDevice::CUDA).and_then(ordinal) {
                Some(ordinal) => Ok(Self::Cuda(ordinal)),
                None => Err("expected auto, cpu or cuda:N with the number N of a GPU, from 0".to_owned()),
            },
        }
    }
}

/// What came of the choice, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenDevice {
    /// The GPU that it is; `None` for the processor.
    pub gpu: Option<u32>,
    /// Whether models that ask for a GPU may have one.
    pub allows_gpus: bool,
    /// Whether the user named it.
    pub is_named: bool,
    /// Why it is this one, as part of a sentence.
    pub because: Arc<str>,
}

impl Default for ChosenDevice {
    /// The processor, unless a model asks for a GPU.
    fn default() -> Self {
        Self { gpu: None, allows_gpus: true, is_named: false, because: "no other device was chosen".into() }
    }
}

impl fmt::Display for ChosenDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gpu {
            Some(ordinal) => write!(f, "{}{ordinal}", SharedDevice::CUDA),
            None => f.write_str(SharedDevice::CPU),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_written_as_devices_are_named() {
        assert_eq!("auto".parse(), Ok(DeviceChoice::Auto));
        assert_eq!("cpu".parse(), Ok(DeviceChoice::Cpu));
        assert_eq!("cuda:3".parse(), Ok(DeviceChoice::Cuda(3)));
        for wrong in ["", "gpu", "cuda", "cuda:", "cuda:-1", "cuda:x", "cuda:256", "CPU", "0"] {
            assert!(wrong.parse::<DeviceChoice>().unwrap_err().contains("cuda:N"), "{wrong}");
        }
        let chosen = ChosenDevice { gpu: Some(3), ..ChosenDevice::default() };
        assert_eq!((chosen.to_string(), ChosenDevice::default().to_string()), ("cuda:3".to_owned(), "cpu".to_owned()));
    }
}
