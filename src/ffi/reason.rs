//! The reason of the last failure, kept per thread as `errno` is: a success leaves it as it was.

use crate::error::Error;
use std::cell::RefCell;

thread_local! {
    static REASON: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps an error's words. A thread that is past the end of its locals keeps none.
pub fn keep(error: &Error) {
    let _ = REASON.try_with(|reason| {
        let mut reason = reason.borrow_mut();
        reason.clear();
        reason.push_str(error.reason());
    });
}

/// Gives the words to `read`; the empty string if nothing has failed on this thread.
pub fn with<T>(read: impl Fn(&str) -> T) -> T {
    let kept = REASON.try_with(|reason| read(&reason.borrow()));
    kept.unwrap_or_else(|_| read(""))
}
