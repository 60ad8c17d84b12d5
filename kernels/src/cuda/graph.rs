//! Launches that are recorded once and enqueued together.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::gpu::Handle;
use super::{DeviceError, Gpu, Stream};

/// Recorded launches. They work on the addresses that they were recorded with, which must be alive at every launch.
#[derive(Debug)]
pub struct Graph {
    gpu: Arc<Gpu>,
    handle: Handle<sys::CUgraphExec>,
    nodes: usize,
}

impl Stream {
    /// Records what `enqueue` enqueues here, without doing it. Nothing else may use the stream meanwhile, and nothing that
    /// allocates, frees, or waits for the device may be called on this thread. What is launched should have been launched once
    /// before: drivers load a kernel at its first launch, which not all of them do while recording.
    ///
    /// # Errors
    /// What `enqueue` fails with, or why it cannot be recorded. The stream is as it was before, then.
    pub fn capture(&self, enqueue: impl FnOnce(&Stream) -> Result<(), DeviceError>) -> Result<Graph, DeviceError> {
        self.refuse_in_recording("recording launches")?;
        let gpu = self.gpu();
        let _recording = gpu.lock_recording();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive, and nothing is being recorded on it.
        gpu.call("beginning to record launches", || unsafe { result::stream::begin_capture(self.handle(), mode) })?;
        self.set_recording(true);
        let capture = Capture { stream: self, ended: false };
        let enqueued = enqueue(self);
        let recorded = capture.end();
        let recording = match (enqueued, recorded) {
            (Ok(()), Ok(recording)) => recording,
            // What went wrong first explains more than that the recording is spoiled.
            (Err(error), _) | (Ok(()), Err(error)) => return Err(error),
        };
        recording.instantiate(self)
    }
}

/// A recording that goes on.
struct Capture<'a> {
    stream: &'a Stream,
    ended: bool,
}

impl Capture<'_> {
    fn end(mut self) -> Result<Recording, DeviceError> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Recording, DeviceError> {
        self.ended = true;
        self.stream.set_recording(false);
        let gpu = self.stream.gpu();
        // SAFETY: the stream is alive, and recording.
        let graph = gpu.call("recording launches", || unsafe { result::stream::end_capture(self.stream.handle()) })?;
        if graph.is_null() {
            let reason = "the driver gave nothing back".to_owned();
            return Err(DeviceError::Failed { ordinal: gpu.ordinal(), what: "recording launches".to_owned(), reason });
        }
        Ok(Recording { gpu: Arc::clone(gpu), graph })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        // Only after a panic: the stream must not stay in the recording.
        if !self.ended {
            drop(self.finish());
        }
    }
}

/// What was recorded, before it can be launched.
struct Recording {
    gpu: Arc<Gpu>,
    graph: sys::CUgraph,
}

impl Recording {
    fn instantiate(self, stream: &Stream) -> Result<Graph, DeviceError> {
        let mut nodes = 0;
        self.gpu.call("counting recorded launches", || {
            // SAFETY: the graph is alive and this one's own; without a place for nodes the driver writes their number alone.
            unsafe { sys::cuGraphGetNodes(self.graph, ptr::null_mut(), &mut nodes) }.result()
        })?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph is alive and this one's own.
        let handle = self.gpu.call("preparing recorded launches", || unsafe { result::graph::instantiate(self.graph, flags) })?;
        let graph = Graph { gpu: Arc::clone(&self.gpu), handle: Handle(handle), nodes };
        // The first launch must not pay for what can be done now.
        // SAFETY: the graph and the stream are alive.
        self.gpu.call("uploading recorded launches", || unsafe { result::graph::upload(handle, stream.handle()) })?;
        Ok(graph)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // SAFETY: the graph is this one's own; what was made of it does not need it.
        self.gpu.free("freeing a recording", || unsafe { result::graph::destroy(self.graph) });
    }
}

impl Graph {
    /// Enqueues everything that was recorded. `&mut`, as the driver does not lock graphs.
    ///
    /// # Errors
    /// The driver refuses.
    pub fn launch(&mut self, stream: &Stream) -> Result<(), DeviceError> {
        // SAFETY: the graph and the stream are alive, and of one context; nobody else uses the graph now.
        self.gpu.call("launching recorded launches", || unsafe { result::graph::launch(self.handle.0, stream.handle()) })
    }

    /// How many launches and copies it has.
    pub fn nodes(&self) -> usize {
        self.nodes
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the handle is this one's own, and nobody else uses it now. The driver finishes what is enqueued.
        self.gpu.free("freeing recorded launches", || unsafe { result::graph::exec_destroy(self.handle.0) });
    }
}
