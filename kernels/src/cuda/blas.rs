//! Where cuBLASLt is.
//!
//! The library comes with CUDA, not with the driver, and people have it in many places. It is opened by its full path and made
//! known to the whole process, so that cudarc, which asks the dynamic loader for a bare name, is given the same one.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs, mem};

use cudarc::cublaslt::sys;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// What the library of CUDA 13 is called.
const NAME: &str = "libcublasLt.so.13";
/// A list of folders that are looked in before all others.
const VARIABLE: &str = "ALCEDO_CUDA_LIBRARY_PATH";
/// The least version, as the library counts.
const NEEDED_VERSION: usize = 130_000;

/// Opens the library, once for the process. The result is where it was found, and its version.
///
/// # Errors
/// Where it was looked for, and what to do.
pub fn load() -> Result<(String, usize), String> {
    static FOUND: OnceLock<(String, usize)> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found.clone());
    }
    let path = open()?;
    // SAFETY: it only looks for the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(format!("{path} was opened, but the dynamic loader does not find {NAME}; add its folder to LD_LIBRARY_PATH"));
    }
    // SAFETY: the library is there, and what is looked up is not called here.
    let symbol = unsafe { sys::culib().get::<unsafe extern "C" fn()>(b"cublasLtGetVersion") };
    if symbol.is_err() {
        return Err(format!("{path} lacks the function cublasLtGetVersion, so it is not NVIDIA's cuBLASLt"));
    }
    // SAFETY: the function is there, takes nothing and needs no handle.
    let version = unsafe { sys::cublasLtGetVersion() };
    if version < NEEDED_VERSION {
        return Err(format!(
            "the dynamic loader finds version {} of cuBLASLt before {path}, and 13.0 is needed; put the folder of CUDA 13 first \
             in LD_LIBRARY_PATH",
            version / 10_000
        ));
    }
    Ok(FOUND.get_or_init(|| (path, version)).clone())
}

/// Opens the first library of that name.
fn open() -> Result<String, String> {
    let mut complaints = Vec::new();
    for folder in named_folders() {
        if let Some(path) = open_in(&folder, &mut complaints) {
            return Ok(path);
        }
    }
    match open_globally(Path::new(NAME)) {
        Ok(()) => return Ok(format!("{NAME} on the dynamic loader's path")),
        Err(error) => complaints.push(format!("the dynamic loader's path ({error})")),
    }
    for folder in toolkit_folders().into_iter().chain(python_folders()) {
        if let Some(path) = open_in(&folder, &mut complaints) {
            return Ok(path);
        }
    }
    let named = if env::var_os(VARIABLE).is_some() { "" } else { ", which is not set" };
    Err(format!(
        "{NAME} (cuBLASLt of CUDA 13) is not found; looked in the folders of {VARIABLE}{named}, {}; install it (for example \
         'pip install nvidia-cublas') or set {VARIABLE} to its folder",
        complaints.join(", ")
    ))
}

/// Opens the library in a folder, or says what is wrong with it.
fn open_in(folder: &Path, complaints: &mut Vec<String>) -> Option<String> {
    let path = folder.join(NAME);
    if !path.is_file() {
        complaints.push(folder.display().to_string());
        return None;
    }
    match open_globally(&path) {
        Ok(()) => Some(path.display().to_string()),
        Err(error) => {
            complaints.push(format!("{} ({error})", folder.display()));
            None
        }
    }
}

fn open_globally(path: &Path) -> Result<(), libloading::Error> {
    // SAFETY: opening runs the initializers of a library that the operator has installed under NVIDIA's name; it stays open.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }?;
    mem::forget(library);
    Ok(())
}

/// The folders that the operator names.
fn named_folders() -> Vec<PathBuf> {
    env::var_os(VARIABLE)
        .map(|paths| env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()).collect())
        .unwrap_or_default()
}

/// Where toolkits are installed.
fn toolkit_folders() -> Vec<PathBuf> {
    let toolkits = children(Path::new("/usr/local"), "cuda");
    toolkits.into_iter().map(|toolkit| toolkit.join("lib64")).collect()
}

/// Where Python's packages of CUDA are, for every Python that is in sight.
fn python_folders() -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(env::var_os).map(PathBuf::from).collect();
    for folder in env::var_os("PATH").iter().flat_map(env::split_paths) {
        let python = folder.join("python3");
        // A virtual environment's Python is a link to another's; both may have packages.
        let resolved = python.canonicalize().ok();
        let found = resolved.is_some().then_some(python);
        prefixes.extend(found.into_iter().chain(resolved).filter_map(|python| Some(python.parent()?.parent()?.to_owned())));
    }
    prefixes.extend(env::var_os("HOME").map(|home| PathBuf::from(home).join(".local")));
    let mut folders = Vec::new();
    for prefix in prefixes {
        for python in children(&prefix.join("lib"), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                folders.extend(children(&python.join(packages).join("nvidia"), "").into_iter().map(|part| part.join("lib")));
            }
        }
    }
    let mut seen = std::collections::HashSet::new();
    folders.retain(|folder| folder.is_dir() && seen.insert(folder.clone()));
    folders
}

/// The folders in a folder whose names begin with `start`, the last in the alphabet (the newest version) first.
fn children(folder: &Path, start: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let begins = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start));
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(begins).collect();
    found.sort_unstable_by(|one, other| other.cmp(one));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_searched_from_the_newest_on() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cuda", "cuda-12.8", "cuda-13.0", "other"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let names: Vec<_> = children(folder.path(), "cuda").iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["cuda-13.0", "cuda-12.8", "cuda"]);
        assert_eq!(children(&folder.path().join("absent"), ""), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_is_no_library_is_named_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut complaints = Vec::new();
        assert_eq!(open_in(folder.path(), &mut complaints), None);
        fs::write(folder.path().join(NAME), "text").unwrap();
        assert_eq!(open_in(folder.path(), &mut complaints), None);
        assert_eq!(complaints[0], folder.path().display().to_string());
        assert!(complaints[1].starts_with(&complaints[0]) && complaints[1].len() > complaints[0].len() + 10, "{complaints:?}");
    }
}
