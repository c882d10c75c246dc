//! Limits that a host or a device sets, and the memory that follows from them.

use super::{KvGroup, PAGE_TOKENS, Plan};

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    F32,
    F16,
}

impl KvType {
    pub fn bytes(self) -> usize {
        match self {
            KvType::F32 => 4,
            KvType::F16 => 2,
        }
    }
}

/// What a model is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens in one batch.
    pub batch_tokens: usize,
    /// Sequences that are open at once: slots.
    pub sequences: usize,
    /// Rows of one batch whose logits can be asked for.
    pub logit_rows: usize,
    pub kv_type: KvType,
}

impl KvGroup {
    /// Bytes of one page: keys and values of all the group's layers for [`PAGE_TOKENS`] tokens.
    /// Layout: [layers][k, v][kv heads][PAGE_TOKENS][head dim].
    pub fn page_bytes(&self, kv: KvType) -> usize {
        self.layers * 2 * self.heads.kv * PAGE_TOKENS * self.heads.dim * kv.bytes()
    }

    /// Pages that a sequence of `tokens` needs when up to `chunk` tokens are computed at once. A windowed layer's page may
    /// be overwritten only when no row of the chunk still looks at it.
    pub fn pages_for(&self, tokens: usize, chunk: usize) -> usize {
        let all = tokens.div_ceil(PAGE_TOKENS);
        match self.window {
            None => all,
            Some(window) => all.min((window.saturating_add(chunk)).div_ceil(PAGE_TOKENS) + 1),
        }
    }
}

impl Plan {
    /// Bytes of the weights as the file stores them.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(|w| w.data.bytes).sum()
    }
}
