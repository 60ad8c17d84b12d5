//! Streams and events.

#![allow(non_snake_case, reason = "names of CUDA")]

use std::ffi::c_void;

use crate::driver::abi::{Out, run};
use crate::driver::event::{DISABLE_TIMING, Event, Recorded};
use crate::driver::operation::{Action, HostCall};
use crate::driver::state::Call;
use crate::driver::status::Status;

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamCreate(stream: Out<u64>, flags: u32) -> Status {
    cuStreamCreateWithPriority(stream, flags, 0)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamCreateWithPriority(stream: Out<u64>, flags: u32, priority: i32) -> Status {
    run(|| {
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        let mut call = Call::enter()?;
        let device = call.device;
        let handle = call.state.add_stream(&call.driver.names, device, "", flags == 1, priority.clamp(-5, 0));
        if let Some(created) = call.state.streams.get(&handle) {
            call.driver.names.component(created.component, &format!("stream 0x{handle:x}"));
        }
        stream.put(handle)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamDestroy_v2(stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter_poisoned()?;
        if stream <= 2 {
            return Err(Status::INVALID_HANDLE);
        }
        let stream = call.stream(stream)?;
        call.destroy_stream(stream)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamQuery(stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        if call.state.capturing(stream)?.is_some() {
            call.state.invalidate_of(stream, "a query of a stream that captures");
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        call.state.counters.synchronization("stream query");
        let (point, known) = call.state.tail(stream);
        call.poll(point, &known)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamSynchronize(stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        call.synchronize_stream(stream).map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamWaitEvent(stream: u64, event: u64, _flags: u32) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        call.stream_wait_event(stream, event)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamGetPriority(stream: u64, priority: Out<i32>) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        priority.put(call.state.streams.get(&stream).map_or(0, |stream| stream.priority))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamGetFlags(stream: u64, flags: Out<u32>) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        flags.put(call.state.streams.get(&stream).map_or(0, |stream| u32::from(stream.non_blocking)))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamGetId(stream: u64, number: Out<u64>) -> Status {
    run(|| number.put(Call::enter()?.stream(stream)?))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamGetCtx(stream: u64, context: Out<u64>) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        call.stream(stream)?;
        context.put(call.device().primary.0)
    })
}

/// Managed memory does not exist here, so nothing can be attached.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuStreamAttachMemAsync(_stream: u64, _address: u64, _bytes: usize, _flags: u32) -> Status {
    Status::NOT_SUPPORTED
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuLaunchHostFunc(
    stream: u64,
    function: Option<extern "C" fn(*mut c_void)>,
    argument: *mut c_void,
) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        let function = function.ok_or(Status::INVALID_VALUE)?;
        call.enqueue(stream, "host function", Action::Call(HostCall { function, argument: argument as usize }))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventCreate(event: Out<u64>, flags: u32) -> Status {
    run(|| {
        // Blocking waits, no timing, and sharing between processes, which only goes without timing.
        if flags > 7 || flags & 4 != 0 {
            return Err(if flags & 4 != 0 { Status::NOT_SUPPORTED } else { Status::INVALID_VALUE });
        }
        let mut call = Call::enter()?;
        let handle = call.state.handle();
        call.state.events.insert(handle, Event { disable_timing: flags & DISABLE_TIMING != 0, recorded: Recorded::Never });
        event.put(handle)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventDestroy_v2(event: u64) -> Status {
    run(|| Call::enter_poisoned()?.state.events.remove(&event).map(|_| ()).ok_or(Status::INVALID_HANDLE))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventRecord(event: u64, stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        call.record_event(event, stream)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventRecordWithFlags(event: u64, stream: u64, flags: u32) -> Status {
    if flags == 0 { cuEventRecord(event, stream) } else { Status::NOT_SUPPORTED }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventQuery(event: u64) -> Status {
    run(|| Call::enter()?.query_event(event))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventSynchronize(event: u64) -> Status {
    run(|| Call::enter()?.synchronize_event(event).map(|_| ()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: u64, end: u64) -> Status {
    run(|| milliseconds.put(Call::enter()?.elapsed(start, end)?))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuEventElapsedTime(milliseconds: Out<f32>, start: u64, end: u64) -> Status {
    cuEventElapsedTime_v2(milliseconds, start, end)
}
