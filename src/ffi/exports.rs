//! The 14 functions of the contract.

use super::codes::CudaErrorCode as Code;
use super::guard::{coded, plain};
use super::handles::{CONTEXTS, INFERENCES, MODELS};
use crate::engine::{Context, Model, Request};
use crate::error::{Error, Result};
use std::ffi::{CStr, OsStr, c_char, c_float, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// A device, opened. An id to be handed back, not the address of anything.
pub struct CudaContext;

/// A model on a device, loaded. An id to be handed back, not the address of anything.
pub struct CudaModel;

/// An answer under way. An id to be handed back, not the address of anything.
pub struct InferenceResult;

/// Opens a device.
///
/// Which devices there are is decided by the environment variable WORKER_ORCD_DEVICE, read at each call: unset or "cuda" means
/// the CUDA devices by their ordinals; "cpu" means the host's processor as device 0. Several contexts on one device
/// are independent of each other.
///
/// @param gpu_device  0 up to, and without, cuda_get_device_count().
/// @param error_code  must not be NULL. 1: no such device. 8: id 0 on a machine without any device.
/// @return the context, to be given to cuda_destroy(); NULL on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_init(gpu_device: c_int, error_code: *mut c_int) -> *mut CudaContext {
    let open = || CONTEXTS.insert(Context::open(gpu_device)?);
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, ptr::null_mut(), open) }
}

/// Closes a context. Models that were loaded with it go on working; what they share is freed with the last.
///
/// @param ctx  a context. NULL or one that is not open: nothing happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_destroy(ctx: *mut CudaContext) {
    plain((), || CONTEXTS.remove(ctx).map(drop));
}

/// The number of devices, as WORKER_ORCD_DEVICE says which.
///
/// @return the number; 0 without a driver, a usable driver or a device.
#[unsafe(no_mangle)]
pub extern "C" fn cuda_get_device_count() -> c_int {
    plain(0, || Ok(Context::device_count()))
}

/// Loads a model from a GGUF file.
///
/// The context length is what the file names; WORKER_ORCD_CONTEXT lowers it. Weights stay quantised as they are stored.
///
/// @param ctx              an open context.
/// @param model_path       the file, or the first of several parts; any bytes, NUL-terminated.
/// @param vram_bytes_used  receives the bytes allocated on the device; untouched on failure. Must not be NULL.
/// @param error_code       must not be NULL. 2: weights and working memory do not fit; nothing was uploaded. 3: not a file that
///                         can be read, or not a model that the library runs. 5: an argument is at fault.
/// @return the model, to be given to cuda_unload_model(); NULL on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_load_model(
    ctx: *mut CudaContext,
    model_path: *const c_char,
    vram_bytes_used: *mut u64,
    error_code: *mut c_int,
) -> *mut CudaModel {
    let load = || {
        let context = CONTEXTS.get(ctx)?;
        // SAFETY: the caller's string is NULL or NUL-terminated, and outlives the call.
        let path = unsafe { string(model_path, "model_path") }?;
        not_null(vram_bytes_used, "vram_bytes_used")?;
        let model = Model::load(&context, Path::new(OsStr::from_bytes(path.to_bytes())))?;
        let bytes = model.loaded_bytes();
        let handle = MODELS.insert(model)?;
        // SAFETY: not NULL, so the caller vouches for it.
        unsafe { vram_bytes_used.write_unaligned(bytes) };
        Ok(handle)
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, ptr::null_mut(), load) }
}

/// Unloads a model and frees its memory, once the step in flight has ended. Inferences that are still open end at their next
/// call with code 5, and remain to be given to cuda_inference_free().
///
/// @param model  a model. NULL or one that is not open: nothing happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_unload_model(model: *mut CudaModel) {
    plain((), || MODELS.remove(model).map(|model| model.unload()));
}

/// The bytes that a model holds on its device now: what loading took, and the KV pages that inferences hold or have left for
/// the next ones.
///
/// @param model  a model.
/// @return the bytes; 0 for a model that is not open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_model_get_vram_usage(model: *mut CudaModel) -> u64 {
    plain(0, || MODELS.get(model).map(|model| model.held_bytes()))
}

/// Starts an answer to a prompt. Many may run at once, on one model, from any threads.
///
/// The same device, file, prompt, temperature and seed give the same text, whatever else runs at the time.
///
/// @param model        an open model.
/// @param prompt       UTF-8, NUL-terminated; the text of control tokens in it becomes those tokens.
/// @param max_tokens   1 to 2048.
/// @param temperature  0.0 to 2.0; 0.0 always takes the likeliest token.
/// @param seed         of the random numbers; without effect at temperature 0.0.
/// @param error_code   must not be NULL. 2: no memory for the prompt and max_tokens now; a later try may succeed. 5: an
///                     argument is at fault, or the prompt has no token, or as many as the context holds.
/// @return the answer, to be given to cuda_inference_free(); NULL on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_inference_start(
    model: *mut CudaModel,
    prompt: *const c_char,
    max_tokens: c_int,
    temperature: c_float,
    seed: u64,
    error_code: *mut c_int,
) -> *mut InferenceResult {
    let start = || {
        let model = MODELS.get(model)?;
        // SAFETY: the caller's string is NULL or NUL-terminated, and outlives the call.
        let prompt = unsafe { string(prompt, "prompt") }?.to_str();
        let prompt = prompt.map_err(|e| Error::parameter(format!("the prompt is not UTF-8: {e}")))?;
        INFERENCES.insert(model.start(&Request::new(prompt, tokens(max_tokens)?, temperature, seed)?)?)
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, ptr::null_mut(), start) }
}

