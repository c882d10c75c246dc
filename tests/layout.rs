//! The shape of the tree: dependencies point one way, `unsafe` stays in the leaves and says why it is
//! sound, files stay short, and nothing unfinished or silenced is left behind.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules from the bottom up. A module sees those of lower rank and itself; equals do not see each other.
const RANKS: [(&str, u32); 11] = [
    ("error", 0),
    ("quant", 1),
    ("gguf", 2),
    ("token", 3),
    ("model", 3),
    ("plan", 4),
    ("device", 5),
    ("engine", 6),
    ("ffi", 7),
    ("cuda_ffi", 7),
    ("lib", 8),
];

/// The hosts' faces see the engine and the errors, nothing deeper.
const FACES: [&str; 2] = ["ffi", "cuda_ffi"];
const SEEN_BY_FACES: [&str; 2] = ["error", "engine"];

/// Where `unsafe` may stand: the places that touch C, the kernel, SIMD or the driver.
const LEAVES: [&str; 6] = [
    "src/ffi/",
    "src/gguf/source",
    "src/device/cpu/memory",
    "src/device/cpu/pool",
    "src/device/cpu/simd",
    "src/device/cuda/",
];

/// Files that may be longer than [`LINES`], and why.
const LONG_FILES: [(&str, &str); 0] = [];
const LINES: usize = 400;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` with one of the endings: path relative to the root, and text.
fn files(folder: &str, endings: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for path in entries.map(|entry| entry.expect("a readable folder").path()) {
            if path.is_dir() {
                open.push(path);
            } else if endings.iter().any(|e| path.extension().is_some_and(|x| x == *e)) {
                let text = fs::read_to_string(&path).expect("a readable source file");
                let name = path.strip_prefix(root()).expect("below the root");
                found.push((name.to_string_lossy().into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

fn rank(module: &str) -> Option<u32> {
    RANKS.iter().find(|r| r.0 == module).map(|r| r.1)
}

/// The top-level module a file of src/ belongs to: `src/gguf/cursor.rs` is of `gguf`.
fn module_of(path: &str) -> String {
    let inner = Path::new(path).strip_prefix("src").expect("a file of src");
    let first = inner.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_string()
}

/// The text without line comments. (`//` inside a string cuts that line short, which hides nothing
/// that these tests look for.)
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The top-level modules that `crate::…` paths of this text name, grouped imports included.
fn modules_named(text: &str) -> Vec<String> {
    let text = code(text);
    let mut named = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => named.extend(group_heads(group)),
            None => named.push(identifier(rest)),
        }
    }
    named.retain(|name| name.starts_with(|c: char| c.is_ascii_lowercase()));
    named
}

/// The first identifier of each item of `a::b, c::{d, e}}`, up to the closing brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let mut depth = 0;
    let mut item = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' | ',' if depth == 0 => {
                heads.push(identifier(group[item..at].trim()));
                item = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn grouped_imports_are_read() {
    let text = "use crate::{error::Error, gguf::{Gguf, Limits}, Thing};\ncrate::plan::lower(x)";
    assert_eq!(modules_named(text), ["error", "gguf", "plan"]);
}

#[test]
fn dependencies_point_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in files("src", &["rs"]) {
        let module = module_of(&path);
        let Some(own) = rank(&module) else {
            wrong.push(format!("{path}: module {module} has no rank in this test"));
            continue;
        };
        for named in modules_named(&text) {
            let allowed = match rank(&named) {
                _ if named == module => true,
                None => true,
                Some(_) if FACES.contains(&module.as_str()) => SEEN_BY_FACES.contains(&named.as_str()),
                Some(other) => other < own,
            };
            if !allowed {
                wrong.push(format!("{path}: {module} must not see {named}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A device reads weights through `gguf::Source`; what the file says about itself is behind it.
#[test]
fn devices_see_no_metadata() {
    let mut wrong = Vec::new();
    for (path, text) in files("src/device", &["rs"]) {
        if path.contains("/tests") {
            continue; // a fixture reads a file to have a plan
        }
        let text = code(&text);
        for (at, found) in text.match_indices("crate::gguf") {
            let rest = &text[at + found.len()..];
            if !rest.starts_with("::Source") && !rest.starts_with("::{Source}") {
                wrong.push(format!("{path}: {}", rest.lines().next().unwrap_or("")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A line that opens unsafe code, as opposed to an attribute or a word in a comment.
fn opens_unsafe(line: &str) -> bool {
    let line = line.split("//").next().unwrap_or("");
    ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"].iter().any(|opening| line.contains(opening))
}

/// A comment or doc line near above that says why the code is sound, or what its caller must see to.
fn says_why(lines: &[&str], at: usize) -> bool {
    let above = lines[..at].iter().rev();
    above
        .take_while(|line| !line.trim().is_empty() && line.trim() != "}")
        .take(24)
        .any(|line| line.contains("SAFETY") || line.contains("# Safety"))
}

#[test]
fn unsafe_stays_in_the_leaves_and_says_why() {
    let mut wrong = Vec::new();
    for (path, text) in files("src", &["rs"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if !opens_unsafe(line) {
                continue;
            }
            if !LEAVES.iter().any(|leaf| path.starts_with(leaf)) {
                wrong.push(format!("{path}:{}: unsafe outside the leaves", at + 1));
            }
            let declares = line.contains("unsafe fn") || line.contains("unsafe extern");
            if !declares && !says_why(&lines, at) {
                wrong.push(format!("{path}:{}: unsafe without SAFETY", at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn sources() -> Vec<(String, String)> {
    let endings = ["rs", "cu", "cuh", "c", "cpp", "h", "hpp", "go"];
    ["src", "tests", "kernels", "examples-c", "go"]
        .iter()
        .flat_map(|folder| files(folder, &endings))
        .chain(files("include", &["hpp"]))
        .collect()
}

#[test]
fn files_stay_short() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let excused = LONG_FILES.iter().any(|(name, _)| *name == path);
        let lines = text.lines().count();
        if lines > LINES && !excused {
            wrong.push(format!("{path}: {lines} lines"));
        }
    }
    for (name, reason) in LONG_FILES {
        assert!(!reason.is_empty() && root().join(name).exists(), "{name}");
    }
    assert!(wrong.is_empty(), "over {LINES}: {}", wrong.join("\n"));
}

#[test]
fn nothing_is_unfinished_or_silenced() {
    // Put together here, so that this file does not find itself.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("#[ig", "nore"),
        concat!("allow(dead", "_code"),
        concat!("allow(unu", "sed"),
    ];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                wrong.push(format!("{path}:{}: {mark}", at + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
