//! What the library offers beyond the 14 functions: here, the version and the reason of the last failure.

use super::reason;
use super::text;
use std::ffi::{CStr, c_char};

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

/// The library's version, such as "0.1.0".
///
/// @return a static string: never NULL, never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn worker_orcd_version() -> *const c_char {
    VERSION.as_ptr()
}

/// Copies the reason of the last failure of a call on this thread, in words; a success leaves it as it was.
///
/// @param buffer  receives the text, cut to fit at the end of a character, with a NUL; may be NULL.
/// @param size    the bytes that buffer has room for, the NUL included; may be 0.
/// @return the whole text's length in bytes without the NUL; 0 if nothing has failed on this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_last_error(buffer: *mut c_char, size: usize) -> usize {
    // SAFETY: the caller's buffer is NULL or has room for `size` bytes.
    reason::with(|text| unsafe { text::copy_out(text, buffer, size) })
}
