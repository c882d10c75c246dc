//! The exported functions, called as a C host may call them: rightly and wrongly.

use super::exports::*;
use super::ext::{worker_orcd_last_error, worker_orcd_version};
use super::guard::{coded, plain};
use super::handles::MODELS;
use crate::engine::fake::Setup;
use crate::error::ErrorCode;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

const SUCCESS: c_int = 0;
const INVALID: c_int = ErrorCode::InvalidParameter as c_int;
/// What an output holds that was not written.
const UNTOUCHED: c_int = -77;

fn model() -> *mut CudaModel {
    MODELS.insert(Setup::default().load().0).expect("a handle")
}

fn start(model: *mut CudaModel, prompt: &CStr, max_tokens: c_int, temperature: f32) -> (*mut InferenceResult, c_int) {
    let mut code = UNTOUCHED;
    // SAFETY: every pointer is to a local or is a handle, which the library checks.
    let result = unsafe { cuda_inference_start(model, prompt.as_ptr(), max_tokens, temperature, 1, &mut code) };
    (result, code)
}

/// One pull into `size` bytes: what it returned, the text, the index and the code.
fn pull(result: *mut InferenceResult, size: usize) -> (bool, String, c_int, c_int) {
    let mut buffer = vec![b'x' as c_char; size + 1];
    let (mut index, mut code) = (UNTOUCHED, UNTOUCHED);
    // SAFETY: as above; the buffer is larger than what the library is told.
    let more = unsafe { cuda_inference_next_token(result, buffer.as_mut_ptr(), size as c_int, &mut index, &mut code) };
    assert_eq!(buffer[size], b'x' as c_char, "nothing is written behind the buffer");
    let text = buffer.iter().take_while(|b| **b != 0 && more).map(|b| *b as u8).collect();
    assert!(more || buffer.iter().all(|b| *b == b'x' as c_char), "untouched unless there is a piece");
    (more, String::from_utf8(text).expect("whole UTF-8"), index, code)
}

fn read(result: *mut InferenceResult) -> String {
    let mut text = String::new();
    for expected in 0.. {
        let (more, piece, index, code) = pull(result, 256);
        assert_eq!(code, SUCCESS);
        if !more {
            assert_eq!(index, UNTOUCHED);
            break;
        }
        assert!(!piece.is_empty());
        assert_eq!(index, expected);
        text.push_str(&piece);
    }
    text
}

fn last_error() -> String {
    let mut buffer = [0u8; 400];
    // SAFETY: the buffer has the size that is said.
    let bytes = unsafe { worker_orcd_last_error(buffer.as_mut_ptr().cast(), buffer.len()) };
    String::from_utf8_lossy(&buffer[..bytes.min(399)]).into_owned()
}

#[test]
fn an_answer_from_start_to_end() {
    let model = model();
    let (result, code) = start(model, c"once upon a time", 60, 0.5);
    assert_eq!(code, SUCCESS);
    let text = read(result);
    assert!(text.len() > 10);
    for _ in 0..3 {
        assert_eq!(pull(result, 256), (false, String::new(), UNTOUCHED, SUCCESS));
    }
    // SAFETY: handles are checked by the library.
    unsafe { cuda_inference_free(result) };
    assert_eq!(pull(result, 256).3, INVALID);

    let (again, _) = start(model, c"once upon a time", 60, 0.5);
    let mut small = String::new();
    loop {
        let (more, piece, _, code) = pull(again, 1 + small.len() % 4);
        small.push_str(&piece);
        match (more, code) {
            (true, SUCCESS) => {}
            (false, SUCCESS) => break,
            _ => {
                assert_eq!(code, INVALID);
                assert!(last_error().contains("buffer"), "{}", last_error());
                small.push_str(&pull(again, 256).1);
            }
        }
    }
    assert_eq!(small, text);
    // SAFETY: handles are checked by the library, and buffers are as large as is said.
    unsafe { cuda_unload_model(model) };
    assert_eq!(pull(again, 256), (false, String::new(), UNTOUCHED, SUCCESS), "an end that was told stays");
    // SAFETY: handles are checked by the library, and buffers are as large as is said.
    unsafe { cuda_inference_free(again) };
}

#[test]
fn an_unload_ends_open_answers() {
    let model = model();
    let (result, _) = start(model, c"open", 2000, 0.0);
    // SAFETY: handles are checked by the library.
    unsafe {
        assert!(cuda_get_vram_usage(model) > 0);
        assert_eq!(cuda_get_vram_usage(model), cuda_model_get_vram_usage(model));
        cuda_unload_model(model);
        assert_eq!(cuda_get_vram_usage(model), 0);
        cuda_unload_model(model);
    }
    for _ in 0..2 {
        assert_eq!(pull(result, 256).3, INVALID);
    }
    assert!(last_error().contains("unloaded"), "{}", last_error());
    assert_eq!(start(model, c"late", 5, 0.0).1, INVALID);
    // SAFETY: as above.
    unsafe {
        cuda_inference_free(result);
        cuda_inference_free(result);
    }
}

