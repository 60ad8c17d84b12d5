//! Streams, memory, moments and recordings of a device.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kernels::activation::Activation;
use kernels::activation::cuda::activate;
use kernels::cuda::{
    Buffer, DeviceError, DeviceType, DownloadRing, Event, Gpu, MemoryKind, Priority, Stream, Tag, UploadRing, UploadSlot, probe,
};

use crate::device::{alone, stream};

/// The least that a device must do: take memory, run a kernel, and give the result back. Also what the tests in `emulated`
/// run under faults.
#[test]
fn a_kernel_runs() {
    let stream = stream();
    let numbers: Vec<u8> = [-1f32, 2.0, -3.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let buffer = Buffer::upload(&stream, &numbers).unwrap_or_else(|error| panic!("{error}"));
    let view = buffer.view(DeviceType::F32);
    activate(&stream, view, None, Activation::Relu).unwrap_or_else(|error| panic!("{error}"));
    let result = buffer.download(&stream).unwrap_or_else(|error| panic!("{error}"));
    let expected: Vec<u8> = [0f32, 2.0, 0.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(result, expected);
}

#[test]
fn a_device_is_described() {
    let stream = stream();
    let gpu = stream.gpu();
    let description = probe(0).unwrap();
    assert!(!description.name.is_empty() && description.uuid.starts_with("GPU-"), "{description:?}");
    assert!(description.driver_version >= 13_000 && description.blas_version >= 130_000, "{description:?}");
    assert!(description.free_bytes > 0 && description.free_bytes <= description.total_bytes, "{description:?}");
    assert_eq!((description.capability, description.ordinal), (gpu.capability(), 0));
    assert!(std::sync::Arc::ptr_eq(gpu, &Gpu::open(0).unwrap()), "a device is opened once");
}

#[test]
fn an_absent_device_is_said_to_be() {
    let _stream = stream();
    for error in [probe(4_000).unwrap_err(), Gpu::open(4_000).unwrap_err()] {
        assert!(matches!(error, DeviceError::Unusable { ordinal: 4_000, .. }), "{error}");
        assert!(error.to_string().contains("there is no GPU 4000, only GPU"), "{error}");
    }
}

/// Bytes that differ from turn to turn.
fn pattern(turn: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + turn * 31) as u8).collect()
}

/// Host to device on one stream, device to device on another, device to host on a third, many times around with two slots,
/// with nothing but events in between.
#[test]
fn bytes_go_around_in_order() {
    let up = stream();
    let gpu = up.gpu();
    let (across, down) = (Stream::with_priority(gpu, Priority::High).unwrap(), Stream::new(gpu).unwrap());
    const LEN: usize = 5000;
    let mut sources = UploadRing::new(gpu, 2, LEN, "around").unwrap();
    let targets = DownloadRing::new(gpu, 3, LEN, "around").unwrap();
    let (first, second) = (Buffer::new(&up, LEN).unwrap(), Buffer::new(&across, LEN).unwrap());
    let (one, other) = (first.view(DeviceType::U8), second.view(DeviceType::U8));
    let [uploaded, copied, downloaded] = [(); 3].map(|()| Event::new(gpu).unwrap());
    let mut waiting = std::collections::VecDeque::new();
    for turn in 0..40 {
        let source = sources.next_slot();
        source.fill(|bytes| bytes.copy_from_slice(&pattern(turn, LEN))).unwrap();
        up.wait(&copied).unwrap();
        source.upload(&up, 0..LEN, one).unwrap();
        uploaded.record(&up).unwrap();
        across.wait(&uploaded).unwrap();
        across.wait(&downloaded).unwrap();
        across.copy(one, other).unwrap();
        copied.record(&across).unwrap();
        down.wait(&copied).unwrap();
        waiting.push_back((turn, targets.take().unwrap().download(&down, other).unwrap()));
        downloaded.record(&down).unwrap();
        if waiting.len() == 2 {
            let (turn, download) = waiting.pop_front().unwrap();
            assert_eq!(*download.wait().unwrap(), pattern(turn, LEN), "turn {turn}");
        }
    }
    // The second without waiting: its slot comes back all the same.
    drop(waiting);
    assert_eq!(targets.free_slots(), 3);
    second.release_after(&[&downloaded]).unwrap();
    first.release_after(&[&copied]).unwrap();
}

