//! What can be tried only where faults can be made: the emulated device.
//!
//! A fault leaves a process unable to use the device, so each is tried in a process of its own, which runs an ordinary test of
//! this program under the fault.

use std::process::Command;

use kernels::cuda::{Buffer, DeviceType, Stream};

use crate::device::{is_emulated, stream};

/// Runs the test `runtime::a_kernel_runs` with these variables: whether it succeeds, and what it says.
fn run(variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "runtime::a_kernel_runs", "--nocapture"]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("running 1 test"), "{said}");
    (output.status.success(), said)
}

/// The test must fail with this text.
#[track_caller]
fn fails(variables: &[(&str, &str)], text: &str) {
    let (succeeds, said) = run(variables);
    assert!(!succeeds && said.contains(text), "expected '{text}':\n{said}");
}

#[test]
fn reasons_are_told_apart() {
    if !is_emulated() {
        println!("a real device has no faults on demand");
        return;
    }
    fails(&[("ALCEDO_EMULATOR_DRIVER", "12080")], "the NVIDIA driver is too old: it serves CUDA 12.8, and 13.0 is needed");
    fails(&[("ALCEDO_EMULATOR_DEVICES", "0")], "the driver shows no GPU");
    fails(&[("ALCEDO_EMULATOR_DEVICES", "0"), ("CUDA_VISIBLE_DEVICES", "7")], "CUDA_VISIBLE_DEVICES is '7'");
    fails(&[("ALCEDO_EMULATOR_CAPABILITY", "6.1")], "its compute capability 6.1 is not supported");
    fails(&[("LD_LIBRARY_PATH", "")], "no NVIDIA driver is installed");
}

#[test]
fn memory_that_the_pool_holds_is_given_back_before_an_allocation_fails() {
    if !is_emulated() {
        println!("a real device has no faults on demand");
        return;
    }
    let (succeeds, said) = run(&[("ALCEDO_EMULATOR_FAIL", "alloc:1")]);
    assert!(succeeds, "the second attempt finds memory:\n{said}");
    fails(&[("ALCEDO_EMULATOR_FAIL", "alloc:1,alloc:2")], "out of memory: allocating 12 bytes for other of ''");
}

#[test]
fn a_missing_library_is_named_with_the_places_it_was_looked_for_in() {
    if !is_emulated() {
        println!("a real device has its libraries where they are");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = std::env::split_paths(&std::env::var_os("LD_LIBRARY_PATH").unwrap())
        .map(|path| path.join("libcuda.so.1"))
        .find(|path| path.exists())
        .unwrap();
    std::os::unix::fs::symlink(driver.canonicalize().unwrap(), folder.path().join("libcuda.so.1")).unwrap();
    let alone = folder.path().to_str().unwrap();
    fails(&[("LD_LIBRARY_PATH", alone)], "libcublasLt.so.13 (cuBLASLt of CUDA 13) is not found");
    fails(&[("LD_LIBRARY_PATH", alone), ("ALCEDO_CUDA_LIBRARY_PATH", "/nowhere/at/all")], "/nowhere/at/all");
}

#[test]
fn a_fault_of_a_kernel_is_the_cause_of_everything_after_it() {
    if !is_emulated() {
        println!("a real device has no faults on demand");
        return;
    }
    let (succeeds, said) = run(&[("ALCEDO_EMULATOR_FAIL", "launch:1")]);
    let text = "GPU 0 is unusable since a fault, and this process must be restarted to use it again:";
    assert!(!succeeds && said.contains(text) && said.contains("CUDA_ERROR_LAUNCH_FAILED"), "{said}");
}

/// Runs the test `name` alone, which must end with a report of the emulated device with these texts.
#[track_caller]
fn is_found(name: &str, texts: &[&str]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args(["--exact", name, "--nocapture"]).env(DISORDER, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && texts.iter().all(|text| said.contains(text)), "expected {texts:?}:\n{said}");
}

/// Set in a process that is to do something wrong.
const DISORDER: &str = "ALCEDO_TEST_DISORDER";

/// Two buffers of 4,096 bytes, filled on one stream, and another stream that knows nothing of that.
fn disorder() -> Option<(Stream, Stream, [Buffer; 2])> {
    std::env::var_os(DISORDER)?;
    let first = stream();
    let buffers = [Buffer::new(&first, 4096).unwrap(), Buffer::new(&first, 4096).unwrap()];
    first.synchronize().unwrap();
    let second = Stream::new(first.gpu()).unwrap();
    Some((first, second, buffers))
}

#[test]
fn a_missing_wait_between_streams_is_found() {
    if let Some((first, second, [one, other])) = disorder() {
        first.fill(one.view(DeviceType::U8), 1).unwrap();
        second.copy(one.view(DeviceType::U8), other.view(DeviceType::U8)).unwrap();
        second.synchronize().unwrap();
        first.synchronize().unwrap();
    } else if is_emulated() {
        let texts = ["emulator: ", "memset (stream", "copy within the device (stream"];
        is_found("emulated::a_missing_wait_between_streams_is_found", &texts);
    }
}

#[test]
fn memory_freed_while_another_stream_uses_it_is_found() {
    if let Some((first, second, [one, other])) = disorder() {
        second.copy(one.view(DeviceType::U8), other.view(DeviceType::U8)).unwrap();
        drop(one);
        first.synchronize().unwrap();
        second.synchronize().unwrap();
    } else if is_emulated() {
        // Which of the two comes first differs; the report names both.
        let texts = ["emulator: ", "free (stream", "copy within the device (stream"];
        is_found("emulated::memory_freed_while_another_stream_uses_it_is_found", &texts);
    }
}
