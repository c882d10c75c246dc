//! What can lie at a path besides a sound regular file, and models in several files.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::check::{Outcome, check_path};
use crate::folder::Folder;
use crate::forge::{GgufFile, Row, U16, Value, llama};
use crate::meter::alone;

fn refused(what: &str, path: &Path, culprit: &str) {
    match check_path(what, path, 0) {
        Outcome::Refused(reason) => {
            assert!(reason.contains(culprit), "{what}: {reason:?} does not name {culprit:?}");
        }
        Outcome::Loaded => panic!("{what}: loaded"),
    }
}

fn loads(what: &str, path: &Path) {
    let len = fs::metadata(path).map_or(0, |m| m.len() as usize);
    match check_path(what, path, len) {
        Outcome::Loaded => {}
        Outcome::Refused(reason) => panic!("{what}: {reason}"),
    }
}

#[test]
fn only_regular_files_are_read() {
    let _alone = alone();
    let folder = Folder::new("irregular");
    let fifo = folder.0.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().is_ok_and(|s| s.success()));
    let circle = folder.0.join("circle");
    std::os::unix::fs::symlink(&circle, &circle).expect("a link");
    let nowhere = folder.0.join("no\nsuch file");
    refused("D4 FIFO", &fifo, "fifo\" is not a regular file");
    refused("D4 directory", &folder.0, "not a regular file");
    refused("D4 device", Path::new("/dev/zero"), "not a regular file");
    refused("D4 circle of links", &circle, "circle");
    refused("D4 missing", &nowhere, "such file");
    refused("D4 empty path", Path::new(""), "cannot open");
    refused("D4 NUL in the path", Path::new("a\0b"), "cannot open");
    refused("D4 long path", Path::new(&"a/".repeat(4_096)), "cannot open");
    refused("H1 empty file", &folder.write("empty", b""), "is empty");
}

#[test]
fn a_sound_file_may_have_any_name_and_be_sparse() {
    let _alone = alone();
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new("names");
    let bytes = llama::model().bytes();
    let odd = folder.0.join(std::ffi::OsStr::from_bytes(b"\xff\xfe.gguf"));
    fs::write(&odd, &bytes).expect("a file with an odd name");
    loads("a name that is not UTF-8", &odd);
    let linked = folder.0.join("link.gguf");
    std::os::unix::fs::symlink(&odd, &linked).expect("a link");
    loads("a link", &linked);
    let sparse = folder.write("sparse.gguf", &bytes);
    let file = OpenOptions::new().write(true).open(&sparse).expect("the file");
    file.set_len(1 << 36).expect("a sparse file");
    loads("D4 sparse", &sparse);
    file.set_len(1_000).expect("a short file");
    refused("D4 cut short", &sparse, "metadata key");
}

/// Two parts: all but the last three tensors, and those.
fn parts() -> [GgufFile; 2] {
    let mut first = llama::model();
    let total = first.tensors.len() as u32;
    let rest = first.tensors.split_off(first.tensors.len() - 3);
    let mut second = GgufFile::new(Vec::new(), rest);
    for (no, part) in [&mut first, &mut second].into_iter().enumerate() {
        part.set("split.no", Value::new(U16, [no as u8, 0]));
        part.set("split.count", Value::new(U16, [2, 0]));
        part.set("split.tensors.count", Value::u32(total));
    }
    [first, second]
}

fn write_parts(folder: &Folder, [first, second]: &[GgufFile; 2]) -> [PathBuf; 2] {
    [folder.write("m-00001-of-00002.gguf", &first.bytes()), folder.write("m-00002-of-00002.gguf", &second.bytes())]
}

#[test]
fn a_model_in_two_parts_reads_as_one() {
    let _alone = alone();
    let folder = Folder::new("split");
    let [first, second] = write_parts(&folder, &parts());
    loads("K16 two parts", &first);
    let split = worker_orcd::gguf::Gguf::open(&first).expect("both parts");
    let whole = worker_orcd::gguf::Gguf::from_bytes(llama::model().bytes()).expect("the model");
    assert_eq!(split.tensors().len(), whole.tensors().len());
    for tensor in whole.tensors() {
        let found = split.tensor(&tensor.name).expect("the tensor");
        assert_eq!(split.source().bytes(&found.data), whole.source().bytes(&tensor.data));
        let mut copy = vec![0; found.data.bytes as usize];
        split.source().read_at(&found.data, 0, &mut copy).expect("all of it");
        assert_eq!(copy, whole.source().bytes(&tensor.data));
    }
    assert!(split.source().part(1).is_some() && split.source().part(2).is_none());
    let sizes = [&first, &second].map(|p| fs::metadata(p).expect("a part").len());
    assert_eq!(split.source().file_bytes(), sizes[0] + sizes[1]);
    refused("K16 the second part", &second, "first part");
}

/// Adds tensors: as many as one file may have, but not two.
fn many(part: &mut GgufFile) {
    let row = part.tensors.pop().expect("a tensor");
    let own = part.tensors.len();
    part.tensors.extend((0..10_000).map(|i| Row { name: format!("{own}.{i}").into(), ..row.clone() }));
    part.tensors.push(row);
}

type Fault = fn(&mut [GgufFile; 2]);

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let _alone = alone();
    let folder = Folder::new("misfits");
    let faults: [(&str, &str, Fault); 6] = [
        ("H4 too many in all parts", "tensors in 2 parts", |p| p.iter_mut().for_each(many)),
        ("K16 tensors missing", "split.tensors.count", |p| p[1].tensors.truncate(1)),
        ("K16 no of the first", "split.no", |p| p[1].set("split.no", Value::new(U16, [0, 0]))),
        ("K16 other count", "split.count", |p| p[1].set("split.count", Value::new(U16, [3, 0]))),
        ("T2 twice in two parts", "output_norm.weight", |p| p[0].tensors[0].name = b"output_norm.weight".to_vec()),
        ("D1 second part short", "00002-of-00002.gguf\": tensor", |p| p[1].missing = 1),
    ];
    for (what, culprit, fault) in faults {
        let mut parts = parts();
        fault(&mut parts);
        let [first, _] = write_parts(&folder, &parts);
        refused(what, &first, culprit);
    }
    let [first, second] = write_parts(&folder, &parts());
    let bytes = fs::read(&second).expect("the second part");
    fs::remove_file(&second).expect("the second part");
    refused("K16 a part missing", &first, "00002-of-00002.gguf");
    fs::copy(&first, &second).expect("a copy");
    refused("K16 the first part twice", &first, "part 1 of 2, and part 2 of 2 is wanted");
    fs::write(&second, llama::model().bytes()).expect("a whole model");
    refused("K16 a whole model as a part", &first, "part 1 of 1, and part 2 of 2 is wanted");
    fs::write(&first, bytes).expect("the second part");
    refused("K16 the second part by the first's name", &first, "first part");
    let parts = parts().map(|part| part.bytes());
    for name in ["alone.gguf", "m-00001-of-00003.gguf", "m-1-of-2.gguf", "m-00002-of-00002.gguf"] {
        refused("K16 not the first's name", &folder.write(name, &parts[0]), "00001-of-00002.gguf");
    }
}
