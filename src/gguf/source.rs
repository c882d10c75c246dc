//! The bytes of a model: mapped files, or memory.
//!
//! Invariant: a part's length is taken once, from the open file, and every access is checked
//! against it. Mapping costs no memory and no time for weights that are not read; what must be read
//! exactly once (metadata, uploads to a device) goes through `pread`, which reports a file that has
//! shrunk instead of raising SIGBUS.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{Mmap, MmapOptions};

use crate::error::{Error, Result};

use super::shown;

/// Where a tensor's bytes are: a part, and an extent that was checked to lie inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorRef {
    /// Index of the part.
    pub part: u16,
    /// Bytes from the start of the part's file.
    pub offset: u64,
    /// Bytes of data.
    pub bytes: u64,
}

/// All parts of a model, in order.
#[derive(Debug)]
pub struct Source {
    parts: Vec<Part>,
}

/// One part: a mapped file, or bytes in memory.
#[derive(Debug)]
pub(super) enum Part {
    File { file: File, map: Mmap },
    Memory(Vec<u8>),
}

impl Part {
    /// Opens and maps a regular file. A FIFO or a device neither blocks nor is read.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |what: &str, e: std::io::Error| Error::load(format!("cannot {what} {}: {e}", shown(path)));
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .map_err(|e| failed("open", e))?;
        let facts = file.metadata().map_err(|e| failed("examine", e))?;
        if !facts.is_file() {
            return Err(Error::load(format!("{} is not a regular file", shown(path))));
        }
        let bytes = facts.len();
        if bytes == 0 {
            return Err(Error::load(format!("{} is empty, without so much as a magic number", shown(path))));
        }
        let len = usize::try_from(bytes)
            .map_err(|_| Error::load(format!("{} is too large to map: {bytes} bytes", shown(path))))?;
        // SAFETY: the mapping is private and read-only, and only ever seen as plain bytes. Another
        // process that changes the file changes weights; one that shortens it makes a later access
        // fault, which the C header names among what a host must not let happen.
        let map = unsafe { MmapOptions::new().len(len).map(&file) }.map_err(|e| failed("map", e))?;
        Ok(Self::File { file, map })
    }

    pub(super) fn len(&self) -> u64 {
        self.as_bytes().len() as u64
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Part::File { map, .. } => map,
            Part::Memory(bytes) => bytes,
        }
    }

    #[cfg(target_os = "linux")]
    fn populate(&self, start: u64, bytes: u64) -> u64 {
        match self {
            Part::File { map, .. } => {
                let done = map.advise_range(Advice::PopulateRead, start as usize, bytes as usize);
                if done.is_ok() { bytes } else { 0 }
            }
            Part::Memory(_) => 0,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn populate(&self, _: u64, _: u64) -> u64 {
        0
    }

    /// Fills `out` from `offset` on, all of it.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Part::File { file, .. } => read_file(file, offset, out),
            Part::Memory(bytes) => {
                let found = slice(bytes, offset, out.len() as u64).ok_or_else(|| truncated(offset, out.len(), 0))?;
                out.copy_from_slice(found);
                Ok(())
            }
        }
    }
}

impl Source {
    pub(super) fn new(parts: Vec<Part>) -> Self {
        Self { parts }
    }

    /// A part that is no file: weights that a test has made.
    #[cfg(test)]
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self::new(vec![Part::Memory(bytes)])
    }

    /// The bytes of a tensor, without copying. Empty for a reference that is not of this source.
    pub fn bytes(&self, r: &TensorRef) -> &[u8] {
        self.parts.get(usize::from(r.part)).and_then(|p| slice(p.as_bytes(), r.offset, r.bytes)).unwrap_or_default()
    }

    /// Copies a tensor's bytes from `offset` on (counted in the tensor) into `out`.
    pub fn read_at(&self, r: &TensorRef, offset: u64, out: &mut [u8]) -> Result<()> {
        let inside = offset.checked_add(out.len() as u64).is_some_and(|end| end <= r.bytes);
        let start = r.offset.checked_add(offset).filter(|_| inside);
        let part = self.parts.get(usize::from(r.part));
        match (start, part) {
            (Some(start), Some(part)) => part.read_at(start, out),
            _ => Err(Error::load(format!(
                "a read of {} bytes at {offset} leaves its tensor of {} bytes in part {}",
                out.len(),
                r.bytes,
                r.part
            ))),
        }
    }

    /// Bytes of all parts together.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(Part::len).sum()
    }

    /// Asks the system to map the bytes from `start` on (counted over all parts) before they are read, which is when it would map
    /// them a few pages at a time. How many it was asked for, at most `bytes`: none at the end, or where the system cannot.
    pub fn populate(&self, mut start: u64, bytes: u64) -> u64 {
        for part in &self.parts {
            match start.checked_sub(part.len()) {
                Some(rest) => start = rest,
                None => return part.populate(start, bytes.min(part.len() - start)),
            }
        }
        0
    }

    /// The file of a part; `None` if there is no such part, or it is in memory.
    pub fn part(&self, part: u16) -> Option<&File> {
        match self.parts.get(usize::from(part))? {
            Part::File { file, .. } => Some(file),
            Part::Memory(_) => None,
        }
    }
}

