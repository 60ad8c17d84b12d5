//! Device memory, pinned memory, copies and fills.

#![allow(non_snake_case, reason = "names of CUDA")]

use std::sync::Arc;

use crate::driver::abi::{HostBytes, Out, run};
use crate::driver::clock::VectorClock;
use crate::driver::ledger::{Ledger, Origin};
use crate::driver::mapping::Mapping;
use crate::driver::operation::{Action, HostSource};
use crate::driver::pinned::Pinned;
use crate::driver::state::{Call, Message};
use crate::driver::status::Status;
use crate::driver::world::Region;

impl Call {
    /// Allocates device memory, after frees under way where there is too little.
    pub(crate) fn allocate(mut self, bytes: usize, origin: Origin) -> Result<(Call, u64), Status> {
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        if self.state.injection.allocation() {
            return Err(Status::OUT_OF_MEMORY);
        }
        loop {
            match self.map_memory(bytes, origin) {
                Ok(address) => {
                    self.state.counters.allocations += 1;
                    return Ok((self, address));
                }
                Err(Status::OUT_OF_MEMORY) if self.ledger().is_freeing() => self = self.let_advance(),
                Err(status) => return Err(status),
            }
        }
    }

    /// Gives device memory back at once; the host must have waited for all that uses it.
    pub(crate) fn free_now(mut self, address: u64, pinned: bool, name: &str) -> Result<Call, Status> {
        let stream = self.device().host_stream;
        let action = Action::Free { address, pinned };
        self.state.push(&self.driver.names, stream, name, action, &[], &VectorClock::default());
        let (point, _) = self.state.tail(stream);
        // The host has not waited for the users of the memory: it learns only that the free itself is over.
        let call = self.wait(&[point], &VectorClock::default());
        call.state.healthy(call.device)?;
        Ok(call)
    }

    /// The device that holds all of a range.
    pub(crate) fn owner(&self, address: u64, bytes: usize) -> Result<u32, Status> {
        let device = Ledger::device_of(address).ok_or(Status::INVALID_VALUE)?;
        let found = self.state.devices.get(device as usize).ok_or(Status::INVALID_VALUE)?;
        if found.ledger.holds(address, bytes as u64) { Ok(device) } else { Err(Status::INVALID_VALUE) }
    }

    fn copy_in(mut self, target: u64, source: HostBytes, bytes: usize, stream: u64, is_sync: bool) -> Result<(), Status> {
        if bytes == 0 {
            return Ok(());
        }
        self.owner(target, bytes)?;
        let is_pinned = self.state.find_pinned(source.address(), bytes).is_some();
        let name = if is_pinned { "copy from pinned memory to the device" } else { "copy to the device" };
        let address = source.address() as u64;
        let source = match self.state.capturing(stream)? {
            _ if is_pinned => HostSource::Pinned(address),
            Some(_) => HostSource::Pageable(address),
            None => HostSource::Staged(Arc::from(source.copy(bytes)?)),
        };
        self.enqueue(stream, name, Action::CopyIn { source, target, bytes })?;
        // From ordinary memory CUDA only promises that the bytes were set aside.
        if is_sync && is_pinned { self.await_tail(stream, "copy").map(|_| ()) } else { Ok(()) }
    }

    fn copy_out(mut self, target: HostBytes, source: u64, bytes: usize, stream: u64, is_sync: bool) -> Result<(), Status> {
        if bytes == 0 {
            return Ok(());
        }
        if target.address() == 0 {
            return Err(Status::INVALID_VALUE);
        }
        self.owner(source, bytes)?;
        let pinned = self.state.find_pinned(target.address(), bytes).is_some();
        let name = if pinned { "copy from the device to pinned memory" } else { "copy from the device" };
        let is_captured = self.state.capturing(stream)?.is_some();
        self.enqueue(stream, name, Action::CopyOut { source, target: target.address() as u64, bytes, pinned })?;
        if is_captured || (pinned && !is_sync) { Ok(()) } else { self.await_tail(stream, "copy").map(|_| ()) }
    }

    /// Waits for the last operation of a stream.
    fn await_tail(mut self, stream: u64, kind: &'static str) -> Result<Call, Status> {
        self.state.counters.synchronization(kind);
        let (point, known) = self.state.tail(stream);
        let call = self.wait(&[point], &known);
        call.state.healthy(call.device)?;
        Ok(call)
    }

