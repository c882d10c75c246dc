//! Text to tokens and back.

use super::exports::CudaModel;
use super::guard::coded;
use super::handles::MODELS;
use super::start::{array, utf8};
use crate::error::{Error, Result};
use std::ffi::{c_char, c_int};
use std::ptr;

/// The tokens of a text.
///
/// @param model       an open model.
/// @param text        UTF-8, NUL-terminated.
/// @param special     1: add the tokens that the file wants around a prompt, such as its first one. 0: add none.
/// @param control     1: the text of a control token becomes that token. 0: it stays text, as is right for what users write.
/// @param ids         receives the ids, as many as there is room for; may be NULL.
/// @param capacity    the ids that there is room for.
/// @param error_code  must not be NULL. 5: an argument is at fault.
/// @return the number of tokens, copied or not; 0 on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_tokenize(
    model: *mut CudaModel,
    text: *const c_char,
    special: c_int,
    control: c_int,
    ids: *mut u32,
    capacity: usize,
    error_code: *mut c_int,
) -> usize {
    let tokenize = || {
        let model = MODELS.get(model)?;
        // SAFETY: the caller's string is NULL or NUL-terminated, and outlives the call.
        let text = unsafe { utf8(text, "text") }?;
        let all = model.tokenize(text, flag(special, "special")?, flag(control, "control")?)?;
        let copied = if ids.is_null() { 0 } else { all.len().min(capacity) };
        // SAFETY: not NULL if anything is copied, and then there is room for `capacity` ids; bytes need no alignment.
        unsafe { ptr::copy_nonoverlapping(all.as_ptr().cast::<u8>(), ids.cast(), copied * size_of::<u32>()) };
        Ok(all.len())
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, 0, tokenize) }
}

/// The bytes that tokens stand for; control tokens stand for none. They need not be UTF-8, as a character may be cut, and they
/// may hold a NUL.
///
/// @param model       an open model.
/// @param ids         the tokens; may be NULL if there are none.
/// @param count       how many.
/// @param buffer      receives as many bytes as fit before a NUL; may be NULL.
/// @param size        the bytes that buffer has room for, the NUL included; may be 0.
/// @param error_code  must not be NULL. 5: an argument is at fault, such as an id beyond the vocabulary.
/// @return the number of bytes without the NUL, copied or not; 0 on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_detokenize(
    model: *mut CudaModel,
    ids: *const u32,
    count: usize,
    buffer: *mut c_char,
    size: usize,
    error_code: *mut c_int,
) -> usize {
    let detokenize = || {
        let model = MODELS.get(model)?;
        // SAFETY: the caller's array is NULL or has `count` ids.
        let ids = unsafe { array(ids, count, "ids") }?;
        let bytes = model.detokenize(&ids)?;
        // SAFETY: the caller's buffer is NULL or has room for `size` bytes.
        unsafe { copy_bytes(&bytes, bytes.len(), buffer, size) };
        Ok(bytes.len())
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, 0, detokenize) }
}

/// A C host's yes or no.
pub(super) fn flag(value: c_int, name: &str) -> Result<bool> {
    match value {
        0 | 1 => Ok(value == 1),
        _ => Err(Error::parameter(format!("{name} is {value}, neither 0 nor 1"))),
    }
}

/// Copies a text to a host, cut at a character where it does not fit; gives the length of all of it.
///
/// # Safety
/// `buffer` is NULL or has room for `size` bytes.
pub(super) unsafe fn copy_out(text: &str, buffer: *mut c_char, size: usize) -> usize {
    let fits = text.len().min(size.saturating_sub(1));
    let bytes = (0..=fits).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    // SAFETY: the caller vouches for the buffer.
    unsafe { copy_bytes(text.as_bytes(), bytes, buffer, size) };
    text.len()
}

/// Copies up to `most` bytes and a NUL.
///
/// # Safety
/// `buffer` is NULL or has room for `size` bytes.
unsafe fn copy_bytes(all: &[u8], most: usize, buffer: *mut c_char, size: usize) {
    if buffer.is_null() || size == 0 {
        return;
    }
    let bytes = most.min(all.len()).min(size - 1);
    // SAFETY: bytes < size, and the caller vouches for the buffer.
    unsafe {
        ptr::copy_nonoverlapping(all.as_ptr().cast(), buffer, bytes);
        buffer.add(bytes).write(0);
    }
}