/// Waits for the next piece of an answer's text.
///
/// A piece is whole UTF-8, NUL-terminated and never empty. A piece that does not fit is code 5 and is not lost: call again
/// with a larger buffer. 256 bytes hold any piece of a sane vocabulary. Of two calls on one answer at once, one waits.
///
/// @param result             an open answer.
/// @param token_out          receives the piece. Must not be NULL.
/// @param token_buffer_size  the bytes that token_out has room for, the NUL included; at least 1.
/// @param token_index        receives 0, 1, 2, ... for each piece; may be NULL.
/// @param error_code         must not be NULL. 4: the answer cannot go on. 5: an argument is at fault, the piece does not
///                           fit, or the model has been unloaded.
/// @return true with a piece; false with code 0 when the answer has ended, and again at each later call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_inference_next_token(
    result: *mut InferenceResult,
    token_out: *mut c_char,
    token_buffer_size: c_int,
    token_index: *mut c_int,
    error_code: *mut c_int,
) -> bool {
    let next = || {
        let inference = INFERENCES.get(result)?;
        not_null(token_out, "token_out")?;
        let Some((piece, index)) = inference.next_piece_within(room(token_buffer_size)?)? else { return Ok(false) };
        // SAFETY: `piece` and its NUL fit into the buffer that the caller vouches for; token_index is NULL or writable.
        unsafe { hand_out(&piece, index, token_out, token_index) };
        Ok(true)
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, false, next) }
}

/// Ends an answer, finished or not, and gives its memory back, once the step in flight has ended: this is how to cancel. A call
/// that waits for it on another thread returns with code 5.
///
/// @param result  an answer. NULL or one that is not open: nothing happens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_inference_free(result: *mut InferenceResult) {
    plain((), || INFERENCES.remove(result).map(|inference| inference.cancel()));
}

/// Asks the driver whether every weight of a model is where it should be: in device memory alone.
///
/// @param model       an open model.
/// @param error_code  must not be NULL. 7: one is not. 5: the model is not open.
/// @return true if all are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_check_vram_residency(model: *mut CudaModel, error_code: *mut c_int) -> bool {
    let check = || MODELS.get(model)?.check_residency().map(|()| true);
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, false, check) }
}

/// The same as cuda_model_get_vram_usage().
///
/// @param model  a model.
/// @return the bytes; 0 for a model that is not open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_get_vram_usage(model: *mut CudaModel) -> u64 {
    plain(0, || MODELS.get(model).map(|model| model.held_bytes()))
}

/// The bytes that this process holds on the context's device through this library, all models together.
///
/// @param ctx  a context.
/// @return the bytes; 0 for a context that is not open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_get_process_vram_usage(ctx: *mut CudaContext) -> u64 {
    plain(0, || CONTEXTS.get(ctx).map(|context| context.held_bytes()))
}

/// Whether a device still works; within 10 ms.
///
/// @param ctx         an open context.
/// @param error_code  must not be NULL. 1: the device has reported an error that it does not recover from; every later call
///                    on it fails. 5: the context is not open.
/// @return true if it works.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuda_check_device_health(ctx: *mut CudaContext, error_code: *mut c_int) -> bool {
    let check = || CONTEXTS.get(ctx)?.check_health().map(|()| true);
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, false, check) }
}

/// What a code means, in words.
///
/// @param error_code  any number; what is no code is "Unrecognized error code".
/// @return a static string: never NULL, never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn cuda_error_message(error_code: c_int) -> *const c_char {
    let code = Code::ALL.into_iter().find(|code| *code as c_int == error_code);
    code.map_or(c"Unrecognized error code", Code::message).as_ptr()
}

pub(super) fn not_null<T>(pointer: *mut T, name: &str) -> Result<()> {
    if pointer.is_null() { Err(Error::parameter(format!("{name} is NULL"))) } else { Ok(()) }
}

/// # Safety
/// `pointer` is NULL, or NUL-terminated and unchanged for 'a.
pub(super) unsafe fn string<'a>(pointer: *const c_char, name: &str) -> Result<&'a CStr> {
    not_null(pointer.cast_mut(), name)?;
    // SAFETY: not NULL, so the caller vouches for it.
    Ok(unsafe { CStr::from_ptr(pointer) })
}

fn tokens(max_tokens: c_int) -> Result<u32> {
    u32::try_from(max_tokens).map_err(|_| Error::parameter(format!("max_tokens is {max_tokens}, below 1")))
}

/// Bytes of text that a buffer has room for.
fn room(buffer_size: c_int) -> Result<usize> {
    let room = usize::try_from(buffer_size).ok().and_then(|size| size.checked_sub(1));
    room.ok_or_else(|| Error::parameter(format!("token_buffer_size is {buffer_size}, below 1")))
}

/// # Safety
/// `out` has room for `piece` and a NUL; `index_out` is NULL or can be written.
unsafe fn hand_out(piece: &str, index: u32, out: *mut c_char, index_out: *mut c_int) {
    // SAFETY: the caller vouches for both pointers.
    unsafe {
        ptr::copy_nonoverlapping(piece.as_ptr().cast(), out, piece.len());
        out.add(piece.len()).write(0);
        if !index_out.is_null() {
            index_out.write_unaligned(index as c_int);
        }
    }
}