    fn copy_within(mut self, target: u64, source: u64, bytes: usize, stream: u64) -> Result<(), Status> {
        if bytes == 0 {
            return Ok(());
        }
        self.owner(target, bytes)?;
        self.owner(source, bytes)?;
        self.enqueue(stream, "copy within the device", Action::CopyWithin { source, target, bytes })
    }

    fn fill(mut self, target: u64, pattern: u32, width: usize, count: usize, stream: u64) -> Result<(), Status> {
        if count == 0 {
            return Ok(());
        }
        let bytes = width.checked_mul(count).ok_or(Status::INVALID_VALUE)?;
        if !target.is_multiple_of(width as u64) {
            return Err(Status::INVALID_VALUE);
        }
        self.owner(target, bytes)?;
        self.enqueue(stream, "memset", Action::Fill { target, pattern, width, count })
    }

    fn allocate_pinned(mut self, bytes: usize, flags: u32) -> Result<u64, Status> {
        self.outside_capture("an allocation of pinned memory")?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let view = Mapping::shared(bytes).map_err(|_| Status::OUT_OF_MEMORY)?;
        let alias = view.alias().map_err(|_| Status::OUT_OF_MEMORY)?;
        let start = view.start();
        self.state.inbox.push(Message::Pinned(Region::new(start as u64, bytes, alias, false)));
        self.state.pinned.insert(start, Pinned { bytes, view: Some(view), flags });
        self.state.counters.pinned_allocations += 1;
        Ok(start as u64)
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        call.outside_capture("an allocation")?;
        address.put(call.allocate(bytes, Origin::Plain)?.1)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemFree_v2(address: u64) -> Status {
    run(|| {
        if address == 0 {
            return Ok(());
        }
        let mut call = Call::enter()?;
        call.outside_capture("a free")?;
        let owner = call.owner(address, 0)? as usize;
        call.state.devices[owner].ledger.start_free(address)?;
        call.state.counters.frees += 1;
        call.free_now(address, false, "free").map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let info = call.ledger().info();
        free.put_if_wanted(info.0 as usize);
        total.put_if_wanted(info.1 as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) -> Status {
    run(|| {
        let call = Call::enter()?;
        let owner = call.owner(address, 0)? as usize;
        let (start, entry) = call.state.devices[owner].ledger.find(address).ok_or(Status::NOT_FOUND)?;
        base.put_if_wanted(start);
        bytes.put_if_wanted(entry.bytes as usize);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemHostAlloc(address: Out<u64>, bytes: usize, flags: u32) -> Status {
    run(|| address.put(Call::enter()?.allocate_pinned(bytes, flags)?))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemAllocHost_v2(address: Out<u64>, bytes: usize) -> Status {
    cuMemHostAlloc(address, bytes, 0)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemFreeHost(address: HostBytes) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        call.outside_capture("a free of pinned memory")?;
        let start = address.address();
        if call.state.pinned.get(&start).is_none_or(|pinned| pinned.view.is_none()) {
            return Err(Status::INVALID_VALUE);
        }
        let pinned = call.state.pinned.remove(&start);
        call.state.counters.pinned_frees += 1;
        let ended: Vec<_> = call.state.pins.extract_if(.., |pin| pin.allocation == start).collect();
        for (pin, pinned) in ended.iter().zip(std::iter::repeat(&pinned)) {
            if let Some(pinned) = pinned {
                pinned.unpin(pin, &[]);
            }
        }
        // The host's mapping goes only when no copy can be using the device's.
        let result = call.free_now(start as u64, true, "free of pinned memory");
        drop(pinned);
        result.map(|_| ())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemHostRegister_v2(address: HostBytes, bytes: usize, flags: u32) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        if address.address() == 0 || bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let start = address.address();
        let before = call.state.pinned.range(..start + bytes).next_back();
        if before.is_some_and(|(other, pinned)| other + pinned.bytes > start) {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED);
        }
        // Memory that is not ours cannot be mapped twice: copies treat it as ordinary memory, and nothing protects it.
        call.state.pinned.insert(start, Pinned { bytes: 0, view: None, flags });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemHostUnregister(address: HostBytes) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        match call.state.pinned.get(&address.address()) {
            Some(pinned) if pinned.view.is_none() => {
                call.state.pinned.remove(&address.address());
                Ok(())
            }
            _ => Err(Status::HOST_MEMORY_NOT_REGISTERED),
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemHostGetFlags(flags: Out<u32>, address: HostBytes) -> Status {
    run(|| flags.put(Call::enter()?.state.pinned.get(&address.address()).ok_or(Status::INVALID_VALUE)?.flags))
}

macro_rules! copies {
    ($($name:ident ($first:ident: $first_type:ty, $second:ident: $second_type:ty) = $method:ident($sync:expr);)*) => { $(
        #[unsafe(no_mangle)]
        pub(crate) extern "C" fn $name($first: $first_type, $second: $second_type, bytes: usize) -> Status {
            run(|| {
                let mut call = Call::enter()?;
                call.outside_capture("a copy that is not asynchronous")?;
                let stream = call.device().legacy;
                call.$method($first, $second, bytes, stream, $sync)
            })
        }
    )* };
}

copies! {
    cuMemcpyHtoD_v2(target: u64, source: HostBytes) = copy_in(true);
    cuMemcpyDtoH_v2(target: HostBytes, source: u64) = copy_out(true);
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyDtoD_v2(target: u64, source: u64, bytes: usize) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        call.outside_capture("a copy that is not asynchronous")?;
        let stream = call.device().legacy;
        call.copy_within(target, source, bytes, stream)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyHtoDAsync_v2(target: u64, source: HostBytes, bytes: usize, stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        call.copy_in(target, source, bytes, stream, false)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyDtoHAsync_v2(target: HostBytes, source: u64, bytes: usize, stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        call.copy_out(target, source, bytes, stream, false)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyDtoDAsync_v2(target: u64, source: u64, bytes: usize, stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        call.copy_within(target, source, bytes, stream)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemcpyPeerAsync(target: u64, _to: u64, source: u64, _from: u64, bytes: usize, stream: u64) -> Status {
    cuMemcpyDtoDAsync_v2(target, source, bytes, stream)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemsetD8_v2(target: u64, value: u8, count: usize) -> Status {
    cuMemsetD8Async(target, value, count, 0)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemsetD16_v2(target: u64, value: u16, count: usize) -> Status {
    cuMemsetD16Async(target, value, count, 0)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemsetD32_v2(target: u64, value: u32, count: usize) -> Status {
    cuMemsetD32Async(target, value, count, 0)
}

fn fill(target: u64, value: u32, width: usize, count: usize, stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        call.fill(target, value, width, count, stream)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemsetD8Async(target: u64, value: u8, count: usize, stream: u64) -> Status {
    fill(target, u32::from(value), 1, count, stream)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemsetD16Async(target: u64, value: u16, count: usize, stream: u64) -> Status {
    fill(target, u32::from(value), 2, count, stream)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemsetD32Async(target: u64, value: u32, count: usize, stream: u64) -> Status {
    fill(target, value, 4, count, stream)
}

/// Kinds of memory: 1 is the host's, 2 the device's.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuPointerGetAttribute(value: HostBytes, attribute: u32, address: u64) -> Status {
    run(|| {
        let call = Call::enter()?;
        let owner = call.owner(address, 0);
        let host = call.state.find_pinned(address as usize, 0);
        if owner.is_err() && host.is_none() {
            return Err(Status::INVALID_VALUE);
        }
        let device = owner.unwrap_or(call.device);
        let entry = call.state.devices[device as usize].ledger.find(address);
        match (attribute, entry) {
            (1, _) => value.put_value(call.state.devices[device as usize].primary.0),
            (2, _) => value.put_value(if host.is_some() { 1_u32 } else { 2 }),
            (3, Some(_)) => value.put_value(address),
            (4, None) => value.put_value(address),
            (8, _) => value.put_value(0_u8),
            (9, _) => value.put_value(device as i32),
            (10, entry) => value.put_value(u8::from(entry.is_some_and(|(_, entry)| entry.origin == Origin::Plain))),
            (11, Some((start, _))) => value.put_value(start),
            (12, Some((_, entry))) => value.put_value(entry.bytes as usize),
            (13, _) => value.put_value(1_u8),
            _ => Err(Status::INVALID_VALUE),
        }
    })
}
