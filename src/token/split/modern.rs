//! The patterns that followed cl100k's, which differ in four points.
//!
//! ```text
//! (?i:'s|'t|'re|'ve|'m|'ll|'d)             contractions, here or at the end of a word
//! [^\r\n\p{L}\p{N}]?\p{L}+                 a word and one character before it
//! \p{N}{1,3}                               digits
//!  ?[^\s\p{L}\p{N}]+[\r\n]*                symbols, and the ends of line after them
//! \s*[\r\n]+ | \s+(?!\S) | \s+             white space
//! ```

use super::class::Class;
use super::cursor::Cursor;

/// Where a contraction may stand.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contractions {
    Alone,
    AfterWord,
    Nowhere,
}

/// What a word is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Words {
    /// `\p{L}+`
    Letters,
    /// `[\p{L}\p{M}]+`
    LettersAndMarks,
    /// Capitals, then small letters; either may be missing, and marks and caseless letters are both.
    Cased,
}

pub struct Modern {
    contractions: Contractions,
    words: Words,
    most_digits: usize,
    /// A slash may stand among the ends of line after symbols.
    slash_ends_line: bool,
}

pub const LLAMA3: Modern =
    Modern { contractions: Contractions::Alone, words: Words::Letters, most_digits: 3, slash_ends_line: false };

pub const QWEN2: Modern = Modern { most_digits: 1, ..LLAMA3 };

pub const QWEN35: Modern = Modern { words: Words::LettersAndMarks, ..QWEN2 };

pub const GPT4O: Modern =
    Modern { contractions: Contractions::AfterWord, words: Words::Cased, most_digits: 3, slash_ends_line: true };

pub const TEKKEN: Modern = Modern { contractions: Contractions::Nowhere, most_digits: 1, ..GPT4O };

impl Modern {
    pub fn piece_end(&self, text: &str, at: usize) -> usize {
        let mut here = Cursor::new(text, at);
        if self.contractions == Contractions::Alone && here.skip_contraction(true) {
            return here.at;
        }
        if self.skip_word(&mut here)
            || here.skip(self.most_digits, |c| Class::of(c) == Class::Number)
            || self.skip_symbols(&mut here)
            || here.skip_lines()
        {
            return here.at;
        }
        here.skip_spaces();
        here.at
    }

    /// A word, with one character before it that is no letter, number or newline.
    fn skip_word(&self, here: &mut Cursor<'_>) -> bool {
        let found = match self.words {
            Words::Letters => skip_led(here, |c| c.skip_classes(Class::is_letter)),
            Words::LettersAndMarks => {
                skip_led(here, |c| c.skip_classes(|class| class.is_letter() || class == Class::Mark))
            }
            Words::Cased => skip_led(here, |c| skip_cased(c, true)) || skip_led(here, |c| skip_cased(c, false)),
        };
        if found && self.contractions == Contractions::AfterWord {
            here.skip_contraction(true);
        }
        found
    }

    fn skip_symbols(&self, here: &mut Cursor<'_>) -> bool {
        let mut inner = *here;
        if inner.peek() == Some(' ') {
            inner.step();
        }
        let marks = self.words != Words::LettersAndMarks;
        if !inner.skip_classes(|c| c == Class::Other || (marks && c == Class::Mark)) {
            return false;
        }
        let slash = self.slash_ends_line;
        inner.skip(usize::MAX, |c| matches!(c, '\r' | '\n') || (slash && c == '/'));
        *here = inner;
        true
    }
}

/// `[^\r\n\p{L}\p{N}]?` and then `word`. The character before the word may be a mark, in which case it
/// may also be the word's own first.
fn skip_led(here: &mut Cursor<'_>, word: impl Fn(&mut Cursor<'_>) -> bool) -> bool {
    let start = *here;
    if matches!(here.class(), Some(Class::Space | Class::Other | Class::Mark)) {
        here.step();
        if word(here) {
            return true;
        }
        *here = start;
    }
    word(here) || {
        *here = start;
        false
    }
}

/// With `small`, `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`; without,
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*` for a text that the first does not match.
///
/// The first run takes all it can. If no small letter follows, it gives back as far as its last
/// caseless character, with which the word then ends.
fn skip_cased(here: &mut Cursor<'_>, small: bool) -> bool {
    let caseless = |c| matches!(c, Class::Caseless | Class::Mark);
    let mut end_of_caseless = None;
    let start = here.at;
    while let Some(class) = here.class().filter(|&c| c == Class::Upper || caseless(c)) {
        here.step();
        if caseless(class) {
            end_of_caseless = Some(here.at);
        }
    }
    if here.skip_classes(|c| c == Class::Lower || caseless(c)) {
        return true;
    }
    if let Some(end) = end_of_caseless {
        here.at = end;
        return true;
    }
    !small && here.at > start
}