fn slice(bytes: &[u8], offset: u64, count: u64) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(count).ok()?)?;
    bytes.get(start..end)
}

fn read_file(file: &File, offset: u64, out: &mut [u8]) -> Result<()> {
    let mut done = 0;
    while done < out.len() {
        match file.read_at(&mut out[done..], offset + done as u64) {
            Ok(0) => return Err(truncated(offset, out.len(), done)),
            Ok(count) => done += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                return Err(Error::load(format!("reading {} bytes at offset {offset} failed: {e}", out.len())));
            }
        }
    }
    Ok(())
}

fn truncated(offset: u64, wanted: usize, found: usize) -> Error {
    Error::load(format!("the file is truncated: {found} of {wanted} bytes are there at offset {offset}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source::new(vec![Part::Memory((0..100).collect())])
    }

    #[test]
    fn a_reference_gives_its_extent() {
        let r = TensorRef { part: 0, offset: 10, bytes: 5 };
        assert_eq!(source().bytes(&r), &[10, 11, 12, 13, 14]);
        let mut out = [0; 2];
        source().read_at(&r, 3, &mut out).unwrap();
        assert_eq!(out, [13, 14]);
    }

    #[test]
    fn a_read_never_leaves_its_tensor() {
        let r = TensorRef { part: 0, offset: 10, bytes: 5 };
        let mut out = [0; 2];
        assert!(source().read_at(&r, 4, &mut out).is_err());
        assert!(source().read_at(&r, u64::MAX, &mut out).is_err());
        let elsewhere = TensorRef { part: 1, ..r };
        assert!(source().read_at(&elsewhere, 0, &mut out).is_err());
    }

    #[test]
    fn a_reference_outside_the_part_is_empty() {
        for (offset, bytes) in [(99, 2), (u64::MAX, 1), (1, u64::MAX)] {
            let r = TensorRef { part: 0, offset, bytes };
            assert!(source().bytes(&r).is_empty());
        }
    }

    #[test]
    fn a_file_is_populated_piece_by_piece_to_its_end() {
        assert_eq!((source().populate(0, 50), source().populate(100, 1), source().populate(u64::MAX, 1)), (0, 0, 0));
        let path = std::env::temp_dir().join(format!("worker-orcd-populate-{}", std::process::id()));
        std::fs::write(&path, [1; 10_000]).unwrap();
        let source = Source::new(vec![Part::open(&path).unwrap(), Part::open(&path).unwrap()]);
        std::fs::remove_file(&path).unwrap();
        for (start, want) in [(0, 8192), (8192, 1808), (10_000, 8192), (18_192, 1808), (20_000, 0)] {
            let done = source.populate(start, 8192);
            assert!(done == want || done == 0, "{done} from {start}");
        }
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_of_pread() {
        let path = std::env::temp_dir().join(format!("worker-orcd-shrink-{}", std::process::id()));
        std::fs::write(&path, [7u8; 64]).unwrap();
        let part = Part::open(&path).unwrap();
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.set_len(40).unwrap();
        let mut out = [0; 32];
        assert!(part.read_at(8, &mut out).is_ok());
        let error = part.read_at(16, &mut out).unwrap_err();
        std::fs::remove_file(&path).unwrap();
        assert!(error.reason().contains("truncated"), "{error}");
    }
}
