//! The C tests of tests/c: each compiled as C11 and as C++17, run plainly on every device, and on the CPU
//! under AddressSanitizer with UndefinedBehaviorSanitizer and under valgrind.

use crate::tools::{
    C11, CPP17, Language, WARNINGS, devices, goldens, have, library_folder, program, root, run, scratch, stderr,
    stdout, tiny_model,
};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `tests/c/NAME.c` against the library that cargo just built.
fn compile(name: &str, language: Language, folder: &Path, flags: &[&str]) -> PathBuf {
    let kind = if flags.is_empty() { "plain" } else { "checked" };
    let binary = folder.join(format!("{kind}-{}", language.name));
    let library = library_folder();
    let mut command = Command::new(language.compiler);
    command
        .args([language.standard, "-g", "-O1", "-x", language.name])
        .args(WARNINGS)
        .args(flags)
        .arg(root().join(format!("tests/c/{name}.c")))
        .args(["-x", "none", "-o"])
        .arg(&binary)
        .arg("-I")
        .arg(root().join("include"))
        .arg("-L")
        .arg(&library)
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .args(["-lworker_orcd", "-pthread", "-ldl", "-lm"]);
    run(&mut command);
    binary
}

/// A command that has the environment of a C test. `unload` wants the library's path.
fn prepared(mut command: Command, name: &str, device: &str) -> Command {
    command.env("WORKER_ORCD_DEVICE", device).env("WORKER_ORCD_GOLDENS", goldens()).env_remove("WORKER_ORCD_CONTEXT");
    if name == "unload" {
        command.arg(library_folder().join("libworker_orcd.so"));
    }
    command
}

/// The library prints nothing, and neither does a test that passes.
fn run_silently(mut command: Command) {
    let output = run(&mut command);
    let said = stdout(&output) + &stderr(&output);
    assert!(said.is_empty(), "{command:?} printed:\n{said}");
}

fn plainly(name: &str, folder: &Path) {
    for language in [C11, CPP17] {
        let binary = compile(name, language, folder, &[]);
        for device in devices() {
            run_silently(prepared(program(&binary), name, device));
        }
    }
}

fn under_sanitizers(name: &str, folder: &Path) {
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];
    for language in [C11, CPP17] {
        let binary = compile(name, language, folder, &flags);
        let mut command = program(binary);
        command.env("CHECK_SLOW", "1");
        run_silently(prepared(command, name, "cpu"));
    }
}

/// valgrind 3.19 knows no AVX-512, so the portable code runs there.
fn under_valgrind(name: &str, folder: &Path) {
    if !have("valgrind") {
        return;
    }
    let binary = compile(name, C11, folder, &[]);
    let mut command = program("valgrind");
    command
        .args(["--quiet", "--error-exitcode=9", "--leak-check=full"])
        .args(["--show-leak-kinds=definite", "--errors-for-leak-kinds=definite", "--fair-sched=yes"])
        .arg(binary)
        .env("WORKER_ORCD_CPU", "portable")
        .env("CHECK_SLOW", "1");
    run_silently(prepared(command, name, "cpu"));
}

fn everywhere(name: &str) {
    if !have("gcc") || !have("g++") || tiny_model("llama-f32.gguf").is_none() {
        return;
    }
    let folder = scratch(&format!("c-{name}"));
    plainly(name, &folder);
    under_sanitizers(name, &folder);
    under_valgrind(name, &folder);
}

#[test]
fn errors() {
    everywhere("errors");
}

#[test]
fn context() {
    everywhere("context");
}

#[test]
fn nodevice() {
    everywhere("nodevice");
}

#[test]
fn model() {
    everywhere("model");
}

#[test]
fn inference() {
    everywhere("inference");
}

#[test]
fn pieces() {
    everywhere("pieces");
}

#[test]
fn handles() {
    everywhere("handles");
}

#[test]
fn lifetime() {
    everywhere("lifetime");
}

#[test]
fn threads() {
    everywhere("threads");
}

#[test]
fn health() {
    everywhere("health");
}

#[test]
fn memory() {
    everywhere("memory");
}

#[test]
fn cycles() {
    everywhere("cycles");
}

/// These two want a GPU to themselves, and are compiled everywhere.
#[test]
fn full() {
    everywhere("full");
}

#[test]
fn lost() {
    everywhere("lost");
}

#[test]
fn reason() {
    everywhere("reason");
}

#[test]
fn ext() {
    everywhere("ext");
}

#[test]
fn unload() {
    everywhere("unload");
}

/// Ends in `exit` while another thread is in the library, which leak checkers rightly see as memory in
/// use; so it runs plainly alone.
#[test]
fn process() {
    if have("gcc") && have("g++") && tiny_model("llama-f32.gguf").is_some() {
        plainly("process", &scratch("c-process"));
    }
}

#[test]
fn every_c_test_is_run() {
    let listed = include_str!("c.rs");
    for entry in std::fs::read_dir(root().join("tests/c")).expect("tests/c") {
        let path = entry.expect("an entry of tests/c").path();
        let name = path.file_stem().expect("a name").to_string_lossy();
        if path.extension().is_some_and(|e| e == "c") {
            assert!(listed.contains(&format!("(\"{name}\"")), "{name}.c is not run");
        }
    }
}
