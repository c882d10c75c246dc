//! What a model's file says of it.

use super::exports::CudaModel;
use super::guard::coded;
use super::handles::MODELS;
use super::sized::{self, Versioned};
use super::text::copy_out;
use crate::engine::Facts;
use crate::error::Error;
use std::ffi::{c_char, c_int};

/// What a file says of its model. Set `size` to sizeof before the call; after it, it says how many bytes were filled in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WorkerOrcdModelFacts {
    /// sizeof(worker_orcd_model_facts).
    pub size: usize,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Tokens that an answer and its prompt may have together.
    pub context: u64,
    /// Tokens that the tokenizer knows.
    pub vocabulary: u64,
    /// The token that begins a text; -1 if the file names none.
    pub bos: i64,
    /// The token that ends a text; -1 if the file names none.
    pub eos: i64,
    /// The architecture, such as "llama"; NUL-terminated.
    pub family: [c_char; 32],
    /// The mixture of types that the file names, such as "Q4_K_M", or the type of most of its numbers; NUL-terminated.
    pub quantisation: [c_char; 32],
}

// SAFETY: repr(C), six words and two arrays that are multiples of one: no padding; numbers only.
unsafe impl Versioned for WorkerOrcdModelFacts {
    const NAME: &'static str = "facts";
    const LEAST: usize = 112;
}

const _: () = assert!(size_of::<WorkerOrcdModelFacts>() == 112);

/// What a file says of its model.
///
/// @param model       an open model.
/// @param facts       receives it; untouched on failure. Must not be NULL.
/// @param error_code  must not be NULL. 5: the model is not open, or facts->size is wrong.
/// @return true on success.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_get_model_facts(
    model: *mut CudaModel,
    facts: *mut WorkerOrcdModelFacts,
    error_code: *mut c_int,
) -> bool {
    let get = || {
        let model = MODELS.get(model)?;
        // SAFETY: the caller's struct is NULL or as large as it says.
        unsafe { sized::write(facts, &of(model.facts())) }.map(|()| true)
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, false, get) }
}

/// The text of a model's chat template, as the file has it. The library does not run it: hosts write their prompts themselves.
///
/// @param model       an open model.
/// @param buffer      receives the text, cut to fit at the end of a character, with a NUL; may be NULL.
/// @param size        the bytes that buffer has room for, the NUL included; may be 0.
/// @param error_code  must not be NULL. 5: the model is not open.
/// @return the whole text's length in bytes without the NUL; 0 if there is none, and on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn worker_orcd_chat_template(
    model: *mut CudaModel,
    buffer: *mut c_char,
    size: usize,
    error_code: *mut c_int,
) -> usize {
    let get = || {
        let model = MODELS.get(model)?;
        let template = model.facts().chat_template.as_deref().unwrap_or_default();
        if template.contains('\0') {
            return Err(Error::load("the chat template holds a NUL"));
        }
        // SAFETY: the caller's buffer is NULL or has room for `size` bytes.
        Ok(unsafe { copy_out(template, buffer, size) })
    };
    // SAFETY: the caller's error_code is NULL or can be written.
    unsafe { coded(error_code, 0, get) }
}

fn of(facts: &Facts) -> WorkerOrcdModelFacts {
    let token = |id: Option<u32>| id.map_or(-1, i64::from);
    WorkerOrcdModelFacts {
        size: size_of::<WorkerOrcdModelFacts>(),
        parameters: facts.parameters,
        context: facts.context as u64,
        vocabulary: facts.vocabulary as u64,
        bos: token(facts.bos),
        eos: token(facts.eos),
        family: fixed(&facts.family),
        quantisation: fixed(&facts.quantisation),
    }
}

/// A short name with at least one NUL behind it.
fn fixed(name: &str) -> [c_char; 32] {
    let mut all = [0; 32];
    let (last, room) = (all.len() - 1, &mut all);
    room[..last].iter_mut().zip(name.bytes()).for_each(|(c, byte)| *c = byte as c_char);
    all
}
