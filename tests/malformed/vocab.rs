//! Faults of the vocabulary.

use crate::case::{Case, loads, refused};
use crate::forge::{F32, GgufFile, STR, U8, Value, llama};

fn set(file: &mut GgufFile, key: &str, value: Value) {
    file.set(&format!("tokenizer.ggml.{key}"), value);
}

/// Turns the file to SentencePiece, then sets a key.
fn set_spm(file: &mut GgufFile, key: &str, value: Value) {
    llama::sentence_piece(file);
    set(file, key, value);
}

/// The tokens with the one at `index` replaced.
fn token(file: &mut GgufFile, index: usize, text: &str) {
    let mut tokens = llama::tokens();
    tokens[index] = text.to_string();
    set(file, "tokens", Value::strs(&tokens));
}

fn piece(file: &mut GgufFile, index: usize, text: &str) {
    let mut pieces = llama::pieces();
    pieces[index] = text.to_string();
    set_spm(file, "tokens", Value::strs(&pieces));
}

/// As many tokens as asked for, with no types.
fn tokens(file: &mut GgufFile, count: usize) {
    let more = (0..).map(|i| format!("more{i}"));
    let texts: Vec<String> = llama::tokens().into_iter().chain(more).take(count).collect();
    set(file, "tokens", Value::strs(&texts));
    file.remove("tokenizer.ggml.token_type");
}

