//! Captures and graphs.

#![allow(non_snake_case, reason = "names of CUDA")]

use std::sync::Arc;

use crate::driver::abi::{Out, run};
use crate::driver::capture::Mode;
use crate::driver::state::{Call, Driver};
use crate::driver::status::Status;

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamBeginCapture_v2(stream: u64, mode: u32) -> Status {
    run(|| {
        let mode = match mode {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(Status::INVALID_VALUE),
        };
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        call.begin_capture(stream, mode)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamEndCapture(stream: u64, graph: Out<u64>) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        let result = call.end_capture(stream);
        graph.put(*result.as_ref().unwrap_or(&0))?;
        result.map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamIsCapturing(stream: u64, status: Out<u32>) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        status.put(call.capture_status(stream).0)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamGetCaptureInfo_v3(
    stream: u64,
    status: Out<u32>,
    number: Out<u64>,
    graph: Out<u64>,
    dependencies: Out<u64>,
    edges: Out<u64>,
    count: Out<usize>,
) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        let (state, capture) = call.capture_status(stream);
        number.put_if_wanted(capture);
        // What a capture holds so far cannot be looked at.
        graph.put_if_wanted(0);
        dependencies.put_if_wanted(0);
        edges.put_if_wanted(0);
        count.put_if_wanted(0);
        status.put(state)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphInstantiateWithFlags(executable: Out<u64>, graph: u64, flags: u64) -> Status {
    run(|| {
        // Graphs launched by kernels are not emulated; freeing at launch and priorities of nodes change nothing here.
        if flags & !0b1001 != 0 {
            return Err(Status::INVALID_VALUE);
        }
        executable.put(Call::enter()?.instantiate(graph)?)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphUpload(executable: u64, stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        call.stream(stream)?;
        call.state.executables.get(&executable).map(|_| ()).ok_or(Status::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphLaunch(executable: u64, stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        call.launch_graph(executable, stream)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphDestroy(graph: u64) -> Status {
    run(|| Driver::started()?.lock().graphs.remove(&graph).map(|_| ()).ok_or(Status::INVALID_VALUE))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphExecDestroy(executable: u64) -> Status {
    run(|| Call::enter_poisoned()?.destroy_executable(executable))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphClone(clone: Out<u64>, graph: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let graph = Arc::clone(call.state.graphs.get(&graph).ok_or(Status::INVALID_VALUE)?);
        let handle = call.state.handle();
        call.state.graphs.insert(handle, graph);
        clone.put(handle)
    })
}

/// Nodes cannot be looked at one by one: only their number is told.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGraphGetNodes(graph: u64, nodes: u64, count: Out<usize>) -> Status {
    run(|| {
        if nodes != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        count.put(Driver::started()?.lock().graphs.get(&graph).ok_or(Status::INVALID_VALUE)?.len())
    })
}
