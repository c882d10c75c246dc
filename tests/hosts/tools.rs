//! Finding and running what the host tests need: compilers, the library just built, test models.
//!
//! A tool that is missing fails the test in CI (`WORKER_ORCD_CI`), and skips it, saying so, elsewhere.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Warnings are errors in everything that a host would compile.
pub const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

/// The two languages that every header and C test is compiled as: compiler, standard, `-x` name.
#[derive(Clone, Copy, Debug)]
pub struct Language {
    pub compiler: &'static str,
    pub standard: &'static str,
    pub name: &'static str,
}

pub const C11: Language = Language { compiler: "gcc", standard: "-std=c11", name: "c" };
pub const CPP17: Language = Language { compiler: "g++", standard: "-std=c++17", name: "c++" };

/// Each language with the compilers for it that this machine has.
pub fn compilers() -> Vec<(Language, &'static str)> {
    let all = [(C11, "gcc"), (CPP17, "g++"), (C11, "clang"), (CPP17, "clang++")];
    all.into_iter().filter(|(_, compiler)| have(compiler)).collect()
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo put the shared and the static library that belong to this test binary: beside it.
/// `WORKER_ORCD_LIBRARY` names another folder, to test a library that is installed.
pub fn library_folder() -> PathBuf {
    if let Some(folder) = env::var_os("WORKER_ORCD_LIBRARY") {
        return folder.into();
    }
    let binary = env::current_exe().expect("the path of the test binary");
    let folder = binary.parent().expect("a folder").to_path_buf();
    assert!(folder.join("libworker_orcd.so").exists(), "cargo left no libworker_orcd.so in {}", folder.display());
    folder
}

/// A fresh folder for one test's files.
pub fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("an old scratch folder can be removed");
    }
    std::fs::create_dir_all(&folder).expect("a scratch folder can be made");
    folder
}

/// The folder of tiny models with known answers.
pub fn goldens() -> PathBuf {
    match env::var_os("WORKER_ORCD_GOLDENS") {
        Some(folder) => folder.into(),
        None => root().join("../shared/models/tiny"),
    }
}

/// A tiny model, or `None` where the folder of models is not at hand.
pub fn tiny_model(name: &str) -> Option<PathBuf> {
    let path = goldens().join(name);
    if path.exists() {
        return Some(path);
    }
    absent(&format!("{} (see WORKER_ORCD_GOLDENS)", path.display()));
    None
}

/// Whether a tool is there. In CI it must be.
pub fn have(tool: &str) -> bool {
    let there = Command::new("sh")
        .args(["-c", &format!("command -v {tool} >/dev/null 2>&1")])
        .status()
        .is_ok_and(|status| status.success());
    if !there {
        absent(tool);
    }
    there
}

fn absent(what: &str) {
    assert!(env::var_os("WORKER_ORCD_CI").is_none(), "missing: {what}");
    eprintln!("skipped: {what} is missing");
}

/// The devices to run a host on: the CPU, and the GPU where there is one.
pub fn devices() -> Vec<&'static str> {
    if Path::new("/dev/nvidiactl").exists() {
        return vec!["cpu", "cuda"];
    }
    vec!["cpu"]
}

/// A program that finds its libraries by itself: cargo's own search path is not what a user has.
pub fn program(path: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// Runs to the end and returns the output; a failure shows everything there is to see.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
