//! Regions: what may be registered, what is read and written, and when a region goes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::region::{RegionFault, SharedRegion};
use super::{Allowed, Description, Kind, Place, Regions, Window};
use crate::error::SharedMemoryError;

/// An object of this test, removed with it.
struct Object {
    name: String,
}

impl Object {
    fn path(&self) -> PathBuf {
        PathBuf::from("/dev/shm").join(&self.name)
    }

    fn key(&self) -> String {
        format!("/{}", self.name)
    }

    /// A name that nobody else has.
    fn unnamed() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("alcedo-test-{}-{number}", std::process::id()) }
    }

    fn new(contents: &[u8]) -> (Self, File) {
        let object = Self::unnamed();
        let file = File::options().read(true).write(true).create_new(true).open(object.path()).unwrap();
        file.write_all_at(contents, 0).unwrap();
        (object, file)
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // A test may have made a folder of this name.
        let _ = fs::remove_file(self.path()).or_else(|_| fs::remove_dir(self.path()));
    }
}

fn all() -> Regions {
    Regions::new(Allowed { system: true, cuda: true })
}

fn place(region: &str, offset: u64, byte_size: u64) -> Place {
    Place { region: region.to_owned(), offset, byte_size }
}

fn window(regions: &Regions, region: &str, offset: u64, byte_size: u64) -> Result<Window, String> {
    regions.window(&place(region, offset, byte_size)).map_err(|error| error.to_string())
}

fn names(regions: &Regions, kind: Kind) -> Vec<String> {
    regions.status(kind, "").unwrap().into_iter().map(|(name, _)| name).collect()
}

#[test]
fn windows_show_their_part_of_the_object() {
    let (object, file) = Object::new(&(0..=99).collect::<Vec<u8>>());
    let regions = all();
    regions.register_system("r", &object.key(), 10, 80).unwrap();
    regions.register_system("whole", object.key().trim_start_matches('/'), 0, 100).unwrap();
    assert_eq!(window(&regions, "r", 0, 3).unwrap().read().unwrap().as_ref(), [10, 11, 12]);
    assert_eq!(window(&regions, "r", 78, 2).unwrap().read().unwrap().as_ref(), [88, 89]);
    assert_eq!(window(&regions, "r", 5, 0).unwrap().read().unwrap().len(), 0);
    let copy = window(&regions, "whole", 0, 100).unwrap().read().unwrap();
    window(&regions, "r", 4, 6).unwrap().write("y", &[7; 5]).unwrap();
    let mut now = [0; 100];
    file.read_exact_at(&mut now, 0).unwrap();
    let mut expected: Vec<u8> = (0..=99).collect();
    assert_eq!(copy.as_ref(), expected, "a copy does not change with the memory");
    expected[14..19].fill(7);
    assert_eq!(now.as_slice(), expected);
}

#[test]
fn a_window_lies_within_its_region() {
    let (object, _file) = Object::new(&[0; 128]);
    let regions = all();
    regions.register_system("r", &object.key(), 64, 64).unwrap();
    regions.register_system("empty", &object.key(), 128, 0).unwrap();
    let refusal = |offset, bytes| window(&regions, "r", offset, bytes).unwrap_err();
    for offset in [64, 65, u64::MAX] {
        assert_eq!(refusal(offset, 1), "Invalid offset for shared memory region: 'r'");
    }
    for (offset, bytes) in [(0, 65), (60, 64), (63, 2), (0, u64::MAX)] {
        assert_eq!(refusal(offset, bytes), "Invalid offset + byte size for shared memory region: 'r'");
    }
    let overflow = "Integer overflow detected: byte_size (18446744073709551584) + offset (32) exceeds maximum value \
                    (18446744073709551615) for region 'r'";
    assert_eq!(refusal(32, u64::MAX - 31), overflow);
    assert_eq!(window(&regions, "x", 0, 1).unwrap_err(), "Unable to find shared memory region: 'x'");
    assert!(window(&regions, "empty", 0, 0).is_ok());
    assert!(window(&regions, "empty", 0, 1).is_err());
}

