//! Structs that begin with their size, so that they can grow at their end without breaking anybody.
//!
//! A host says how large its struct is. Fields that the library knows and the host does not are 0, which always means "as without
//! it"; fields that the host knows and the library does not must be 0. A struct is read and written byte by byte, so it need
//! not be aligned.

use super::exports::not_null;
use crate::error::{Error, Result};
use std::ptr;

/// A struct that C and the library share.
///
/// # Safety
/// `repr(C)` without padding; any bytes are a value of it; it begins with `size: usize`.
pub unsafe trait Versioned: Copy {
    const NAME: &'static str;
    /// Bytes of the first version, which every host has.
    const LEAST: usize;
}

/// More than any struct will have: a larger size is no size.
const MOST: usize = 4096;

/// The size that a host's struct says it has.
///
/// # Safety
/// `pointer` is NULL, or can be read for a `usize`.
unsafe fn size_of_host<T: Versioned>(pointer: *const T) -> Result<usize> {
    not_null(pointer.cast_mut(), T::NAME)?;
    // SAFETY: not NULL, so the caller vouches for it.
    let size = unsafe { pointer.cast::<usize>().read_unaligned() };
    match (T::LEAST..=MOST).contains(&size) {
        true => Ok(size),
        false => Err(Error::parameter(format!("{}.size is {size}, not in {}..={MOST}", T::NAME, T::LEAST))),
    }
}

/// A host's struct.
///
/// # Safety
/// `pointer` is NULL, or can be read for the size that it begins with.
pub unsafe fn read<T: Versioned>(pointer: *const T) -> Result<T> {
    // SAFETY: the caller vouches for it.
    let size = unsafe { size_of_host(pointer) }?;
    let own = size_of::<T>();
    // SAFETY: the caller vouches for `size` bytes, of which these are the last.
    let beyond = (own..size).any(|at| unsafe { pointer.cast::<u8>().add(at).read() } != 0);
    if beyond {
        return Err(Error::parameter(format!(
            "{} has a field that this version of the library does not know",
            T::NAME
        )));
    }
    // SAFETY: any bytes are a `T`, zeros too; as many are copied as both have.
    unsafe {
        let mut value: T = std::mem::zeroed();
        ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut value).cast(), size.min(own));
        Ok(value)
    }
}

/// Fills in a host's struct as far as it goes; its size becomes the number of bytes that were filled in.
///
/// # Safety
/// `pointer` is NULL, or can be written for the size that it begins with.
pub unsafe fn write<T: Versioned>(pointer: *mut T, value: &T) -> Result<()> {
    // SAFETY: the caller vouches for it.
    let size = unsafe { size_of_host(pointer.cast_const()) }?.min(size_of::<T>());
    // SAFETY: the caller vouches for as many bytes.
    unsafe {
        ptr::copy_nonoverlapping(ptr::from_ref(value).cast::<u8>(), pointer.cast(), size);
        pointer.cast::<usize>().write_unaligned(size);
    }
    Ok(())
}