#[test]
fn one_slot_is_copied_on_two_streams_before_it_changes() {
    let first = stream();
    let second = Stream::new(first.gpu()).unwrap();
    let mut slot = UploadSlot::new(first.gpu(), 64, "two streams").unwrap();
    let (one, other) = (Buffer::new(&first, 32).unwrap(), Buffer::new(&second, 32).unwrap());
    let large = Buffer::new(&first, 1 << 18).unwrap();
    for turn in 0..20 {
        slot.fill(|bytes| bytes.copy_from_slice(&pattern(turn, 64))).unwrap();
        // The first stream comes to its copy last.
        (0..100).try_for_each(|_| first.fill(large.view(DeviceType::U8), 0)).unwrap();
        slot.upload(&first, 0..32, one.view(DeviceType::U8)).unwrap();
        slot.upload(&second, 32..64, other.view(DeviceType::U8)).unwrap();
        slot.fill(|bytes| bytes.fill(0)).unwrap();
        let got = [one.download(&first).unwrap(), other.download(&second).unwrap()].concat();
        assert_eq!(got, pattern(turn, 64));
    }
}

#[test]
fn moments_pass_in_order() {
    let stream = stream();
    let buffer = Buffer::new(&stream, 1 << 16).unwrap();
    let never = Event::new(stream.gpu()).unwrap();
    assert!(never.is_complete().unwrap(), "what was never recorded has passed");
    let [start, end] = [(); 2].map(|()| Event::timed(stream.gpu()).unwrap());
    start.record(&stream).unwrap();
    stream.fill(buffer.view(DeviceType::U8), 1).unwrap();
    end.record(&stream).unwrap();
    end.wait().unwrap();
    assert!(start.is_complete().unwrap() && end.is_complete().unwrap());
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    assert!(never.elapsed_ms(&end).is_err(), "an event that notes no time");
}

#[test]
fn what_is_recorded_can_be_repeated() {
    let stream = stream();
    let buffers: Vec<Buffer> = (0..3).map(|_| Buffer::upload(&stream, &[0; 100]).unwrap()).collect();
    let [a, b, c] = [0, 1, 2].map(|at: usize| buffers[at].view(DeviceType::U8));
    let mut graph = stream
        .capture(|stream| {
            assert!(stream.is_recording());
            stream.copy(b, c)?;
            stream.copy(a, b)?;
            stream.fill(a, 9)
        })
        .unwrap();
    assert!(!stream.is_recording());
    assert_eq!(graph.nodes(), 3);
    let bytes = |stream: &Stream| [0, 1, 2].map(|at: usize| buffers[at].download(stream).unwrap()[99]);
    assert_eq!(bytes(&stream), [0, 0, 0]);
    for expected in [[9, 0, 0], [9, 9, 0], [9, 9, 9]] {
        graph.launch(&stream).unwrap();
        assert_eq!(bytes(&stream), expected);
    }
}

/// Something that cannot be recorded.
type Call<'a> = &'a mut dyn FnMut(&Stream) -> Result<(), DeviceError>;

