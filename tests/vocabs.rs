//! Real vocabularies against the ids that their reference tokenizers give: the published vocabulary files
//! with their test texts, the golden models, and the prompts of real models where those are at hand.

use std::path::{Path, PathBuf};

use serde_json::Value;
use worker_orcd::gguf::Gguf;
use worker_orcd::token::{Encode, Tokenizer};

const PLAIN: Encode = Encode { add_special: false, parse_special: false };
const PROMPT: Encode = Encode { add_special: true, parse_special: true };

fn folder(variable: &str, default: &str) -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(default);
    std::env::var_os(variable).map_or_else(default, PathBuf::from)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn tokenizer(path: &Path) -> Tokenizer {
    let gguf = Gguf::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Tokenizer::from_metadata(gguf.metadata()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn ids(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Encodes each text of the vocabulary's list, and decodes it again.
fn check_vocabulary(name: &str, n_tokens: usize, kind: &str, pre: &str) {
    let path = folder("WORKER_ORCD_VOCABS", "shared/vocabs").join(format!("ggml-vocab-{name}.gguf"));
    let tokenizer = tokenizer(&path);
    assert_eq!((tokenizer.n_tokens(), tokenizer.kind(), tokenizer.pre()), (n_tokens, kind, pre));
    let texts = read(&path.with_extension("gguf.inp"));
    let texts: Vec<&str> = texts.split_terminator("\n__ggml_vocab_test__\n").collect();
    let want = read(&path.with_extension("gguf.out"));
    let want: Vec<&str> = want.lines().collect();
    assert!(texts.len() > 40);
    assert_eq!(texts.len(), want.len(), "{name}");
    for (text, want) in texts.iter().zip(want) {
        let want: Vec<u32> = want.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let got = tokenizer.encode(text, PLAIN).unwrap();
        assert_eq!(got, want, "{name}: {text:?}");
        assert_eq!(String::from_utf8_lossy(&tokenizer.decode(&got)), *text, "{name}");
        let pieces: Vec<u8> = got.iter().flat_map(|&id| tokenizer.bytes(id)).copied().collect();
        assert!(pieces.ends_with(text.as_bytes()), "{name}: {text:?}");
    }
}

#[test]
fn gpt_2() {
    check_vocabulary("gpt-2", 50257, "gpt2", "gpt-2");
}

#[test]
fn llama_bpe() {
    check_vocabulary("llama-bpe", 128256, "gpt2", "llama-bpe");
}

#[test]
fn qwen2() {
    check_vocabulary("qwen2", 151936, "gpt2", "qwen2");
}

#[test]
fn llama_spm() {
    check_vocabulary("llama-spm", 32000, "llama", "default");
}

#[test]
fn phi_3() {
    check_vocabulary("phi-3", 32064, "llama", "default");
}

#[test]
fn golden_models() {
    let folder = folder("WORKER_ORCD_GOLDENS", "shared/models/tiny");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut models = 0;
    for path in entries.map(|e| e.unwrap().path()) {
        let Some(stem) = path.to_string_lossy().strip_suffix(".golden.json").map(str::to_string) else {
            continue;
        };
        let golden: Value = serde_json::from_str(&read(&path)).unwrap();
        let tokenizer = tokenizer(Path::new(&format!("{stem}.gguf")));
        for entry in golden["tokenizer"].as_array().unwrap() {
            let text = entry["text"].as_str().unwrap();
            let got = tokenizer.encode(text, PLAIN).unwrap();
            assert_eq!(got, ids(&entry["ids"]), "{stem}: {text:?}");
            assert_eq!(String::from_utf8_lossy(&tokenizer.decode(&got)), text, "{stem}");
        }
        check_table(&tokenizer, &stem);
        models += 1;
    }
    assert!(models > 0, "no golden model in {}", folder.display());
}

/// The tables of the golden models: text, then bos, eos, im_start, im_end, then padding.
fn check_table(tokenizer: &Tokenizer, name: &str) {
    let (bos, eos) = (tokenizer.bos().unwrap(), tokenizer.eos().unwrap());
    assert_eq!(eos, bos + 1, "{name}");
    for id in 0..tokenizer.n_tokens() as u32 {
        let control = (bos..bos + 4).contains(&id);
        assert_eq!(tokenizer.is_control(id), control, "{name}: {id}");
        assert_eq!(tokenizer.is_padding(id), id >= bos + 4, "{name}: {id}");
        assert_eq!(tokenizer.is_end(id), id == eos || id == bos + 3, "{name}: {id}");
        assert_eq!(tokenizer.bytes(id).is_empty(), id >= bos, "{name}: {id}");
    }
    let chat = tokenizer.encode("<|im_start|>a<|im_end|>", PROMPT).unwrap();
    assert_eq!(chat, [bos + 2, chat[1], bos + 3], "{name}");
    assert!(tokenizer.encode("<|im_start|>", PLAIN).unwrap().len() > 1, "{name}");
}

#[test]
fn prompts_of_real_models() {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join(".models");
    let models = std::env::var_os("WORKER_ORCD_MODELS").map_or(default, PathBuf::from);
    let references = folder("WORKER_ORCD_REFERENCES", "shared/models/real");
    for name in ["smollm2-135m-instruct-q4_1.json", "gemma-3-270m-q4_k_m.json"] {
        let reference: Value = serde_json::from_str(&read(&references.join(name))).unwrap();
        let path = models.join(reference["file"].as_str().unwrap());
        if !path.is_file() {
            assert!(std::env::var_os("WORKER_ORCD_CI").is_none(), "{} is missing", path.display());
            println!("skipped: {} is missing", path.display());
            continue;
        }
        let tokenizer = tokenizer(&path);
        for prompt in reference["prompts"].as_array().unwrap() {
            let text = prompt["prompt"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, PROMPT).unwrap(), ids(&prompt["ids"]), "{name}: {text:?}");
            let greedy = tokenizer.decode(&ids(&prompt["greedy"]));
            assert_eq!(String::from_utf8_lossy(&greedy), prompt["text"].as_str().unwrap(), "{name}");
        }
        let likelihood = &reference["likelihood"];
        let plain = Encode { add_special: true, parse_special: false };
        let got = tokenizer.encode(likelihood["text"].as_str().unwrap(), plain).unwrap();
        assert_eq!(got, ids(&likelihood["ids"]), "{name}: likelihood");
    }
}

/// Texts of characters of every kind, some of them unassigned.
fn random_text(seed: &mut u64) -> String {
    let mut below = |n: u64| {
        *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*seed >> 33) % n
    };
    let character = |_| match below(4) {
        0 => char::from_u32(below(0x80) as u32),
        1 => Some([' ', '\n', '\r', '\t', '\'', 's', '1'][below(7) as usize]),
        2 => char::from_u32(below(0x3000) as u32),
        _ => char::from_u32(below(0x11_0000) as u32),
    };
    // SentencePiece takes a lower block for a space.
    (0..40).filter_map(character).filter(|&c| c != '\u{2581}').collect()
}

#[test]
fn any_text_comes_back() {
    for name in ["gpt-2", "llama-bpe", "qwen2", "llama-spm", "phi-3"] {
        let path = folder("WORKER_ORCD_VOCABS", "shared/vocabs").join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = tokenizer(&path);
        let mut seed = 3;
        for _ in 0..2000 {
            let text = random_text(&mut seed);
            let ids = tokenizer.encode(&text, PLAIN).unwrap();
            assert_eq!(tokenizer.decode(&ids), text.as_bytes(), "{name}: {text:?}");
        }
    }
}

/// The worst texts for a tokenizer are long runs: none may cost more than its length's worth.
#[test]
fn a_mebibyte_of_one_letter_takes_less_than_a_second() {
    const BYTES: usize = 1 << 20;
    for name in ["qwen2", "llama-spm"] {
        let path = folder("WORKER_ORCD_VOCABS", "shared/vocabs").join(format!("ggml-vocab-{name}.gguf"));
        let tokenizer = tokenizer(&path);
        for unit in ["a", " ", "\n", "7", "=", "😀", "\u{301}", "ab", "<|im_", "</s>", " a"] {
            let text = unit.repeat(BYTES / unit.len());
            let quick = |_| {
                let start = std::time::Instant::now();
                let ids = tokenizer.encode(&text, PLAIN).unwrap();
                let elapsed = start.elapsed();
                assert_eq!(tokenizer.decode(&ids), text.as_bytes(), "{name}: {unit:?}");
                elapsed.as_secs_f32() < 1.0
            };
            // A busy machine may stop us for longer than that; only what is slow every time is slow.
            assert!((0..3).any(quick), "{name}: {unit:?}");
        }
    }
}