pub const CASES: &[Case] = &[
    loads("V0 sound SentencePiece", llama::sentence_piece),
    refused("V1 missing", "tokenizer.ggml.tokens", |f| f.remove("tokenizer.ggml.tokens")),
    refused("V1 none", "tokenizer.ggml.tokens", |f| set(f, "tokens", Value::array(STR, 0, []))),
    refused("V1 numbers", "tokenizer.ggml.tokens", |f| set(f, "tokens", Value::i32s(&[1; 259]))),
    loads("V1 one", |f| tokens(f, 1)),
    loads("V1 as many as rows", |f| tokens(f, llama::ROWS)),
    refused("V1 one more than rows", "tokenizer.ggml.tokens", |f| tokens(f, llama::ROWS + 1)),
    refused("V1 many more than rows", "tokenizer.ggml.tokens", |f| tokens(f, 20_000)),
    refused("V2 a type short", "tokenizer.ggml.token_type", |f| set(f, "token_type", Value::i32s(&[1; 258]))),
    refused("V2 no types", "tokenizer.ggml.token_type", |f| set(f, "token_type", Value::i32s(&[]))),
    refused("V2 type 7", "tokenizer.ggml.token_type", |f| set(f, "token_type", Value::i32s(&[7; 259]))),
    refused("V2 types are floats", "tokenizer.ggml.token_type", |f| {
        set(f, "token_type", Value::array(F32, 259, [0; 4 * 259]));
    }),
    loads("V2 types are bytes", |f| set(f, "token_type", Value::array(U8, 259, [1; 259]))),
    refused("V2 scores missing", "tokenizer.ggml.scores", |f| {
        llama::sentence_piece(f);
        f.remove("tokenizer.ggml.scores");
    }),
    refused("V2 a score short", "tokenizer.ggml.scores", |f| set_spm(f, "scores", Value::f32s(&[0.0; 260]))),
    refused("V2 scores are bytes", "tokenizer.ggml.scores", |f| {
        set_spm(f, "scores", Value::array(U8, 261, [0; 261]));
    }),
    refused("V2 a score is NaN", "tokenizer.ggml.scores", |f| set_spm(f, "scores", Value::f32s(&[f32::NAN; 261]))),
    refused("V2 a score is infinite", "tokenizer.ggml.scores", |f| {
        set_spm(f, "scores", Value::f32s(&[f32::NEG_INFINITY; 261]));
    }),
    loads("V3 empty", |f| token(f, 65, "")),
    loads("V3 twice", |f| token(f, 65, "B")),
    loads("V3 long", |f| token(f, 65, &"x".repeat(1 << 20))),
    loads("V3 NUL inside", |f| token(f, 65, "a\0b")),
    loads("V3 not UTF-8", |f| {
        set(f, "tokens", Value::array(STR, 259, [1, 0, 0, 0, 0, 0, 0, 0, 0xff].repeat(259)));
    }),
    refused("V4 <0x-1>", "tokenizer.ggml.tokens", |f| piece(f, 68, "<0x-1>")),
    refused("V4 <0xZZ>", "tokenizer.ggml.tokens", |f| piece(f, 68, "<0xZZ>")),
    refused("V4 <0x0", "tokenizer.ggml.tokens", |f| piece(f, 68, "<0x0")),
    refused("V4 <0x100>", "tokenizer.ggml.tokens", |f| piece(f, 68, "<0x100>")),
    loads("V5 eos = n", |f| set(f, "eos_token_id", Value::u32(259))),
    loads("V5 eos 2^32-1", |f| set(f, "eos_token_id", Value::u32(u32::MAX))),
    loads("V5 unk, pad, eot", |f| {
        for key in ["unknown_token_id", "padding_token_id", "eot_token_id"] {
            set(f, key, Value::u32(u32::MAX));
        }
    }),
    refused("V5 eos is text", "tokenizer.ggml.eos_token_id", |f| set(f, "eos_token_id", Value::str("2"))),
    refused("V6 bos wanted, none", "tokenizer.ggml.bos_token_id", |f| {
        set(f, "add_bos_token", Value::bool(1));
        f.remove("tokenizer.ggml.bos_token_id");
    }),
    refused("V6 bos wanted, out of range", "tokenizer.ggml.bos_token_id", |f| {
        set(f, "add_bos_token", Value::bool(1));
        set(f, "bos_token_id", Value::u32(u32::MAX));
    }),
    refused("V7 missing", "tokenizer.ggml.merges", |f| f.remove("tokenizer.ggml.merges")),
    loads("V7 none", |f| set(f, "merges", Value::array(STR, 0, []))),
    refused("V7 no space", "tokenizer.ggml.merges", |f| set(f, "merges", Value::strs(&["th"]))),
    refused("V7 empty", "tokenizer.ggml.merges", |f| set(f, "merges", Value::strs(&[""]))),
    refused("V7 one half", "tokenizer.ggml.merges", |f| set(f, "merges", Value::strs(&["t "]))),
    loads("V7 two spaces", |f| set(f, "merges", Value::strs(&["t  h"]))),
    loads("V7 unknown halves", |f| set(f, "merges", Value::strs(&["zz qq", "\u{4e00} t"]))),
    loads("V7 twice", |f| set(f, "merges", Value::strs(&["t h", "t h"]))),
    refused("V7 numbers", "tokenizer.ggml.merges", |f| set(f, "merges", Value::i32s(&[1]))),
    loads("V8 a table of two bytes, unused", |f| {
        set_spm(f, "precompiled_charsmap", Value::array(U8, 2, [0xff; 2]));
    }),
    loads("V9 suppressed tokens of no type, unused", |f| set(f, "suppress_tokens", Value::strs(&["a"]))),
    refused("V10 model missing", "tokenizer.ggml.model", |f| f.remove("tokenizer.ggml.model")),
    refused("V10 model unknown", "tokenizer.ggml.model", |f| set(f, "model", Value::str("bert"))),
    refused("V10 names the models that run", "gpt2, llama", |f| set(f, "model", Value::str("t5"))),
    refused("V10 model empty", "tokenizer.ggml.model", |f| set(f, "model", Value::str(""))),
    refused("V10 model a number", "tokenizer.ggml.model", |f| set(f, "model", Value::u32(2))),
    refused("V10 model endless", "tokenizer.ggml.model", |f| set(f, "model", Value::str([0; 1 << 20]))),
    refused("V10 split missing", "tokenizer.ggml.pre", |f| f.remove("tokenizer.ggml.pre")),
    refused("V10 split unknown", "tokenizer.ggml.pre", |f| set(f, "pre", Value::str("default"))),
    refused("V10 names the splits that run", "llama-bpe, llama3", |f| set(f, "pre", Value::str("superbpe"))),
    refused("V10 split empty", "tokenizer.ggml.pre", |f| set(f, "pre", Value::str(""))),
    refused("V10 split endless", "tokenizer.ggml.pre", |f| set(f, "pre", Value::str("a".repeat(1 << 20)))),
    refused("V10 split a number", "tokenizer.ggml.pre", |f| set(f, "pre", Value::u32(1))),
];