#[test]
fn arguments_out_of_range_are_named() {
    let model = model();
    for (max_tokens, temperature, word) in [
        (0, 0.0, "max_tokens"),
        (-1, 0.0, "max_tokens"),
        (c_int::MIN, 0.0, "max_tokens"),
        (2049, 0.0, "max_tokens"),
        (5, -0.5, "temperature"),
        (5, 2.5, "temperature"),
        (5, f32::NAN, "temperature"),
    ] {
        let (result, code) = start(model, c"a", max_tokens, temperature);
        assert!(result.is_null() && code == INVALID);
        assert!(last_error().contains(word), "{}", last_error());
    }
    assert_eq!(start(model, c"", 5, 0.0).1, INVALID);
    assert_eq!(start(model, c"\xff\xfe", 5, 0.0).1, INVALID);
    assert!(last_error().contains("UTF-8"));
    let (result, _) = start(model, c"a", 5, 0.0);
    let mut code = UNTOUCHED;
    let mut byte = 0;
    for size in [0, -1, c_int::MIN] {
        // SAFETY: nothing can be written into such a buffer.
        assert!(!unsafe { cuda_inference_next_token(result, &mut byte, size, ptr::null_mut(), &mut code) });
        assert_eq!(code, INVALID);
    }
    let mut buffer = [0 as c_char; 256];
    // SAFETY: the index may be NULL, and 256 bytes are there.
    assert!(unsafe { cuda_inference_next_token(result, buffer.as_mut_ptr(), 256, ptr::null_mut(), &mut code) });
    // SAFETY: handles are checked by the library.
    unsafe {
        cuda_inference_free(result);
        cuda_unload_model(model);
    }
}

#[test]
fn handles_that_are_not_open_or_of_another_kind() {
    let model = model();
    let (result, _) = start(model, c"a", 5, 0.0);
    let wrong: [*mut c_void; 7] = [
        ptr::null_mut(),
        16 as *mut c_void,
        usize::MAX as *mut c_void,
        (1usize << 63) as *mut c_void,
        (model as usize ^ (1 << 44)) as *mut c_void,
        (&raw const model).cast_mut().cast(),
        c"text".as_ptr().cast_mut().cast(),
    ];
    for handle in wrong.into_iter().chain([result.cast()]) {
        refuse_model(handle.cast());
    }
    for handle in wrong.into_iter().chain([model.cast()]) {
        refuse_context(handle.cast());
        assert_eq!(pull(handle.cast(), 16).3, INVALID);
        // SAFETY: handles are checked by the library.
        unsafe { cuda_inference_free(handle.cast()) };
    }
    assert_eq!(read(result).is_empty(), read_again_is_empty(model));
    // SAFETY: handles are checked by the library, and buffers are as large as is said.
    unsafe {
        cuda_inference_free(result);
        cuda_unload_model(model);
    }
}

/// Whether the same question has no text; shows that model and answer were unharmed.
fn read_again_is_empty(model: *mut CudaModel) -> bool {
    let (result, code) = start(model, c"a", 5, 0.0);
    assert_eq!(code, SUCCESS);
    let empty = read(result).is_empty();
    // SAFETY: handles are checked by the library.
    unsafe { cuda_inference_free(result) };
    empty
}

fn refuse_model(handle: *mut CudaModel) {
    let mut code = UNTOUCHED;
    assert_eq!(start(handle, c"a", 5, 0.0).1, INVALID);
    // SAFETY: handles are checked by the library.
    unsafe {
        assert_eq!(cuda_get_vram_usage(handle), 0);
        assert_eq!(cuda_model_get_vram_usage(handle), 0);
        assert!(!cuda_check_vram_residency(handle, &mut code) && code == INVALID);
        cuda_unload_model(handle);
    }
}

fn refuse_context(handle: *mut CudaContext) {
    let (mut code, mut bytes) = (UNTOUCHED, 77);
    // SAFETY: handles are checked by the library.
    unsafe {
        assert_eq!(cuda_get_process_vram_usage(handle), 0);
        assert!(!cuda_check_device_health(handle, &mut code) && code == INVALID);
        code = UNTOUCHED;
        assert!(cuda_load_model(handle, c"file".as_ptr(), &mut bytes, &mut code).is_null() && code == INVALID);
        cuda_destroy(handle);
    }
    assert_eq!(bytes, 77);
}

