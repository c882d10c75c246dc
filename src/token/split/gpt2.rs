//! GPT-2's pattern, and the one of files that set every digit apart first.
//!
//! ```text
//! 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```

use super::class::Class;
use super::cursor::Cursor;

pub fn piece_end(text: &str, at: usize) -> usize {
    let mut here = Cursor::new(text, at);
    if here.skip_contraction(false) {
        return here.at;
    }
    let mut after = here;
    if after.peek() == Some(' ') {
        after.step();
    }
    let found = match after.class() {
        None => false,
        Some(class) if class.is_space() => false,
        Some(Class::Number) => after.skip_classes(|c| c == Class::Number),
        Some(class) if class.is_letter() => after.skip_classes(Class::is_letter),
        Some(_) => after.skip_classes(|c| matches!(c, Class::Other | Class::Mark)),
    };
    if found {
        return after.at;
    }
    here.skip_spaces();
    here.at
}

/// What is between two number characters is split as if it were a text of its own: to the white space
/// before a number, nothing follows.
pub fn piece_end_digits_apart(text: &str, at: usize) -> usize {
    let mut here = Cursor::new(text, at);
    if here.skip(1, |c| Class::of(c) == Class::Number) {
        return here.at;
    }
    if here.skip_classes(Class::is_space) && here.class() == Some(Class::Number) {
        return here.at;
    }
    piece_end(text, at)
}
