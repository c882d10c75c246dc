//! Faults of the hyperparameters of every family, in the files that another program wrote: the cases of `hyper` where a family
//! reads the same keys, and those of its own keys and tensors.

use crate::case::complaint_of;
use crate::check::{Outcome, check};
use crate::folder::Folder;
use crate::forge::parse::parse;
use crate::forge::{BOOL, GgufFile, I32, U64, Value};
use crate::goldens::golden;
use crate::meter::alone;
use crate::whole::Engine;

/// Models by the names of their goldens; two of them are of the family phi3, and mixtral is of the family llama.
pub const ALL: &[&str] = &["mixtral", "qwen2", "qwen3", "qwen3moe", "phi3", "phi3long", "gemma3", "gptoss", "gpt2"];
const ROTATED: &[&str] = &["mixtral", "qwen2", "qwen3", "qwen3moe", "phi3", "phi3long", "gemma3", "gptoss"];
/// Whose files name the length of a head.
const NAMED_HEADS: &[&str] = &["qwen3", "qwen3moe", "gemma3", "gptoss"];
const DERIVED_HEADS: &[&str] = &["mixtral", "qwen2", "phi3", "phi3long", "gpt2"];
const SHARED_KV: &[&str] = &["mixtral", "qwen2", "qwen3", "qwen3moe", "gptoss"];
const EXPERTS: &[&str] = &["mixtral", "qwen3moe", "gptoss"];
const DENSE: &[&str] = &["qwen2", "qwen3", "phi3", "phi3long", "gemma3", "gpt2"];
/// Whose embedding serves as the output matrix.
const TIED: &[&str] = &["qwen2", "gemma3", "gpt2"];
const UNTIED: &[&str] = &["mixtral", "qwen3", "qwen3moe", "phi3", "phi3long", "gptoss"];
const WINDOWED: &[&str] = &["phi3", "gemma3", "gptoss"];
const PATTERNED: &[&str] = &["gemma3", "gptoss"];
const UNPATTERNED: &[&str] = &["phi3"];

const HEADS: &str = "attention.head_count";
const KV_HEADS: &str = "attention.head_count_kv";
const KEY_LENGTH: &str = "attention.key_length";
const VALUE_LENGTH: &str = "attention.value_length";
const DIMS: &str = "rope.dimension_count";
const BASE: &str = "rope.freq_base";
const LOCAL_BASE: &str = "rope.freq_base_swa";
const FACTOR: &str = "rope.scaling.factor";
const ATTN_FACTOR: &str = "rope.scaling.attn_factor";
const ORIGINAL: &str = "rope.scaling.original_context_length";
const FAST: &str = "rope.scaling.yarn_beta_fast";
const WINDOW: &str = "attention.sliding_window";
const PATTERN: &str = "attention.sliding_window_pattern";
const USED: &str = "expert_used_count";
const EXPERT_FFN: &str = "expert_feed_forward_length";
/// A number that no float but a denormal one is as close to 0 as.
const DENORMAL: f32 = 1e-45;

/// A family's file.
struct Model {
    arch: String,
    file: GgufFile,
}

impl Model {
    fn put(&mut self, key: &str, value: Value) {
        self.file.set(&format!("{}.{key}", self.arch), value);
    }

    fn set(&mut self, key: &str, value: u32) {
        self.put(key, Value::u32(value));
    }

    fn float(&mut self, key: &str, value: f32) {
        self.put(key, Value::f32(value));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.put(key, Value::str(value));
    }

    fn remove(&mut self, key: &str) {
        self.file.remove(&format!("{}.{key}", self.arch));
    }

    /// What the sound file says.
    fn number(&self, key: &str) -> u32 {
        let name = format!("{}.{key}", self.arch);
        let key = self.file.keys.iter().find(|k| k.name == name.as_bytes()).expect("the key");
        u32::from_le_bytes(key.value.bytes[..4].try_into().expect("a number"))
    }

