//! Compiles the CUDA kernels where there is a compiler, and writes the table of what came out.
//!
//! Every `src/**/*.cu` is one module. `ALCEDO_CUDA_TARGETS` is a list of `sm_NN` (machine code) and `compute_NN` (PTX).
//! With machine code in the list a module is one fatbin; with PTX alone it is one text per target, which is what the
//! emulated device takes. Without a compiler, or with an empty list, the table is empty: everything builds, and opening a GPU
//! says why it cannot.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, iter, thread};

/// Machine code for the GPUs of node pools, and PTX for what comes after them.
const DEFAULT_TARGETS: &str = "sm_75,sm_80,sm_86,sm_89,sm_90,sm_100,compute_100";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    for name in ["ALCEDO_CUDA_TARGETS", "NVCC", "CUDA_HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=src");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let sources = collect(Path::new("src"), "cu");
    let headers = collect(Path::new("src"), "cuh");
    let targets = env::var("ALCEDO_CUDA_TARGETS").unwrap_or_else(|_| DEFAULT_TARGETS.to_owned());
    let targets: Vec<&str> = targets.split(',').map(str::trim).filter(|target| !target.is_empty()).collect();
    let images: Vec<Image> = match compiler() {
        _ if targets.is_empty() => Vec::new(),
        Some(nvcc) => {
            let images: Vec<Image> = sources.iter().flat_map(|source| images(source, &targets, &out)).collect();
            compile(&nvcc, &images, &headers);
            images
        }
        None => {
            println!("cargo:warning=no nvcc: this build has no GPU kernels (scripts/build-cuda installs one)");
            Vec::new()
        }
    };
    fs::write(out.join("modules.rs"), table(&images)).expect("the output directory is writable");
}

/// The table of modules and their images, as an expression of Rust.
fn table(images: &[Image]) -> String {
    let mut table = String::from("[\n");
    for module in images.chunk_by(|one, other| one.source == other.source) {
        writeln!(table, "    Module {{ name: {:?}, images: &[", stem(&module[0].source)).expect("writing to a string");
        for Image { capability, file, .. } in module {
            writeln!(table, "        Image {{ capability: {capability}, bytes: include_bytes!({file:?}) }},")
                .expect("writing to a string");
        }
        table.push_str("    ] },\n");
    }
    table.push_str("]\n");
    table
}

/// All files below `folder` whose names end in `.extension`, sorted.
fn collect(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the sources are readable") {
        let path = entry.expect("the sources are readable").path();
        if path.is_dir() {
            found.extend(collect(&path, extension));
        } else if path.extension().is_some_and(|other| other == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Where nvcc is: named, in a toolkit's folder, where scripts/install-cuda puts it, or on the path.
fn compiler() -> Option<PathBuf> {
    let folder = |name: &str, below: &str| env::var_os(name).map(|home| PathBuf::from(home).join(below));
    let named = env::var_os("NVCC").map(PathBuf::from);
    let places = [named, folder("CUDA_HOME", "bin/nvcc"), folder("HOME", ".cache/alcedo/cuda-13.0/bin/nvcc")];
    let on_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    places.into_iter().flatten().chain(on_path.map(|folder| folder.join("nvcc"))).find(|path| path.is_file())
}

/// An image of a module that is to be compiled.
struct Image {
    source: PathBuf,
    file: PathBuf,
    /// The least compute capability that it serves, ten times.
    capability: u32,
    /// What the compiler is told beyond what it always is.
    arguments: Vec<String>,
    is_text: bool,
}

/// The images of one module: one text per target, or all in one fatbin.
fn images(source: &Path, targets: &[&str], out: &Path) -> Vec<Image> {
    let name = stem(source);
    let image = |file: String, capability, arguments, is_text| Image {
        source: source.to_owned(),
        file: out.join(file),
        capability,
        arguments,
        is_text,
    };
    if targets.iter().all(|target| target.starts_with("compute_")) {
        let text = |target: &&str| {
            let arguments = vec!["--ptx".to_owned(), format!("-arch={target}")];
            image(format!("{name}-{}.ptx", number(target)), number(target), arguments, true)
        };
        return targets.iter().map(text).collect();
    }
    let code = |target: &&str| format!("-gencode=arch=compute_{},code={target}", number(target));
    // Twentieth parts of what tables of lines and the usual compression leave; drivers of CUDA 13 unpack it.
    let form = ["--fatbin", "-compress-mode=size"].map(str::to_owned);
    let arguments = form.into_iter().chain(targets.iter().map(code)).collect();
    let least = targets.iter().map(|target| number(target)).min().expect("there are targets");
    vec![image(format!("{name}.fatbin"), least, arguments, false)]
}

fn stem(source: &Path) -> &str {
    source.file_stem().and_then(|stem| stem.to_str()).expect("our files have plain names")
}

/// Compiles what has changed, as many at a time as Cargo has processors for.
fn compile(nvcc: &Path, images: &[Image], headers: &[PathBuf]) {
    let next = AtomicUsize::new(0);
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1).min(images.len());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
                    image.compile(nvcc, headers);
                }
            });
        }
    });
}

impl Image {
    /// Compiles it, unless the same was made of the same before: Cargo runs this whenever any source of the crate changes.
    fn compile(&self, nvcc: &Path, headers: &[PathBuf]) {
        let mut command = Command::new(nvcc);
        command.args(["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-Isrc/cuda"]).args(&self.arguments);
        command.arg("-o").arg(&self.file).arg(&self.source);
        let mut hasher = DefaultHasher::new();
        format!("{command:?}").hash(&mut hasher);
        fs::metadata(nvcc).and_then(|nvcc| nvcc.modified()).ok().hash(&mut hasher);
        for file in iter::once(&self.source).chain(headers) {
            fs::read(file).expect("the sources are readable").hash(&mut hasher);
        }
        let stamp = self.file.with_extension("stamp");
        let state = format!("{:016x}", hasher.finish());
        if self.file.exists() && fs::read_to_string(&stamp).is_ok_and(|known| known == state) {
            return;
        }
        // What an interrupted run leaves behind must not pass for whole.
        let _ = fs::remove_file(&stamp);
        finish(command, &self.source);
        if self.is_text {
            // The driver takes text that ends in a zero.
            let mut text = fs::read(&self.file).expect("nvcc wrote it");
            text.push(0);
            fs::write(&self.file, text).expect("the output directory is writable");
        }
        fs::write(stamp, state).expect("the output directory is writable");
    }
}

/// The compute capability of a target, ten times.
fn number(target: &str) -> u32 {
    let digits = target.trim_start_matches("compute_").trim_start_matches("sm_");
    digits.parse().unwrap_or_else(|_| panic!("ALCEDO_CUDA_TARGETS: '{target}' is neither sm_NN nor compute_NN"))
}

fn finish(mut command: Command, source: &Path) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
    assert!(output.status.success(), "nvcc refuses {}:\n{}", source.display(), String::from_utf8_lossy(&output.stderr));
}