#[test]
fn without_an_error_code_nothing_is_done() {
    let none: *mut c_int = ptr::null_mut();
    let model = model();
    let (result, _) = start(model, c"a", 50, 0.0);
    let (mut bytes, mut buffer) = (77, [0 as c_char; 256]);
    // SAFETY: every pointer is NULL, a local or a handle.
    unsafe {
        assert!(cuda_init(0, none).is_null());
        assert!(cuda_load_model(ptr::null_mut(), c"file".as_ptr(), &mut bytes, none).is_null());
        assert!(cuda_inference_start(model, c"a".as_ptr(), 5, 0.0, 0, none).is_null());
        assert!(!cuda_inference_next_token(result, buffer.as_mut_ptr(), 256, ptr::null_mut(), none));
        assert!(!cuda_check_vram_residency(model, none));
        assert!(!cuda_check_device_health(ptr::null_mut(), none));
        assert_eq!((bytes, buffer[0]), (77, 0));
        assert_eq!(pull(result, 256).2, 0, "no piece was used up");
        cuda_inference_free(result);
        cuda_unload_model(model);
    }
}

#[test]
fn null_strings_and_buffers() {
    let model = model();
    let (result, _) = start(model, c"a", 5, 0.0);
    let mut code = UNTOUCHED;
    // SAFETY: every pointer is NULL, a local or a handle.
    unsafe {
        assert!(cuda_inference_start(model, ptr::null(), 5, 0.0, 0, &mut code).is_null() && code == INVALID);
        code = UNTOUCHED;
        let more = cuda_inference_next_token(result, ptr::null_mut(), 256, ptr::null_mut(), &mut code);
        assert!(!more && code == INVALID);
        cuda_inference_free(result);
        cuda_unload_model(model);
    }
}

#[test]
fn pulls_of_two_threads_take_turns() {
    let model = model();
    let want = {
        let (result, _) = start(model, c"shared", 200, 0.0);
        read(result)
    };
    let (result, _) = start(model, c"shared", 200, 0.0);
    let result = result as usize;
    let mut pieces: Vec<(c_int, String)> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                s.spawn(move || {
                    let mut mine = Vec::new();
                    loop {
                        let (more, piece, index, code) = pull(result as *mut InferenceResult, 256);
                        assert_eq!(code, SUCCESS);
                        if !more {
                            return mine;
                        }
                        mine.push((index, piece));
                    }
                })
            })
            .collect();
        threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
    });
    pieces.sort();
    assert!(pieces.iter().enumerate().all(|(n, (index, _))| n as c_int == *index));
    assert_eq!(pieces.into_iter().map(|p| p.1).collect::<String>(), want);
    // SAFETY: handles are checked by the library.
    unsafe { cuda_unload_model(model) };
}

#[test]
fn a_panic_becomes_a_code() {
    let mut code = UNTOUCHED;
    // SAFETY: a local.
    let value = unsafe { coded(&mut code, 5, || panic!("on purpose {}", 1)) };
    assert_eq!((value, code), (5, ErrorCode::Unknown as c_int));
    assert!(last_error().contains("on purpose 1"), "{}", last_error());
    assert_eq!(plain(3, || panic!("again")), 3);
    assert!(last_error().contains("again"));
}

#[test]
fn the_reason_is_cut_at_a_character() {
    plain((), || Err(crate::error::Error::parameter("aé")));
    let mut buffer = [b'x'; 8];
    for (size, want) in [(0, "xxxx"), (1, "\0xxx"), (2, "a\0xx"), (3, "a\0xx"), (4, "aé\0")] {
        buffer.fill(b'x');
        // SAFETY: the buffer has at least the size that is said.
        assert_eq!(unsafe { worker_orcd_last_error(buffer.as_mut_ptr().cast(), size) }, 3);
        assert_eq!(&buffer[..4], want.as_bytes(), "{size}");
    }
    // SAFETY: NULL is allowed.
    assert_eq!(unsafe { worker_orcd_last_error(ptr::null_mut(), 9) }, 3);
    let other = std::thread::spawn(last_error).join().expect("no panic");
    assert_eq!(other, "", "each thread has its own");
}

#[test]
fn every_code_has_its_words() {
    let say = |code| {
        // SAFETY: the library gives static strings.
        unsafe { CStr::from_ptr(cuda_error_message(code)) }.to_str().expect("ASCII")
    };
    let known = [
        (0, "Success"),
        (1, "Invalid GPU device ID"),
        (2, "Insufficient VRAM"),
        (3, "Model loading failed"),
        (4, "Inference execution failed"),
        (5, "Invalid function parameter"),
        (6, "CUDA kernel launch failed"),
        (7, "VRAM residency check failed"),
        (8, "No CUDA devices found"),
        (99, "Unknown error"),
    ];
    for code in (-300..300).chain([c_int::MIN, c_int::MAX]) {
        let want = known.iter().find(|k| k.0 == code).map_or("Unrecognized error code", |k| k.1);
        assert_eq!(say(code), want, "{code}");
    }
    // SAFETY: as above.
    let version = unsafe { CStr::from_ptr(worker_orcd_version()) };
    assert_eq!(version.to_str(), Ok(env!("CARGO_PKG_VERSION")));
}
