//! Hand-overs between streams and the host, as lanes make them: clean with the event or the wait that orders each, and found
//! by the emulated device without it, in whatever order streams run.
//!
//! Each runs in a process of its own, as the device is of no use once something was found.

use std::env;
use std::process::Command;

use cudarc::driver::{result, sys};
use kernels::activation::Activation;
use kernels::activation::cuda::activate;
use kernels::cuda::{Buffer, DeviceType, DownloadRing, Event, Stream, UploadSlot, View};

use crate::device::{is_emulated, stream};

/// In a process that makes one hand-over: `ordered` or `disordered`.
const HAND_OVER: &str = "ALCEDO_TEST_HAND_OVER";

/// Orders in which streams advance.
const SEEDS: [&str; 4] = ["1", "2", "3", "4"];

/// Bytes that are handed over.
const BYTES: usize = 4096;

/// Two streams of one device, and whether what orders them is left out.
struct HandOver {
    first: Stream,
    second: Stream,
    is_disordered: bool,
}

impl HandOver {
    fn buffer(&self) -> Buffer {
        let buffer = Buffer::new(&self.first, BYTES).unwrap();
        self.first.fill(buffer.view(DeviceType::U8), 0).unwrap();
        self.first.synchronize().unwrap();
        buffer
    }

    /// Lets the second stream go on only after what the first one has now.
    fn second_waits(&self) {
        if !self.is_disordered {
            let event = Event::new(self.first.gpu()).unwrap();
            event.record(&self.first).unwrap();
            self.second.wait(&event).unwrap();
        }
    }

    fn end(&self) {
        self.second.synchronize().unwrap();
        self.first.synchronize().unwrap();
    }
}

/// What a stream does between copies.
fn work(stream: &Stream, view: View) {
    activate(stream, view, None, Activation::Relu).unwrap();
}

/// Makes a hand-over in other processes, in several orders: each must succeed as it is, and fail with one of `texts` without
/// what orders it. In such a process, makes it.
fn hand_over(name: &str, texts: &[&str], make: impl FnOnce(&HandOver)) {
    if let Ok(how) = env::var(HAND_OVER) {
        let first = stream();
        let second = Stream::new(first.gpu()).unwrap();
        let hand_over = HandOver { first, second, is_disordered: how == "disordered" };
        make(&hand_over);
        hand_over.end();
        return;
    }
    let name = format!("discipline::{name}");
    for seed in SEEDS {
        for how in ["ordered", "disordered"] {
            if how == "disordered" && !is_emulated() {
                // A real device says nothing, and what comes of it is a matter of luck.
                continue;
            }
            let mut command = Command::new(env::current_exe().unwrap());
            command.args(["--exact", &name, "--nocapture"]).env(HAND_OVER, how).env("ALCEDO_EMULATOR_SEED", seed);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            assert!(said.contains("running 1 test"), "{said}");
            if how == "ordered" {
                assert!(output.status.success() && !said.contains("emulator: "), "seed {seed}, ordered:\n{said}");
            } else {
                let is_found = texts.iter().any(|text| said.contains(text));
                assert!(!output.status.success() && is_found, "seed {seed}, disordered: expected one of {texts:?}:\n{said}");
            }
        }
    }
}

/// What the device says of two operations on memory of its own.
const NOT_ORDERED: &[&str] = &["is not ordered after"];
/// What it says of the host's accesses.
const TOUCHED: &[&str] = &["the host touches pinned memory that a copy still uses"];

/// Weights: one stream copies them, lanes read them.
#[test]
fn from_lane_to_lane() {
    hand_over("from_lane_to_lane", NOT_ORDERED, |hand| {
        let (weights, output) = (hand.buffer(), hand.buffer());
        let mut slot = UploadSlot::new(hand.first.gpu(), BYTES, "hand-over").unwrap();
        slot.fill(|bytes| bytes.fill(1)).unwrap();
        slot.upload(&hand.first, 0..BYTES, weights.view(DeviceType::U8)).unwrap();
        hand.second_waits();
        hand.second.copy(weights.view(DeviceType::U8), output.view(DeviceType::U8)).unwrap();
        hand.end();
        assert_eq!(output.download(&hand.second).unwrap(), [1; BYTES]);
    });
}