#[test]
fn an_output_needs_room() {
    let (object, file) = Object::new(&[1; 16]);
    let regions = all();
    regions.register_system("r", &object.key(), 0, 16).unwrap();
    let window = window(&regions, "r", 0, 4).unwrap();
    let expected = "shared memory size specified with the request for output 'y' (4 bytes) should be at least 5 bytes to hold \
                    the results";
    assert_eq!(window.write("y", &[0; 5]).unwrap_err().to_string(), expected);
    let mut now = [0; 16];
    file.read_exact_at(&mut now, 0).unwrap();
    assert_eq!(now, [1; 16], "nothing is written of what has no room");
}

#[test]
fn only_one_name_below_the_folder_is_a_key() {
    let (object, _file) = Object::new(&[0; 8]);
    let regions = all();
    let register = |key: &str| regions.register_system("r", key, 0, 8).map_err(|error| error.to_string());
    let climbing = format!("../shm/{}", object.name);
    let below = format!("{}/x", object.name);
    let long = "x".repeat(256);
    for key in ["", "/", "//", ".", "/..", "/../etc/passwd", "a/../b", "a\0b", &climbing, &below, &long] {
        let expected = format!("cannot register shared memory region 'r' - invalid shm key '{key}'");
        assert_eq!(register(key), Err(expected), "{key:?}");
    }
    for key in ["triton_python_backend_shm_region_1", "/triton_python_backend_shm_region_1"] {
        let expected = format!(
            "cannot register shared memory region 'r' with key '{key}' as the key contains the reserved prefix \
             'triton_python_backend_shm_region_'"
        );
        assert_eq!(register(key), Err(expected));
    }
    let missing = format!("/{}-missing", object.name);
    let expected = format!("Unable to open shared memory region: '{missing}': No such file or directory (os error 2)");
    assert_eq!(register(&missing), Err(expected));
    assert_eq!(register(&object.key()), Ok(()));
}

