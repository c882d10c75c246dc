//! The binary interface: the symbols, the prototypes, the names a linker and a loader see, the version, and
//! that a panic unwinds to the guard.

use crate::tools::{WARNINGS, compilers, have, library_folder, root, run, scratch, stdout};
use std::fs;
use std::process::Command;

/// All that the library exports. The first 14 never change; what begins with `worker_orcd_` may be added to.
const SYMBOLS: &str = include_str!("../abi/symbols.txt");

#[test]
fn the_symbols_are_those_listed() {
    if !have("nm") {
        return;
    }
    let library = library_folder().join("libworker_orcd.so");
    let mut nm = Command::new("nm");
    let output = run(nm.args(["-D", "--defined-only", "--format=posix"]).arg(library));
    let mut exported: Vec<String> =
        stdout(&output).lines().filter_map(|line| line.split(' ').next().map(String::from)).collect();
    exported.sort();
    let mut listed: Vec<&str> = SYMBOLS.lines().filter(|line| !line.is_empty()).collect();
    listed.sort_unstable();
    assert_eq!(exported, listed);
}

#[test]
fn the_prototypes_are_frozen() {
    for (language, compiler) in compilers() {
        let mut command = Command::new(compiler);
        command.args([language.standard, "-x", language.name, "-fsyntax-only"]);
        command.args(WARNINGS).arg("-I").arg(root().join("include"));
        run(command.arg(root().join("tests/abi/prototypes.c")));
    }
}

#[test]
fn every_prototype_is_pinned() {
    let pinned = fs::read_to_string(root().join("tests/abi/prototypes.c")).expect("prototypes.c");
    for name in SYMBOLS.lines().filter(|line| !line.is_empty()) {
        assert!(pinned.contains(&format!("SAME({name},")), "{name} is not in prototypes.c");
    }
}

#[test]
fn the_loader_finds_name_and_flags() {
    if !have("readelf") {
        return;
    }
    let library = library_folder().join("libworker_orcd.so");
    let dynamic = stdout(&run(Command::new("readelf").args(["-d", "-W"]).arg(library)));
    assert!(dynamic.contains("Library soname: [libworker_orcd.so]"), "{dynamic}");
    assert!(dynamic.contains("NODELETE"), "{dynamic}");
    let needed: Vec<&str> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    let known = ["libc.so", "libm.so", "libgcc_s.so", "libdl.so", "libpthread.so", "librt.so", "ld-linux"];
    for line in needed {
        assert!(known.iter().any(|name| line.contains(name)), "more than the system's libraries: {line}");
    }
}

#[test]
fn the_header_has_the_version_of_the_crate() {
    let header = fs::read_to_string(root().join("include/worker_orcd.h")).expect("worker_orcd.h");
    let version = env!("CARGO_PKG_VERSION");
    assert!(header.contains(&format!("#define WORKER_ORCD_VERSION \"{version}\"\n")));
}

#[test]
fn panics_unwind() {
    let built_to_unwind = cfg!(panic = "unwind");
    assert!(built_to_unwind, "the panic guard needs panic = \"unwind\"");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    assert!(!manifest.contains("panic = \"abort\""));
    for profile in ["dev", "release"] {
        let section = manifest.split(&format!("[profile.{profile}]")).nth(1).expect("a profile");
        let section = section.split("\n[").next().expect("its lines");
        assert!(section.contains("panic = \"unwind\""), "profile {profile}");
    }
}

/// The system libraries that a program linked statically needs; install.sh writes the same line.
#[test]
fn the_static_link_line_is_the_one_documented() {
    let script = fs::read_to_string(root().join("scripts/install.sh")).expect("install.sh");
    let line =
        script.lines().find_map(|line| line.strip_prefix("static_libraries=")).expect("install.sh names the libraries");
    let ours: Vec<&str> = line.trim_matches('"').split(' ').collect();
    let folder = scratch("static-libs");
    let source = folder.join("empty.rs");
    fs::write(&source, "").expect("a source file can be written");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--crate-type=staticlib", "--print=native-static-libs", "--out-dir"]);
    let output = command.arg(&folder).arg(&source).output().expect("rustc");
    let said = crate::tools::stderr(&output);
    let theirs = said.split("native-static-libs: ").nth(1).unwrap_or_else(|| panic!("{said}"));
    for library in theirs.lines().next().expect("a line").split(' ') {
        assert!(ours.contains(&library), "{library} is not in install.sh's {line}");
    }
}
