//! Random calls from several threads on handles that all of them share: whatever the order, each call gives a code of the
//! contract, none hangs, and afterwards everything still works.

use super::exports::*;
use super::handles::MODELS;
use crate::engine::fake::Setup;
use crate::error::ErrorCode;
use std::ffi::{c_char, c_int};
use std::ptr;
use std::sync::Mutex;

const THREADS: u64 = 6;
const CALLS: usize = 1500;

/// Handles as numbers, open or not: models and answers.
#[derive(Default)]
struct Handles {
    models: Vec<usize>,
    answers: Vec<usize>,
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n.max(1)
    }

    /// One of the list, now and then NULL, or with a bit flipped that makes it no handle of another test either.
    fn pick(&mut self, list: &[usize]) -> usize {
        let handle = list.get(self.below(list.len())).copied().unwrap_or(0);
        match self.below(20) {
            0 => handle ^ (1 << (40 + self.below(24))),
            1 => 0,
            _ => handle,
        }
    }
}

fn model() -> usize {
    let setup = Setup { depth: 2, windows: vec![None], most_pages: 300, ..Setup::default() };
    MODELS.insert::<CudaModel>(setup.load().0).expect("a handle") as usize
}

fn start(handles: &Mutex<Handles>, random: &mut Random) -> c_int {
    let model = random.pick(&handles.lock().expect("no panic").models);
    let prompt = [c"a", c"", c"once upon a time", c"\xff"][random.below(4)];
    let (tokens, temperature) = ([0, 3, 90, 400, 3000][random.below(5)], [0.0, 1.0, f32::NAN][random.below(3)]);
    let mut code = -1;
    // SAFETY: the string is static, the code a local, and handles are checked by the library, here and below.
    let answer =
        unsafe { cuda_inference_start(model as *mut CudaModel, prompt.as_ptr(), tokens, temperature, 1, &mut code) };
    if !answer.is_null() {
        handles.lock().expect("no panic").answers.push(answer as usize);
    }
    code
}

fn pull(answer: usize, random: &mut Random) -> c_int {
    let mut buffer = [0 as c_char; 64];
    let (size, mut index, mut code) = (random.below(65) as c_int, 0, -1);
    for _ in 0..random.below(30) {
        // SAFETY: the buffer is at least as large as is said.
        let more = unsafe {
            cuda_inference_next_token(answer as *mut InferenceResult, buffer.as_mut_ptr(), size, &mut index, &mut code)
        };
        if !more {
            return code;
        }
    }
    if code < 0 { 0 } else { code }
}

/// One random call; the code it gave.
fn call(handles: &Mutex<Handles>, random: &mut Random) -> c_int {
    let (model, answer) = {
        let handles = handles.lock().expect("no panic");
        (random.pick(&handles.models) as *mut CudaModel, random.pick(&handles.answers))
    };
    let mut code = 0;
    match random.below(40) {
        0..14 => return start(handles, random),
        14..30 => return pull(answer, random),
        // SAFETY: handles are checked by the library.
        30..37 => unsafe { cuda_inference_free(answer as *mut InferenceResult) },
        // SAFETY: as above, and the code is a local.
        37 => unsafe {
            cuda_check_vram_residency(model, &mut code);
        },
        // SAFETY: as above.
        38 => unsafe {
            cuda_get_vram_usage(model);
            cuda_destroy(model.cast());
            cuda_inference_free(model.cast());
        },
        _ if random.below(8) == 0 => {
            // SAFETY: as above.
            unsafe { cuda_unload_model(model) };
            handles.lock().expect("no panic").models.push(self::model());
        }
        _ => {}
    }
    code
}

#[test]
fn any_calls_from_any_threads() {
    let handles = Mutex::new(Handles { models: vec![model(), model()], ..Handles::default() });
    std::thread::scope(|s| {
        for thread in 0..THREADS {
            let handles = &handles;
            s.spawn(move || {
                let mut random = Random(thread + 1);
                let known = [ErrorCode::Success, ErrorCode::OutOfMemory, ErrorCode::InvalidParameter];
                for _ in 0..CALLS {
                    let code = call(handles, &mut random);
                    assert!(known.iter().any(|k| *k as c_int == code), "code {code}");
                }
            });
        }
    });
    let Handles { models, answers } = handles.into_inner().expect("no panic");
    let fresh = model();
    let mut code = -1;
    // SAFETY: handles are checked by the library, and the string is static.
    unsafe {
        for model in models {
            cuda_unload_model(model as *mut CudaModel);
        }
        for answer in answers {
            cuda_inference_free(answer as *mut InferenceResult);
        }
        let answer = cuda_inference_start(fresh as *mut CudaModel, c"a".as_ptr(), 5, 0.0, 0, &mut code);
        assert!(!answer.is_null() && code == 0);
        let more = cuda_inference_next_token(answer, ptr::null_mut(), 1, ptr::null_mut(), &mut code);
        assert!(!more && code == ErrorCode::InvalidParameter as c_int);
        cuda_unload_model(fresh as *mut CudaModel);
    }
}
