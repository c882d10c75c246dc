//! What the engine asks of a tokenizer.

use crate::error::Result;

/// Text to ids and back. Every method but [`Vocabulary::encode`] is a table look-up, and takes any id.
pub trait Vocabulary: Send + Sync {
    /// A prompt's ids: special tokens added as the file says, the text of control tokens taken as those tokens.
    fn encode(&self, text: &str) -> Result<Vec<u32>>;

    /// The bytes that a token stands for in an answer; none for control tokens.
    fn bytes(&self, id: u32) -> &[u8];

    /// Whether the token ends an answer.
    fn ends(&self, id: u32) -> bool;
}
