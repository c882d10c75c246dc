//! A newcomer's transcript: every fenced block of README.md, in order, as it stands, in one shell that
//! starts in the repository's folder. A block whose fence names a file is written to that file.

use crate::tools::{have, program, root, run, stdout};
use std::fmt::Write as _;
use std::fs;

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

/// One shell script that does what a reader would do.
fn transcript(blocks: &[Block]) -> String {
    let mut script = String::from("set -eu\n");
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
    for tool in ["make", "pkg-config", "cc", "c++", "go", "python3"] {
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
    for host in ["== block 1", "MB loaded"] {
        assert!(said.contains(host), "{said}");
    }
    // Three hosts were asked the same.
    assert!(said.matches("Paris").count() >= 3, "{said}");
}
