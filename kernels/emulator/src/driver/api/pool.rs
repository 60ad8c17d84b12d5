//! Allocations in the order of streams, and the pools they come from.

#![allow(non_snake_case, reason = "names of CUDA")]

use crate::driver::abi::{HostBytes, Out, run};
use crate::driver::ledger::Origin;
use crate::driver::operation::Action;
use crate::driver::state::{Call, Driver};
use crate::driver::status::Status;

fn allocate(address: Out<u64>, bytes: usize, pool: Option<u64>, stream: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        if call.state.capturing(stream)?.is_some() {
            call.state.invalidate_of(stream, "an allocation: this emulator's graphs hold none");
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        let pool = pool.unwrap_or(call.device().pool);
        let (mut call, start) = call.allocate(bytes, Origin::Pool(pool))?;
        call.enqueue(stream, "allocation", Action::Allocate { address: start })?;
        address.put(start)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: u64) -> Status {
    allocate(address, bytes, None, stream)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: u64, stream: u64) -> Status {
    allocate(address, bytes, Some(pool), stream)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemFreeAsync(address: u64, stream: u64) -> Status {
    run(|| {
        if address == 0 {
            return Ok(());
        }
        let mut call = Call::enter()?;
        let stream = call.stream(stream)?;
        if call.state.capturing(stream)?.is_some() {
            call.state.invalidate_of(stream, "a free: this emulator's graphs hold none");
            return Err(Status::STREAM_CAPTURE_UNSUPPORTED);
        }
        let owner = call.owner(address, 0)? as usize;
        call.state.devices[owner].ledger.start_free(address)?;
        let result = call.enqueue(stream, "free", Action::Free { address, pinned: false });
        match result {
            Ok(()) => call.state.counters.frees += 1,
            Err(_) => call.state.devices[owner].ledger.cancel_free(address),
        }
        result
    })
}

fn pool_of(target: Out<u64>, number: i32, which: impl FnOnce(&crate::driver::state::Device) -> u64) -> Status {
    run(|| {
        let state = Driver::started()?.lock();
        let device = usize::try_from(number).ok().and_then(|number| state.devices.get(number)).ok_or(Status::INVALID_DEVICE)?;
        target.put(which(device))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetDefaultMemPool(pool: Out<u64>, number: i32) -> Status {
    pool_of(pool, number, |device| device.default_pool)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetMemPool(pool: Out<u64>, number: i32) -> Status {
    pool_of(pool, number, |device| device.pool)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceSetMemPool(number: i32, pool: u64) -> Status {
    run(|| {
        let mut state = Driver::started()?.lock();
        let device =
            usize::try_from(number).ok().and_then(|number| state.devices.get_mut(number)).ok_or(Status::INVALID_DEVICE)?;
        device.ledger.pool(pool).ok_or(Status::INVALID_VALUE)?;
        device.pool = pool;
        Ok(())
    })
}

/// Memory of captured graphs: there is none to trim.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGraphMemTrim(number: i32) -> Status {
    run(|| {
        let state = Driver::started()?.lock();
        usize::try_from(number).ok().and_then(|number| state.devices.get(number)).map(|_| ()).ok_or(Status::INVALID_DEVICE)
    })
}

/// Properties beyond the default's are those of other processes and of the host's memory, which pools here do not have.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemPoolCreate(pool: Out<u64>, _properties: HostBytes) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let handle = call.state.handle();
        call.ledger().add_pool(handle);
        pool.put(handle)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemPoolDestroy(pool: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        if pool == call.device().default_pool {
            return Err(Status::INVALID_VALUE);
        }
        call.ledger().remove_pool(pool)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemPoolTrimTo(pool: u64, keep: usize) -> Status {
    run(|| Call::enter()?.ledger().trim(pool, keep as u64))
}

/// Numbers of attributes: 1 to 3 how freed memory is used again, 4 the threshold, 5 and 6 reserved, 7 and 8 used.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemPoolGetAttribute(pool: u64, attribute: u32, value: HostBytes) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let pool = *call.ledger().pool(pool).ok_or(Status::INVALID_VALUE)?;
        match attribute {
            1..=3 => value.put_value(1_i32),
            4 => value.put_value(pool.release_threshold),
            5 => value.put_value(pool.reserved),
            6 => value.put_value(pool.reserved_high),
            7 => value.put_value(pool.used),
            8 => value.put_value(pool.used_high),
            _ => Err(Status::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuMemPoolSetAttribute(pool: u64, attribute: u32, value: HostBytes) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let pool = call.ledger().pool(pool).ok_or(Status::INVALID_VALUE)?;
        match attribute {
            1..=3 => {}
            4 => pool.release_threshold = value.value()?,
            6 if value.value::<u64>()? == 0 => pool.reserved_high = pool.reserved,
            8 if value.value::<u64>()? == 0 => pool.used_high = pool.used,
            _ => return Err(Status::INVALID_VALUE),
        }
        Ok(())
    })
}
