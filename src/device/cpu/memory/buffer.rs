//! Working memory: zeros, taken once, touched by the system only as far as it is used.

use crate::error::{Error, Result};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Types whose every bit pattern is a value, all zeros among them.
pub trait Plain: Copy + Send + Sync {}
impl Plain for f32 {}
impl Plain for i32 {}
impl Plain for i16 {}
impl Plain for i8 {}

/// A slice of its own mapping. A `Vec` of zeros would either touch all of it or abort where there is no memory.
pub struct Buffer<T> {
    base: *mut T,
    len: usize,
    owned: PhantomData<T>,
}

// SAFETY: it owns its memory, as a Vec does.
unsafe impl<T: Plain> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Buffer<T> {}

impl<T: Plain> Buffer<T> {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Result<Self> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| refused(len, "too many"))?;
        if bytes == 0 {
            return Ok(Self { base: std::ptr::NonNull::dangling().as_ptr(), len: 0, owned: PhantomData });
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping at an address of the system's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(refused(len, std::io::Error::last_os_error()));
        }
        Ok(Self { base: base.cast(), len, owned: PhantomData })
    }
}

fn refused(len: usize, why: impl std::fmt::Display) -> Error {
    Error::memory(format!("working memory for {len} elements: {why}"))
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping made in `zeros`, of this length.
            unsafe { libc::munmap(self.base.cast(), self.len * size_of::<T>()) };
        }
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements of a page-aligned mapping that is ours, or none at a dangling address.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zeros_that_can_be_written() {
        let mut buffer = Buffer::<f32>::zeros(5000).expect("memory");
        assert!(buffer.len() == 5000 && buffer.iter().all(|&x| x == 0.0));
        buffer[4999] = 1.0;
        assert_eq!(buffer[4998..], [0.0, 1.0]);
        assert!(Buffer::<i8>::zeros(0).expect("nothing").is_empty());
        assert!(Buffer::<f32>::zeros(usize::MAX).is_err());
        assert!(Buffer::<i8>::zeros(usize::MAX / 2).is_err());
    }
}
