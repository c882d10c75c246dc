//! A newcomer's transcript: every fenced block of README.md, in order, as it stands, in one shell that
//! starts in the repository's folder. A block whose fence names a file is written to that file.

use crate::tools::{have, program, root, run, stdout};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

struct Block {
    language: String,
    file: Option<String>,
    text: String,
}

fn blocks(readme: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for line in readme.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let mut words = info.split(' ').map(String::from);
                open =
                    Some(Block { language: words.next().unwrap_or_default(), file: words.next(), text: String::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(block)) => {
                let _ = writeln!(block.text, "{line}");
            }
            (None, None) => {}
        }
    }
    found
}

/// `make test` is what runs this: within it, make only says what it would do.
const PREAMBLE: &str =
    "set -eu\nmake() { if [ \"$*\" = test ]; then command make --dry-run test; else command make \"$@\"; fi; }\n";

/// One shell script that does what a reader would do.
fn transcript(blocks: &[Block]) -> String {
    let mut script = String::from(PREAMBLE);
    for (number, block) in blocks.iter().enumerate() {
        let text = &block.text;
        let _ = match &block.file {
            Some(file) => write!(
                script,
                "mkdir -p \"$(dirname '{file}')\"\ncat >'{file}' <<'END OF BLOCK {number}'\n{text}END OF BLOCK {number}\n"
            ),
            None => write!(script, "echo '== block {number}'\n{text}"),
        };
    }
    script
}

#[test]
fn every_block_runs_as_it_stands() {
    for tool in ["make", "pkg-config", "cc", "c++", "cmake", "go", "python3"] {
        if !have(tool) {
            return;
        }
    }
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let blocks = blocks(&readme);
    assert!(blocks.len() >= 10, "{} blocks", blocks.len());
    assert!(blocks.iter().all(|block| block.file.is_some() || block.language == "sh"));
    crate::consumers::share_rust_builds(&root().join("build/tour"));
    let mut shell = program("bash");
    shell.args(["-c", &transcript(&blocks)]).current_dir(root());
    let said = stdout(&run(shell.env_remove("WORKER_ORCD_DEVICE").env_remove("CARGO_TARGET_DIR")));
    for host in ["== block 1", "cargo test\n", "MB loaded"] {
        assert!(said.contains(host), "{said}");
    }
    // Three hosts were asked the same, and two about lighthouses.
    assert!(said.matches("Paris").count() >= 3 && said.matches("MB loaded").count() == 2, "{said}");
}

/// The names of environment variables (and of macros, which look the same) in a folder or file.
fn variables(path: &Path) -> Vec<String> {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a readable folder");
        return entries.flat_map(|entry| variables(&entry.expect("an entry").path())).collect();
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let quoted = text.match_indices("\"WORKER_ORCD_").map(|(at, _)| &text[at + 1..]);
    let names = quoted.map(|rest| rest.split('"').next().unwrap_or_default().to_string());
    names.filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')).collect()
}

#[test]
fn every_environment_variable_is_documented() {
    let text = |name: &str| fs::read_to_string(root().join(name)).expect("a document");
    let (readme, contributing) = (text("README.md"), text("CONTRIBUTING.md"));
    let documented = |text: &str, name: &str| text.contains(&format!("`{name}`"));
    for name in ["src", "build.rs"].iter().flat_map(|place| variables(&root().join(place))) {
        let for_tests = documented(&contributing, &name);
        assert!(documented(&readme, &name) || for_tests, "{name} is not in README.md");
    }
    for name in variables(&root().join("tests")) {
        let known = documented(&contributing, &name) || documented(&readme, &name);
        // The prefixes and macros that the header tests write.
        let macros = ["WORKER_ORCD_VERSION", "WORKER_ORCD_NO_ERROR_ENUM", "WORKER_ORCD_"];
        assert!(known || macros.contains(&name.as_str()), "{name} is documented nowhere");
    }
}
