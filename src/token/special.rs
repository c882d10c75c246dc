//! The tokens that are found in a text before anything else splits it.
//!
//! User-defined tokens always are; control and unknown ones where the caller asks. At each place the
//! leftmost match counts, of those the longest. An automaton finds them in one pass over the text,
//! however many there are.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::load::TYPES;
use super::vocab::{TokenType, Vocab};
use crate::error::{Error, Result};

/// States of an automaton, some 50 bytes each while it is built. The largest vocabulary known, 65,536
/// sounds, takes 200,000.
const MOST_STATES: usize = 256 << 10;
const MOST_BYTES: usize = 2 << 20;

pub struct Specials {
    always: Finder,
    parsed: Finder,
}

/// A part of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Text(&'a str),
    Token(u32),
}

struct Finder {
    /// `None` if there is nothing to find.
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
    /// Sorted; the tokens that swallow the white space after them.
    strip_after: Vec<u32>,
}

impl Specials {
    /// `strip_after`: tokens that swallow the white space after them, sorted.
    pub fn new(vocab: &Vocab, strip_after: &[u32]) -> Result<Self> {
        use TokenType::{Control, Unknown, UserDefined};
        Ok(Self {
            always: Finder::new(vocab, strip_after, |t| t == UserDefined)?,
            parsed: Finder::new(vocab, strip_after, |t| matches!(t, UserDefined | Control | Unknown))?,
        })
    }

    /// Calls `each` for the parts of a text in order; `parse`: control tokens too.
    pub fn split<'t>(&self, text: &'t str, parse: bool, each: impl FnMut(Part<'t>) -> Result<()>) -> Result<()> {
        match parse {
            true => self.parsed.split(text, each),
            false => self.always.split(text, each),
        }
    }
}

impl Finder {
    fn new(vocab: &Vocab, strip_after: &[u32], want: impl Fn(TokenType) -> bool) -> Result<Self> {
        let wanted = |&id: &u32| vocab.kind(id).is_some_and(&want) && is_text(vocab.text(id));
        let ids: Vec<u32> = vocab.ids().filter(wanted).collect();
        check_size(vocab, &ids)?;
        let build = || {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .kind(Some(AhoCorasickKind::ContiguousNFA))
                .build(ids.iter().map(|&id| vocab.text(id)))
        };
        let automaton = (!ids.is_empty()).then(build).transpose();
        Ok(Self {
            automaton: automaton.map_err(|e| Error::load(format!("tokenizer.ggml.tokens: special tokens: {e}")))?,
            ids,
            strip_after: strip_after.to_vec(),
        })
    }

    fn split<'t>(&self, text: &'t str, mut each: impl FnMut(Part<'t>) -> Result<()>) -> Result<()> {
        let mut at = 0;
        for found in self.automaton.iter().flat_map(|a| a.find_iter(text)) {
            let id = self.ids[found.pattern().as_usize()];
            // White space that the token before has swallowed may have held this match's start.
            if found.start() < at {
                continue;
            }
            if found.start() > at {
                each(Part::Text(&text[at..found.start()]))?;
            }
            each(Part::Token(id))?;
            at = found.end();
            if self.strip_after.binary_search(&id).is_ok() {
                at = text.len() - text[at..].trim_start_matches(is_ascii_space).len();
            }
        }
        if at < text.len() {
            each(Part::Text(&text[at..]))?;
        }
        Ok(())
    }
}

/// Refuses what would take too much memory: each distinct beginning of a token is a state.
fn check_size(vocab: &Vocab, ids: &[u32]) -> Result<()> {
    let bytes: usize = ids.iter().map(|&id| vocab.text(id).len()).sum();
    if bytes > MOST_BYTES {
        return Err(Error::load(format!("{TYPES}: special tokens of {bytes} bytes, more than {MOST_BYTES}")));
    }
    if bytes <= MOST_STATES {
        return Ok(());
    }
    let mut texts: Vec<&[u8]> = ids.iter().map(|&id| vocab.text(id)).collect();
    texts.sort_unstable();
    let shared = |pair: &[&[u8]]| pair[0].iter().zip(pair[1]).take_while(|(a, b)| a == b).count();
    let states = bytes - texts.windows(2).map(shared).sum::<usize>();
    if states > MOST_STATES {
        return Err(Error::load(format!(
            "{TYPES}: special tokens of {states} distinct beginnings, more than {MOST_STATES}"
        )));
    }
    Ok(())
}

/// A match must begin and end on a character of the text.
fn is_text(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_ok()
}

fn is_ascii_space(c: char) -> bool {
    matches!(c, ' ' | '\t'..='\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocab() -> Vocab {
        use TokenType::*;
        let tokens: [(&[u8], TokenType); 8] = [
            (b"<s>", Control),
            (b"<s>x", Control),
            (b"  ", UserDefined),
            (b"<u>", Unknown),
            (b"", Control),
            (b"\xff", UserDefined),
            (b"[PAD7]", Padding),
            (b"\n", UserDefined),
        ];
        let mut vocab = Vocab::with_capacity(8, 64).unwrap();
        for (text, kind) in tokens {
            vocab.push(kind, false, |out| out.extend_from_slice(text));
        }
        vocab
    }

    fn parts(text: &str, parse: bool, strip: &[u32]) -> Vec<String> {
        let mut out = vec![];
        let specials = Specials::new(&vocab(), strip).unwrap();
        let each = |part: Part<'_>| {
            out.push(match part {
                Part::Text(t) => t.to_string(),
                Part::Token(id) => format!("#{id}"),
            });
            Ok(())
        };
        specials.split(text, parse, each).unwrap();
        out
    }

    #[test]
    fn the_longest_of_the_leftmost_is_found() {
        assert_eq!(parts("a<s>xb<s><u>  c[PAD7]", true, &[]), ["a", "#1", "b", "#0", "#3", "#2", "c[PAD7]"]);
        assert_eq!(parts("a<s>xb<u>  c", false, &[]), ["a<s>xb<u>", "#2", "c"]);
        assert_eq!(parts("", true, &[]), Vec::<String>::new());
    }

    #[test]
    fn white_space_after_a_token_is_swallowed_where_it_says_so() {
        assert_eq!(parts("<s> \n\u{B}a <s>   <u> b", true, &[0]), ["#0", "a ", "#0", "#3", " b"]);
        assert_eq!(parts("<s>   ", true, &[0]), ["#0"]);
    }

    fn of_texts(texts: impl Iterator<Item = String>) -> Result<Specials> {
        let texts: Vec<String> = texts.collect();
        let mut vocab = Vocab::with_capacity(texts.len(), texts.iter().map(String::len).sum()).unwrap();
        for text in texts {
            vocab.push(TokenType::Control, false, |out| out.extend(text.bytes()));
        }
        Specials::new(&vocab, &[])
    }

    #[test]
    fn the_automaton_is_bounded_by_its_states() {
        assert!(of_texts((0..65_536).map(|i| format!("<|s_{i}|>"))).is_ok());
        for texts in [vec!["x".repeat(MOST_STATES + 1)], vec!["x".repeat(MOST_BYTES + 1)]] {
            let error = of_texts(texts.into_iter()).err().unwrap();
            assert!(error.reason().contains(TYPES), "{error}");
        }
    }
}
