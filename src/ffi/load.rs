//! Loading a model with options.

use super::exports::{CudaContext, CudaModel, not_null, string};
use super::guard::coded;
use super::handles::{CONTEXTS, MODELS};
use super::sized::{self, Versioned};
use crate::engine::{KvType, LoadOptions, Model};
use crate::error::{Error, Result};
use std::ffi::{OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// How keys and values of an answer are stored.
#[repr(C)]
// The prefix is what C hosts see.
#[allow(clippy::enum_variant_names)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerOrcdKvType {
    /// As the device does by itself.
    WorkerOrcdKvDefault = 0,
    /// 16 bits.
    WorkerOrcdKvF16 = 1,
    /// 32 bits; on the CPU alone.
    WorkerOrcdKvF32 = 2,
}

/// How a model is loaded. Zero every byte, set `size` to sizeof, then set what is wanted: 0 and NULL mean "as without it".
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WorkerOrcdLoadOptions {
    /// sizeof(worker_orcd_load_options).
    pub size: usize,
    /// Called during the load, on the thread that loads, with the bytes that are done and the bytes in all; false ends the load
    /// with code 3. It must return: no exception and no longjmp may leave it.
    pub progress: Option<unsafe extern "C" fn(user: *mut c_void, done_bytes: u64, all_bytes: u64) -> bool>,
    /// Given to progress.
    pub user: *mut c_void,
    /// Lowers the tokens that an answer and its prompt may have together; 0: as many as the file names.
    pub context: u32,
    /// Lowers the number of answers that are computed at once; more than that take turns. 0: as many as the device suits.
    pub sequences: u32,
    /// A worker_orcd_kv_type.
    pub kv_type: i32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: repr(C), three words and four halves of one: no padding; numbers and pointers only.
unsafe impl Versioned for WorkerOrcdLoadOptions {
    const NAME: &'static str = "options";
    const LEAST: usize = 40;
}

const _: () = assert!(size_of::<WorkerOrcdLoadOptions>() == 40);

/// Loads a model, as cuda_load_model() does, with options.
///
/// @param ctx              an open context.
/// @param model_path       the file, or the first of several parts; any bytes, NUL-terminated.
/// @param options          must not be NULL.
/// @param vram_bytes_used  receives the bytes allocated on the device; untouched on failure. May be NULL.
/// @param error_code       must not be NULL. 2: weights and working memory do not fit. 3: not a model that the library runs, or
///                         progress has ended the load. 5: an argument or option is at fault.
/// @return the model, to be given to cuda_unload_model(); NULL on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_load(
    ctx: *mut CudaContext,
    model_path: *const c_char,
    options: *const WorkerOrcdLoadOptions,
    vram_bytes_used: *mut u64,
    error_code: *mut c_int,
) -> *mut CudaModel {
    let load = || {
        let context = CONTEXTS.get(ctx)?;
        // SAFETY: the caller's string is NULL or NUL-terminated, and outlives the call.
        let path = unsafe { string(model_path, "model_path") }?;
        // SAFETY: the caller's struct is NULL or as large as it says.
        let options = unsafe { sized::read(options) }?;
        let path = Path::new(OsStr::from_bytes(path.to_bytes()));
        let model = Model::load_with(&context, path, engines(&options)?, &mut |done, all| tell(&options, done, all))?;
        let bytes = model.loaded_bytes();
        let handle = MODELS.insert(model)?;
        if not_null(vram_bytes_used, "").is_ok() {
            // SAFETY: not NULL, so the caller vouches for it.
            unsafe { vram_bytes_used.write_unaligned(bytes) };
        }
        Ok(handle)
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, ptr::null_mut(), load) }
}

fn tell(options: &WorkerOrcdLoadOptions, done: u64, all: u64) -> bool {
    // SAFETY: the host's own function with the host's own pointer, as it said it wants to be called.
    options.progress.is_none_or(|progress| unsafe { progress(options.user, done, all) })
}

fn engines(options: &WorkerOrcdLoadOptions) -> Result<LoadOptions> {
    if options.reserved != 0 {
        return Err(Error::parameter(format!("options.reserved is {}, not 0", options.reserved)));
    }
    let kv_type = match options.kv_type {
        0 => None,
        1 => Some(KvType::F16),
        2 => Some(KvType::F32),
        other => return Err(Error::parameter(format!("options.kv_type is {other}, no worker_orcd_kv_type"))),
    };
    let some = |value: u32| (value > 0).then_some(value as usize);
    Ok(LoadOptions { context: some(options.context), kv_type, sequences: some(options.sequences) })
}

const _: () = {
    use WorkerOrcdKvType as T;
    assert!(T::WorkerOrcdKvDefault as i32 == 0 && T::WorkerOrcdKvF16 as i32 == 1 && T::WorkerOrcdKvF32 as i32 == 2);
};