    /// The key of the norms' epsilon.
    fn epsilon(&self) -> &'static str {
        if self.arch == "gpt2" { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" }
    }

    fn scale_by(&mut self, factor: f32) {
        if self.arch != "gpt-oss" {
            self.text("rope.scaling.type", "linear");
        }
        self.float(FACTOR, factor);
    }

    /// Leaves half of a tensor's last dimension.
    fn halve(&mut self, tensor: &str) {
        let row = self.file.tensor(tensor);
        let last = row.dims.last_mut().expect("a dimension");
        let kept = row.data.len() as u64 / *last * (*last / 2);
        *last /= 2;
        row.data.truncate(kept as usize);
    }

    fn drop_tensor(&mut self, tensor: &str) {
        self.file.tensors.retain(|t| t.label != tensor);
    }

    fn zero(&mut self, tensor: &str) {
        self.file.tensor(tensor).data.fill(0);
    }
}

/// A fault of some families.
struct FamilyCase {
    id: &'static str,
    of: &'static [&'static str],
    /// As in a case; a `~` stands for the name of the architecture.
    culprit: Option<&'static str>,
    fault: fn(&mut Model),
}

const fn refused(
    id: &'static str,
    of: &'static [&'static str],
    culprit: &'static str,
    fault: fn(&mut Model),
) -> FamilyCase {
    FamilyCase { id, of, culprit: Some(culprit), fault }
}

