//! The functions beyond the 14, called as a C host may call them.

use super::answer::*;
use super::exports::*;
use super::handles::MODELS;
use super::load::{WorkerOrcdLoadOptions, worker_orcd_load};
use super::logs::worker_orcd_set_log;
use super::start::*;
use crate::engine::fake::Setup;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

const INVALID: c_int = 5;

fn model() -> *mut CudaModel {
    MODELS.insert(Setup::default().load().0).expect("a handle")
}

fn options() -> WorkerOrcdStartOptions {
    // SAFETY: any bytes are options.
    let zero: WorkerOrcdStartOptions = unsafe { std::mem::zeroed() };
    WorkerOrcdStartOptions { size: size_of::<WorkerOrcdStartOptions>(), max_tokens: 20, ..zero }
}

fn start(model: *mut CudaModel, options: *const WorkerOrcdStartOptions) -> (*mut InferenceResult, c_int) {
    let mut code = -77;
    // SAFETY: every pointer is to a local or is a handle.
    let result = unsafe { worker_orcd_start(model, c"abc".as_ptr(), options, &mut code) };
    assert_eq!(result.is_null(), code != 0);
    (result, code)
}

/// Options with more behind them than this version knows.
#[repr(C)]
struct Newer {
    options: WorkerOrcdStartOptions,
    more: [u8; 9],
}

#[test]
fn a_struct_may_be_newer_but_not_say_more() {
    let model = model();
    for (size, last, code) in [(88, 1, 0), (97, 0, 0), (97, 1, INVALID), (96, 1, 0), (87, 0, INVALID), (0, 0, INVALID)]
    {
        let mut newer = Newer { options: options(), more: [0; 9] };
        newer.options.size = size;
        newer.more[8] = last;
        assert_eq!(start(model, &newer.options).1, code, "{size} {last}");
    }
    for size in [4097, usize::MAX] {
        assert_eq!(start(model, &WorkerOrcdStartOptions { size, ..options() }).1, INVALID);
    }
    assert_eq!(start(model, ptr::null()).1, INVALID);
    // SAFETY: handles are checked by the library.
    unsafe { cuda_unload_model(model) };
}

#[test]
fn a_struct_need_not_be_aligned() {
    let model = model();
    let mut bytes = [0u8; 89];
    // SAFETY: one byte further there is room for the options.
    unsafe { bytes.as_mut_ptr().add(1).cast::<WorkerOrcdStartOptions>().write_unaligned(options()) };
    // SAFETY: as above.
    assert_eq!(start(model, unsafe { bytes.as_ptr().add(1) }.cast()).1, 0);
    // SAFETY: handles are checked by the library.
    unsafe { cuda_unload_model(model) };
}

#[test]
fn wrong_options_are_refused() {
    let model = model();
    let wrong: [fn(&mut WorkerOrcdStartOptions); 18] = [
        |o| o.temperature = f32::NAN,
        |o| o.temperature = 2.5,
        |o| o.temperature = -0.5,
        |o| o.top_p = 1.5,
        |o| o.top_p = -0.1,
        |o| o.top_p = f32::NAN,
        |o| o.min_p = 1.5,
        |o| o.min_p = f32::NAN,
        |o| o.repetition_penalty = -1.0,
        |o| o.repetition_penalty = f32::INFINITY,
        |o| o.frequency_penalty = 10.5,
        |o| o.presence_penalty = f32::NAN,
        |o| o.logprobs = 2,
        |o| o.reserved = 1,
        |o| o.prompt_id_count = 1,
        |o| o.prompt_ids = [1].as_ptr(),
        |o| o.stop_count = 1,
        |o| o.stop_count = usize::MAX,
    ];
    for (i, spoil) in wrong.iter().enumerate() {
        let mut spoilt = options();
        spoil(&mut spoilt);
        assert_eq!(start(model, &spoilt).1, INVALID, "{i}");
    }
    let null: *const c_char = ptr::null();
    for stop in [null, c"".as_ptr(), c"\xff".as_ptr()] {
        assert_eq!(start(model, &WorkerOrcdStartOptions { stops: &stop, stop_count: 1, ..options() }).1, INVALID);
    }
    // SAFETY: handles are checked by the library.
    unsafe { cuda_unload_model(model) };
}

#[test]
fn statistics_of_a_shorter_and_a_longer_struct() {
    let model = model();
    let (result, _) = start(model, &options());
    let get = |statistics: *mut WorkerOrcdStatistics| {
        let mut code = -77;
        // SAFETY: a local or NULL, and a handle.
        let done = unsafe { worker_orcd_get_statistics(result, statistics, &mut code) };
        assert_eq!(done, code == 0);
        code
    };
    let mut room = [[u64::MAX; 8]; 2];
    for (size, code, written) in [(56, 0, 7), (64, 0, 7), (55, INVALID, 0), (usize::MAX, INVALID, 0)] {
        room[0] = [u64::MAX; 8];
        room[0][0] = size as u64;
        assert_eq!(get(room[0].as_mut_ptr().cast()), code);
        assert_eq!(room[0][1..].iter().filter(|w| **w != u64::MAX).count(), (written as usize).saturating_sub(1));
        assert_eq!(room[0][0], if code == 0 { 56 } else { size as u64 });
    }
    assert_eq!(get(ptr::null_mut()), INVALID);
    // SAFETY: handles are checked by the library.
    unsafe { cuda_unload_model(model) };
}

#[test]
fn load_options_are_checked_before_the_file() {
    let mut code = -77;
    // SAFETY: any bytes are options; handles are checked by the library.
    unsafe {
        let zero: WorkerOrcdLoadOptions = std::mem::zeroed();
        let (path, none) = (c"no such file".as_ptr(), ptr::null_mut());
        assert!(worker_orcd_load(none, path, &zero, ptr::null_mut(), &mut code).is_null());
        assert_eq!(code, INVALID);
    }
}

extern "C" fn silent(_: *mut c_void, _: c_int, _: *const c_char) {}

#[test]
fn the_log_wants_a_level_that_there_is() {
    let mut code = -77;
    for level in [-1, 5, c_int::MAX, c_int::MIN] {
        // SAFETY: the callback does nothing.
        assert!(!unsafe { worker_orcd_set_log(Some(silent), ptr::null_mut(), level, &mut code) });
        assert_eq!(code, INVALID);
    }
    // SAFETY: no callback at all.
    assert!(unsafe { worker_orcd_set_log(None, ptr::null_mut(), 0, &mut code) });
}