#[test]
fn a_failed_recording_leaves_the_stream_as_it_was() {
    let stream = stream();
    let buffer = Buffer::upload(&stream, &[1; 8]).unwrap();
    let view = buffer.view(DeviceType::U8);
    let mut slot = UploadSlot::new(stream.gpu(), 8, "recording").unwrap();
    let refused: [Call<'_>; 4] = [
        &mut |stream| Buffer::new(stream, 16).map(drop),
        &mut |stream| stream.synchronize(),
        &mut |stream| slot.upload(stream, 0..8, view),
        &mut |stream| stream.capture(|_| Ok(())).map(drop),
    ];
    for call in refused {
        let error = stream
            .capture(|stream| {
                stream.fill(view, 7)?;
                call(stream)
            })
            .unwrap_err();
        assert!(error.to_string().contains("launches are being recorded on this stream"), "{error}");
        assert_eq!(buffer.download(&stream).unwrap(), [1; 8]);
    }
    let panicked = catch_unwind(AssertUnwindSafe(|| stream.capture(|_| panic!("as it may happen")).map(drop)));
    assert!(panicked.is_err() && !stream.is_recording());
    let mut graph = stream.capture(|stream| stream.fill(view, 2)).unwrap();
    graph.launch(&stream).unwrap();
    assert_eq!(buffer.download(&stream).unwrap(), [2; 8]);
}

#[test]
fn too_little_memory_is_told_with_numbers() {
    let stream = stream();
    let total = probe(0).unwrap().total_bytes;
    let error = Buffer::tagged(&stream, total * 2, &Tag::new("m/1", MemoryKind::Weights)).unwrap_err();
    let DeviceError::OutOfMemory { needed_bytes, free_bytes, total_bytes, .. } = &error else { panic!("{error}") };
    assert_eq!((*needed_bytes, *total_bytes), (total * 2, total));
    assert!(*free_bytes > 0 && *free_bytes <= total);
    let text = format!("allocating {} bytes for weights of 'm/1'; {free_bytes} of {total} bytes are free", total * 2);
    assert!(error.to_string().ends_with(&text), "{error}");
    assert_eq!(stream.gpu().poisoned(), None);
    assert_eq!(Buffer::upload(&stream, &[3]).unwrap().download(&stream).unwrap(), [3]);
}

#[test]
fn the_ledger_knows_who_has_what() {
    let stream = stream();
    let ledger = stream.gpu().ledger();
    let tag = |kind| Tag::new("ledger test", kind);
    let weights = Buffer::tagged(&stream, 1000, &tag(MemoryKind::Weights)).unwrap();
    let arena = Buffer::tagged(&stream, 500, &tag(MemoryKind::Arena)).unwrap();
    let pinned = UploadSlot::new(stream.gpu(), 300, "ledger test").unwrap();
    let lines = || -> Vec<_> {
        let lines = ledger.snapshot().into_iter().filter(|line| &*line.tag.owner == "ledger test");
        lines.map(|line| (line.tag.kind, line.bytes)).collect()
    };
    assert_eq!(lines(), [(MemoryKind::Weights, 1000), (MemoryKind::Arena, 500), (MemoryKind::Pinned, 300)]);
    assert_eq!(ledger.owner_bytes("ledger test"), 1500);
    drop((weights, pinned));
    assert_eq!(lines(), [(MemoryKind::Arena, 500)]);
    drop(arena);
    assert_eq!(lines(), []);
}

#[test]
fn memory_comes_back_when_it_is_asked_for() {
    if !alone("runtime::memory_comes_back_when_it_is_asked_for") {
        return;
    }
    let stream = stream();
    let gpu = stream.gpu();
    gpu.give_back().unwrap();
    let before = gpu.memory().unwrap();
    const LEN: usize = 64 << 20;
    let buffer = Buffer::new(&stream, LEN).unwrap();
    stream.synchronize().unwrap();
    let taken = gpu.memory().unwrap();
    assert!(before.free_bytes - taken.free_bytes >= LEN && taken.used_bytes - before.used_bytes >= LEN, "{taken:?}");
    drop(buffer);
    stream.synchronize().unwrap();
    // The pool keeps it for the next, whatever the driver does at a synchronization.
    let kept = gpu.memory().unwrap();
    assert_eq!((kept.reserved_bytes, kept.used_bytes), (taken.reserved_bytes, before.used_bytes));
    assert!(kept.free_bytes >= before.free_bytes, "what the pool holds unused is free: {kept:?}");
    gpu.give_back().unwrap();
    assert_eq!(gpu.memory().unwrap(), before);
}
