//! Hosts outside the tree, against an installed prefix: CMake and make, shared and static, C and C++, gcc and
//! clang; an old host with the old names; Go under its race detector; a Rust crate that depends by path.

use crate::tools::{devices, goldens, have, library_folder, root, run, scratch, stdout, tiny_model};
use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs what cargo just built, then moves it: nothing installed may know where it was put.
pub fn install(name: &str) -> PathBuf {
    let folder = scratch(name);
    let mut script = Command::new(root().join("scripts/install.sh"));
    script.env("FROM", library_folder()).env("DESTDIR", folder.join("stage")).env("PREFIX", "/opt/orcd");
    run(&mut script);
    let prefix = folder.join("moved");
    fs::rename(folder.join("stage/opt/orcd"), &prefix).expect("the prefix can be moved");
    prefix
}

/// A command that finds the installed package and nothing else of ours.
pub fn with_prefix(program: &str, prefix: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"))
        .env("CMAKE_PREFIX_PATH", prefix)
        .env("LD_LIBRARY_PATH", prefix.join("lib"))
        .env("WORKER_ORCD_GOLDENS", goldens());
    command
}

/// Both programs of tests/consumers, shared and static, give the same answer.
fn answers(folder: &Path, prefix: &Path, model: &Path) {
    for device in devices() {
        let mut texts = Vec::new();
        for program in ["c_shared", "c_static", "cpp_shared", "cpp_static"] {
            let mut command = with_prefix(&folder.join(program).to_string_lossy(), prefix);
            let text = stdout(&run(command.arg(model).env("WORKER_ORCD_DEVICE", device)));
            if program.starts_with("c_") {
                texts.push(text);
            } else {
                assert!(text.is_empty(), "{program}: {text}");
            }
        }
        assert!(texts[0].starts_with("0:") && texts[0] == texts[1], "{texts:?}");
    }
}

const COMPILERS: [(&str, &str); 2] = [("gcc", "g++"), ("clang", "clang++")];

#[test]
fn cmake() {
    let Some(model) = tiny_model("llama-f32.gguf") else { return };
    if !have("cmake") {
        return;
    }
    let prefix = install("consumer-cmake");
    for (c, cpp) in COMPILERS.into_iter().filter(|(_, cpp)| have(cpp)) {
        let build = scratch(&format!("consumer-cmake-{c}"));
        let mut configure = with_prefix("cmake", &prefix);
        configure.env("CC", c).env("CXX", cpp).arg("-S");
        configure.arg(root().join("tests/consumers/cmake")).arg("-B").arg(&build);
        run(&mut configure);
        run(with_prefix("cmake", &prefix).arg("--build").arg(&build));
        answers(&build, &prefix, &model);
    }
}

#[test]
fn pkg_config_and_make() {
    let Some(model) = tiny_model("llama-f32.gguf") else { return };
    if !have("pkg-config") || !have("make") {
        return;
    }
    let prefix = install("consumer-make");
    for (c, cpp) in COMPILERS.into_iter().filter(|(_, cpp)| have(cpp)) {
        let out = scratch(&format!("consumer-make-{c}"));
        let mut make = with_prefix("make", &prefix);
        make.arg("-C").arg(root().join("tests/consumers/pkgconfig"));
        make.arg(format!("OUT={}", out.display()));
        run(make.arg(format!("CC={c}")).arg(format!("CXX={cpp}")));
        answers(&out, &prefix, &model);
    }
}

