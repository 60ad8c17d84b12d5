//! Modules, functions and launches.

#![allow(non_snake_case, reason = "names of CUDA")]
#![allow(clippy::too_many_arguments, reason = "signatures of CUDA")]

use std::sync::atomic::Ordering;

use crate::driver::abi::{HostBytes, Out, Parameters, Text, run};
use crate::driver::api::context::MULTIPROCESSORS;
use crate::driver::module::{Function, Shape, most_shared_bytes};
use crate::driver::state::Call;
use crate::driver::status::Status;

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleLoadData(module: Out<u64>, image: Text) -> Status {
    run(|| module.put(Call::enter()?.load_module(image.bytes()?)?))
}

/// Options are about compilation, of which there is none.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleLoadDataEx(module: Out<u64>, image: Text, _options: u32, _names: u64, _values: u64) -> Status {
    cuModuleLoadData(module, image)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleLoad(module: Out<u64>, path: Text) -> Status {
    run(|| {
        let image = std::fs::read(path.read()?).map_err(|_| Status::FILE_NOT_FOUND)?;
        module.put(Call::enter()?.load_module(&image)?)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleUnload(module: u64) -> Status {
    run(|| Call::enter()?.unload_module(module))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleGetFunction(function: Out<u64>, module: u64, name: Text) -> Status {
    run(|| function.put(Call::enter()?.function(module, name.read()?)?))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: u64, name: Text) -> Status {
    run(|| {
        let call = Call::enter()?;
        let module = call.state.modules.get(&module).ok_or(Status::INVALID_HANDLE)?;
        let (start, length) = module.variable(name.read()?).ok_or(Status::NOT_FOUND)?;
        address.put_if_wanted(start);
        bytes.put_if_wanted(length);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: u64) -> Status {
    run(|| {
        let call = Call::enter()?;
        let function = call.found_function(function)?;
        value.put(match attribute {
            0 => function.most_threads() as i32,
            1 => function.kernel.static_shared_bytes as i32,
            3 => function.kernel.local_bytes as i32,
            // How many registers code needs is decided when it is compiled, which it never is.
            4 => 32,
            5 | 6 => call.driver.settings.capability as i32,
            8 => function.dynamic_limit.load(Ordering::Relaxed) as i32,
            2 | 7 | 9..=15 => 0,
            _ => return Err(Status::INVALID_VALUE),
        })
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuFuncSetAttribute(function: u64, attribute: u32, value: i32) -> Status {
    run(|| {
        let call = Call::enter()?;
        let function = call.found_function(function)?;
        match attribute {
            8 => {
                let value = u32::try_from(value).map_err(|_| Status::INVALID_VALUE)?;
                let most = most_shared_bytes(call.driver.settings.capability);
                if value.saturating_add(function.kernel.static_shared_bytes) > most {
                    return Err(Status::INVALID_VALUE);
                }
                function.dynamic_limit.store(value, Ordering::Relaxed);
                Ok(())
            }
            // How shared memory and cache divide their room changes nothing here.
            9 if (-1..=100).contains(&value) => Ok(()),
            _ => Err(Status::INVALID_VALUE),
        }
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuFuncSetCacheConfig(function: u64, _value: u32) -> Status {
    run(|| Call::enter()?.found_function(function).map(|_| ()))
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuFuncGetParamInfo(function: u64, index: usize, offset: Out<usize>, bytes: Out<usize>) -> Status {
    run(|| {
        let function = Call::enter()?.found_function(function)?;
        let parameter = *function.parameters().get(index).ok_or(Status::INVALID_VALUE)?;
        bytes.put_if_wanted(parameter.1);
        offset.put(parameter.0)
    })
}

/// Blocks that fit a multiprocessor by threads and shared memory; registers are not known.
fn blocks(call: &Call, function: &Function, threads: i32, dynamic_bytes: usize) -> Result<i32, Status> {
    let threads = usize::try_from(threads).ok().filter(|threads| (1..=1024).contains(threads)).ok_or(Status::INVALID_VALUE)?;
    let most = most_shared_bytes(call.driver.settings.capability) as usize;
    let shared = function.kernel.static_shared_bytes as usize + dynamic_bytes;
    let by_memory = (most + 1024) / (shared + 1024);
    let by_threads = 2048 / threads.next_multiple_of(32);
    Ok(if shared > most { 0 } else { by_memory.min(by_threads).min(32) as i32 })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
    count: Out<i32>,
    function: u64,
    threads: i32,
    dynamic_bytes: usize,
) -> Status {
    run(|| {
        let call = Call::enter()?;
        let function = call.found_function(function)?;
        count.put(blocks(&call, &function, threads, dynamic_bytes)?)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
    count: Out<i32>,
    function: u64,
    threads: i32,
    dynamic_bytes: usize,
    _flags: u32,
) -> Status {
    cuOccupancyMaxActiveBlocksPerMultiprocessor(count, function, threads, dynamic_bytes)
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuOccupancyMaxPotentialBlockSize(
    grid: Out<i32>,
    threads: Out<i32>,
    function: u64,
    bytes_of: Option<extern "C" fn(i32) -> usize>,
    dynamic_bytes: usize,
    limit: i32,
) -> Status {
    run(|| {
        let call = Call::enter()?;
        let function = call.found_function(function)?;
        let most = function.most_threads() as i32;
        let most = if limit > 0 { most.min(limit) } else { most };
        let size = (most / 32 * 32).max(1);
        let bytes = bytes_of.map_or(dynamic_bytes, |bytes_of| bytes_of(size));
        grid.put_if_wanted(blocks(&call, &function, size, bytes)? * MULTIPROCESSORS);
        threads.put_if_wanted(size);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuOccupancyAvailableDynamicSMemPerBlock(
    bytes: Out<usize>,
    function: u64,
    count: i32,
    _threads: i32,
) -> Status {
    run(|| {
        let call = Call::enter()?;
        let function = call.found_function(function)?;
        let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Status::INVALID_VALUE)?;
        let most = most_shared_bytes(call.driver.settings.capability) as usize;
        bytes.put(((most + 1024) / count).saturating_sub(1024 + function.kernel.static_shared_bytes as usize).min(most))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuLaunchKernel(
    function: u64,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    dynamic_shared_bytes: u32,
    stream: u64,
    parameters: Parameters,
    extra: HostBytes,
) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let function = call.found_function(function)?;
        if extra.address() != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let stream = call.stream(stream)?;
        let parameters = parameters.gather(&function.parameters())?;
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], dynamic_shared_bytes };
        call.launch(&function, shape, stream, parameters)
    })
}

/// CUlaunchConfig.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct LaunchConfig {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared_bytes: u32,
    pub stream: u64,
    pub attributes: u64,
    pub attribute_count: u32,
}

/// Attributes of launches (clusters, dependent launches) are not emulated.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuLaunchKernelEx(
    config: Out<LaunchConfig>,
    function: u64,
    parameters: Parameters,
    extra: HostBytes,
) -> Status {
    run(|| {
        let LaunchConfig { grid, block, dynamic_shared_bytes, stream, attribute_count, .. } =
            config.read().ok_or(Status::INVALID_VALUE)?;
        if attribute_count != 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        let [x, y, z] = grid;
        let status =
            cuLaunchKernel(function, x, y, z, block[0], block[1], block[2], dynamic_shared_bytes, stream, parameters, extra);
        if status == Status::SUCCESS { Ok(()) } else { Err(status) }
    })
}