const fn loads(id: &'static str, of: &'static [&'static str], fault: fn(&mut Model)) -> FamilyCase {
    FamilyCase { id, of, culprit: None, fault }
}

const CASES: &[FamilyCase] = &[
    loads("P0 sound", ALL, |_| {}),
    refused("P1 0", ALL, "~.block_count", |m| m.set("block_count", 0)),
    refused("P1 513", ALL, "blk.", |m| m.set("block_count", 513)),
    refused("P1 100,000", ALL, "~.block_count", |m| m.set("block_count", 100_000)),
    refused("P1 2^32-1", ALL, "~.block_count", |m| m.set("block_count", u32::MAX)),
    refused("P1 missing", ALL, "~.block_count", |m| m.remove("block_count")),
    refused("P1 one too many", ALL, "blk.", |m| m.set("block_count", m.number("block_count") + 1)),
    refused("P1 one too few", ALL, "~.block_count", |m| m.set("block_count", m.number("block_count") - 1)),
    refused("P2 0", ALL, "~.attention.head_count", |m| m.set(HEADS, 0)),
    refused("P2 2^32-1", ALL, "~.attention.head_count", |m| m.set(HEADS, u32::MAX)),
    refused("P2 missing", ALL, "~.attention.head_count", |m| m.remove(HEADS)),
    refused("P2 more than the width", DERIVED_HEADS, "128 heads", |m| m.set(HEADS, 128)),
    refused("P2 more than the matrix", NAMED_HEADS, "the tensor blk.0.attn_", |m| m.set(HEADS, 128)),
    refused("P2 no divisor", DERIVED_HEADS, "3 heads", |m| {
        m.set(HEADS, 3);
        m.set(KV_HEADS, 3);
    }),
    refused("P2 half", NAMED_HEADS, "the tensor blk.0.attn_", |m| {
        m.set(HEADS, m.number(HEADS) / 2);
        m.set(KV_HEADS, 1);
    }),
    refused("P3 0", ALL, "~.attention.head_count_kv", |m| m.set(KV_HEADS, 0)),
    refused("P3 more than heads", ALL, "~.attention.head_count_kv", |m| m.set(KV_HEADS, 2 * m.number(HEADS))),
    refused("P3 no divisor", ALL, "~.attention.head_count_kv", |m| m.set(KV_HEADS, 3)),
    refused("P3 2^32-1", ALL, "~.attention.head_count_kv", |m| m.set(KV_HEADS, u32::MAX)),
    refused("P3 half", SHARED_KV, "blk.0.attn_k.weight", |m| m.set(KV_HEADS, 1)),
    refused("P3 half of a fused matrix", &["phi3"], "blk.0.attn_qkv.weight", |m| m.set(KV_HEADS, 1)),
    refused("P3 a layer's worth short", ALL, "~.attention.head_count_kv", |m| {
        m.put(KV_HEADS, Value::i32s(&vec![1; m.number("block_count") as usize - 1]));
    }),
    refused("P3 no layer's worth", ALL, "~.attention.head_count_kv", |m| m.put(KV_HEADS, Value::i32s(&[]))),
    refused("P3 negative in an array", ALL, "~.attention.head_count_kv", |m| {
        m.put(KV_HEADS, Value::i32s(&vec![-1; m.number("block_count") as usize]));
    }),
    refused("P4 key length 0", ALL, "~.attention.key_length", |m| m.set(KEY_LENGTH, 0)),
    refused("P4 key length 2^31", ALL, "~.attention.key_length", |m| m.set(KEY_LENGTH, 1 << 31)),
    refused("P4 key length 8", ALL, "the tensor ", |m| {
        [KEY_LENGTH, VALUE_LENGTH, DIMS].iter().for_each(|key| m.set(key, 8));
    }),
    refused("P4 value length 8", ALL, "~.attention.value_length", |m| m.set(VALUE_LENGTH, 8)),
    refused("P4 rope 0", ROTATED, "~.rope.dimension_count", |m| m.set(DIMS, 0)),
    refused("P4 rope odd", ROTATED, "~.rope.dimension_count", |m| m.set(DIMS, 11)),
    refused("P4 rope beyond the head", ROTATED, "~.rope.dimension_count", |m| m.set(DIMS, 66)),
    refused("P4 rope 2^31", ROTATED, "~.rope.dimension_count", |m| m.set(DIMS, 1 << 31)),
    loads("P4 rope of a family without", &["gpt2"], |m| m.set(DIMS, 11)),
    refused("P5 width 0", ALL, "~.embedding_length", |m| m.set("embedding_length", 0)),
    refused("P5 width 2^32-1", ALL, "~.embedding_length", |m| m.set("embedding_length", u32::MAX)),
    refused("P5 width missing", ALL, "~.embedding_length", |m| m.remove("embedding_length")),
    refused("P5 width of another model", ALL, "the tensor ", |m| m.set("embedding_length", 128)),
    refused("P5 ffn 0", ALL, "~.feed_forward_length", |m| m.set("feed_forward_length", 0)),
    refused("P5 ffn 2^32-1", ALL, "~.feed_forward_length", |m| m.set("feed_forward_length", u32::MAX)),
    refused("P5 ffn missing", ALL, "~.feed_forward_length", |m| m.remove("feed_forward_length")),
    refused("P5 ffn 95", DENSE, "blk.0.ffn_", |m| m.set("feed_forward_length", 95)),
    refused("P5 ffn of an expert 0", EXPERTS, "~.expert_feed_forward_length", |m| m.set(EXPERT_FFN, 0)),
    refused("P5 ffn of an expert 2^32-1", EXPERTS, "~.expert_feed_forward_length", |m| m.set(EXPERT_FFN, u32::MAX)),
    refused("P5 ffn of an expert 31", EXPERTS, "blk.0.ffn_gate_exps.weight", |m| m.set(EXPERT_FFN, 31)),
    refused("P5 a bias short", &["qwen2"], "blk.0.attn_q.bias", |m| m.halve("blk.0.attn_q.bias")),
    refused("P5 a norm short", &["qwen3", "gemma3"], "blk.0.attn_q_norm.weight", |m| {
        m.halve("blk.0.attn_q_norm.weight")
    }),
    refused("P5 a norm missing", &["qwen3moe"], "blk.0.attn_k_norm.weight", |m| {
        m.drop_tensor("blk.0.attn_k_norm.weight")
    }),
    refused("P5 the last norm missing", &["gemma3"], "blk.0.post_ffw_norm.weight", |m| {
        m.drop_tensor("blk.0.post_ffw_norm.weight");
    }),
    refused("P5 half of gate and up", &["phi3"], "blk.0.ffn_up.weight", |m| m.halve("blk.0.ffn_up.weight")),
    refused("P5 half of q, k and v", &["phi3", "gpt2"], "blk.0.attn_qkv.weight", |m| m.halve("blk.0.attn_qkv.weight")),
    refused("P5 half the sinks", &["gptoss"], "blk.0.attn_sinks.weight", |m| m.halve("blk.0.attn_sinks.weight")),
    refused("P5 no sinks", &["gptoss"], "blk.0.attn_sinks.weight", |m| m.drop_tensor("blk.0.attn_sinks.weight")),
    refused("P5 biases of half the experts", &["gptoss"], "blk.0.ffn_up_exps.bias", |m| {
        m.halve("blk.0.ffn_up_exps.bias")
    }),
    refused("P5 half the experts", EXPERTS, "blk.0.ffn_down_exps.weight", |m| m.halve("blk.0.ffn_down_exps.weight")),
    refused("P5 half the router", EXPERTS, "blk.0.ffn_gate_inp.weight", |m| m.halve("blk.0.ffn_gate_inp.weight")),
    refused("P5 half the positions", &["gpt2"], "position_embd.weight", |m| m.halve("position_embd.weight")),
    refused("P6 0", ALL, "~.context_length", |m| m.set("context_length", 0)),
    refused("P6 2^32-1", ALL, "~.context_length", |m| m.set("context_length", u32::MAX)),
    refused("P6 missing", ALL, "~.context_length", |m| m.remove("context_length")),
    loads("P6 2^28", ROTATED, |m| m.set("context_length", 1 << 28)),
    refused("P6 more than positions", &["gpt2"], "position_embd.weight", |m| m.set("context_length", 1024)),
    refused("P7 more used than there are", EXPERTS, "~.expert_used_count", |m| m.set(USED, 9)),
    refused("P7 none used", EXPERTS, "~.expert_used_count", |m| m.set(USED, 0)),
    refused("P7 used missing", EXPERTS, "~.expert_used_count", |m| m.remove(USED)),
    refused("P7 none where there are some", &["mixtral"], "blk.0.ffn_gate.weight", |m| m.set("expert_count", 0)),
    refused("P7 none where all have some", &["qwen3moe", "gptoss"], "~.expert_count", |m| m.set("expert_count", 0)),
    refused("P7 missing", &["qwen3moe", "gptoss"], "~.expert_count", |m| m.remove("expert_count")),
    refused("P7 65", EXPERTS, "blk.0.ffn_gate_inp.weight", |m| m.set("expert_count", 65)),
    refused("P7 2^32-1", EXPERTS, "~.expert_count", |m| m.set("expert_count", u32::MAX)),
    loads("P7 some where there are none", DENSE, |m| m.set("expert_count", 4)),
    refused("P8 epsilon missing", ALL, "epsilon", |m| m.remove(m.epsilon())),
    refused("P8 epsilon negative", ALL, "epsilon", |m| m.float(m.epsilon(), -1e-5)),
    refused("P8 epsilon NaN", ALL, "epsilon", |m| m.float(m.epsilon(), f32::NAN)),
    refused("P8 epsilon infinite", ALL, "epsilon", |m| m.float(m.epsilon(), f32::INFINITY)),
    loads("P8 epsilon 0", ALL, |m| m.float(m.epsilon(), 0.0)),
    loads("P8 epsilon denormal", ALL, |m| m.float(m.epsilon(), DENORMAL)),
    refused("P8 base 0", ROTATED, "~.rope.freq_base", |m| m.float(BASE, 0.0)),
    refused("P8 base negative", ROTATED, "~.rope.freq_base", |m| m.float(BASE, -1e4)),
    refused("P8 base NaN", ROTATED, "~.rope.freq_base", |m| m.float(BASE, f32::NAN)),
    refused("P8 base infinite", ROTATED, "~.rope.freq_base", |m| m.float(BASE, f32::INFINITY)),
    refused("P8 base denormal", ROTATED, "~.rope.freq_base", |m| m.float(BASE, DENORMAL)),
    refused("P8 local base 0", &["gemma3"], "~.rope.freq_base_swa", |m| m.float(LOCAL_BASE, 0.0)),
    refused("P8 local base NaN", &["gemma3"], "~.rope.freq_base_swa", |m| m.float(LOCAL_BASE, f32::NAN)),
    refused("P8 local base denormal", &["gemma3"], "~.rope.freq_base_swa", |m| m.float(LOCAL_BASE, DENORMAL)),
    refused("P8 factor 0", ROTATED, "~.rope.scaling.factor", |m| m.scale_by(0.0)),
    refused("P8 factor negative", ROTATED, "~.rope.scaling.factor", |m| m.scale_by(-8.0)),
    refused("P8 factor NaN", ROTATED, "~.rope.scaling.factor", |m| m.scale_by(f32::NAN)),
    refused("P8 factor infinite", ROTATED, "~.rope.scaling.factor", |m| m.scale_by(f32::INFINITY)),
    refused("P8 factor denormal", ROTATED, "~.rope.scaling", |m| m.scale_by(DENORMAL)),
    refused("P8 unknown scaling", ROTATED, "~.rope.scaling.type", |m| m.text("rope.scaling.type", "guess")),
    refused("P8 original context 0", &["gptoss", "phi3long"], "~.rope.scaling.original_context_length", |m| {
        m.set(ORIGINAL, 0)
    }),
    refused("P8 original context 2^32", &["gptoss", "phi3long"], "~.rope.scaling.original_context_length", |m| {
        m.put(ORIGINAL, Value::new(U64, (1u64 << 32).to_le_bytes()));
    }),
    loads("P8 original context 1", &["gptoss", "phi3long"], |m| m.set(ORIGINAL, 1)),
    refused("P8 fast turns 0", &["gptoss"], "~.rope.scaling.yarn_beta_fast", |m| m.float(FAST, 0.0)),
    refused("P8 fast turns NaN", &["gptoss"], "~.rope.scaling.yarn_beta_fast", |m| m.float(FAST, f32::NAN)),
    refused("P8 base 1 under YaRN", &["gptoss"], "~.rope.freq_base", |m| m.float(BASE, 1.0)),
    refused("P8 attention factor NaN", &["phi3long"], "~.rope.scaling.attn_factor", |m| m.float(ATTN_FACTOR, f32::NAN)),
    refused("P8 attention factor 0", &["phi3long"], "~.rope.scaling.attn_factor", |m| m.float(ATTN_FACTOR, 0.0)),
    refused("P8 long factors 0", &["phi3long"], "rope_factors_long.weight", |m| m.zero("rope_factors_long.weight")),
    refused("P8 long factors short", &["phi3long"], "rope_factors_long.weight", |m| {
        m.halve("rope_factors_long.weight")
    }),
    refused("P8 long factors missing", &["phi3long"], "rope_factors_long.weight", |m| {
        m.drop_tensor("rope_factors_long.weight");
    }),
    refused("P8 longrope without factors", &["qwen2", "phi3"], "rope_factors_", |m| {
        m.text("rope.scaling.type", "longrope");
    }),
    loads("P9 0", WINDOWED, |m| m.set(WINDOW, 0)),
    loads("P9 1", WINDOWED, |m| m.set(WINDOW, 1)),
    loads("P9 beyond the context", WINDOWED, |m| m.set(WINDOW, m.number("context_length") + 1)),
    loads("P9 2^32-1", WINDOWED, |m| m.set(WINDOW, u32::MAX)),
    loads("P9 missing", WINDOWED, |m| m.remove(WINDOW)),
    refused("P9 2^63", WINDOWED, "~.attention.sliding_window", |m| {
        m.put(WINDOW, Value::new(U64, (1u64 << 63).to_le_bytes()));
    }),
    refused("P9 negative", WINDOWED, "~.attention.sliding_window", |m| m.put(WINDOW, Value::new(I32, [0xff; 4]))),
    refused("P9 a text", WINDOWED, "~.attention.sliding_window", |m| m.text(WINDOW, "16")),
    refused("P9 pattern of a layer too few", PATTERNED, "~.attention.sliding_window_pattern", |m| {
        pattern(m, m.number("block_count") as usize - 1);
    }),
    refused("P9 pattern of a layer too many", PATTERNED, "~.attention.sliding_window_pattern", |m| {
        pattern(m, m.number("block_count") as usize + 1);
    }),
    refused("P9 pattern of no layer", PATTERNED, "~.attention.sliding_window_pattern", |m| pattern(m, 0)),
    loads("P9 pattern that fits", PATTERNED, |m| pattern(m, m.number("block_count") as usize)),
    refused("P9 period 0", PATTERNED, "~.attention.sliding_window_pattern", |m| m.set(PATTERN, 0)),
    refused("P9 period 2^32-1", PATTERNED, "~.attention.sliding_window_pattern", |m| m.set(PATTERN, u32::MAX)),
    loads("P9 period 1", PATTERNED, |m| m.set(PATTERN, 1)),
    loads("P9 pattern of a family without", UNPATTERNED, |m| pattern(m, 99)),
    loads("P10 vocab_size 1, unused", ALL, |m| m.set("vocab_size", 1)),
    loads("P10 vocab_size 2^32-1, unused", ALL, |m| m.set("vocab_size", u32::MAX)),
    refused("P10 half the rows", TIED, "token_embd.weight only 160 rows", |m| m.halve("token_embd.weight")),
    refused("P10 half the rows", UNTIED, "the tensor output.weight", |m| m.halve("token_embd.weight")),
];

fn pattern(m: &mut Model, layers: usize) {
    m.put(PATTERN, Value::array(BOOL, layers as u64, vec![1; layers]));
}

/// Every case of every family that it is of: what it is, the file, and what is to be named.
fn files() -> impl Iterator<Item = (String, Vec<u8>, Option<String>)> {
    ALL.iter().flat_map(|name| {
        let sound = parse(&golden(&format!("{name}-f32")));
        let arch = sound.keys.iter().find(|k| k.name == b"general.architecture").expect("an architecture");
        let arch = String::from_utf8_lossy(&arch.value.bytes[8..]).into_owned();
        CASES.iter().filter(|case| case.of.contains(name)).map(move |case| {
            let mut model = Model { arch: arch.clone(), file: sound.clone() };
            (case.fault)(&mut model);
            let culprit = case.culprit.map(|culprit| culprit.replace('~', &arch));
            (format!("{name}: {}", case.id), model.file.bytes(), culprit)
        })
    })
}

fn complaints(outcome: impl Fn(&str, &[u8]) -> Outcome) {
    let complaints: Vec<String> = files()
        .filter_map(|(id, bytes, culprit)| complaint_of(&id, culprit.as_deref(), outcome(&id, &bytes)))
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_case_of_every_family() {
    let _alone = alone();
    complaints(check);
}

#[test]
fn every_case_of_every_family_through_the_engine() {
    let _alone = alone();
    let engine = Engine::new();
    let folder = Folder::new("families");
    complaints(|id, bytes| engine.check(id, &folder.write("case.gguf", bytes), bytes.len()));
}

/// Taking apart and writing again changes nothing.
#[test]
fn files_survive_the_forge() {
    for name in ALL {
        let bytes = golden(&format!("{name}-f32"));
        let written = parse(&bytes).bytes();
        // The other program also fills up behind the last tensor.
        assert!(bytes.starts_with(&written) && bytes.len() < written.len() + 32, "{name}");
    }
}
