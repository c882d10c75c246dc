//! Faults of the hyperparameters: what the metadata says of the model, against all sense or the tensors.

use crate::case::{Case, loads, refused};
use crate::forge::{F64, GgufFile, I32, U64, Value};

fn set(file: &mut GgufFile, key: &str, value: u32) {
    file.set(&format!("llama.{key}"), Value::u32(value));
}

fn set_f32(file: &mut GgufFile, key: &str, value: f32) {
    file.set(&format!("llama.{key}"), Value::f32(value));
}

const HEADS: &str = "attention.head_count";
const KV_HEADS: &str = "attention.head_count_kv";
const EPS: &str = "attention.layer_norm_rms_epsilon";
const BASE: &str = "rope.freq_base";
const DIMS: &str = "rope.dimension_count";

pub const CASES: &[Case] = &[
    refused("K14 unknown", "general.architecture", |f| f.set("general.architecture", Value::str("lama"))),
    refused("K14 names what runs", "llama, qwen2, qwen3, qwen3moe, phi3, gemma3, gpt-oss, gpt2", |f| {
        f.set("general.architecture", Value::str("mamba"));
    }),
    refused("K14 long", "general.architecture", |f| f.set("general.architecture", Value::str("a".repeat(64)))),
    refused("K15 f32 for u32", "llama.block_count", |f| set_f32(f, "block_count", 1.0)),
    refused("K15 u64 that wraps to 1", "llama.block_count", |f| {
        f.set("llama.block_count", Value::new(U64, ((1u64 << 32) + 1).to_le_bytes()));
    }),
    refused("K15 negative", "llama.block_count", |f| f.set("llama.block_count", Value::new(I32, [0xff; 4]))),
    refused("K15 u32 for f32", EPS, |f| set(f, EPS, 1)),
    refused("K15 f64 beyond f32", BASE, |f| f.set("llama.rope.freq_base", Value::new(F64, 1e300f64.to_le_bytes()))),
    loads("K15 u64 that fits", |f| f.set("llama.block_count", Value::new(U64, 1u64.to_le_bytes()))),
    refused("P1 missing", "llama.block_count", |f| f.remove("llama.block_count")),
    refused("P1 0", "llama.block_count", |f| set(f, "block_count", 0)),
    refused("P1 513", "blk.1.", |f| set(f, "block_count", 513)),
    refused("P1 100,000", "llama.block_count", |f| set(f, "block_count", 100_000)),
    refused("P1 2^32-1", "llama.block_count", |f| set(f, "block_count", u32::MAX)),
    refused("P1 one too many", "blk.1.", |f| set(f, "block_count", 2)),
    refused("P1 one too few", "blk.1.attn_q.weight", |f| {
        let mut more = f.tensor("blk.0.attn_q.weight").clone();
        more.name = b"blk.1.attn_q.weight".to_vec();
        f.tensors.push(more);
    }),
    refused("P2 missing", HEADS, |f| f.remove("llama.attention.head_count")),
    refused("P2 0", HEADS, |f| set(f, HEADS, 0)),
    refused("P2 2^32-1", HEADS, |f| set(f, HEADS, u32::MAX)),
    refused("P2 more than the width", "128 heads", |f| set(f, HEADS, 128)),
    refused("P2 no divisor", "3 heads", |f| {
        set(f, HEADS, 3);
        set(f, KV_HEADS, 3);
    }),
    refused("P2 half", "blk.0.attn_k.weight", |f| set(f, HEADS, 2)),
    refused("P3 0", KV_HEADS, |f| set(f, KV_HEADS, 0)),
    refused("P3 more than heads", KV_HEADS, |f| set(f, KV_HEADS, 8)),
    refused("P3 no divisor", KV_HEADS, |f| set(f, KV_HEADS, 3)),
    refused("P3 half", "blk.0.attn_k.weight", |f| set(f, KV_HEADS, 1)),
    refused("P3 two layers' worth", KV_HEADS, |f| f.set("llama.attention.head_count_kv", Value::i32s(&[2, 2]))),
    refused("P3 no layer's worth", KV_HEADS, |f| f.set("llama.attention.head_count_kv", Value::i32s(&[]))),
    refused("P3 negative in an array", KV_HEADS, |f| f.set("llama.attention.head_count_kv", Value::i32s(&[-2]))),
    loads("P3 an array that fits", |f| f.set("llama.attention.head_count_kv", Value::i32s(&[2]))),
    refused("P4 key length 0", "attention.key_length", |f| set(f, "attention.key_length", 0)),
    refused("P4 key length 2^31", "attention.key_length", |f| set(f, "attention.key_length", 1 << 31)),
    refused("P4 key length 8", "blk.0.attn_q.weight", |f| {
        set(f, "attention.key_length", 8);
        set(f, "attention.value_length", 8);
        set(f, DIMS, 8);
    }),
    refused("P4 value length 8", "attention.value_length", |f| set(f, "attention.value_length", 8)),
    refused("P4 rope 0", DIMS, |f| set(f, DIMS, 0)),
    refused("P4 rope odd", DIMS, |f| set(f, DIMS, 15)),
    refused("P4 rope beyond the head", DIMS, |f| set(f, DIMS, 18)),
    refused("P4 rope 2^31", DIMS, |f| set(f, DIMS, 1 << 31)),
    refused("P5 width 0", "llama.embedding_length", |f| set(f, "embedding_length", 0)),
    refused("P5 width 2^32-1", "llama.embedding_length", |f| set(f, "embedding_length", u32::MAX)),
    refused("P5 width 128", "tensor", |f| set(f, "embedding_length", 128)),
    refused("P5 missing", "llama.embedding_length", |f| f.remove("llama.embedding_length")),
    refused("P5 ffn 0", "llama.feed_forward_length", |f| set(f, "feed_forward_length", 0)),
    refused("P5 ffn 2^32-1", "llama.feed_forward_length", |f| set(f, "feed_forward_length", u32::MAX)),
    refused("P5 ffn 95", "blk.0.ffn_gate.weight", |f| set(f, "feed_forward_length", 95)),
    refused("P5 transposed", "blk.0.ffn_down.weight", |f| {
        let down = f.tensor("blk.0.ffn_down.weight");
        down.dims.reverse();
    }),
    refused("P5 norm of halves", "output_norm.weight", |f| {
        let norm = f.tensor("output_norm.weight");
        (norm.ty, norm.dims) = (1, vec![128]);
    }),
    refused("P6 0", "llama.context_length", |f| set(f, "context_length", 0)),
    refused("P6 2^32-1", "llama.context_length", |f| set(f, "context_length", u32::MAX)),
    refused("P7 used without tensors", "blk.0.ffn_gate_inp", |f| {
        set(f, "expert_count", 4);
        set(f, "expert_used_count", 2);
    }),
    refused("P7 more used than there are", "llama.expert_used_count", |f| {
        set(f, "expert_count", 4);
        set(f, "expert_used_count", 5);
    }),
    refused("P7 none used", "llama.expert_used_count", |f| {
        set(f, "expert_count", 4);
        set(f, "expert_used_count", 0);
    }),
    refused("P7 used missing", "llama.expert_used_count", |f| set(f, "expert_count", 4)),
    refused("P7 2^32-1", "llama.expert_count", |f| set(f, "expert_count", u32::MAX)),
    loads("P7 none", |f| set(f, "expert_count", 0)),
    refused("P8 epsilon missing", EPS, |f| f.remove("llama.attention.layer_norm_rms_epsilon")),
    refused("P8 epsilon negative", EPS, |f| set_f32(f, EPS, -1e-5)),
    refused("P8 epsilon NaN", EPS, |f| set_f32(f, EPS, f32::NAN)),
    refused("P8 epsilon infinite", EPS, |f| set_f32(f, EPS, f32::INFINITY)),
    loads("P8 epsilon denormal", |f| set_f32(f, EPS, 1e-45)),
    refused("P8 base 0", BASE, |f| set_f32(f, BASE, 0.0)),
    refused("P8 base negative", BASE, |f| set_f32(f, BASE, -1e4)),
    refused("P8 base NaN", BASE, |f| set_f32(f, BASE, f32::NAN)),
    refused("P8 base infinite", BASE, |f| set_f32(f, BASE, f32::INFINITY)),
    refused("P8 factor 0", "rope.scaling.factor", |f| {
        f.set("llama.rope.scaling.type", Value::str("linear"));
        set_f32(f, "rope.scaling.factor", 0.0);
    }),
    refused("P8 factor NaN", "rope.scaling.factor", |f| {
        f.set("llama.rope.scaling.type", Value::str("linear"));
        set_f32(f, "rope.scaling.factor", f32::NAN);
    }),
    refused("P8 unknown scaling", "rope.scaling.type", |f| f.set("llama.rope.scaling.type", Value::str("guess"))),
    refused("P8 rope divisor 0", "rope_freqs.weight", |f| {
        let mut divisors = f.tensor("output_norm.weight").clone();
        divisors.name = b"rope_freqs.weight".to_vec();
        (divisors.dims, divisors.data) = (vec![8], vec![0; 32]);
        f.tensors.push(divisors);
    }),
];
