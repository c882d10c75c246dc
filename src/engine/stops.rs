//! Strings that end an answer, found in its text wherever tokens and code points are cut.
//!
//! Text that may be the beginning of such a string is held back until it cannot be one any more. What is found is as if the
//! text came character by character: of several strings the one that is complete first, of these the longest.

use crate::error::{Error, Result};

/// The most strings of one answer, and the most bytes of each.
pub const MAX_STOPS: usize = 64;
pub const MAX_STOP_BYTES: usize = 1024;

/// Text in, text out, until a stop string is complete.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    strings: Vec<String>,
    held: String,
}

impl Stops {
    pub fn new(strings: Vec<String>) -> Result<Self> {
        if strings.len() > MAX_STOPS {
            return Err(Error::parameter(format!("{} stop strings, more than {MAX_STOPS}", strings.len())));
        }
        for (i, string) in strings.iter().enumerate() {
            if !(1..=MAX_STOP_BYTES).contains(&string.len()) {
                let bytes = string.len();
                return Err(Error::parameter(format!("stop string {i} has {bytes} bytes, not 1 to {MAX_STOP_BYTES}")));
            }
        }
        Ok(Self { strings, held: String::new() })
    }

    /// Takes more text; gives what can be passed on, and whether a stop string is complete: then it and what follows are gone.
    pub fn push(&mut self, text: &str) -> (Option<String>, bool) {
        if self.strings.is_empty() {
            return (some(text.to_owned()), false);
        }
        let mut all = std::mem::take(&mut self.held);
        all.push_str(text);
        if let Some(start) = self.find(&all) {
            all.truncate(start);
            return (some(all), true);
        }
        let held_bytes = self.held_bytes(&all);
        self.held = all.split_off(all.len() - held_bytes);
        (some(all), false)
    }

    /// What was held back, when no more text comes.
    pub fn finish(&mut self) -> Option<String> {
        some(std::mem::take(&mut self.held))
    }

    /// Where the string that is complete first begins.
    fn find(&self, text: &str) -> Option<usize> {
        let found = self.strings.iter().filter_map(|s| text.find(s.as_str()).map(|start| (start + s.len(), start)));
        found.min().map(|(_, start)| start)
    }

    /// Bytes at the end of `text` that a stop string begins with.
    fn held_bytes(&self, text: &str) -> usize {
        let of = |string: &String| {
            let most = text.len().min(string.len() - 1);
            (1..=most).rev().find(|&n| text.as_bytes().ends_with(&string.as_bytes()[..n])).unwrap_or(0)
        };
        self.strings.iter().map(of).max().unwrap_or(0)
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops(strings: &[&str]) -> Stops {
        Stops::new(strings.iter().map(|s| s.to_string()).collect()).expect("sound")
    }

    /// What comes out of `text` cut at characters by the bits of `cuts`.
    fn through(mut stops: Stops, text: &str, cuts: u32) -> (String, bool) {
        let (mut out, mut part) = (String::new(), String::new());
        for (i, c) in text.chars().enumerate() {
            part.push(c);
            if cuts >> (i % 32) & 1 == 1 {
                let (piece, stopped) = stops.push(&std::mem::take(&mut part));
                out.extend(piece);
                if stopped {
                    return (out, true);
                }
            }
        }
        let (piece, stopped) = stops.push(&part);
        out.extend(piece);
        if !stopped {
            out.extend(stops.finish());
        }
        (out, stopped)
    }

    /// Character by character, all of the text searched each time.
    fn plainly(strings: &[&str], text: &str) -> (String, bool) {
        for (at, c) in text.char_indices() {
            let so_far = &text[..at + c.len_utf8()];
            let longest = strings.iter().filter(|s| so_far.ends_with(**s)).map(|s| s.len()).max();
            if let Some(bytes) = longest {
                return (so_far[..so_far.len() - bytes].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn the_cut_does_not_show() {
        let strings: [&[&str]; 7] =
            [&["stop"], &["bc", "abcd"], &["abcd", "cd"], &["aab"], &["é日", "日本"], &["\n\n"], &["aa", "a", "ba"]];
        let texts = [
            "",
            "no end",
            "a stop here",
            "xabcdx",
            "aaab",
            "aaaa",
            "café日本語",
            "日日本",
            "a\nb\n\nc",
            "stostop",
            "sto",
            "ab",
        ];
        for strings in strings {
            for text in texts {
                let want = plainly(strings, text);
                for cuts in 0..4096 {
                    assert_eq!(through(stops(strings), text, cuts), want, "{strings:?} {text:?} {cuts:b}");
                }
            }
        }
    }

    #[test]
    fn text_that_cannot_be_a_stop_is_not_held() {
        let mut stops = stops(&["stop"]);
        assert_eq!(stops.push("ab"), (Some("ab".into()), false));
        assert_eq!(stops.push("st"), (None, false));
        assert_eq!(stops.push("sto"), (Some("st".into()), false));
        assert_eq!(stops.push("x"), (Some("stox".into()), false));
        assert_eq!(stops.push("s"), (None, false));
        assert_eq!(stops.finish(), Some("s".into()));
        assert_eq!(stops.finish(), None);
    }

    #[test]
    fn strings_are_checked() {
        for wrong in [vec![String::new()], vec!["a".repeat(MAX_STOP_BYTES + 1)], vec!["a".into(); MAX_STOPS + 1]] {
            assert!(Stops::new(wrong).is_err());
        }
        assert!(Stops::new(vec!["a".repeat(MAX_STOP_BYTES); MAX_STOPS]).is_ok());
    }
}
