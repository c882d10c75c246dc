//! The programs of examples-c, built by CMake and by their Makefile as a user would, and run.

use crate::consumers::{install, with_prefix};
use crate::tools::{devices, have, program, root, run, scratch, stderr, stdout, tiny_model};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn by_make(prefix: &Path) -> PathBuf {
    let out = scratch("examples-make");
    let mut make = with_prefix("make", prefix);
    make.arg("-C").arg(root().join("examples-c"));
    make.arg("CFLAGS=-O1 -Wall -Wextra -Wpedantic -Werror");
    make.arg("CXXFLAGS=-O1 -Wall -Wextra -Wpedantic -Werror");
    run(make.arg(format!("OUT={}", out.display())));
    out
}

fn by_cmake(prefix: &Path) -> PathBuf {
    let out = scratch("examples-cmake");
    let mut configure = with_prefix("cmake", prefix);
    configure.arg("-S").arg(root().join("examples-c")).arg("-B").arg(&out);
    run(&mut configure);
    run(with_prefix("cmake", prefix).arg("--build").arg(&out));
    out
}

fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn generate(folder: &Path, model: &Path, device: &str) {
    let binary = folder.join("generate");
    let with = |arguments: &[&str]| {
        let mut command = program(&binary);
        command.arg("--model").arg(model).args(["--device", device]).args(arguments);
        output(&mut command)
    };
    let answer = with(&["--tokens", "12", "Hello, world"]);
    assert!(answer.status.success(), "{}", stderr(&answer));
    assert!(!stdout(&answer).trim().is_empty());
    assert!(stderr(&answer).contains("tokens/s"), "{}", stderr(&answer));
    assert_eq!(stdout(&with(&["--tokens", "12", "Hello, world"])), stdout(&answer));
    assert!(with(&["--tokens", "12", "--chat", "Hello, world"]).status.success());

    let sampled = ["--top-k", "40", "--top-p", "0.9", "--min-p", "0.05", "--repeat", "1.1", "--temperature", "0.8"];
    let all = with(&[&["--tokens", "0", "--stop", "no such text", "Hello"][..], &sampled].concat());
    assert!(all.status.success() && stderr(&all).contains("ended by: "), "{}", stderr(&all));
    let text = stdout(&answer);
    let stop: String = text.chars().take(4).collect();
    let stopped = with(&["--tokens", "12", "--stop", &stop, "Hello, world"]);
    assert!(stdout(&stopped).trim().is_empty() && stderr(&stopped).contains("ended by: stop string"));

    let refused = with(&["--temperature", "9", "Hello"]);
    assert_eq!(refused.status.code(), Some(5), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("Invalid function parameter: "));
    assert_eq!(with(&["--nonsense", "1"]).status.code(), Some(64));
    let mut lost = program(&binary);
    let lost = output(lost.args(["--model", "/nowhere/lost.gguf", "--device", device, "Hello"]));
    assert_eq!(lost.status.code(), Some(3));
    assert!(stderr(&lost).contains("lost.gguf"), "{}", stderr(&lost));
}

/// A program that is given lines on its standard input.
fn with_input(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("the program reads its input");
    drop(pipe);
    child.wait_with_output().expect("the program ends")
}

fn prompt_from_input(folder: &Path, model: &Path, device: &str) {
    let mut command = program(folder.join("generate"));
    command.arg("--model").arg(model).env("WORKER_ORCD_DEVICE", device);
    let answer = with_input(command.args(["--tokens", "4"]), "Hello, world");
    assert!(answer.status.success(), "{}", stderr(&answer));
}

fn threads(folder: &Path, model: &Path, device: &str) {
    let mut command = program(folder.join("threads"));
    command.arg(model).args(["5", "6"]).env("WORKER_ORCD_DEVICE", device);
    let text = run(&mut command);
    assert!(stderr(&text).contains("5 conversations"));
    assert_eq!(stdout(&text).matches("---").count(), 5);
}

fn chat(folder: &Path, model: &Path, device: &str) {
    for format in [&["chatml"][..], &["llama3"], &[]] {
        let mut command = program(folder.join("chat"));
        command.arg(model).args(format).env("WORKER_ORCD_DEVICE", device);
        let talk = with_input(&mut command, "Hello\n/new\nAgain\n/quit\nnever said\n");
        assert!(talk.status.success(), "{}", stderr(&talk));
        assert!(stdout(&talk).lines().count() >= 2);
    }
}

/// A load shows its progress to a person alone.
fn progress(folder: &Path, model: &Path, device: &str) {
    if !have("script") {
        return;
    }
    for name in ["generate --tokens 3 --model", "chat"] {
        let line = format!("{}/{name} {}", folder.display(), model.display());
        let mut terminal = program("script");
        terminal.args(["-q", "-e", "-c", &line, "/dev/null"]).env("WORKER_ORCD_DEVICE", device);
        let shown = with_input(&mut terminal, "/quit\n\u{4}\u{4}");
        assert!(shown.status.success() && stdout(&shown).contains("100 %"), "{}", stdout(&shown));
        let mut plain = program("sh");
        plain.args(["-c", &line]).env("WORKER_ORCD_DEVICE", device);
        assert!(!stderr(&with_input(&mut plain, "/quit\n")).contains('%'));
    }
}

#[test]
fn examples() {
    let Some(model) = tiny_model("llama-f32.gguf") else { return };
    if !have("make") || !have("pkg-config") || !have("cmake") {
        return;
    }
    let prefix = install("examples-prefix");
    for folder in [by_make(&prefix), by_cmake(&prefix)] {
        for device in devices() {
            generate(&folder, &model, device);
            prompt_from_input(&folder, &model, device);
            threads(&folder, &model, device);
            chat(&folder, &model, device);
            progress(&folder, &model, device);
        }
    }
}