#[test]
fn links_folders_and_pipes_are_no_objects() {
    let (object, _file) = Object::new(&[0; 8]);
    let (link, folder, pipe) = (Object::unnamed(), Object::unnamed(), Object::unnamed());
    symlink(object.path(), link.path()).unwrap();
    fs::create_dir(folder.path()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        pipe.path(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let regions = all();
    for other in [&link, &folder, &pipe] {
        let error = regions.register_system("r", &other.key(), 0, 0).unwrap_err();
        assert!(matches!(&error, SharedMemoryError::Open { key, .. } if *key == other.key()), "{error}");
    }
    assert_eq!(names(&regions, Kind::System), [""; 0]);
}

#[test]
fn a_region_lies_within_its_object() {
    let (object, _file) = Object::new(&[0; 64]);
    let regions = all();
    for (offset, bytes) in [(0, 65), (1, 64), (64, 1), (65, 0), (u64::MAX, 1), (1, u64::MAX)] {
        let error = regions.register_system("r", &object.key(), offset, bytes).unwrap_err().to_string();
        assert!(error.starts_with("failed to register shared memory region 'r': invalid args"), "{error}");
    }
    let error = regions.register_system("", &object.key(), 0, 64).unwrap_err().to_string();
    assert!(error.contains("a region needs a name"), "{error}");
    regions.register_system("r", &object.key(), 0, 64).unwrap();
}

#[test]
fn memory_that_its_owner_shortens_is_an_error() {
    let (object, file) = Object::new(&[3; 4096 * 3]);
    let regions = all();
    regions.register_system("r", &object.key(), 4096, 8192).unwrap();
    let (near, far) = (window(&regions, "r", 0, 4096).unwrap(), window(&regions, "r", 4096, 4096).unwrap());
    file.set_len(8192 + 1).unwrap();
    assert_eq!(near.read().unwrap().as_ref(), [3; 4096]);
    let shrunk = SharedMemoryError::Shrunk { region: "r".to_owned(), needed: 12288, left: 8193 };
    assert_eq!(far.read(), Err(shrunk.clone()));
    assert_eq!(far.write("y", &[0; 4096]), Err(shrunk));
    assert_eq!(file.metadata().unwrap().len(), 8193, "writing does not bring lost memory back");
    file.set_len(0).unwrap();
    assert!(matches!(near.read(), Err(SharedMemoryError::Shrunk { left: 0, .. })));
    // An owner that removes the name keeps the memory.
    file.set_len(12288).unwrap();
    drop(object);
    far.write("y", &[5; 4096]).unwrap();
    assert_eq!(far.read().unwrap().as_ref(), [5; 4096]);
}

#[test]
fn names_are_taken_once_and_forgotten_by_kind() {
    let (object, _file) = Object::new(&[0; 64]);
    let regions = all();
    for name in ["b", "a"] {
        regions.register_system(name, &object.key(), 0, 64).unwrap();
    }
    regions.insert("g", Arc::new(Memory), Description::Cuda { device: 1, byte_size: 9 }).unwrap();
    let error = regions.register_system("a", &object.key(), 0, 8).unwrap_err().to_string();
    assert_eq!(error, "shared memory region 'a' already in manager");
    let error = regions.register_cuda("a", &[0; 64], 0, 8).unwrap_err().to_string();
    assert_eq!(error, "shared memory region 'a' already in manager");
    let about = Description::System { key: object.key(), offset: 0, byte_size: 64 };
    assert_eq!(regions.status(Kind::System, "a"), Ok(vec![("a".to_owned(), about)]));
    assert_eq!((names(&regions, Kind::System), names(&regions, Kind::Cuda)), (vec!["a".into(), "b".into()], vec!["g".into()]));
    let text = |kind, name| regions.status(kind, name).unwrap_err().to_string();
    assert_eq!(text(Kind::System, "x"), "Unable to find system shared memory region: 'x'");
    assert_eq!(text(Kind::Cuda, "x"), "Unable to find cuda shared memory region: 'x'");
    assert_eq!(text(Kind::System, "g"), "The region named 'g' is registered as CUDA shared memory, not system shared memory");
    assert_eq!(text(Kind::Cuda, "a"), "The region named 'a' is registered as system shared memory, not CUDA shared memory");
    regions.unregister(Kind::Cuda, "a").unwrap();
    regions.unregister(Kind::System, "x").unwrap();
    regions.unregister(Kind::System, "b").unwrap();
    assert_eq!(names(&regions, Kind::System), ["a"]);
    regions.unregister(Kind::System, "").unwrap();
    assert_eq!((names(&regions, Kind::System), names(&regions, Kind::Cuda)), (Vec::new(), vec!["g".into()]));
}

#[test]
fn a_region_in_use_goes_with_its_last_window() {
    let (object, _file) = Object::new(&[9; 64]);
    let regions = all();
    regions.register_system("r", &object.key(), 0, 64).unwrap();
    let first = window(&regions, "r", 0, 64).unwrap();
    regions.unregister(Kind::System, "r").unwrap();
    assert_eq!(names(&regions, Kind::System), ["r"]);
    let error = regions.register_system("r", &object.key(), 0, 64).unwrap_err().to_string();
    assert_eq!(error, "shared memory region 'r' already in manager");
    let second = window(&regions, "r", 0, 64).unwrap();
    drop(first);
    assert_eq!(names(&regions, Kind::System), ["r"]);
    assert_eq!(second.read().unwrap().as_ref(), [9; 64]);
    drop(second);
    assert_eq!(names(&regions, Kind::System), [""; 0]);
    // Without a word to leave, a region stays.
    regions.register_system("r", &object.key(), 0, 64).unwrap();
    drop(window(&regions, "r", 0, 64).unwrap());
    assert_eq!(names(&regions, Kind::System), ["r"]);
}

#[test]
fn what_is_off_names_the_flag() {
    let (object, _file) = Object::new(&[0; 64]);
    let flag = "Start the server with '--allow-client-shm=true' to enable.";
    let none = Regions::default();
    let text = |result: Result<(), SharedMemoryError>| result.unwrap_err().to_string();
    let expected = format!("Client shared memory is disabled. {flag}");
    assert_eq!(text(none.register_system("r", &object.key(), 0, 64)), expected);
    assert_eq!(text(none.register_cuda("r", &[0; 64], 0, 64)), expected);
    assert_eq!(text(none.unregister(Kind::System, "")), expected);
    assert_eq!(text(none.unregister(Kind::Cuda, "r")), expected);
    assert_eq!(window(&none, "r", 0, 1).unwrap_err(), expected);
    assert_eq!(names(&none, Kind::System), [""; 0]);
    let system = Regions::new(Allowed { system: true, cuda: false });
    assert_eq!(text(system.register_cuda("r", &[0; 64], 0, 64)), format!("Client CUDA shared memory is disabled. {flag}"));
    assert_eq!(system.register_system("r", &object.key(), 0, 64), Ok(()));
    let cuda = Regions::new(Allowed { system: false, cuda: true });
    let expected = format!("Client system shared memory is disabled. {flag}");
    assert_eq!(text(cuda.register_system("r", &object.key(), 0, 64)), expected);
}

#[test]
fn regions_are_bounded() {
    let (object, _file) = Object::new(&[0; 64]);
    let regions = Regions::limited(Allowed { system: true, cuda: true }, 2);
    for name in ["a", "b"] {
        regions.register_system(name, &object.key(), 0, 64).unwrap();
    }
    let error = regions.register_system("c", &object.key(), 0, 64).unwrap_err();
    assert_eq!(error, SharedMemoryError::TooMany { region: "c".to_owned(), limit: 2 });
    regions.unregister(Kind::System, "a").unwrap();
    regions.register_system("c", &object.key(), 0, 64).unwrap();
}

#[test]
fn a_handle_of_a_gpu_needs_one() {
    let text = |handle: &[u8], device| all().register_cuda("g", handle, device, 8).unwrap_err().to_string();
    let error = text(&[0; 64], -1);
    assert!(error.starts_with("failed to register shared memory region 'g': invalid args: device_id -1"), "{error}");
    if cfg!(feature = "cuda") {
        let error = text(&[0; 63], 0);
        assert!(error.ends_with("raw_handle has 63 bytes, a CUDA IPC handle has 64"), "{error}");
        // No machine has that many: with or without a driver, the text says why there is no such GPU.
        let error = text(&[0; 64], 999);
        assert!(error.starts_with("failed to register CUDA shared memory region: 'g', GPUs not supported: GPU 999"), "{error}");
    } else {
        let why = "this build has no CUDA support: build with scripts/build-cuda";
        let expected = format!("failed to register CUDA shared memory region: 'g', GPUs not supported: {why}");
        assert_eq!(text(&[0; 64], 0), expected);
    }
}

/// Memory that cannot be read.
#[derive(Debug)]
struct Memory;

impl SharedRegion for Memory {
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), RegionFault> {
        Err(RegionFault::Failed("the memory is gone".to_owned()))
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), RegionFault> {
        Err(RegionFault::Failed("the memory is gone".to_owned()))
    }

    fn is_quick(&self, _: u64) -> bool {
        false
    }
}

#[test]
fn what_fails_says_what_was_tried() {
    let regions = all();
    regions.insert("g", Arc::new(Memory), Description::Cuda { device: 0, byte_size: 9 }).unwrap();
    let window = window(&regions, "g", 1, 8).unwrap();
    let error = window.read().unwrap_err().to_string();
    assert_eq!(error, "unable to read shared memory region 'g': the memory is gone");
    let error = window.write("y", &[0; 8]).unwrap_err().to_string();
    assert_eq!(error, "unable to write shared memory region 'g': the memory is gone");
}