/// Inputs: a copy on one stream, recorded launches on another.
#[test]
fn from_an_input_to_recorded_launches() {
    hand_over("from_an_input_to_recorded_launches", NOT_ORDERED, |hand| {
        let input = hand.buffer();
        work(&hand.second, input.view(DeviceType::F32));
        hand.end();
        let record = |stream: &Stream| activate(stream, input.view(DeviceType::F32), None, Activation::Relu);
        let mut graph = hand.second.capture(record).unwrap();
        let mut slot = UploadSlot::new(hand.first.gpu(), BYTES, "hand-over").unwrap();
        slot.fill(|bytes| bytes.fill(0xbf)).unwrap();
        slot.upload(&hand.first, 0..BYTES, input.view(DeviceType::U8)).unwrap();
        hand.second_waits();
        graph.launch(&hand.second).unwrap();
        hand.end();
        // The bytes are a number below zero.
        assert_eq!(input.download(&hand.second).unwrap(), [0; BYTES]);
    });
}

/// The next input: not before recorded launches are done with the last one.
#[test]
fn from_recorded_launches_to_the_next_input() {
    hand_over("from_recorded_launches_to_the_next_input", NOT_ORDERED, |hand| {
        let (input, output) = (hand.buffer(), hand.buffer());
        let (from, to) = (input.view(DeviceType::U8), output.view(DeviceType::U8));
        let mut graph = hand.first.capture(|stream| stream.copy(from, to)).unwrap();
        let mut slot = UploadSlot::new(hand.first.gpu(), BYTES, "hand-over").unwrap();
        graph.launch(&hand.first).unwrap();
        slot.fill(|bytes| bytes.fill(7)).unwrap();
        hand.second_waits();
        slot.upload(&hand.second, 0..BYTES, from).unwrap();
        hand.end();
        assert_eq!(output.download(&hand.first).unwrap(), [0; BYTES]);
    });
}

/// Results: launches on one stream, the copy to the host on another.
#[test]
fn from_launches_to_results() {
    hand_over("from_launches_to_results", NOT_ORDERED, |hand| {
        let output = hand.buffer();
        let ring = DownloadRing::new(hand.first.gpu(), 1, BYTES, "hand-over").unwrap();
        hand.first.fill(output.view(DeviceType::U8), 5).unwrap();
        work(&hand.first, output.view(DeviceType::F32));
        hand.second_waits();
        let download = ring.take().unwrap().download(&hand.second, output.view(DeviceType::U8)).unwrap();
        assert_eq!(*download.wait().unwrap(), [5; BYTES]);
    });
}

/// Unloading: memory goes back while another stream uses it.
#[test]
fn from_a_batch_to_unloading() {
    hand_over("from_a_batch_to_unloading", &["is not ordered after", "freed by"], |hand| {
        let weights = hand.buffer();
        let output = hand.buffer();
        hand.second.copy(weights.view(DeviceType::U8), output.view(DeviceType::U8)).unwrap();
        let done = Event::new(hand.first.gpu()).unwrap();
        done.record(&hand.second).unwrap();
        let events: &[&Event] = if hand.is_disordered { &[] } else { &[&done] };
        weights.release_after(events).unwrap();
        hand.end();
    });
}

/// Pinned memory of the host, and a copy of it that an event follows: what slots keep apart.
fn pinned(hand: &HandOver, to_device: bool, touch: impl FnOnce(&mut [u8])) {
    let buffer = hand.buffer();
    let address = buffer.view(DeviceType::U8).address;
    let queue = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
    let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
    // SAFETY: the memory has so many bytes, the stream and the event are alive, and so is the buffer, until all is done. That
    // the host may touch the memory while the device copies is what is tried: it ends the process.
    unsafe {
        let start = result::malloc_host(BYTES, 0).unwrap().cast::<u8>();
        start.write_bytes(9, BYTES);
        if to_device {
            sys::cuMemcpyHtoDAsync_v2(address, start.cast(), BYTES, queue).result().unwrap();
        } else {
            sys::cuMemcpyDtoHAsync_v2(start.cast(), address, BYTES, queue).result().unwrap();
        }
        result::event::record(event, queue).unwrap();
        if !hand.is_disordered {
            sys::cuEventSynchronize(event).result().unwrap();
        }
        touch(std::slice::from_raw_parts_mut(start, BYTES));
        result::stream::synchronize(queue).unwrap();
        if to_device {
            assert_eq!(buffer.download(&hand.first).unwrap(), [9; BYTES]);
        }
        result::free_host(start.cast()).unwrap();
        result::event::destroy(event).unwrap();
        result::stream::destroy(queue).unwrap();
    }
}

/// The host fills a slot again only when the copy from it is done.
#[test]
fn from_the_host_to_the_device() {
    hand_over("from_the_host_to_the_device", TOUCHED, |hand| pinned(hand, true, |bytes| bytes.fill(1)));
}

/// The host reads a slot only when the copy to it is done.
#[test]
fn from_the_device_to_the_host() {
    hand_over("from_the_device_to_the_host", TOUCHED, |hand| {
        pinned(hand, false, |bytes| assert!(bytes.iter().all(|byte| *byte == 0)));
    });
}
