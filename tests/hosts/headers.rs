//! The headers in include/ are what cbindgen makes of src/ffi, in four pieces that include each other.
//!
//! `WORKER_ORCD_WRITE_HEADERS=1 cargo test --test hosts headers` writes them; without it, a difference is a failure.

use crate::tools::{Language, WARNINGS, compilers, have, root, run, scratch};
use cbindgen::{Builder, Config, ItemType};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const HANDLES: [&str; 3] = ["CudaContext", "CudaModel", "InferenceResult"];
const ENUM: &str = "CudaErrorCode";
const MESSAGE: &str = "cuda_error_message";
const EXTENSION: &str = "worker_orcd_";
/// Fields and arguments have their values as integers, so that any value can come without harm.
const EXTENSION_ENUMS: [&str; 3] = ["WorkerOrcdFinish", "WorkerOrcdKvType", "WorkerOrcdLogLevel"];

/// The Rust files that declare what C sees.
fn sources() -> Vec<PathBuf> {
    let folder = root().join("src/ffi");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("src/ffi")
        .map(|entry| entry.expect("an entry of src/ffi").path())
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect();
    files.sort();
    files
}

/// The names of all exported functions, in the order of the sources.
fn exported() -> Vec<String> {
    let mut names = Vec::new();
    for file in sources() {
        let text = fs::read_to_string(file).expect("a readable source file");
        for (at, opening) in text.match_indices("extern \"C\" fn ") {
            let name: String =
                text[at + opening.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            names.push(name);
        }
    }
    names.retain(|name| name.starts_with("cuda_") || name.starts_with(EXTENSION));
    names
}

/// What cbindgen writes for some kinds of items, without functions that `keep` refuses.
fn piece(kinds: &[ItemType], items: &[&str], keep: impl Fn(&str) -> bool) -> String {
    let mut config = Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml");
    config.export.item_types = kinds.to_vec();
    config.export.include = items.iter().map(|item| (*item).to_string()).collect();
    config.export.exclude = exported().into_iter().filter(|name| !keep(name)).collect();
    let builder = Builder::new().with_src(root().join("src/ffi/mod.rs"));
    let bindings = builder.with_config(config).generate().expect("cbindgen");
    let mut text = Vec::new();
    bindings.write(&mut text);
    String::from_utf8(text).expect("cbindgen writes UTF-8").trim().to_string()
}

fn header(name: &str, about: &str, includes: &[&str], body: &str) -> String {
    let guard = name.to_uppercase().replace('.', "_");
    let mut text = format!("/**\n * @file\n * {about}\n *\n * Generated from src/ffi; do not edit. */\n\n");
    let _ = write!(text, "#ifndef {guard}\n#define {guard}\n\n");
    for include in includes {
        let _ = writeln!(text, "#include {include}");
    }
    let gap = if includes.is_empty() { "" } else { "\n" };
    let _ = write!(text, "{gap}{}\n\n#endif /* {guard} */\n", body.trim());
    text
}

fn errors() -> String {
    let codes = piece(&[ItemType::Enums], &[ENUM], |_| false);
    let message = piece(&[ItemType::Functions], &[], |name| name == MESSAGE);
    let body = format!(
        "/* The names clash with those of <cuda.h>: define WORKER_ORCD_NO_ERROR_ENUM to leave them out. */\n\
         #ifndef WORKER_ORCD_NO_ERROR_ENUM\n{codes}\n#endif\n\n{message}"
    );
    header("worker_errors.h", "The error codes, and each in words.", &[], &body)
}

fn version() -> String {
    let mut text =
        String::from("/** The version that this header belongs to; worker_orcd_version() is the library's. */\n");
    let _ = writeln!(text, "#define WORKER_ORCD_VERSION \"{}\"", env!("CARGO_PKG_VERSION"));
    let parts = [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ];
    for (part, number) in parts {
        let _ = writeln!(text, "/** A part of it. */\n#define WORKER_ORCD_VERSION_{part} {number}");
    }
    text
}

/// Each header's name and text.
fn generated() -> Vec<(&'static str, String)> {
    let types = piece(&[ItemType::OpaqueItems], &HANDLES, |_| false);
    let calls = piece(&[ItemType::Functions], &[], |name| name.starts_with("cuda_") && name != MESSAGE);
    let mut all = vec![
        ("worker_types.h", header("worker_types.h", "The handles: opaque, never to be dereferenced.", &[], &types)),
        ("worker_errors.h", errors()),
        (
            "worker_ffi.h",
            header(
                "worker_ffi.h",
                "The functions of libworker_orcd, for hosts that know it under its old name.",
                &["<stdbool.h>", "<stdint.h>", "\"worker_errors.h\"", "\"worker_types.h\""],
                &calls,
            ),
        ),
        ("worker_orcd.h", header("worker_orcd.h", ABOUT, &["\"worker_ffi.h\""], &version())),
    ];
    if exported().iter().any(|name| name.starts_with(EXTENSION)) {
        let kinds = [ItemType::Functions, ItemType::Structs, ItemType::Enums, ItemType::Typedefs];
        let body = piece(&kinds, &EXTENSION_ENUMS, |name| name.starts_with(EXTENSION));
        let includes = ["<stdbool.h>", "<stddef.h>", "<stdint.h>", "\"worker_types.h\""];
        let about = "What libworker_orcd offers beyond the 14 functions of worker_orcd.h.";
        all.push(("worker_orcd_ext.h", header("worker_orcd_ext.h", about, &includes, &body)));
    }
    all
}

const ABOUT: &str = "libworker_orcd: GGUF language models for any host that can call C.
 *
 * Open a device (cuda_init), load a file (cuda_load_model), start an answer (cuda_inference_start), pull
 * its text piece by piece (cuda_inference_next_token), and give everything back in any order.
 *
 * Every function may be called from any thread at any time; two calls on one InferenceResult at once
 * take turns. Handles are ids that are checked on each call: NULL, freed or wrong ones give
 * CUDA_ERROR_INVALID_PARAMETER (from getters 0) and do no harm. Where there is an error_code it must not
 * be NULL, and is set to 0 on success. Any bytes as model, any bytes as prompt, any order of calls and any
 * single failure of the driver give a code: nothing aborts, nothing is printed. Two exceptions: a host
 * that is out of memory for a small allocation, and a model file that another program shortens while
 * the CPU device has it mapped.";

#[test]
fn headers_are_what_the_sources_say() {
    let write = std::env::var_os("WORKER_ORCD_WRITE_HEADERS").is_some();
    for (name, text) in generated() {
        let path = root().join("include").join(name);
        if write {
            fs::write(&path, &text).expect("include/ can be written");
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "include/{name} is stale: WORKER_ORCD_WRITE_HEADERS=1 cargo test --test hosts headers"
        );
    }
}

fn compiles(language: Language, compiler: &str, source: &str, name: &str) {
    let file = scratch(&format!("headers-{compiler}-{name}")).join("unit.c");
    fs::write(&file, source).expect("a source file can be written");
    let mut command = Command::new(compiler);
    command.args(WARNINGS).args([language.standard, "-x", language.name, "-fsyntax-only"]);
    run(command.arg("-I").arg(root().join("include")).arg(file));
}

#[test]
fn each_header_compiles_alone_and_twice() {
    for (language, compiler) in compilers() {
        for (header, _) in generated() {
            let include = format!("#include \"{header}\"\n");
            let unit = format!("{include}{include}int unit(void);\nint unit(void) {{ return 0; }}\n");
            compiles(language, compiler, &unit, header);
        }
    }
}

#[test]
fn so_does_each_cpp_header() {
    for (language, compiler) in compilers().into_iter().filter(|(language, _)| language.name == "c++") {
        for header in ["worker_orcd.hpp", "worker_orcd_base.hpp"] {
            let include = format!("#include \"{header}\"\n");
            compiles(language, compiler, &format!("{include}{include}int unit() {{ return 0; }}\n"), header);
        }
    }
}

/// The Doxyfile with more settings; any warning is an error.
fn doxygen(settings: &str) {
    let folder = scratch("doxygen");
    let config = fs::read_to_string(root().join("Doxyfile")).expect("Doxyfile");
    let more = format!("OUTPUT_DIRECTORY = {}\nWARN_AS_ERROR = FAIL_ON_WARNINGS\n{settings}\n", folder.display());
    fs::write(folder.join("Doxyfile"), config + &more).expect("a Doxyfile can be written");
    run(Command::new("doxygen").arg(folder.join("Doxyfile")).current_dir(root()));
}

#[test]
fn doxygen_finds_everything_documented() {
    if have("doxygen") {
        doxygen("FILE_PATTERNS = *.h\nWARN_NO_PARAMDOC = YES");
        doxygen("FILE_PATTERNS = *.h *.hpp");
    }
}

#[test]
fn the_enum_can_be_left_out() {
    // The other library's enumerators, as a host that also includes its header would see them.
    let unit = "typedef enum { CUDA_SUCCESS = 0, CUDA_ERROR_UNKNOWN = 999 } Other;\n\
                #define WORKER_ORCD_NO_ERROR_ENUM\n#include \"worker_orcd.h\"\n\
                const char* unit(void);\n\
                const char* unit(void) { return cuda_error_message((int)CUDA_ERROR_UNKNOWN); }\n";
    for (language, compiler) in compilers() {
        compiles(language, compiler, unit, "no-enum");
    }
}
