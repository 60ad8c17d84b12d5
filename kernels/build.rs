//! Compiles the CUDA kernels where there is a compiler, and writes the table of what came out.
//!
//! Every `src/**/*.cu` is one module. `ALCEDO_CUDA_TARGETS` is a list of `sm_NN` (machine code) and `compute_NN` (PTX).
//! With machine code in the list a module is one fatbin; with PTX alone it is one text per target, which is what the
//! emulated device takes. Without a compiler, or with an empty list, the table is empty: everything builds, and opening a GPU
//! says why it cannot.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

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
    let mut sources = Vec::new();
    collect(Path::new("src"), &mut sources);
    sources.sort();
    let mut table = String::from("[\n");
    let targets = env::var("ALCEDO_CUDA_TARGETS").unwrap_or_else(|_| DEFAULT_TARGETS.to_owned());
    let targets: Vec<&str> = targets.split(',').map(str::trim).filter(|target| !target.is_empty()).collect();
    match compiler() {
        _ if targets.is_empty() => {}
        Some(nvcc) => {
            for source in &sources {
                compile(&nvcc, source, &targets, &out, &mut table);
            }
        }
        None => println!("cargo:warning=no nvcc: this build has no GPU kernels (scripts/build-cuda installs one)"),
    }
    table.push_str("]\n");
    fs::write(out.join("modules.rs"), table).expect("the output directory is writable");
}

/// All `.cu` files below `folder`.
fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the sources are readable") {
        let path = entry.expect("the sources are readable").path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "cu") {
            sources.push(path);
        }
    }
}

/// Where nvcc is: named, in a toolkit's folder, where scripts/install-cuda puts it, or on the path.
fn compiler() -> Option<PathBuf> {
    let folder = |name: &str, below: &str| env::var_os(name).map(|home| PathBuf::from(home).join(below));
    let named = env::var_os("NVCC").map(PathBuf::from);
    let places = [named, folder("CUDA_HOME", "bin/nvcc"), folder("HOME", ".cache/alcedo/cuda-13.0/bin/nvcc")];
    let on_path = env::var_os("PATH").into_iter().flat_map(|path| env::split_paths(&path).collect::<Vec<_>>());
    places.into_iter().flatten().chain(on_path.map(|folder| folder.join("nvcc"))).find(|path| path.is_file())
}

/// Compiles one module and adds it to the table.
fn compile(nvcc: &Path, source: &Path, targets: &[&str], out: &Path, table: &mut String) {
    let name = source.file_stem().and_then(|stem| stem.to_str()).expect("our files have plain names");
    writeln!(table, "    Module {{ name: {name:?}, images: &[").expect("writing to a string");
    let common = |command: &mut Command| {
        command.args(["-O3", "-std=c++17", "--expt-relaxed-constexpr", "-lineinfo", "-Isrc/cuda"]).arg(source);
    };
    let is_text = targets.iter().all(|target| target.starts_with("compute_"));
    if is_text {
        for target in targets {
            let number = number(target);
            let file = out.join(format!("{name}-{number}.ptx"));
            let mut command = Command::new(nvcc);
            common(&mut command);
            command.arg("--ptx").arg(format!("-arch={target}")).arg("-o").arg(&file);
            finish(command, source);
            // The driver takes text that ends in a zero.
            let mut text = fs::read(&file).expect("nvcc wrote it");
            text.push(0);
            fs::write(&file, text).expect("the output directory is writable");
            writeln!(table, "        Image {{ capability: {number}, bytes: include_bytes!({file:?}) }},")
                .expect("writing to a string");
        }
    } else {
        let file = out.join(format!("{name}.fatbin"));
        let mut command = Command::new(nvcc);
        common(&mut command);
        command.arg("--fatbin").arg("-o").arg(&file);
        for target in targets {
            let number = number(target);
            command.arg(format!("-gencode=arch=compute_{number},code={target}"));
        }
        finish(command, source);
        let least = targets.iter().map(|target| number(target)).min().expect("there are targets");
        writeln!(table, "        Image {{ capability: {least}, bytes: include_bytes!({file:?}) }},")
            .expect("writing to a string");
    }
    table.push_str("    ] },\n");
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
