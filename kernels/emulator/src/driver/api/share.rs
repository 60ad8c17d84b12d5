//! Device memory that processes share.
//!
//! A handle names the process and the descriptor of the file that backs an allocation; another process maps that file. As with
//! CUDA, only whole allocations of `cuMemAlloc` are shared, and not with the process itself. What the other process does with
//! the memory is not seen by the checks of order.

#![allow(non_snake_case, reason = "names of CUDA")]

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::sync::mpsc::sync_channel;

use crate::driver::abi::{Out, run};
use crate::driver::ledger::Origin;
use crate::driver::mapping::Mapping;
use crate::driver::state::{Call, Message};
use crate::driver::status::Status;
use crate::driver::world::Region;

/// CUipcMemHandle: the mark, the process, the descriptor, the length, the device.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Handle([u8; 64]);

const MARK: u64 = 0x616c_6365_646f_3031;

impl Handle {
    fn new(words: [u64; 4]) -> Self {
        let mut bytes = [0; 64];
        for (place, word) in bytes.chunks_exact_mut(8).zip([MARK].into_iter().chain(words)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        Handle(bytes)
    }

    /// As applications pass it on.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> [u8; 64] {
        self.0
    }

    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: [u8; 64]) -> Self {
        Handle(bytes)
    }

    fn words(&self) -> Option<[u64; 4]> {
        let word = |index: usize| Some(u64::from_le_bytes(self.0[index * 8..index * 8 + 8].try_into().ok()?));
        if word(0)? == MARK { Some([word(1)?, word(2)?, word(3)?, word(4)?]) } else { None }
    }
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuIpcGetMemHandle(handle: Out<Handle>, address: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let owner = call.owner(address, 0)?;
        let (start, entry) = call.state.devices[owner as usize].ledger.find(address).ok_or(Status::INVALID_VALUE)?;
        if entry.origin != Origin::Plain || entry.freeing || start != address {
            return Err(Status::INVALID_VALUE);
        }
        let (answer, file) = sync_channel(1);
        call.state.inbox.push(Message::Share(owner, start, answer));
        // The executor reads its messages before the next operation: an empty one on the host's stream makes it.
        let stream = call.device().host_stream;
        let nothing = crate::driver::operation::Action::Nothing;
        call.state.push(&call.driver.names, stream, "sharing", nothing, &[], &Default::default());
        call.driver.work.notify_one();
        drop(call);
        let file = file.recv().ok().flatten().ok_or(Status::OUT_OF_MEMORY)?;
        handle.put(Handle::new([u64::from(std::process::id()), file as u64, entry.bytes, u64::from(owner)]))
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuIpcOpenMemHandle_v2(address: Out<u64>, handle: Handle, _flags: u32) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let [process, file, bytes, device] = handle.words().ok_or(Status::INVALID_VALUE)?;
        if process == u64::from(std::process::id()) || device != u64::from(call.device) {
            return Err(Status::INVALID_CONTEXT);
        }
        let path = format!("/proc/{process}/fd/{file}");
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|_| Status::INVALID_VALUE)?;
        let length = file.metadata().map_err(|_| Status::INVALID_VALUE)?.len();
        if length < bytes {
            return Err(Status::INVALID_VALUE);
        }
        let mapping = Mapping::of_file(OwnedFd::from(file), bytes as usize).map_err(|_| Status::OUT_OF_MEMORY)?;
        let start = call.ledger().allocate(bytes, Origin::Imported)?;
        let device = call.device;
        call.state.inbox.push(Message::Device(device, Region::new(start, bytes as usize, mapping, false)));
        address.put(start)
    })
}

#[unsafe(no_mangle)]
pub(crate) extern "C" fn cuIpcCloseMemHandle(address: u64) -> Status {
    run(|| {
        let mut call = Call::enter()?;
        let owner = call.owner(address, 0)? as usize;
        let ledger = &mut call.state.devices[owner].ledger;
        if ledger.find(address).is_none_or(|(start, entry)| start != address || entry.origin != Origin::Imported) {
            return Err(Status::INVALID_VALUE);
        }
        ledger.start_free(address)?;
        call.free_now(address, false, "closing of shared memory").map(|_| ())
    })
}
