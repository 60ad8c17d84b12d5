//! Failures that tests ask for.

use std::fs;
use std::path::PathBuf;

/// What is to fail, each once, and which kernels compute something wrong, always.
#[derive(Debug, Default)]
pub(crate) struct Injection {
    planned: Vec<Planned>,
    wrong: Vec<String>,
    /// Where another process may ask for failures.
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Planned {
    /// The allocation after so many.
    Allocation(u64),
    /// The launch after so many.
    Launch(u64),
    /// The next launch of a kernel.
    Kernel(String),
    /// Loading a module.
    Module,
}

impl Injection {
    /// Adds failures: `alloc:17`, `launch:203`, `launch:kernel_name`, `module`, or several with commas; numbers count from
    /// now, the first is 1. `wrong:kernel_name` fails nothing: from now on every launch of the kernel ends with the last bytes
    /// that it wrote changed. `none` forgets all of these. `file:PATH` names a file that is looked for at every allocation, launch and
    /// loading of a module, and whose text is taken in and the file removed when it is there.
    ///
    /// # Errors
    /// What cannot be read, as a sentence.
    pub(crate) fn add(&mut self, what: &str) -> Result<(), String> {
        for part in what.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let planned = match part.split_once(':') {
                None if part == "none" => {
                    // The file is a way of asking, not a failure.
                    *self = Injection { file: self.file.take(), ..Injection::default() };
                    continue;
                }
                None if part == "module" => Planned::Module,
                Some(("file", path)) => {
                    self.file = Some(PathBuf::from(path));
                    continue;
                }
                Some(("alloc", number)) => Planned::Allocation(number.parse().map_err(|_| format!("'{part}' has no number"))?),
                Some(("wrong", kernel)) => {
                    self.wrong.push(kernel.to_owned());
                    continue;
                }
                Some(("launch", what)) => what.parse().map_or_else(|_| Planned::Kernel(what.to_owned()), Planned::Launch),
                _ => {
                    return Err(format!(
                        "'{part}' is not alloc:N, launch:N, launch:KERNEL, wrong:KERNEL, module, file:PATH or none"
                    ));
                }
            };
            self.planned.push(planned);
        }
        Ok(())
    }

    /// Takes in what another process has asked for.
    fn look(&mut self) {
        let Some(path) = self.file.clone() else { return };
        let Ok(text) = fs::read_to_string(&path) else { return };
        // A file that stays would be taken in again and again.
        fs::remove_file(&path).unwrap_or_else(|error| panic!("ALCEDO_EMULATOR_FAIL: {}: {error}", path.display()));
        self.add(text.trim()).unwrap_or_else(|reason| panic!("ALCEDO_EMULATOR_FAIL: {}: {reason}", path.display()));
    }

    fn count(&mut self, counted: impl Fn(&mut Planned) -> Option<&mut u64>) -> bool {
        let mut fails = false;
        self.planned.retain_mut(|planned| {
            let Some(left) = counted(planned) else { return true };
            *left = left.saturating_sub(1);
            fails |= *left == 0;
            *left > 0
        });
        fails
    }

    /// Whether this allocation fails.
    pub(crate) fn allocation(&mut self) -> bool {
        self.look();
        self.count(|planned| match planned {
            Planned::Allocation(left) => Some(left),
            _ => None,
        })
    }

    /// Whether this launch fails.
    pub(crate) fn launch(&mut self, kernel: &str) -> bool {
        self.look();
        let by_number = self.count(|planned| match planned {
            Planned::Launch(left) => Some(left),
            _ => None,
        });
        by_number | self.once(&Planned::Kernel(kernel.to_owned()))
    }

    /// Whether launches of this kernel compute something wrong.
    pub(crate) fn is_wrong(&self, kernel: &str) -> bool {
        self.wrong.iter().any(|wrong| wrong == kernel)
    }

    /// Whether loading this module fails.
    pub(crate) fn module(&mut self) -> bool {
        self.look();
        self.once(&Planned::Module)
    }

    fn once(&mut self, planned: &Planned) -> bool {
        let found = self.planned.iter().position(|other| other == planned);
        found.map(|index| self.planned.remove(index)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_goes_on_asking_after_everything_is_forgotten() {
        let path = std::env::temp_dir().join(format!("emulator-faults-{}", std::process::id()));
        let mut injection = Injection::default();
        injection.add(&format!("file:{},wrong:norm", path.display())).unwrap();
        for _ in 0..2 {
            fs::write(&path, "none,alloc:2").unwrap();
            assert_eq!([(); 3].map(|()| injection.allocation()), [false, true, false]);
            assert!(!path.exists() && !injection.is_wrong("norm"));
        }
    }
}
