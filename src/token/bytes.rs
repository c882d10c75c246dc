//! The printable alphabet in which byte-level BPE vocabularies write bytes.
//!
//! The printable bytes of Latin-1 stand for themselves; the other 68 are U+0100 onwards in their
//! order, so that a space is `Ġ` and a newline `Ċ`. The token table is decoded once at load: from then
//! on the tokenizer sees bytes alone.

/// The character that stands for a byte.
#[cfg(test)]
pub fn char_of(byte: u8) -> char {
    if is_printable(byte as u32) {
        return byte as char;
    }
    let rank = (0..byte).filter(|&b| !is_printable(b as u32)).count() as u32;
    char::from_u32(0x100 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that a character stands for, if it stands for one.
fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0..=0xFF if is_printable(code) => Some(code as u8),
        0x100..=0x120 => Some((code - 0x100) as u8),
        0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

fn is_printable(code: u32) -> bool {
    matches!(code, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// Appends the bytes that `text` stands for. False, with nothing appended, if it is not written in
/// the alphabet.
pub fn decode_into(text: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_goes_there_and_back() {
        let mut seen = std::collections::HashSet::new();
        for byte in 0..=255u8 {
            let c = char_of(byte);
            assert!(seen.insert(c));
            let mut out = vec![];
            assert!(decode_into(c.to_string().as_bytes(), &mut out));
            assert_eq!(out, [byte]);
        }
        assert_eq!((char_of(b' '), char_of(b'\n'), char_of(0xAD)), ('Ġ', 'Ċ', 'Ń'));
    }

    #[test]
    fn what_is_not_of_the_alphabet_leaves_no_trace() {
        let mut out = vec![1];
        for text in ["ab c", "a中", "\u{144}", "\u{AD}", "\u{7F}"] {
            assert!(!decode_into(text.as_bytes(), &mut out), "{text:?}");
        }
        assert!(!decode_into(b"a\xff", &mut out));
        assert_eq!(out, [1]);
    }
}
