//! What the engine asks of a tokenizer.

use crate::error::Result;

/// Text to ids and back. Any id is taken; what stands for nothing has no bytes.
pub trait Vocabulary: Send + Sync {
    /// A prompt's ids: special tokens added as the file says, the text of control tokens taken as those tokens.
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_as(text, true, true)
    }

    /// The ids of a text: with special tokens added if `special`, with the text of control tokens taken as those if `control`.
    fn encode_as(&self, text: &str, special: bool, control: bool) -> Result<Vec<u32>>;

    /// The bytes of many tokens, without what encoding puts before a text.
    fn decode(&self, ids: &[u32]) -> Vec<u8>;

    /// The bytes that a token stands for in an answer; none for control tokens.
    fn bytes(&self, id: u32) -> &[u8];

    /// Whether the token ends an answer.
    fn ends(&self, id: u32) -> bool;
}
