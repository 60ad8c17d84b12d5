//! Tests of the driver through its C interface. The device is one for the process: tests take turns.

use std::ffi::CString;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::abi::{HostBytes, Out, Parameters, Text};
use super::api::{context::*, control::*, graph::*, memory::*, module::*, pool::*, share::*, stream::*};
use super::state::{CURRENT, Driver};
use super::status::Status;

static TURN: Mutex<()> = Mutex::new(());

/// A turn with a healthy device.
pub(crate) struct Turn(#[expect(dead_code, reason = "held for the length of the test")] MutexGuard<'static, ()>);

pub(crate) fn ok(status: Status) {
    assert_eq!(status, Status::SUCCESS, "{:?}", status.name());
}

pub(crate) fn make<T: Default>(call: impl FnOnce(Out<T>) -> Status) -> T {
    let mut value = T::default();
    ok(call(Out::from(&mut value)));
    value
}

impl Turn {
    pub(crate) fn begin() -> Turn {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        ok(cuInit(0));
        emulator_reset();
        let device = make(|out| cuDeviceGet(out, 0));
        let context = make(|out| cuDevicePrimaryCtxRetain(out, device));
        ok(cuCtxSetCurrent(context));
        emulator_reset_counters();
        Turn(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        emulator_reset();
        // Whatever a failing test left behind goes with the context.
        cuDevicePrimaryCtxRelease_v2(0);
        emulator_reset();
    }
}

pub(crate) fn stream() -> u64 {
    make(|out| cuStreamCreate(out, 1))
}

pub(crate) fn synchronize(stream: u64) -> Status {
    cuStreamSynchronize(stream)
}

fn event() -> u64 {
    make(|out| cuEventCreate(out, 2))
}

pub(crate) fn device_memory(bytes: usize) -> u64 {
    make(|out| cuMemAlloc_v2(out, bytes))
}

fn pinned(bytes: usize) -> u64 {
    make(|out| cuMemHostAlloc(out, bytes, 0))
}

fn host(address: u64) -> HostBytes {
    HostBytes::from(address as usize)
}

pub(crate) fn upload(target: u64, bytes: &[u8], stream: u64) {
    ok(cuMemcpyHtoDAsync_v2(target, HostBytes::from(bytes.as_ptr() as usize), bytes.len(), stream));
}

pub(crate) fn download(source: u64, bytes: usize, stream: u64) -> Vec<u8> {
    let mut target = vec![0_u8; bytes];
    ok(cuMemcpyDtoHAsync_v2(HostBytes::from(target.as_mut_ptr() as usize), source, bytes, stream));
    target
}

fn findings() -> String {
    let length = emulator_findings(HostBytes::from(0), 0);
    let mut text = vec![0_u8; length];
    emulator_findings(HostBytes::from(text.as_mut_ptr() as usize), length);
    String::from_utf8(text).expect("text")
}

fn counters() -> serde_json::Value {
    let length = emulator_counters(HostBytes::from(0), 0);
    let mut text = vec![0_u8; length];
    emulator_counters(HostBytes::from(text.as_mut_ptr() as usize), length);
    serde_json::from_slice(&text).expect("JSON")
}

const FAILED: Status = Status::LAUNCH_FAILED;

#[test]
fn copies_come_back_as_they_went() {
    let _turn = Turn::begin();
    let (stream, memory) = (stream(), device_memory(1000));
    let bytes: Vec<u8> = (0..1000).map(|i| (i * 7) as u8).collect();
    upload(memory, &bytes, stream);
    assert_eq!(download(memory, 1000, stream), bytes);
    ok(cuMemsetD32Async(memory + 4, 0x0102_0304, 2, stream));
    assert_eq!(download(memory, 14, stream)[4..12], [4, 3, 2, 1, 4, 3, 2, 1]);
    ok(cuMemFree_v2(memory));
}

#[test]
fn new_memory_is_not_a_number() {
    let _turn = Turn::begin();
    let (stream, memory) = (stream(), device_memory(5000));
    assert!(download(memory, 5000, stream).iter().all(|byte| *byte == 0xFF));
}

#[test]
fn addresses_are_checked_when_a_copy_is_asked_for() {
    let _turn = Turn::begin();
    let (stream, memory) = (stream(), device_memory(100));
    let bytes = [0_u8; 128];
    let source = HostBytes::from(bytes.as_ptr() as usize);
    assert_eq!(cuMemcpyHtoDAsync_v2(memory, source, 101, stream), Status::INVALID_VALUE);
    assert_eq!(cuMemcpyHtoDAsync_v2(memory + 90, source, 11, stream), Status::INVALID_VALUE);
    assert_eq!(cuMemcpyHtoDAsync_v2(bytes.as_ptr() as u64, source, 1, stream), Status::INVALID_VALUE);
    assert_eq!(cuMemFree_v2(memory + 8), Status::INVALID_VALUE);
    ok(cuMemFree_v2(memory));
    assert_eq!(cuMemFree_v2(memory), Status::INVALID_VALUE);
}

/// One stream writes, another reads; with or without an event between them.
fn hand_over(seed: u64, with_event: bool) -> (Status, String) {
    let _turn = Turn::begin();
    emulator_seed(seed);
    let (first, second, done) = (stream(), stream(), event());
    let (memory, other) = (device_memory(4096), device_memory(4096));
    ok(cuCtxSynchronize());
    ok(cuMemsetD8Async(memory, 1, 4096, first));
    ok(cuEventRecord(done, first));
    if with_event {
        ok(cuStreamWaitEvent(second, done, 0));
    }
    ok(cuMemcpyDtoDAsync_v2(other, memory, 4096, second));
    let status = cuCtxSynchronize();
    if status == Status::SUCCESS {
        assert_eq!(download(other, 4096, second), [1; 4096], "seed {seed}");
    }
    (status, findings())
}

#[test]
fn a_missing_event_is_found_in_every_order() {
    for seed in 0..40 {
        let (status, findings) = hand_over(seed, false);
        assert_eq!(status, FAILED, "seed {seed}");
        let names_both = findings.contains("memset (stream") && findings.contains("copy within the device (stream");
        assert!(names_both && findings.contains("is not ordered after"), "seed {seed}: {findings}");
    }
}

#[test]
fn an_event_orders_two_streams_in_every_order() {
    for seed in 0..40 {
        assert_eq!(hand_over(seed, true), (Status::SUCCESS, String::new()), "seed {seed}");
    }
}

#[test]
fn work_is_not_done_when_a_call_returns() {
    let _turn = Turn::begin();
    let (stream, memory, done) = (stream(), device_memory(1 << 20), event());
    let mut pending = 0;
    for _ in 0..50 {
        ok(cuMemsetD8Async(memory, 1, 1 << 20, stream));
        ok(cuEventRecord(done, stream));
        pending += u32::from(cuEventQuery(done) == Status::NOT_READY);
        ok(cuEventSynchronize(done));
        ok(cuEventQuery(done));
    }
    assert!(pending > 10, "{pending} of 50 were pending");
}

#[test]
fn the_host_orders_what_it_waited_for() {
    let _turn = Turn::begin();
    let (first, second, memory) = (stream(), stream(), device_memory(64));
    ok(cuMemsetD8Async(memory, 1, 64, first));
    ok(cuStreamSynchronize(first));
    ok(cuMemsetD8Async(memory, 2, 64, second));
    ok(cuStreamSynchronize(second));
    // Reads of two streams do not conflict; the write after them does, unless it waits for both.
    let read = event();
    assert_eq!(download(memory, 1, first), [2]);
    ok(cuMemcpyDtoDAsync_v2(device_memory(64), memory, 64, second));
    ok(cuEventRecord(read, second));
    ok(cuMemcpyDtoDAsync_v2(device_memory(64), memory, 64, first));
    ok(cuStreamWaitEvent(first, read, 0));
    ok(cuMemsetD8Async(memory, 3, 64, first));
    ok(cuCtxSynchronize());
    assert_eq!(findings(), "");
}

#[test]
fn bytes_side_by_side_are_no_conflict() {
    let _turn = Turn::begin();
    let (first, second, memory) = (stream(), stream(), device_memory(64));
    ok(cuMemsetD8Async(memory, 1, 13, first));
    ok(cuMemsetD8Async(memory + 13, 2, 51, second));
    ok(cuCtxSynchronize());
    ok(cuMemsetD8Async(memory, 1, 13, first));
    ok(cuMemsetD8Async(memory + 12, 2, 51, second));
    assert_eq!(cuCtxSynchronize(), FAILED);
    assert!(findings().contains("at offset 12"), "{}", findings());
}

#[test]
fn freeing_what_is_in_use_is_found() {
    let _turn = Turn::begin();
    let (first, second) = (stream(), stream());
    let memory = make(|out| cuMemAllocAsync(out, 4096, first));
    ok(cuStreamSynchronize(first));
    ok(cuMemsetD8Async(memory, 1, 4096, second));
    ok(cuMemFreeAsync(memory, first));
    // Either the free finds the fill, or the fill finds the memory freed.
    assert_ne!(cuCtxSynchronize(), Status::SUCCESS);
    let text = findings();
    assert!(text.contains("free (stream") && text.contains("memset (stream"), "{text}");
}

#[test]
fn freeing_before_the_host_has_waited_is_found() {
    let _turn = Turn::begin();
    let (stream, memory) = (stream(), device_memory(256));
    ok(cuMemsetD8Async(memory, 1, 256, stream));
    // Either the free finds the fill, or the fill finds the memory freed.
    cuMemFree_v2(memory);
    assert_ne!(cuCtxSynchronize(), Status::SUCCESS);
    let text = findings();
    assert!(text.contains("free (the host") && text.contains("memset (stream"), "{text}");
}

#[test]
fn use_after_free_names_the_free() {
    let _turn = Turn::begin();
    let (stream, memory, other) = (stream(), device_memory(256), device_memory(256));
    ok(cuStreamBeginCapture_v2(stream, 1));
    ok(cuMemcpyDtoDAsync_v2(other, memory, 256, stream));
    let graph = make(|out| cuStreamEndCapture(stream, out));
    let executable = make(|out| cuGraphInstantiateWithFlags(out, graph, 0));
    ok(cuGraphLaunch(executable, stream));
    ok(cuStreamSynchronize(stream));
    ok(cuMemFree_v2(memory));
    ok(cuGraphLaunch(executable, stream));
    assert_eq!(cuStreamSynchronize(stream), Status::ILLEGAL_ADDRESS);
    assert!(findings().contains("freed by free (the host"), "{}", findings());
}

#[test]
fn errors_stick_to_the_device() {
    let _turn = Turn::begin();
    let (stream, memory) = (stream(), device_memory(64));
    let other = super::tests::stream();
    ok(cuMemsetD8Async(memory, 1, 64, stream));
    ok(cuMemsetD8Async(memory, 1, 64, other));
    assert_eq!(cuStreamSynchronize(stream).0.max(cuStreamSynchronize(other).0), FAILED.0);
    assert_eq!(cuMemsetD8Async(memory, 1, 64, stream), FAILED);
    assert_eq!(make_status(|out| cuMemAlloc_v2(out, 64)), FAILED);
    // What tells of the device still answers.
    assert_eq!(make::<i32>(|out| cuDeviceGetCount(out)), 1);
    assert_eq!(CURRENT.get(), make(|out| cuCtxGetCurrent(out)));
}

fn make_status(call: impl FnOnce(Out<u64>) -> Status) -> Status {
    call(Out::from(&mut 0))
}

#[test]
fn pinned_memory_in_flight_is_kept_from_the_host() {
    let _turn = Turn::begin();
    let (stream, memory, slot, done) = (stream(), device_memory(3 * 4096), pinned(4 * 4096), event());
    let rights = |offset: usize| {
        let state = Driver::started().expect("started").lock();
        state.pinned[&(slot as usize)].rights(offset, &state.pins)
    };
    let (all, read, none) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ, libc::PROT_NONE);
    // The source of a copy may still be read, but not written, to the end of its last page.
    ok(cuMemcpyHtoDAsync_v2(memory, host(slot), 2 * 4096 + 100, stream));
    ok(cuEventRecord(done, stream));
    assert_eq!([rights(0), rights(4096), rights(2 * 4096), rights(3 * 4096)], [read, read, read, all]);
    ok(cuMemcpyDtoHAsync_v2(host(slot + 3 * 4096), memory, 4096, stream));
    assert_eq!([rights(0), rights(3 * 4096)], [read, none]);
    // An event covers what came before it.
    ok(cuEventSynchronize(done));
    assert_eq!([rights(0), rights(3 * 4096)], [all, none]);
    ok(cuStreamSynchronize(stream));
    assert_eq!([rights(0), rights(3 * 4096)], [all, all]);
    ok(cuMemFreeHost(host(slot)));
}

#[test]
fn pinned_copies_are_asynchronous_and_right() {
    let _turn = Turn::begin();
    let (stream, memory) = (stream(), device_memory(8192));
    let (input, output) = (pinned(8192), pinned(8192));
    let bytes: Vec<u8> = (0..8192).map(|i| (i % 251) as u8).collect();
    host(input).put(&bytes).expect("room");
    ok(cuMemcpyHtoDAsync_v2(memory, host(input), 8192, stream));
    ok(cuMemcpyDtoHAsync_v2(host(output), memory, 8192, stream));
    ok(cuStreamSynchronize(stream));
    assert_eq!(host(output).copy(8192).expect("readable"), bytes);
    let counters = counters();
    assert_eq!(counters["copies_htod"]["count"], 1);
    assert_eq!(counters["copies_dtoh"]["bytes"], 8192);
    assert_eq!(counters["synchronizations"]["stream"], 1);
    ok(cuMemFreeHost(host(input)));
    ok(cuMemFreeHost(host(output)));
}

#[test]
fn freeing_pinned_memory_in_flight_is_found() {
    let _turn = Turn::begin();
    let (stream, memory, slot) = (stream(), device_memory(4096), pinned(4096));
    ok(cuMemcpyHtoDAsync_v2(memory, host(slot), 4096, stream));
    // Either the free finds the copy, or the copy finds the memory freed.
    cuMemFreeHost(host(slot));
    assert_ne!(cuCtxSynchronize(), Status::SUCCESS);
    let text = findings();
    assert!(text.contains("free of pinned memory") && text.contains("copy from pinned memory"), "{text}");
}

#[test]
fn pools_keep_what_the_threshold_allows() {
    let _turn = Turn::begin();
    const MIB: u64 = 1 << 20;
    let stream = stream();
    let pool = make(|out| cuDeviceGetDefaultMemPool(out, 0));
    let read = |attribute: u32| {
        let mut value = 0_u64;
        ok(cuMemPoolGetAttribute(pool, attribute, HostBytes::from(&raw mut value as usize)));
        value
    };
    let mut threshold = u64::MAX;
    ok(cuMemPoolSetAttribute(pool, 4, HostBytes::from(&raw mut threshold as usize)));
    let free = || {
        let mut value = 0_usize;
        ok(cuMemGetInfo_v2(Out::from(&mut value), Out::from(&mut 0)));
        value as u64
    };
    let before = free();
    let memory = make(|out| cuMemAllocAsync(out, 3 << 20, stream));
    assert_eq!((read(7), read(5), before - free()), (3 * MIB, 4 * MIB, 4 * MIB));
    ok(cuMemFreeAsync(memory, stream));
    ok(cuStreamSynchronize(stream));
    assert_eq!((read(7), read(5), before - free()), (0, 4 * MIB, 4 * MIB), "a high threshold keeps it");
    ok(cuMemPoolTrimTo(pool, 0));
    assert_eq!((read(5), free()), (0, before));
    threshold = 0;
    ok(cuMemPoolSetAttribute(pool, 4, HostBytes::from(&raw mut threshold as usize)));
    let memory = make(|out| cuMemAllocAsync(out, 100, stream));
    ok(cuMemFreeAsync(memory, stream));
    ok(cuStreamSynchronize(stream));
    assert_eq!((read(5), free()), (0, before), "a synchronization gives it back");
}

#[test]
fn memory_runs_out_and_comes_back() {
    let _turn = Turn::begin();
    let stream = stream();
    let total = make::<usize>(|out| cuDeviceTotalMem_v2(out, 0));
    let most = device_memory(total - 512);
    assert_eq!(make_status(|out| cuMemAlloc_v2(out, 513)), Status::OUT_OF_MEMORY);
    ok(cuMemFree_v2(device_memory(512)));
    ok(cuMemFree_v2(most));
    // An allocation waits for frees that are under way.
    let half = make(|out| cuMemAllocAsync(out, total / 2 + 4096, stream));
    ok(cuMemFreeAsync(half, stream));
    ok(cuMemFree_v2(device_memory(total / 2 + 4096)));
    let fail = CString::new("alloc:2").expect("text");
    ok(emulator_fail(Text::of(&fail)));
    let first = device_memory(64);
    assert_eq!(make_status(|out| cuMemAlloc_v2(out, 64)), Status::OUT_OF_MEMORY);
    ok(cuMemFree_v2(device_memory(64)));
    ok(cuMemFree_v2(first));
}

#[test]
fn graphs_run_what_was_captured() {
    let _turn = Turn::begin();
    let (first, second) = (stream(), stream());
    let (memory, other) = (device_memory(256), device_memory(256));
    let (forked, joined) = (event(), event());
    ok(cuMemsetD8Async(memory, 0, 256, first));
    ok(cuStreamSynchronize(first));
    ok(cuStreamBeginCapture_v2(first, 1));
    ok(cuMemsetD8Async(memory, 5, 256, first));
    ok(cuEventRecord(forked, first));
    ok(cuStreamWaitEvent(second, forked, 0));
    ok(cuMemcpyDtoDAsync_v2(other, memory, 256, second));
    ok(cuEventRecord(joined, second));
    ok(cuStreamWaitEvent(first, joined, 0));
    ok(cuMemsetD8Async(memory, 6, 128, first));
    let graph = make(|out| cuStreamEndCapture(first, out));
    assert_eq!(make::<usize>(|out| cuGraphGetNodes(graph, 0, out)), 3);
    let executable = make(|out| cuGraphInstantiateWithFlags(out, graph, 0));
    ok(cuGraphDestroy(graph));
    assert_eq!(download(memory, 1, first), [0], "a capture runs nothing");
    for _ in 0..3 {
        ok(cuGraphLaunch(executable, first));
    }
    assert_eq!(download(other, 256, first), [5; 256]);
    assert_eq!(download(memory, 256, first)[126..130], [6, 6, 5, 5]);
    assert_eq!(counters()["graph_launches"]["nodes"], 9);
    ok(cuGraphExecDestroy(executable));
    assert_eq!(findings(), "");
}

#[test]
fn a_missing_edge_in_a_graph_is_found() {
    let _turn = Turn::begin();
    let (first, second) = (stream(), stream());
    let (memory, other) = (device_memory(256), device_memory(256));
    let (forked, joined) = (event(), event());
    ok(cuStreamBeginCapture_v2(first, 1));
    ok(cuEventRecord(forked, first));
    ok(cuStreamWaitEvent(second, forked, 0));
    ok(cuMemsetD8Async(memory, 5, 256, first));
    ok(cuMemcpyDtoDAsync_v2(other, memory, 256, second));
    ok(cuEventRecord(joined, second));
    ok(cuStreamWaitEvent(first, joined, 0));
    let graph = make(|out| cuStreamEndCapture(first, out));
    let executable = make(|out| cuGraphInstantiateWithFlags(out, graph, 0));
    ok(cuGraphLaunch(executable, first));
    assert_eq!(cuStreamSynchronize(first), FAILED);
}

#[test]
fn a_refused_free_leaves_the_memory() {
    let _turn = Turn::begin();
    let blocking = make(|out| cuStreamCreate(out, 0));
    let memory = device_memory(64);
    ok(cuStreamBeginCapture_v2(blocking, 2));
    assert_eq!(cuMemFreeAsync(memory, 0), Status::STREAM_CAPTURE_IMPLICIT);
    assert_eq!(make_status(|out| cuStreamEndCapture(blocking, out)), Status::STREAM_CAPTURE_INVALIDATED);
    ok(cuMemFree_v2(memory));
}

#[test]
fn captures_refuse_what_would_disturb_them() {
    let _turn = Turn::begin();
    let (first, second, outside) = (stream(), stream(), event());
    let memory = device_memory(256);
    ok(cuEventRecord(outside, second));
    let ended = || make_status(|out| cuStreamEndCapture(first, out));

    ok(cuStreamBeginCapture_v2(first, 1));
    assert_eq!(make_status(|out| cuMemAlloc_v2(out, 64)), Status::STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(cuMemsetD8Async(memory, 1, 1, first), Status::STREAM_CAPTURE_INVALIDATED);
    assert_eq!(ended(), Status::STREAM_CAPTURE_INVALIDATED);

    ok(cuStreamBeginCapture_v2(first, 2));
    ok(cuMemFree_v2(device_memory(64)));
    assert_eq!(make_status(|out| cuMemAllocAsync(out, 64, first)), Status::STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(ended(), Status::STREAM_CAPTURE_INVALIDATED);

    ok(cuStreamBeginCapture_v2(first, 1));
    assert_eq!(cuStreamSynchronize(first), Status::STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(ended(), Status::STREAM_CAPTURE_INVALIDATED);

    ok(cuStreamBeginCapture_v2(first, 1));
    assert_eq!(cuStreamWaitEvent(first, outside, 0), Status::STREAM_CAPTURE_ISOLATION);
    assert_eq!(ended(), Status::STREAM_CAPTURE_INVALIDATED);

    ok(cuStreamBeginCapture_v2(first, 1));
    ok(cuEventRecord(outside, first));
    assert_eq!(cuEventQuery(outside), Status::CAPTURED_EVENT);
    ok(cuStreamWaitEvent(second, outside, 0));
    ok(cuMemsetD8Async(memory, 1, 1, second));
    assert_eq!(ended(), Status::STREAM_CAPTURE_UNJOINED);

    ok(cuStreamBeginCapture_v2(first, 1));
    let elsewhere = std::thread::scope(|scope| {
        let context = CURRENT.get();
        let other = scope.spawn(move || {
            ok(cuCtxSetCurrent(context));
            make_status(|out| cuStreamEndCapture(first, out))
        });
        other.join().expect("no panic")
    });
    assert_eq!(elsewhere, Status::STREAM_CAPTURE_WRONG_THREAD);
    assert_eq!(ended(), Status::STREAM_CAPTURE_INVALIDATED);

    ok(cuStreamBeginCapture_v2(first, 1));
    ok(cuMemsetD8Async(memory, 1, 1, first));
    ok(ended());
    assert_eq!(findings(), "");
}

#[test]
fn the_null_stream_waits_for_blocking_streams_only() {
    let _turn = Turn::begin();
    let (blocking, apart) = (make(|out| cuStreamCreate(out, 0)), stream());
    let (memory, other) = (device_memory(64), device_memory(64));
    ok(cuMemsetD8Async(memory, 1, 64, blocking));
    ok(cuMemsetD8_v2(memory, 2, 64));
    ok(cuMemcpyDtoDAsync_v2(other, memory, 64, blocking));
    assert_eq!(download(other, 1, blocking), [2]);
    assert_eq!(findings(), "");
    ok(cuMemsetD8_v2(memory, 3, 64));
    ok(cuMemsetD8Async(memory, 4, 64, apart));
    assert_eq!(cuCtxSynchronize(), FAILED);
}

#[test]
fn images_are_refused_with_reasons() {
    let _turn = Turn::begin();
    let load = |text: &str| {
        let text = CString::new(text).expect("no zero");
        make_status(|out| cuModuleLoadData(out, Text::of(&text)))
    };
    assert_eq!(load("\u{1}PK"), Status::NO_BINARY_FOR_GPU);
    assert_eq!(load(".version 9.0\n.target sm_90\n.address_size 64\n"), Status::NO_BINARY_FOR_GPU);
    let text = CString::new(".version 9.0\n.target sm_80\n.address_size 64\n").expect("no zero");
    let module = make(|out| cuModuleLoadData(out, Text::of(&text)));
    assert_eq!(make_status(|out| cuModuleGetFunction(out, module, Text::from(c"absent"))), Status::NOT_FOUND);
    ok(cuModuleUnload(module));
}

#[test]
fn names_are_cudas() {
    let mut name = std::ptr::null();
    ok(cuGetErrorName(Status::ILLEGAL_ADDRESS, Out::from(&mut name)));
    // SAFETY: the library's names are constants.
    assert_eq!(unsafe { std::ffi::CStr::from_ptr(name) }, c"CUDA_ERROR_ILLEGAL_ADDRESS");
    assert_eq!(cuGetErrorName(Status(12_345), Out::from(&mut name)), Status::INVALID_VALUE);
}

const BASIC: &str = include_str!("../../tests/fixtures/basic.ptx");

/// A kernel of the fixtures.
fn kernel(name: &str) -> u64 {
    let text = CString::new(BASIC).expect("no zero");
    let module = make(|out| cuModuleLoadData(out, Text::of(&text)));
    let name = CString::new(name).expect("no zero");
    make(|out| cuModuleGetFunction(out, module, Text::of(&name)))
}

/// `y += a * x` over `n` values, in blocks of 128.
fn scale_add(kernel: u64, (mut y, mut x, mut a, mut n): (u64, u64, f32, i32), blocks: u32, stream: u64) -> Status {
    let mut pointers = [(&raw mut y).cast::<std::ffi::c_void>(), (&raw mut x).cast(), (&raw mut a).cast(), (&raw mut n).cast()];
    cuLaunchKernel(kernel, blocks, 1, 1, 128, 1, 1, 0, stream, Parameters::of(&mut pointers), HostBytes::from(0))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes"))).collect()
}

#[test]
fn kernels_run_in_streams_and_graphs() {
    let _turn = Turn::begin();
    let (stream, kernel) = (stream(), kernel("scale_add"));
    let values: Vec<u8> = (0..300).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let (x, y) = (device_memory(1200), device_memory(1200));
    upload(x, &values, stream);
    ok(cuMemsetD32Async(y, 0, 300, stream));
    ok(scale_add(kernel, (y, x, 2.0, 300), 3, stream));
    ok(cuStreamBeginCapture_v2(stream, 1));
    ok(scale_add(kernel, (y, x, 1.0, 300), 3, stream));
    let graph = make(|out| cuStreamEndCapture(stream, out));
    let executable = make(|out| cuGraphInstantiateWithFlags(out, graph, 0));
    ok(cuGraphLaunch(executable, stream));
    ok(cuGraphLaunch(executable, stream));
    let wanted: Vec<f32> = (0..300).map(|i| 4.0 * i as f32).collect();
    assert_eq!(floats(&download(y, 1200, stream)), wanted);
    assert_eq!(counters()["launches"]["scale_add"], 3);
    assert_eq!(findings(), "");
}

#[test]
fn a_kernel_past_the_end_is_found() {
    let _turn = Turn::begin();
    let (stream, kernel) = (stream(), kernel("scale_add"));
    let (x, y) = (device_memory(1200), device_memory(1200));
    ok(cuMemsetD32Async(x, 0, 300, stream));
    ok(cuMemsetD32Async(y, 0, 300, stream));
    ok(scale_add(kernel, (y, x, 2.0, 301), 3, stream));
    assert_eq!(cuStreamSynchronize(stream), Status::ILLEGAL_ADDRESS);
    let text = findings();
    assert!(text.contains("kernel 'scale_add', PTX line") && text.contains("outside every allocation"), "{text}");
}

#[test]
fn a_kernel_given_a_host_address_is_found() {
    let _turn = Turn::begin();
    let (stream, kernel) = (stream(), kernel("scale_add"));
    let values = [0_f32; 32];
    ok(scale_add(kernel, (values.as_ptr() as u64, values.as_ptr() as u64, 1.0, 32), 1, stream));
    assert_eq!(cuStreamSynchronize(stream), Status::ILLEGAL_ADDRESS);
}

#[test]
fn kernels_of_two_streams_need_an_event() {
    for with_event in [false, true] {
        for seed in 0..20 {
            let _turn = Turn::begin();
            emulator_seed(seed);
            let (first, second, done, kernel) = (stream(), stream(), event(), kernel("scale_add"));
            let (x, y, z) = (device_memory(1200), device_memory(1200), device_memory(1200));
            for memory in [x, y, z] {
                ok(cuMemsetD32Async(memory, 0, 300, first));
            }
            ok(cuStreamSynchronize(first));
            ok(scale_add(kernel, (y, x, 2.0, 300), 3, first));
            ok(cuEventRecord(done, first));
            if with_event {
                ok(cuStreamWaitEvent(second, done, 0));
            }
            ok(scale_add(kernel, (z, y, 2.0, 300), 3, second));
            let status = cuCtxSynchronize();
            let text = findings();
            if with_event {
                assert_eq!((status, text.as_str()), (Status::SUCCESS, ""), "seed {seed}");
            } else {
                assert_eq!(status, FAILED, "seed {seed}");
                assert!(text.contains("is not ordered after") && text.matches("scale_add").count() >= 2, "seed {seed}: {text}");
            }
        }
    }
}

#[test]
fn launches_are_checked_and_fail_as_planned() {
    let _turn = Turn::begin();
    let (stream, kernel) = (stream(), kernel("scale_add"));
    let (x, y) = (device_memory(1200), device_memory(1200));
    ok(cuMemsetD32Async(x, 0, 300, stream));
    ok(cuMemsetD32Async(y, 0, 300, stream));
    let launch = |threads: u32, shared: u32| {
        let mut values = (y, x, 1.0_f32, 300_i32);
        let mut pointers = [
            (&raw mut values.0).cast::<std::ffi::c_void>(),
            (&raw mut values.1).cast(),
            (&raw mut values.2).cast(),
            (&raw mut values.3).cast(),
        ];
        cuLaunchKernel(kernel, 1, 1, 1, threads, 1, 1, shared, stream, Parameters::of(&mut pointers), HostBytes::from(0))
    };
    assert_eq!(scale_add(kernel, (y, x, 1.0, 300), 0, stream), Status::INVALID_VALUE);
    assert_eq!(launch(1025, 0), Status::INVALID_VALUE);
    assert_eq!(launch(128, 49_153), Status::INVALID_VALUE, "more than 48 KiB must be asked for");
    ok(cuFuncSetAttribute(kernel, 8, 163 << 10));
    ok(launch(128, 163 << 10));
    assert_eq!(cuFuncSetAttribute(kernel, 8, (163 << 10) + 1), Status::INVALID_VALUE);
    ok(cuStreamSynchronize(stream));
    let fail = CString::new("launch:scale_add").expect("text");
    ok(emulator_fail(Text::of(&fail)));
    ok(launch(128, 0));
    assert_eq!(cuStreamSynchronize(stream), FAILED);
    assert_eq!(launch(128, 0), FAILED);
}

#[test]
fn variables_of_modules_have_their_contents() {
    let _turn = Turn::begin();
    let text = CString::new(BASIC).expect("no zero");
    let module = make(|out| cuModuleLoadData(out, Text::of(&text)));
    let (mut address, mut bytes) = (0, 0);
    ok(cuModuleGetGlobal_v2(Out::from(&mut address), Out::from(&mut bytes), module, Text::from(c"offsets")));
    assert_eq!(floats(&download(address, bytes, stream())), [0.5, 1.5, -2.0, 4.0]);
    ok(cuModuleUnload(module));
}

#[test]
fn touching_pinned_memory_in_flight_ends_the_process() {
    let _turn = Turn::begin();
    let (stream, memory, slot) = (stream(), device_memory(4096), pinned(4096));
    ok(cuMemcpyHtoDAsync_v2(memory, host(slot), 4096, stream));
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: the child only calls functions that are safe after a fork, and never returns.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: descriptors of the pipe and of standard error; the write faults, which ends the process.
        unsafe {
            libc::dup2(ends[1], 2);
            (slot as *mut u8).write_volatile(1);
            libc::_exit(0);
        }
    }
    let (mut status, mut text) = (0, [0_u8; 300]);
    // SAFETY: the child above and the pipe's own descriptors; `text` is as long as is said.
    let length = unsafe {
        libc::close(ends[1]);
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        let length = libc::read(ends[0], text.as_mut_ptr().cast(), text.len());
        libc::close(ends[0]);
        length
    };
    let text = String::from_utf8_lossy(&text[..usize::try_from(length).expect("readable")]);
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGABRT, "status {status}: {text}");
    assert!(text.contains("copy from pinned memory to the device"), "{text}");
    ok(cuStreamSynchronize(stream));
    ok(cuMemFreeHost(host(slot)));
}

/// Runs again in a process of its own, which finds the handle in this variable.
const SHARED: &str = "EMULATOR_TEST_SHARED";

#[test]
fn processes_share_memory() {
    let _turn = Turn::begin();
    let stream = stream();
    if let Ok(text) = std::env::var(SHARED) {
        let bytes: Vec<u8> = text.split(',').map(|byte| byte.parse().expect("a byte")).collect();
        let handle = Handle::from_bytes(bytes.try_into().expect("64 bytes"));
        let memory = make(|out| cuIpcOpenMemHandle_v2(out, handle, 1));
        assert_eq!(download(memory, 5000, stream), [7; 5000]);
        ok(cuMemsetD8Async(memory + 100, 9, 100, stream));
        ok(cuStreamSynchronize(stream));
        ok(cuIpcCloseMemHandle(memory));
        assert_eq!(cuIpcCloseMemHandle(memory), Status::INVALID_VALUE);
        return;
    }
    let memory = device_memory(5000);
    ok(cuMemsetD8Async(memory, 7, 5000, stream));
    ok(cuStreamSynchronize(stream));
    let mut handle = Handle::from_bytes([0; 64]);
    ok(cuIpcGetMemHandle(Out::from(&mut handle), memory));
    assert_eq!(make_status(|out| cuIpcOpenMemHandle_v2(out, handle, 1)), Status::INVALID_CONTEXT, "its own memory");
    let forged = Handle::from_bytes([1; 64]);
    assert_eq!(make_status(|out| cuIpcOpenMemHandle_v2(out, forged, 1)), Status::INVALID_VALUE);
    let pooled = make(|out| cuMemAllocAsync(out, 64, stream));
    assert_eq!(cuIpcGetMemHandle(Out::from(&mut Handle::from_bytes([0; 64])), pooled), Status::INVALID_VALUE);
    let text: Vec<String> = handle.bytes().iter().map(u8::to_string).collect();
    let child = std::process::Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", "driver::tests::processes_share_memory", "--nocapture"])
        .env(SHARED, text.join(","))
        .output()
        .expect("a second process");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    let bytes = download(memory, 5000, stream);
    assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == if (100..200).contains(&i) { 9 } else { 7 }));
}
