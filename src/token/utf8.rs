//! Bytes in, whole code points out.
//!
//! A token may end in the middle of a code point, so the text of an answer is cut where UTF-8 allows
//! it and the unfinished tail waits for the tokens that finish it. What can never become valid is
//! U+FFFD, one for each maximal subpart, as `String::from_utf8_lossy` has it. The result does not
//! depend on how the bytes were cut into pushes.

/// Holds the bytes of an unfinished code point between tokens. Never yields an empty string.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    bytes: Vec<u8>,
}

impl Utf8Stream {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// All whole code points so far; `None` if there is none.
    pub fn take(&mut self) -> Option<String> {
        let whole_bytes = self.bytes.len() - unfinished_bytes(&self.bytes);
        if whole_bytes == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&self.bytes[..whole_bytes]).into_owned();
        self.bytes.drain(..whole_bytes);
        Some(text)
    }

    /// Everything that is left, when no more bytes will come.
    pub fn finish(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.bytes);
        (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// True if no byte waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// How many bytes at the end (0 to 3) begin a code point that more bytes may still finish.
fn unfinished_bytes(bytes: &[u8]) -> usize {
    (1..=bytes.len().min(3))
        .find(|&n| {
            let tail = &bytes[bytes.len() - n..];
            std::str::from_utf8(tail).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(pieces: &[&[u8]]) -> String {
        let mut stream = Utf8Stream::new();
        let mut out = String::new();
        for piece in pieces {
            stream.push(piece);
            if let Some(text) = stream.take() {
                assert!(!text.is_empty());
                out.push_str(&text);
            }
        }
        if let Some(text) = stream.finish() {
            assert!(!text.is_empty());
            out.push_str(&text);
        }
        assert!(stream.is_empty());
        out
    }

    #[test]
    fn an_unfinished_code_point_waits() {
        let mut stream = Utf8Stream::new();
        stream.push(b"a\xf0\x9f");
        assert_eq!(stream.take().as_deref(), Some("a"));
        assert_eq!(stream.take(), None);
        stream.push(b"\x98");
        assert_eq!(stream.take(), None);
        stream.push(b"\x80b");
        assert_eq!(stream.take().as_deref(), Some("\u{1F600}b"));
        assert_eq!(stream.finish(), None);
    }

    #[test]
    fn what_can_never_be_valid_is_replaced_at_once() {
        for (bytes, want) in [
            (&b"\x80"[..], "\u{FFFD}"),
            (b"\xff", "\u{FFFD}"),
            (b"\xc0", "\u{FFFD}"),
            (b"\xe2\x28", "\u{FFFD}("),
            (b"\xf0\x9f\x41", "\u{FFFD}A"),
            (b"\xed\xa0", "\u{FFFD}\u{FFFD}"),
            (b"\xf4\x90", "\u{FFFD}\u{FFFD}"),
        ] {
            let mut stream = Utf8Stream::new();
            stream.push(bytes);
            assert_eq!(stream.take().as_deref(), Some(want), "{bytes:x?}");
            assert!(stream.is_empty());
        }
    }

    #[test]
    fn any_cut_of_any_bytes_gives_what_the_whole_gives() {
        let mut seed = 7u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize
        };
        let alphabet = b"a\x80\xbf\xc3\xa9\xe2\x82\xac\xed\xa0\xf0\x9f\x98\x80\xf4\x90\xff\xc0\x00";
        for _ in 0..3000 {
            let bytes: Vec<u8> = (0..next() % 14).map(|_| alphabet[next() % alphabet.len()]).collect();
            let want = String::from_utf8_lossy(&bytes);
            let singles: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(stream(&singles), want, "{bytes:x?}");
            let cut = next() % (bytes.len() + 1);
            assert_eq!(stream(&[&bytes[..cut], b"", &bytes[cut..]]), want, "{bytes:x?} at {cut}");
        }
    }
}
