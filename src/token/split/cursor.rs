//! A place in a text that is being split, and the parts that all split patterns share.
//!
//! Every method looks at each character a constant number of times, so that a scan is linear whatever
//! the text: there is no backtracking further than one run of characters.

use super::class::Class;

#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    text: &'a str,
    /// Byte offset, always on a character.
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str, at: usize) -> Self {
        Self { text, at }
    }

    pub fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    pub fn class(&self) -> Option<Class> {
        self.peek().map(Class::of)
    }

    /// Steps over one character.
    pub fn step(&mut self) {
        self.at += self.peek().map_or(0, char::len_utf8);
    }

    /// Steps over characters while `keep` holds, `limit` at most. True if there was one.
    pub fn skip(&mut self, limit: usize, keep: impl Fn(char) -> bool) -> bool {
        let rest = &self.text[self.at..];
        let bytes: usize = rest.chars().take(limit).take_while(|&c| keep(c)).map(char::len_utf8).sum();
        self.at += bytes;
        bytes > 0
    }

    /// Steps over a run of classes. True if there was one.
    pub fn skip_classes(&mut self, keep: impl Fn(Class) -> bool) -> bool {
        self.skip(usize::MAX, |c| keep(Class::of(c)))
    }

    /// `'s|'t|'re|'ve|'m|'ll|'d`, in either case if `any_case`. True if there was one.
    pub fn skip_contraction(&mut self, any_case: bool) -> bool {
        let mut chars = self.text[self.at..].chars();
        if chars.next() != Some('\'') {
            return false;
        }
        let mut next = || {
            let c = chars.next().unwrap_or('\0');
            let folded = match c {
                // The long s is an s to a pattern that ignores case.
                '\u{17F}' => 's',
                _ => c.to_ascii_lowercase(),
            };
            (c, if any_case { folded } else { c })
        };
        let (first_char, first) = next();
        let bytes = match first {
            's' | 't' | 'm' | 'd' => first_char.len_utf8(),
            'r' | 'v' if next().1 == 'e' => 2,
            'l' if next().1 == 'l' => 2,
            _ => return false,
        };
        self.at += 1 + bytes;
        true
    }

    /// `\s+(?!\S)|\s+`: a run of white space but for its last character, which goes with what follows
    /// it; the whole run at the end of the text, or if it is one character.
    pub fn skip_spaces(&mut self) {
        let start = self.at;
        self.skip_classes(Class::is_space);
        if self.at < self.text.len() {
            let run = &self.text[start..self.at];
            let last = run.chars().next_back().map_or(0, char::len_utf8);
            if last < run.len() {
                self.at -= last;
            }
        }
    }

    /// `\s*[\r\n]+`: a run of white space up to its last newline. False, with nothing skipped, if it has
    /// none.
    pub fn skip_lines(&mut self) -> bool {
        let start = self.at;
        self.skip_classes(Class::is_space);
        let last = self.text[start..self.at].rfind(['\r', '\n']);
        self.at = start + last.map_or(0, |i| i + 1);
        last.is_some()
    }
}
