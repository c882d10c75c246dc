//! What is known of an answer under way, and ending it from another thread.

use super::exports::{InferenceResult, not_null};
use super::guard::coded;
use super::handles::INFERENCES;
use super::sized::{self, Versioned};
use crate::engine::{Drawn, Finish, Inference};
use crate::error::Result;
use std::ffi::c_int;
use std::time::Duration;

/// Why an answer ended.
#[repr(C)]
// The prefix is what C hosts see.
#[allow(clippy::enum_variant_names)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerOrcdFinish {
    /// It has not ended, or not everything before its end was pulled.
    WorkerOrcdFinishNone = 0,
    /// The model ended it.
    WorkerOrcdFinishEndToken = 1,
    /// It came to one of options->stops.
    WorkerOrcdFinishStopString = 2,
    /// It has max_tokens.
    WorkerOrcdFinishLength = 3,
    /// The context is full.
    WorkerOrcdFinishContext = 4,
    /// worker_orcd_cancel().
    WorkerOrcdFinishCancelled = 5,
    /// cuda_inference_next_token() gave a code, and gives it again.
    WorkerOrcdFinishFailed = 6,
}

/// What an answer has come to so far. Set `size` to sizeof before the call; after it, it says how many bytes were filled in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WorkerOrcdStatistics {
    /// sizeof(worker_orcd_statistics).
    pub size: usize,
    /// Tokens of the prompt, special ones included.
    pub prompt_tokens: u64,
    /// Of these, tokens that did not have to be computed, since another prompt began alike.
    pub reused_tokens: u64,
    /// Tokens of the answer whose text was pulled, or is held back as it may be a stop string.
    pub tokens: u64,
    /// Nanoseconds from the start to the first token; 0 before it.
    pub first_token_ns: u64,
    /// Nanoseconds from the start to the last token computed so far, pulled or not; 0 before the first.
    pub last_token_ns: u64,
    /// A worker_orcd_finish.
    pub finish: i32,
    /// 0.
    pub reserved: i32,
}

// SAFETY: repr(C), six words and two halves of one: no padding; numbers only.
unsafe impl Versioned for WorkerOrcdStatistics {
    const NAME: &'static str = "statistics";
    const LEAST: usize = 56;
}

const _: () = assert!(size_of::<WorkerOrcdStatistics>() == 56);

/// What an answer has come to so far. Never waits for the answer.
///
/// @param result      an open answer, whichever function started it.
/// @param statistics  receives it; untouched on failure. Must not be NULL.
/// @param error_code  must not be NULL. 5: the answer is not open, or statistics->size is wrong.
/// @return true on success.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_get_statistics(
    result: *mut InferenceResult,
    statistics: *mut WorkerOrcdStatistics,
    error_code: *mut c_int,
) -> bool {
    let get = || {
        let inference = INFERENCES.get(result)?;
        // SAFETY: the caller's struct is NULL or as large as it says.
        unsafe { sized::write(statistics, &of(&inference)) }.map(|()| true)
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, false, get) }
}

/// Copies out the tokens of an answer, as far as their text was pulled or is held back.
///
/// @param result      an open answer.
/// @param first       the number of the first token wanted; 0 is the answer's first.
/// @param ids         receives the ids; may be NULL.
/// @param logprobs    receives the natural logarithm of the probability that the model gave each token, before options and
///                    temperature; NaN unless the answer was started with options->logprobs. May be NULL.
/// @param capacity    the tokens that ids and logprobs each have room for.
/// @param error_code  must not be NULL. 5: the answer is not open.
/// @return how many tokens there are from the first one wanted on, copied or not; 0 on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_tokens(
    result: *mut InferenceResult,
    first: usize,
    ids: *mut u32,
    logprobs: *mut f32,
    capacity: usize,
    error_code: *mut c_int,
) -> usize {
    let copy = |tokens: &[Drawn]| {
        for (i, token) in tokens.iter().take(capacity).enumerate() {
            // SAFETY: each is NULL, or has room for `capacity` elements, of which this is one.
            unsafe { set(ids, i, token.id) };
            // SAFETY: as above.
            unsafe { set(logprobs, i, token.logprob.unwrap_or(f32::NAN)) };
        }
        tokens.len()
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, 0, || Ok(INFERENCES.get(result)?.tokens(first, copy))) }
}

/// Ends an answer where it is, from any thread. A call that waits for it returns, and it and later ones say that the answer has
/// ended: false with code 0. The answer stays open and remains to be given to cuda_inference_free(); its memory is given
/// back at once. One that has ended already stays as it is.
///
/// @param result      an open answer.
/// @param error_code  must not be NULL. 5: the answer is not open.
/// @return true on success.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_cancel(result: *mut InferenceResult, error_code: *mut c_int) -> bool {
    let cancel = || {
        INFERENCES.get(result)?.interrupt();
        Ok(true)
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, false, cancel) }
}

/// # Safety
/// `pointer` is NULL, or has room for more than `index` elements.
unsafe fn set<T>(pointer: *mut T, index: usize, value: T) {
    if not_null(pointer, "").is_ok() {
        // SAFETY: not NULL, so the caller vouches for it.
        unsafe { pointer.add(index).write_unaligned(value) };
    }
}

fn of(inference: &Inference) -> WorkerOrcdStatistics {
    let statistics = inference.statistics();
    let ns = |time: Option<Duration>| time.map_or(0, |t| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX));
    WorkerOrcdStatistics {
        size: size_of::<WorkerOrcdStatistics>(),
        prompt_tokens: statistics.prompt_tokens as u64,
        reused_tokens: statistics.reused_tokens as u64,
        tokens: statistics.tokens as u64,
        first_token_ns: ns(statistics.until_first),
        last_token_ns: ns(statistics.until_last),
        finish: finish(inference.finish()) as i32,
        reserved: 0,
    }
}

fn finish(end: Option<Result<Finish>>) -> WorkerOrcdFinish {
    use WorkerOrcdFinish as F;
    match end {
        None => F::WorkerOrcdFinishNone,
        Some(Ok(Finish::EndToken)) => F::WorkerOrcdFinishEndToken,
        Some(Ok(Finish::StopString)) => F::WorkerOrcdFinishStopString,
        Some(Ok(Finish::MaxTokens)) => F::WorkerOrcdFinishLength,
        Some(Ok(Finish::Context)) => F::WorkerOrcdFinishContext,
        Some(Ok(Finish::Cancelled)) => F::WorkerOrcdFinishCancelled,
        Some(Err(_)) => F::WorkerOrcdFinishFailed,
    }
}
