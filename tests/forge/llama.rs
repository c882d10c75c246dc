//! The sound model that the faults are put into: family llama, one layer, some 100 KB.
//!
//! Byte-level BPE with two merges and an end token, or SentencePiece; an embedding of a few rows more;
//! weights of four types, small and fixed, so that it loads and generates.

use super::{GgufFile, Key, Row, Value};

/// Rows of the embedding: more than there are tokens, as in many published files.
pub const ROWS: usize = 264;
const WIDTH: u64 = 64;
const FFN: u64 = 96;
const KV_WIDTH: u64 = 32;

/// Types of the tensors: number, weights in a block, bytes of a block.
const F32: (u32, u64, usize) = (0, 1, 4);
const F16: (u32, u64, usize) = (1, 1, 2);
const Q4_0: (u32, u64, usize) = (2, 32, 18);
const Q8_0: (u32, u64, usize) = (8, 32, 34);

/// The tokens: every byte as GPT-2 writes it, two merged ones, and the end token.
pub fn tokens() -> Vec<String> {
    let mut tokens: Vec<String> = (0..=255).map(byte_text).collect();
    tokens.extend(["th", "the", "<|end|>"].map(String::from));
    tokens
}

/// The character that GPT-2 puts for a byte: itself if it prints, else one from U+0100 on.
fn byte_text(byte: u8) -> String {
    let prints = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = if prints(byte) { u32::from(byte) } else { 0x100 + (0..byte).filter(|&b| !prints(b)).count() as u32 };
    char::from_u32(code).map(String::from).unwrap_or_default()
}

/// The tokens of the other kind: three special ones, every byte by its number, and two pieces.
pub fn pieces() -> Vec<String> {
    let special = ["<unk>", "<s>", "</s>"].map(String::from);
    let bytes = (0..=255).map(|b: u8| format!("<0x{b:02X}>"));
    special.into_iter().chain(bytes).chain(["\u{2581}", "\u{2581}the"].map(String::from)).collect()
}

/// Gives a file a tokenizer of the other kind.
pub fn sentence_piece(file: &mut GgufFile) {
    let pieces = pieces();
    let types: Vec<i32> = (0..pieces.len())
        .map(|i| match i {
            0 => 2,
            1 | 2 => 3,
            3..=258 => 6,
            _ => 1,
        })
        .collect();
    file.set("tokenizer.ggml.model", Value::str("llama"));
    file.set("tokenizer.ggml.tokens", Value::strs(&pieces));
    file.set("tokenizer.ggml.token_type", Value::i32s(&types));
    file.set("tokenizer.ggml.scores", Value::f32s(&vec![-1.0; pieces.len()]));
    file.set("tokenizer.ggml.bos_token_id", Value::u32(1));
    file.set("tokenizer.ggml.eos_token_id", Value::u32(2));
    file.remove("tokenizer.ggml.merges");
    file.remove("tokenizer.ggml.pre");
}

pub fn model() -> GgufFile {
    GgufFile::new(keys(), tensors())
}

fn keys() -> Vec<Key> {
    let tokens = tokens();
    let end = tokens.len() - 1;
    let types: Vec<i32> = (0..tokens.len()).map(|i| if i == end { 3 } else { 1 }).collect();
    let end = Value::u32(end as u32);
    let pairs = [
        ("general.architecture", Value::str("llama")),
        ("general.name", Value::str("forged")),
        ("general.alignment", Value::u32(32)),
        ("llama.block_count", Value::u32(1)),
        ("llama.context_length", Value::u32(128)),
        ("llama.embedding_length", Value::u32(WIDTH as u32)),
        ("llama.feed_forward_length", Value::u32(FFN as u32)),
        ("llama.attention.head_count", Value::u32(4)),
        ("llama.attention.head_count_kv", Value::u32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::f32(1e-5)),
        ("llama.rope.freq_base", Value::f32(10_000.0)),
        ("llama.rope.dimension_count", Value::u32(16)),
        ("llama.vocab_size", Value::u32(ROWS as u32)),
        ("tokenizer.ggml.model", Value::str("gpt2")),
        ("tokenizer.ggml.pre", Value::str("gpt-2")),
        ("tokenizer.ggml.bos_token_id", end.clone()),
        ("tokenizer.ggml.eos_token_id", end),
        ("tokenizer.ggml.add_bos_token", Value::bool(0)),
        ("tokenizer.ggml.merges", Value::strs(&["t h", "th e"])),
        ("tokenizer.ggml.tokens", Value::strs(&tokens)),
        ("tokenizer.ggml.token_type", Value::i32s(&types)),
    ];
    pairs.into_iter().map(|(name, value)| Key { name: name.into(), name_len: None, value }).collect()
}

fn tensors() -> Vec<Row> {
    vec![
        row("token_embd.weight", &[WIDTH, ROWS as u64], F16),
        row("blk.0.attn_norm.weight", &[WIDTH], F32),
        row("blk.0.attn_q.weight", &[WIDTH, WIDTH], Q8_0),
        row("blk.0.attn_k.weight", &[WIDTH, KV_WIDTH], Q8_0),
        row("blk.0.attn_v.weight", &[WIDTH, KV_WIDTH], Q8_0),
        row("blk.0.attn_output.weight", &[WIDTH, WIDTH], Q4_0),
        row("blk.0.ffn_norm.weight", &[WIDTH], F32),
        row("blk.0.ffn_gate.weight", &[WIDTH, FFN], Q4_0),
        row("blk.0.ffn_up.weight", &[WIDTH, FFN], Q4_0),
        row("blk.0.ffn_down.weight", &[FFN, WIDTH], Q8_0),
        row("output_norm.weight", &[WIDTH], F32),
    ]
}

fn row(name: &str, dims: &[u64], (ty, block_len, block_bytes): (u32, u64, usize)) -> Row {
    let blocks = (dims.iter().product::<u64>() / block_len) as usize;
    let data = (0..blocks).flat_map(|i| block(i, ty, block_bytes)).collect();
    Row {
        label: name.into(),
        name: name.into(),
        name_len: None,
        n_dims: None,
        dims: dims.to_vec(),
        ty,
        offset: None,
        data,
    }
}

/// Block `i` of a type: weights within ±0.2 that differ from block to block; norms of 1.
fn block(i: usize, ty: u32, bytes: usize) -> Vec<u8> {
    let noise = |j: usize| ((i * 31 + j) as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3];
    match ty {
        0 => 1f32.to_le_bytes().to_vec(),
        // Halves of either sign between 2^-4 and 2^-3.
        1 => vec![noise(0), 0x2c | (noise(1) & 0x83)],
        // A scale of 2^-9, then the quants.
        _ => [0x00, 0x18].into_iter().chain((2..bytes).map(noise)).collect(),
    }
}
