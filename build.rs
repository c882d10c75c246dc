//! Compiles kernels/*.cu, each into a fatbin that the library embeds. Names the shared library, and keeps it loaded once it
//! is: a Rust library cannot be unloaded safely.
//!
//! nvcc is searched for, never fetched: WORKER_ORCD_NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda, ./.cuda. A file is
//! compiled again only when it, a header or the flags changed, once for all profiles. WORKER_ORCD_CUDA_ARCHS (`90a`, `80,ptx`)
//! narrows the architectures for development, WORKER_ORCD_CUDA_FLAGS adds flags.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

/// Real architectures, and the oldest one's PTX for cards that are newer than all of them.
const ARCHS: &str = "80,86,89,90a,100,120,ptx";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libworker_orcd.so");
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    if let Err(reason) = kernels() {
        eprintln!("error: {reason}");
        std::process::exit(1);
    }
}

fn kernels() -> Result<(), String> {
    for name in
        ["WORKER_ORCD_NVCC", "WORKER_ORCD_CUDA_ARCHS", "WORKER_ORCD_CUDA_FLAGS", "CUDA_HOME", "CUDA_PATH", "PATH"]
    {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=kernels");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(|e| e.to_string())?);
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|e| e.to_string())?);
    let nvcc = find_nvcc(&root)?;
    let flags = flags();
    let headers = with_ending(&root.join("kernels"), "cuh")?;
    let sources = with_ending(&root.join("kernels"), "cu")?;
    let mut open = Vec::new();
    for source in &sources {
        let fatbin = out.join(format!("{}.fatbin", stem(source)));
        let stamp = fingerprint(source, &headers, &nvcc, &flags)?;
        let stamp_file = fatbin.with_extension("stamp");
        if is_from(&fatbin, &stamp) {
            continue;
        }
        // No stamp while the file is not whole.
        let _ = fs::remove_file(&stamp_file);
        if let Some(same) = compiled_elsewhere(&out, &fatbin, &stamp) {
            fs::copy(same, &fatbin).and_then(|_| fs::write(&stamp_file, &stamp)).map_err(|e| e.to_string())?;
            continue;
        }
        open.push((source.clone(), fatbin, stamp_file, stamp));
    }
    compile_all(open, &nvcc, &flags)?;
    fs::write(out.join("fatbins.rs"), table(&sources)).map_err(|e| e.to_string())
}

fn is_from(fatbin: &Path, stamp: &str) -> bool {
    fatbin.exists() && fs::read_to_string(fatbin.with_extension("stamp")).is_ok_and(|s| s == stamp)
}

/// The same file in another build below the same target folder, such as that of another profile, or below one around it.
fn compiled_elsewhere(out: &Path, fatbin: &Path, stamp: &str) -> Option<PathBuf> {
    // TARGET/PROFILE/build/PACKAGE/out; cargo marks TARGET.
    let targets = out.ancestors().skip(4).filter(|folder| folder.join("CACHEDIR.TAG").exists());
    let profiles = targets.filter_map(|target| fs::read_dir(target).ok()).flatten().flatten();
    let builds = profiles.filter_map(|profile| fs::read_dir(profile.path().join("build")).ok()).flatten().flatten();
    let mut files = builds.filter_map(|build| Some(build.path().join("out").join(fatbin.file_name()?)));
    files.find(|file| is_from(file, stamp))
}

fn find_nvcc(root: &Path) -> Result<PathBuf, String> {
    let mut candidates: Vec<PathBuf> = Vec::new();
    candidates.extend(env::var_os("WORKER_ORCD_NVCC").map(PathBuf::from));
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        candidates.extend(env::var_os(name).map(|home| PathBuf::from(home).join("bin/nvcc")));
    }
    candidates.extend(env::var_os("PATH").iter().flat_map(env::split_paths).map(|folder| folder.join("nvcc")));
    candidates.push(PathBuf::from("/usr/local/cuda/bin/nvcc"));
    if let Ok(versions) = fs::read_dir(root.join(".cuda/lib")) {
        candidates.extend(versions.flatten().map(|v| v.path().join("site-packages/nvidia/cu13/bin/nvcc")));
    }
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(|| {
        "no CUDA compiler found: run scripts/get-nvcc.sh once, or build with --no-default-features for the CPU alone"
            .to_string()
    })
}

fn flags() -> Vec<String> {
    let archs = env::var("WORKER_ORCD_CUDA_ARCHS").unwrap_or_default();
    let archs = if archs.trim().is_empty() { ARCHS.to_string() } else { archs };
    let mut flags: Vec<String> =
        ["--fatbin", "-O3", "-std=c++17", "--threads", "0", "-Wno-deprecated-gpu-targets"].map(String::from).to_vec();
    let more = env::var("WORKER_ORCD_CUDA_FLAGS").unwrap_or_default();
    flags.extend(more.split_whitespace().map(String::from));
    for arch in archs.split([',', ' ']).map(str::trim).filter(|a| !a.is_empty()) {
        flags.push(match arch {
            "ptx" => "-gencode=arch=compute_80,code=compute_80".to_string(),
            _ => format!("-gencode=arch=compute_{arch},code=sm_{arch}"),
        });
    }
    flags
}

/// Files of a folder and its sub-folders, sorted.
fn with_ending(folder: &Path, ending: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(with_ending(&path, ending)?);
        } else if path.extension().is_some_and(|x| x == ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn stem(source: &Path) -> String {
    source.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

fn fingerprint(source: &Path, headers: &[PathBuf], nvcc: &Path, flags: &[String]) -> Result<String, String> {
    let mut hasher = DefaultHasher::new();
    for path in headers.iter().map(PathBuf::as_path).chain([source]) {
        fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?.hash(&mut hasher);
    }
    nvcc.hash(&mut hasher);
    flags.hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

type Job = (PathBuf, PathBuf, PathBuf, String);

/// As many compilers at a time as cargo would run.
fn compile_all(jobs: Vec<Job>, nvcc: &Path, flags: &[String]) -> Result<(), String> {
    let width = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(2).max(1);
    let queue = std::sync::Mutex::new(jobs);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..width)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(job) = queue.lock().map_err(|e| e.to_string())?.pop() {
                        compile(&job, nvcc, flags)?;
                    }
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|w| w.join().map_err(|_| "a compiler thread panicked".to_string())?)
    })
}

fn compile((source, fatbin, stamp_file, stamp): &Job, nvcc: &Path, flags: &[String]) -> Result<(), String> {
    let output = Command::new(nvcc)
        .args(flags)
        .arg("-o")
        .arg(fatbin)
        .arg(source)
        .output()
        .map_err(|e| format!("{} does not start: {e}", nvcc.display()))?;
    if !output.status.success() {
        return Err(format!("{} failed:\n{}", source.display(), String::from_utf8_lossy(&output.stderr)));
    }
    fs::write(stamp_file, stamp).map_err(|e| e.to_string())
}

/// `FATBINS`: the embedded files, by the name of their source.
fn table(sources: &[PathBuf]) -> String {
    let rows: String = sources
        .iter()
        .map(|s| {
            let name = stem(s);
            format!("    (\"{name}\", include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{name}.fatbin\"))),\n")
        })
        .collect();
    format!("pub(super) const FATBINS: &[(&str, &[u8])] = &[\n{rows}];\n")
}
