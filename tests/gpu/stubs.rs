//! Drivers that do not work: each is a libcuda.so.1 made by the C compiler, and must give a code and no word on stderr.

use std::path::Path;
use std::process::Command;
use worker_orcd::device::cuda;
use worker_orcd::error::ErrorCode;

const CHILD: &str = "CHILD_WITH_A_STUB_DRIVER";

/// The names of all functions that the device calls.
fn symbols() -> Vec<&'static str> {
    let quoted = include_str!("../../src/device/cuda/driver.rs").split('"');
    quoted.filter(|s| s.starts_with("cu") && s[2..].starts_with(|c: char| c.is_ascii_uppercase())).collect()
}

/// A library with `symbols`, each a function that returns `code`.
fn stub(folder: &Path, symbols: &[&str], code: i32) -> bool {
    let source: String = symbols.iter().map(|s| format!("int {s}(void) {{ return {code}; }}\n")).collect();
    let file = folder.join("stub.c");
    std::fs::write(&file, source + "int not_a_driver;\n").expect("a writable folder");
    let output = folder.join("libcuda.so.1");
    let made = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&output).arg(&file).status();
    made.is_ok_and(|s| s.success())
}

/// What a process with this driver says: standard output, and standard error.
fn child(folder: &Path) -> (String, String) {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "stubs::what_a_process_with_a_stub_says", "--nocapture", "--test-threads=1"])
        .env("LD_LIBRARY_PATH", folder)
        .env(CHILD, "1")
        .output()
        .expect("this program starts");
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Run as a child by the test below; by itself it has nothing to say.
#[test]
fn what_a_process_with_a_stub_says() {
    if std::env::var_os(CHILD).is_some() {
        let error = cuda::device(0).err().expect("no device");
        assert_eq!(error.code(), ErrorCode::DeviceNotFound);
        assert_eq!(cuda::device(1).err().map(|e| e.code()), Some(ErrorCode::InvalidDevice));
        println!("count {}: {}", cuda::device_count(), error.reason());
    }
}

#[test]
fn drivers_that_do_not_work_give_codes() {
    let all = symbols();
    assert!(all.len() > 40 && all.contains(&"cuInit"), "{all:?}");
    let without_one: Vec<&str> = all.iter().copied().filter(|s| *s != "cuLaunchKernelEx").collect();
    let cases: [(&str, &[&str], i32, &str); 4] = [
        ("empty", &[], 0, "lacks cuInit"),
        ("without one function", &without_one, 0, "lacks cuLaunchKernelEx"),
        ("a stub", &all, 34, "does not start"),
        ("without a device", &all, 100, "does not start"),
    ];
    let folder = std::env::temp_dir().join(format!("worker-orcd-stubs-{}", std::process::id()));
    for (what, symbols, code, reason) in cases {
        let folder = folder.join(what.replace(' ', "-"));
        std::fs::create_dir_all(&folder).expect("a writable folder");
        if !stub(&folder, symbols, code) {
            println!("skipped: no C compiler");
            return;
        }
        let (out, err) = child(&folder);
        assert!(out.contains("count 0: ") && out.contains(reason), "{what}: {out}");
        assert_eq!(err, "", "{what}");
    }
    std::fs::remove_dir_all(folder).expect("the folder of this test");
}
