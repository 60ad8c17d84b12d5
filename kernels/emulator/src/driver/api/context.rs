//! Errors, initialization, devices and contexts.

#![allow(non_snake_case, reason = "names of CUDA")]

use std::ffi::{c_char, c_void};

use crate::driver::abi::{HostBytes, Out, Text, run};
use crate::driver::module::{PLAIN_SHARED_BYTES, most_shared_bytes};
use crate::driver::state::{CURRENT, Call, Driver};
use crate::driver::status::Status;

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuInit(flags: u32) -> Status {
    run(|| {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        let driver = Driver::start();
        if driver.settings.devices == 0 { Err(Status::NO_DEVICE) } else { Ok(()) }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDriverGetVersion(version: Out<i32>) -> Status {
    run(|| version.put(Driver::start().settings.driver_version as i32))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGetErrorName(status: Status, name: Out<*const c_char>) -> Status {
    run(|| {
        let found = status.name();
        name.put(found.map_or(std::ptr::null(), |name| name.as_ptr()))?;
        found.map(|_| ()).ok_or(Status::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGetErrorString(status: Status, text: Out<*const c_char>) -> Status {
    run(|| {
        let found = status.text();
        text.put(found.map_or(std::ptr::null(), |text| text.as_ptr()))?;
        found.map(|_| ()).ok_or(Status::INVALID_VALUE)
    })
}

/// Where functions of this library are, for applications that ask by name.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuGetProcAddress_v2(
    symbol: Text,
    function: Out<*mut c_void>,
    _version: i32,
    _flags: u64,
    found: Out<u32>,
) -> Status {
    run(|| {
        let name = std::ffi::CString::new(symbol.read()?).map_err(|_| Status::INVALID_VALUE)?;
        // SAFETY: zero is a valid Dl_info; dladdr fills it for an address inside this library.
        let mut own: libc::Dl_info = unsafe { std::mem::zeroed() };
        // SAFETY: `own` is valid for the call.
        if unsafe { libc::dladdr(cuInit as *const c_void, &raw mut own) } == 0 {
            return Err(Status::UNKNOWN);
        }
        // SAFETY: the path dladdr gave; the library is loaded already and stays so.
        let library = unsafe { libc::dlopen(own.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        let versions = [format!("{}_v2", name.to_string_lossy()), name.to_string_lossy().into_owned()];
        for version in versions {
            let version = std::ffi::CString::new(version).map_err(|_| Status::INVALID_VALUE)?;
            // SAFETY: an open library, or null for the program itself; the name is terminated.
            let address = unsafe { libc::dlsym(library, version.as_ptr()) };
            if !address.is_null() {
                found.put_if_wanted(0);
                return function.put(address);
            }
        }
        found.put_if_wanted(1);
        function.put(std::ptr::null_mut())?;
        Err(Status::NOT_FOUND)
    })
}

fn device(number: i32) -> Result<(&'static Driver, u32), Status> {
    let driver = Driver::started()?;
    let number = u32::try_from(number).ok().filter(|number| *number < driver.settings.devices);
    Ok((driver, number.ok_or(Status::INVALID_DEVICE)?))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetCount(count: Out<i32>) -> Status {
    run(|| count.put(Driver::started()?.settings.devices as i32))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGet(handle: Out<i32>, ordinal: i32) -> Status {
    run(|| handle.put(device(ordinal)?.1 as i32))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetName(name: HostBytes, room: i32, number: i32) -> Status {
    run(|| {
        let (driver, _) = device(number)?;
        let capability = driver.settings.capability;
        let mut text = format!("Emulated device {}.{}", capability / 10, capability % 10).into_bytes();
        let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(Status::INVALID_VALUE)?;
        text.truncate(room - 1);
        text.push(0);
        name.put(&text)
    })
}

fn uuid(number: i32) -> Result<[u8; 16], Status> {
    let (_, number) = device(number)?;
    let mut uuid = *b"emulated-device0";
    uuid[15] = number as u8;
    Ok(uuid)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetUuid(target: Out<[u8; 16]>, number: i32) -> Status {
    run(|| target.put(uuid(number)?))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetUuid_v2(target: Out<[u8; 16]>, number: i32) -> Status {
    run(|| target.put(uuid(number)?))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceTotalMem_v2(bytes: Out<usize>, number: i32) -> Status {
    run(|| bytes.put(device(number)?.0.settings.memory_bytes as usize))
}

/// Devices do not reach each other's memory from kernels; copies between them work.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceCanAccessPeer(can: Out<i32>, number: i32, other: i32) -> Status {
    run(|| {
        device(number)?;
        device(other)?;
        can.put(0)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetPCIBusId(text: HostBytes, room: i32, number: i32) -> Status {
    run(|| {
        let (_, number) = device(number)?;
        let bus = format!("0000:{:02X}:00.0\0", number + 1);
        if usize::try_from(room).is_ok_and(|room| room >= bus.len()) {
            text.put(bus.as_bytes())
        } else {
            Err(Status::INVALID_VALUE)
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, number: i32) -> Status {
    run(|| {
        let (driver, number) = device(number)?;
        let capability = driver.settings.capability;
        let per_multiprocessor = if matches!(capability, 75) {
            1024
        } else if matches!(capability, 86 | 89) {
            1536
        } else {
            2048
        };
        value.put(match attribute {
            1..=3 => 1024,
            4 => 64,
            5 => i32::MAX,
            6 | 7 => 65_535,
            8 => PLAIN_SHARED_BYTES as i32,
            9 => 65_536,
            10 => 32,
            11 => i32::MAX,
            12 | 82 => 65_536,
            13 => 1_410_000,
            16 => MULTIPROCESSORS,
            33 => number as i32 + 1,
            36 => 1_215_000,
            37 => 5_120,
            38 => 40 << 20,
            39 => per_multiprocessor,
            40 => 2,
            75 => (capability / 10) as i32,
            76 => (capability % 10) as i32,
            81 => most_shared_bytes(capability) as i32 + 1024,
            97 => most_shared_bytes(capability) as i32,
            106 => 32,
            111 => 1024,
            // What there is: overlapping copies, concurrent kernels, unified addresses, priorities, caches, memory pools.
            15 | 31 | 41 | 78 | 79 | 80 | 115 => 1,
            // Everything else is absent: managed and mapped memory, cooperative launches, clusters.
            _ => 0,
        })
    })
}

/// Multiprocessors of a device.
pub(crate) const MULTIPROCESSORS: i32 = 108;

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDevicePrimaryCtxRetain(context: Out<u64>, number: i32) -> Status {
    run(|| {
        let (driver, number) = device(number)?;
        let mut state = driver.lock();
        let primary = &mut state.devices[number as usize].primary;
        primary.1 += 1;
        context.put(primary.0)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDevicePrimaryCtxRelease_v2(number: i32) -> Status {
    run(|| {
        let (driver, number) = device(number)?;
        let mut state = driver.lock();
        let primary = &mut state.devices[number as usize].primary;
        primary.1 = primary.1.checked_sub(1).ok_or(Status::INVALID_CONTEXT)?;
        let (context, users) = *primary;
        if users > 0 {
            return Ok(());
        }
        let call = Call { driver, state, device: number };
        call.leave(context)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDevicePrimaryCtxGetState(number: i32, flags: Out<u32>, active: Out<i32>) -> Status {
    run(|| {
        let (driver, number) = device(number)?;
        flags.put_if_wanted(0);
        active.put(i32::from(driver.lock().devices[number as usize].primary.1 > 0))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuDevicePrimaryCtxSetFlags_v2(number: i32, _flags: u32) -> Status {
    run(|| device(number).map(|_| ()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxCreate_v4(context: Out<u64>, _parameters: u64, _flags: u32, number: i32) -> Status {
    run(|| {
        let (driver, number) = device(number)?;
        let mut state = driver.lock();
        let handle = state.handle();
        state.contexts.insert(handle, number);
        CURRENT.set(handle);
        context.put(handle)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxDestroy_v2(context: u64) -> Status {
    run(|| {
        let driver = Driver::started()?;
        driver.lock().contexts.remove(&context).map(|_| ()).ok_or(Status::INVALID_CONTEXT)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxSetCurrent(context: u64) -> Status {
    run(|| {
        let driver = Driver::started()?;
        if context != 0 && !driver.lock().contexts.contains_key(&context) {
            return Err(Status::INVALID_CONTEXT);
        }
        CURRENT.set(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetCurrent(context: Out<u64>) -> Status {
    run(|| {
        Driver::started()?;
        context.put(CURRENT.get())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxPushCurrent_v2(context: u64) -> Status {
    cuCtxSetCurrent(context)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxPopCurrent_v2(context: Out<u64>) -> Status {
    run(|| {
        Driver::started()?;
        context.put_if_wanted(CURRENT.replace(0));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetDevice(number: Out<i32>) -> Status {
    run(|| number.put(Call::enter_poisoned()?.device as i32))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetApiVersion(_context: u64, version: Out<u32>) -> Status {
    run(|| version.put(Driver::started()?.settings.driver_version))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetFlags(flags: Out<u32>) -> Status {
    run(|| {
        Call::enter_poisoned()?;
        flags.put(0)
    })
}

/// Flags say how a host waits, which is the same here for all.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxSetFlags(_flags: u32) -> Status {
    run(|| Call::enter().map(|_| ()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxSynchronize() -> Status {
    run(|| Call::enter()?.synchronize_device().map(|_| ()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) -> Status {
    run(|| {
        Call::enter()?;
        least.put_if_wanted(0);
        greatest.put_if_wanted(-5);
        Ok(())
    })
}

/// The limits that change nothing here are those of stacks, `printf` and the device's heap.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxSetLimit(limit: u32, _value: usize) -> Status {
    run(|| {
        Call::enter()?;
        if limit <= 2 { Ok(()) } else { Err(Status::NOT_SUPPORTED) }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetLimit(value: Out<usize>, limit: u32) -> Status {
    run(|| {
        Call::enter()?;
        value.put(*[1024, 1 << 20, 8 << 20].get(limit as usize).ok_or(Status::NOT_SUPPORTED)?)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxGetCacheConfig(value: Out<u32>) -> Status {
    run(|| {
        Call::enter()?;
        value.put(0)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuCtxSetCacheConfig(_value: u32) -> Status {
    run(|| Call::enter().map(|_| ()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuProfilerStart() -> Status {
    run(|| Call::enter().map(|_| ()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuProfilerStop() -> Status {
    run(|| Call::enter().map(|_| ()))
}
