//! Memory that another process allocates, on a device that both use.

use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use cudarc::driver::{CudaContext, result, sys};
use kernels::cuda::ipc::{HANDLE_BYTES, IpcMemory};

use super::device;

/// With this variable the test binary runs as the process that owns the memory.
const OWNER: &str = "ALCEDO_TEST_IPC_OWNER";

const BYTES: usize = 4099;

fn pattern(seed: u8) -> Vec<u8> {
    (0..BYTES).map(|at| (at as u8).wrapping_mul(7).wrapping_add(seed)).collect()
}

/// Allocates, fills, hands the handle out, waits for a word, and says what the memory holds then.
fn own() {
    let context = CudaContext::new(0).unwrap();
    context.bind_to_thread().unwrap();
    // SAFETY: plain memory of the device, written as a whole by the copy below, and freed at the end of the process.
    let address = unsafe { result::malloc_sync(BYTES) }.unwrap();
    // SAFETY: both sides have `BYTES` bytes.
    unsafe { result::memcpy_htod_sync(address, &pattern(1)) }.unwrap();
    context.synchronize().unwrap();
    let mut handle = sys::CUipcMemHandle { reserved: [0; HANDLE_BYTES] };
    // SAFETY: the address is that of an allocation of the current context.
    unsafe { sys::cuIpcGetMemHandle(&raw mut handle, address) }.result().unwrap();
    let mut out = std::io::stdout().lock();
    out.write_all(b"\nHANDLE").unwrap();
    out.write_all(&handle.reserved.map(|byte| byte as u8)).unwrap();
    out.flush().unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let mut held = vec![0; BYTES];
    // SAFETY: both sides have `BYTES` bytes.
    unsafe { result::memcpy_dtoh_sync(&mut held, address) }.unwrap();
    out.write_all(b"\nHELD").unwrap();
    out.write_all(&held).unwrap();
}

/// What follows `mark`: the output of a test binary has other lines before it.
fn after<const N: usize>(mark: &[u8], from: &mut impl Read) -> [u8; N] {
    let (mut seen, mut byte, mut into) = (Vec::new(), [0], [0; N]);
    while !seen.ends_with(mark) {
        from.read_exact(&mut byte).expect("the owner of the memory goes on");
        seen.push(byte[0]);
    }
    from.read_exact(&mut into).expect("the owner of the memory goes on");
    into
}

fn start_owner() -> (Child, ChildStdout) {
    let mut owner = Command::new(std::env::current_exe().unwrap())
        .args(["ipc::memory_of_another_process_is_read_and_written", "--exact", "--nocapture"])
        .env(OWNER, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = owner.stdout.take().unwrap();
    (owner, out)
}

#[test]
fn memory_of_another_process_is_read_and_written() {
    if std::env::var_os(OWNER).is_some() {
        return own();
    }
    let (mut owner, mut out) = start_owner();
    let handle = after::<HANDLE_BYTES>(b"\nHANDLE", &mut out);
    let memory = IpcMemory::open(device::stream().gpu(), handle).unwrap();
    let bytes = memory.bytes();
    assert!(bytes >= BYTES as u64, "{bytes} bytes");
    let mut read = vec![0; BYTES - 3];
    memory.read(3, &mut read).unwrap();
    assert_eq!(read, pattern(1)[3..]);
    memory.write(5, &pattern(2)[5..100]).unwrap();
    memory.read(bytes, &mut []).unwrap();
    for (offset, count) in [(bytes, 1), (u64::MAX, 1), (1, bytes as usize)] {
        for error in [memory.read(offset, &mut vec![0; count]), memory.write(offset, &vec![0; count])] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains("are not within its"), "{error}");
        }
    }
    owner.stdin.take().unwrap().write_all(b"!").unwrap();
    let held = after::<BYTES>(b"\nHELD", &mut out);
    let expected = [&pattern(1)[..5], &pattern(2)[5..100], &pattern(1)[100..]].concat();
    assert_eq!(held.as_slice(), expected);
    drop(memory);
    assert!(owner.wait().unwrap().success());
}

#[test]
fn a_handle_that_nobody_made_is_refused_and_harms_nothing() {
    let stream = device::stream();
    for byte in [0, 0x5a, 0xff] {
        let error = IpcMemory::open(stream.gpu(), [byte; HANDLE_BYTES]).unwrap_err().to_string();
        assert!(error.contains("opening a CUDA IPC handle failed"), "{error}");
    }
    assert_eq!(stream.gpu().poisoned(), None);
    stream.synchronize().unwrap();
}
