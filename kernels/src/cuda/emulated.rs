//! What the emulated device tells beyond CUDA: for tests. A real driver has none of it, and answers `None`.

use std::ffi::{CString, c_char, c_int, c_void};

use libloading::os::unix::{Library, RTLD_LAZY};

/// Where the loader finds the driver, emulated or not; as it is loaded already, this opens the same.
const DRIVER: &str = "libcuda.so.1";

/// A text that the device writes: the function answers with its length, and writes it where there is room.
type Tell = unsafe extern "C" fn(*mut c_void, usize) -> usize;

fn driver() -> Option<Library> {
    // SAFETY: a driver is made to be loaded; if it is already, nothing of it runs.
    unsafe { Library::open(Some(DRIVER), RTLD_LAZY) }.ok()
}

fn told(name: &[u8]) -> Option<String> {
    let driver = driver()?;
    // SAFETY: only the emulated device has a function of such a name, and it is of this type.
    let tell = unsafe { driver.get::<Tell>(name) }.ok()?;
    let mut text: Vec<u8> = Vec::new();
    loop {
        // SAFETY: there are as many bytes as the call is told; it writes no more, and keeps no address.
        let len = unsafe { tell(text.as_mut_ptr().cast(), text.len()) };
        if len <= text.len() {
            text.truncate(len);
            return String::from_utf8(text).ok();
        }
        // It may grow until it is asked again.
        text.resize(2 * len, 0);
    }
}

/// What has been done since the start, as JSON: allocations, copies, launches by kernel, and more.
pub fn counters() -> Option<String> {
    told(b"emulator_counters\0")
}

/// Wrong uses of streams and memory that were found so far, one a line.
pub fn findings() -> Option<String> {
    told(b"emulator_findings\0")
}

/// Makes something fail, such as `alloc:17`, the 17th allocation from now on: whether it will.
pub fn fail(what: &str) -> Option<bool> {
    let (driver, what) = (driver()?, CString::new(what).ok()?);
    // SAFETY: only the emulated device has a function of this name, and it is of this type.
    let fail = unsafe { driver.get::<unsafe extern "C" fn(*const c_char) -> c_int>(b"emulator_fail\0") }.ok()?;
    // SAFETY: the text ends in zero, and lives through the call.
    Some(unsafe { fail(what.as_ptr()) } == 0)
}
