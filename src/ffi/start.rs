//! Starting an answer with options.

use super::exports::{CudaModel, InferenceResult, not_null, string};
use super::guard::coded;
use super::handles::{INFERENCES, MODELS};
use super::sized::{self, Versioned};
use crate::engine::{Options, Prompt, Request, Sampling};
use crate::error::{Error, Result};
use std::ffi::{c_char, c_int};
use std::ptr;

/// How an answer goes on from its prompt. Zero every byte, set `size` to sizeof, then set what is wanted: 0 and NULL mean "as
/// without it". In this order the penalties change the logits; top_k, top_p and min_p keep some of the tokens, by their
/// probabilities at temperature 1; temperature and seed draw one of those.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WorkerOrcdStartOptions {
    /// sizeof(worker_orcd_start_options).
    pub size: usize,
    /// Of the random numbers; without effect at temperature 0.
    pub seed: u64,
    /// The prompt as token ids, where there is no prompt as text; nothing is added to them.
    pub prompt_ids: *const u32,
    /// How many prompt_ids there are.
    pub prompt_id_count: usize,
    /// Strings that end the answer and are no part of it: UTF-8, NUL-terminated, 1 to 1024 bytes each, up to 64 of them.
    pub stops: *const *const c_char,
    /// How many stops there are.
    pub stop_count: usize,
    /// The most tokens of the answer; 0: as many as the context holds. Memory for all of them is taken at the start.
    pub max_tokens: u32,
    /// 0.0 to 2.0; 0.0 always takes the likeliest token.
    pub temperature: f32,
    /// Only the k likeliest tokens; 0: all.
    pub top_k: u32,
    /// Only the likeliest tokens that together have this probability, up to 1; 0: all.
    pub top_p: f32,
    /// Only tokens whose probability is at least this share, up to 1, of the likeliest one's; 0: all.
    pub min_p: f32,
    /// Divides positive logits, and multiplies negative ones, of tokens that prompt or answer have: 0.01 to 100; 0 or 1: nothing.
    pub repetition_penalty: f32,
    /// Taken from a token's logit for each time that the answer has it: -10 to 10.
    pub frequency_penalty: f32,
    /// Taken from a token's logit if the answer has it: -10 to 10.
    pub presence_penalty: f32,
    /// 1: keep the log-probability of each token, for worker_orcd_tokens().
    pub logprobs: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: repr(C), six words and ten halves of one: no padding; numbers and pointers only.
unsafe impl Versioned for WorkerOrcdStartOptions {
    const NAME: &'static str = "options";
    const LEAST: usize = 88;
}

const _: () = assert!(size_of::<WorkerOrcdStartOptions>() == 88);

/// Starts an answer, as cuda_inference_start() does, with options. Pull it with cuda_inference_next_token(), and give it to
/// cuda_inference_free().
///
/// @param model       an open model.
/// @param prompt      UTF-8, NUL-terminated; the text of control tokens in it becomes those tokens. NULL: options->prompt_ids.
/// @param options     must not be NULL.
/// @param error_code  must not be NULL. 2: no memory for the prompt and max_tokens now; a later try may succeed. 5: an
///                    argument or option is at fault, or the prompt has no token, or as many as the context holds.
/// @return the answer; NULL on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_start(
    model: *mut CudaModel,
    prompt: *const c_char,
    options: *const WorkerOrcdStartOptions,
    error_code: *mut c_int,
) -> *mut InferenceResult {
    let start = || {
        let model = MODELS.get(model)?;
        // SAFETY: the caller's struct is NULL or as large as it says; so are the arrays that it names.
        let request = unsafe { request(prompt, sized::read(options)?) }?;
        INFERENCES.insert(model.start(&request)?)
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, ptr::null_mut(), start) }
}

/// # Safety
/// Strings are NULL or NUL-terminated; arrays are NULL or as long as their counts say.
unsafe fn request(prompt: *const c_char, options: WorkerOrcdStartOptions) -> Result<Request> {
    if options.logprobs > 1 || options.reserved != 0 {
        let (logprobs, reserved) = (options.logprobs, options.reserved);
        return Err(Error::parameter(format!("options.logprobs is {logprobs}, reserved {reserved}; 0 or 1, and 0")));
    }
    // SAFETY: the caller vouches for all of them.
    let (prompt, stops) = unsafe { (what(prompt, &options)?, stops(&options)?) };
    let or_one = |value: f32| if value == 0.0 { 1.0 } else { value };
    let sampling = Sampling {
        top_k: options.top_k,
        top_p: or_one(options.top_p),
        min_p: options.min_p,
        repetition: or_one(options.repetition_penalty),
        frequency: options.frequency_penalty,
        presence: options.presence_penalty,
    };
    let WorkerOrcdStartOptions { max_tokens, temperature, seed, .. } = options;
    Request::with(prompt, Options { max_tokens, temperature, seed, sampling, logprobs: options.logprobs == 1, stops })
}

/// # Safety
/// As for [`request`].
unsafe fn what(prompt: *const c_char, options: &WorkerOrcdStartOptions) -> Result<Prompt> {
    if prompt.is_null() {
        // SAFETY: the caller vouches for it.
        let ids = unsafe { array(options.prompt_ids, options.prompt_id_count, "options.prompt_ids") }?;
        return Ok(Prompt::Ids(ids));
    }
    if !options.prompt_ids.is_null() || options.prompt_id_count != 0 {
        return Err(Error::parameter("there is a prompt and options.prompt_ids: one of them must be NULL"));
    }
    // SAFETY: the caller vouches for it.
    Ok(Prompt::Text(unsafe { utf8(prompt, "the prompt") }?.to_owned()))
}

/// # Safety
/// As for [`request`].
unsafe fn stops(options: &WorkerOrcdStartOptions) -> Result<Vec<String>> {
    // SAFETY: the caller vouches for it.
    let pointers = unsafe { array(options.stops, options.stop_count, "options.stops") }?;
    // SAFETY: as above.
    pointers.into_iter().map(|stop| Ok(unsafe { utf8(stop, "a stop string") }?.to_owned())).collect()
}

/// # Safety
/// `pointer` is NULL, or NUL-terminated and unchanged for 'a.
pub(super) unsafe fn utf8<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: the caller vouches for it.
    let text = unsafe { string(pointer, name) }?.to_str();
    text.map_err(|e| Error::parameter(format!("{name} is not UTF-8: {e}")))
}

/// More elements than an array of a host has.
const MOST: usize = 1 << 28;

/// A copy of a host's array.
///
/// # Safety
/// `pointer` is NULL, or can be read for `count` elements.
pub(super) unsafe fn array<T: Copy>(pointer: *const T, count: usize, name: &str) -> Result<Vec<T>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    not_null(pointer.cast_mut(), name)?;
    if count > MOST {
        return Err(Error::parameter(format!("{name} has {count} elements, more than {MOST}")));
    }
    let mut all = Vec::new();
    all.try_reserve_exact(count).map_err(|_| Error::memory(format!("no memory for {count} elements of {name}")))?;
    // SAFETY: the caller vouches for `count` elements, aligned or not.
    all.extend((0..count).map(|i| unsafe { pointer.add(i).read_unaligned() }));
    Ok(all)
}