/// Old build scripts link the static library whole, under its old name.
#[test]
fn an_old_host() {
    let Some(model) = tiny_model("llama-f32.gguf") else { return };
    if !have("gcc") || !have("g++") {
        return;
    }
    let prefix = install("consumer-legacy");
    let legacy = root().join("tests/consumers/legacy");
    for (compiler, standard, name) in [("gcc", "-std=c11", "c"), ("g++", "-std=c++17", "c++")] {
        let program = prefix.join(format!("legacy-{compiler}"));
        let mut command = Command::new(compiler);
        command.args([standard, "-x", name]).args(crate::tools::WARNINGS);
        command.args(["main.c", "types.c", "errors.c"].map(|file| legacy.join(file)));
        command.args(["-x", "none", "-I"]).arg(prefix.join("include"));
        command.arg("-L").arg(prefix.join("lib"));
        command.args(["-Wl,--whole-archive", "-lworker_cuda", "-Wl,--no-whole-archive"]);
        command.args(["-lpthread", "-ldl", "-lm", "-o"]).arg(&program);
        run(&mut command);
        for device in devices() {
            let mut command = crate::tools::program(&program);
            let text = stdout(&run(command.arg(&model).env("WORKER_ORCD_DEVICE", device)));
            assert!(text.starts_with("0:"), "{text}");
        }
    }
}

#[test]
fn uninstalling_leaves_nothing() {
    let folder = scratch("uninstall");
    let script = |arguments: &[&str]| {
        let mut script = Command::new(root().join("scripts/install.sh"));
        script.args(arguments).env("FROM", library_folder());
        run(script.env("DESTDIR", "").env("PREFIX", folder.join("prefix")));
    };
    script(&[]);
    assert!(folder.join("prefix/lib/libworker_cuda.a").exists());
    script(&["--uninstall"]);
    let left: Vec<_> = fs::read_dir(folder.join("prefix")).expect("the prefix").collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Go's own packages stay compiled from run to run. Its cache does not see what a header says, so it is told.
fn go_command(prefix: &Path, arguments: &[&str]) -> Command {
    let mut hasher = DefaultHasher::new();
    let headers = fs::read_dir(prefix.join("include")).expect("the headers");
    let texts: BTreeMap<PathBuf, Vec<u8>> =
        headers.flatten().map(|header| (header.path(), fs::read(header.path()).expect("a readable header"))).collect();
    texts.hash(&mut hasher);
    let mut go = with_prefix("go", prefix);
    go.args(arguments).current_dir(root().join("go"));
    go.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache"));
    go.env("CGO_CFLAGS", format!("-g -O2 -DHEADERS={:x}", hasher.finish()));
    go
}

#[test]
fn go() {
    if tiny_model("llama-f32.gguf").is_none() || !have("go") || !have("pkg-config") {
        return;
    }
    let prefix = install("consumer-go");
    for device in devices() {
        run(go_command(&prefix, &["test", "-race", "-count=1", "./..."]).env("WORKER_ORCD_DEVICE", device));
    }
    run(&mut go_command(&prefix, &["vet", "./..."]));
}

/// Rust hosts below `folder` build the crate once for all of them, and in little time. In a target folder of their own: in that of
/// the tree, their library would take the place of the one to be installed.
pub fn share_rust_builds(folder: &Path) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rust-hosts");
    let target = format!("[build]\ntarget-dir = \"{}\"\n\n", target.display());
    let quick = "[profile.release]\nopt-level = 1\n";
    fs::create_dir_all(folder.join(".cargo")).expect("a folder can be made");
    fs::write(folder.join(".cargo/config.toml"), target + quick).expect("cargo's settings can be written");
}

/// The host stands outside the tree, and is built with the versions that the crate was tested with.
#[test]
fn rust() {
    let Some(model) = tiny_model("llama-f32.gguf") else { return };
    let (source, folder) = (root().join("tests/consumers/rust"), scratch("consumer-rust"));
    let manifest = fs::read_to_string(source.join("Cargo.toml")).expect("the host's manifest");
    let manifest = manifest.replace("../../..", &root().to_string_lossy());
    fs::write(folder.join("Cargo.toml"), manifest).expect("a manifest can be written");
    fs::create_dir(folder.join("src")).expect("a folder can be made");
    fs::copy(source.join("src/main.rs"), folder.join("src/main.rs")).expect("main.rs");
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("Cargo.lock");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut host = Command::new(cargo);
    share_rust_builds(&folder);
    host.args(["run", "--quiet", "--release", "--"]).arg(&model).current_dir(&folder);
    let text = stdout(&run(host.env("WORKER_ORCD_DEVICE", "cpu")));
    assert!(text.starts_with("0:"), "{text}");
}
