//! Whole tokenizers over small vocabularies: what each key of the file changes.

use super::{Encode, Tokenizer, bytes};
use crate::gguf::Gguf;

const PLAIN: Encode = Encode { add_special: false, parse_special: false };
const PARSE: Encode = Encode { add_special: false, parse_special: true };
const FULL: Encode = Encode { add_special: true, parse_special: true };

/// A file of nothing but a vocabulary.
#[derive(Clone)]
struct File {
    tokens: Vec<(String, i32)>,
    /// Keys with their values as they stand in a file, by what follows "tokenizer.ggml.".
    keys: Vec<(&'static str, Vec<u8>)>,
}

fn counted(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn array(kind: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    let head = [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &(elements.len() as u64).to_le_bytes()];
    [head.concat(), elements.concat()].concat()
}

impl File {
    fn new(model: &str, tokens: impl Iterator<Item = (String, i32)>) -> Self {
        let file = Self { tokens: tokens.collect(), keys: vec![] };
        // Longer is better, as if every merge went on to the end.
        let scores: Vec<f32> = file.tokens.iter().map(|(text, _)| text.len() as f32).collect();
        file.text("model", model).text("pre", "gpt-2").merges(&[]).scores(&scores)
    }

    /// Every byte at the id of its value, then these from id 256.
    fn bpe(more: &[(&str, i32)]) -> Self {
        let bytes = (0..=255).map(|b| (bytes::char_of(b).to_string(), 1));
        Self::new("gpt2", bytes.chain(owned(more)))
    }

    /// `<unk>`, `<s>`, `</s>`, every byte from id 3, then these from id 259.
    fn spm(more: &[(&str, i32)]) -> Self {
        let bytes = (0..=255).map(|b| (format!("<0x{b:02X}>"), 6));
        let first = owned(&[("<unk>", 2), ("<s>", 3), ("</s>", 3)]).collect::<Vec<_>>();
        Self::new("llama", first.into_iter().chain(bytes).chain(owned(more)))
    }

    /// Sets a key, or drops it.
    fn set(&self, key: &'static str, value: Option<Vec<u8>>) -> Self {
        let mut file = self.clone();
        file.keys.retain(|(k, _)| *k != key);
        file.keys.extend(value.map(|value| (key, value)));
        file
    }

    fn text(&self, key: &'static str, text: &str) -> Self {
        self.set(key, Some([8u32.to_le_bytes().to_vec(), counted(text)].concat()))
    }

    fn id(&self, key: &'static str, id: u32) -> Self {
        self.set(key, Some([4u32.to_le_bytes(), id.to_le_bytes()].concat()))
    }

    fn flag(&self, key: &'static str, flag: bool) -> Self {
        self.set(key, Some([&7u32.to_le_bytes()[..], &[flag as u8]].concat()))
    }

    fn merges(&self, merges: &[&str]) -> Self {
        self.set("merges", Some(array(8, &merges.iter().map(|m| counted(m)).collect::<Vec<_>>())))
    }

    fn scores(&self, scores: &[f32]) -> Self {
        self.set("scores", Some(array(6, &scores.iter().map(|s| s.to_le_bytes().to_vec()).collect::<Vec<_>>())))
    }

    fn bytes(&self) -> Vec<u8> {
        let texts: Vec<Vec<u8>> = self.tokens.iter().map(|(text, _)| counted(text)).collect();
        let types: Vec<Vec<u8>> = self.tokens.iter().map(|(_, kind)| kind.to_le_bytes().to_vec()).collect();
        let tables = [("tokens", array(8, &texts)), ("token_type", array(5, &types))];
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(0u64.to_le_bytes());
        out.extend((self.keys.len() as u64 + 2).to_le_bytes());
        for (key, value) in self.keys.iter().chain(&tables) {
            let name = if key.starts_with("general.") { (*key).into() } else { format!("tokenizer.ggml.{key}") };
            out.extend([counted(&name), value.clone()].concat());
        }
        out
    }

    fn read(&self) -> crate::error::Result<Tokenizer> {
        Tokenizer::from_metadata(Gguf::from_bytes(self.bytes()).unwrap().metadata())
    }

    fn build(&self) -> Tokenizer {
        self.read().unwrap()
    }

    fn refusal(&self) -> String {
        let error = self.read().err().unwrap();
        assert_eq!(error.code(), crate::error::ErrorCode::ModelLoadFailed);
        error.reason().to_string()
    }
}

fn owned(tokens: &[(&str, i32)]) -> impl Iterator<Item = (String, i32)> {
    tokens.iter().map(|&(text, kind)| (text.to_string(), kind))
}

#[test]
fn any_thread_may_use_it() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&File::bpe(&[]).build());
}

#[test]
fn merges_apply_by_rank_within_pieces() {
    let file = File::bpe(&[("ab", 1), ("bc", 1), ("Ġa", 1), ("abc", 1)]);
    let t = file.merges(&["b c", "a b", "Ġ a", "ab c", "no such"]).build();
    // "b c" comes first, and nothing makes "abc" of "a" and "bc".
    assert_eq!(t.encode("abc", PLAIN).unwrap(), [97, 257]);
    assert_eq!(t.encode("ab ax", PLAIN).unwrap(), [256, 258, 120]);
    assert_eq!(t.encode("", FULL).unwrap(), [0u32; 0]);
    assert_eq!(t.decode(&[97, 257, 258, 9999]), b"abc a");
    assert_eq!((t.bytes(258), t.bytes(9999)), (&b" a"[..], &b""[..]));
    assert_eq!((t.kind(), t.pre(), t.n_tokens(), t.bos()), ("gpt2", "gpt-2", 260, None));
}

#[test]
fn a_whole_piece_skips_the_merges_where_the_split_says_so() {
    let file = File::bpe(&[("abc", 1), ("<bos>", 3)]).text("pre", "llama-bpe").id("bos_token_id", 257);
    let t = file.build();
    assert_eq!(t.encode("abc", FULL).unwrap(), [257, 256]);
    assert_eq!(t.encode("abcd", PLAIN).unwrap(), [97, 98, 99, 100]);
    assert_eq!(file.text("pre", "qwen2").build().encode("abc", FULL).unwrap(), [97, 98, 99]);
}

#[test]
fn the_file_says_whether_bos_and_eos_are_added() {
    let file = File::bpe(&[("<bos>", 3), ("<eos>", 3)]).id("bos_token_id", 256).id("eos_token_id", 257);
    let both = |file: &File, add| file.flag("add_bos_token", add).flag("add_eos_token", add);
    for (file, want) in [
        (file.clone(), vec![97]),
        (file.flag("add_bos_token", true), vec![256, 97]),
        (both(&file, true), vec![256, 97, 257]),
        (both(&file, false), vec![97]),
    ] {
        let t = file.build();
        assert_eq!(t.encode("a", FULL).unwrap(), want);
        assert_eq!(t.encode("a", PARSE).unwrap(), [97]);
    }
}

#[test]
fn a_token_to_be_added_must_exist() {
    let file = File::bpe(&[]);
    assert!(file.flag("add_bos_token", true).refusal().contains("tokenizer.ggml.bos_token_id"));
    assert!(file.flag("add_eos_token", true).refusal().contains("tokenizer.ggml.eos_token_id"));
    // The split's own rule adds BOS.
    let file = file.text("pre", "llama-bpe");
    assert!(file.id("bos_token_id", 256).refusal().contains("tokenizer.ggml.bos_token_id"));
    assert_eq!(file.flag("add_bos_token", false).build().encode("a", FULL).unwrap(), [97]);
}

#[test]
fn control_tokens_come_only_from_parsing() {
    let file = File::bpe(&[("<|im_end|>", 3), ("<tool>", 4), ("[PAD258]", 4), ("<unused0>", 3), ("x", 5)]);
    let t = file.build();
    let gguf = Gguf::from_bytes(file.bytes()).unwrap();
    let never = |rows| Tokenizer::never_drawn(gguf.metadata(), rows).unwrap();
    assert_eq!((never(300), never(259)), ((258..300).collect(), vec![258]));
    assert_eq!(t.encode("a<|im_end|>", PARSE).unwrap(), [97, 256]);
    assert_eq!(t.encode("a<|im_end|>", PLAIN).unwrap().len(), 11);
    assert_eq!(t.encode("<tool>a", PLAIN).unwrap(), [257, 97]);
    // Padding is never found, and never hides a token of the same text.
    assert_eq!(t.encode("[PAD258]", PARSE).unwrap().len(), 8);
    assert_eq!(t.encode("x", PARSE).unwrap(), [120]);
    assert_eq!((t.bytes(256), t.bytes(257), t.bytes(258)), (&b""[..], &b"<tool>"[..], &b""[..]));
    let flags = |id| (t.is_control(id), t.is_padding(id), t.is_end(id));
    assert_eq!(flags(256), (true, false, true));
    assert_eq!(flags(257), (false, false, false));
    for id in 258..261 {
        assert_eq!(flags(id), (false, true, false));
    }
    assert_eq!(flags(261), (false, false, false));
}

#[test]
fn answers_end_where_the_file_or_custom_says() {
    let ends = |file: &File| {
        let t = file.build();
        (0..300).filter(|&id| t.is_end(id)).collect::<Vec<u32>>()
    };
    let file = File::bpe(&[("<|end|>", 3), ("<|return|>", 3), ("<|endoftext|>", 4), ("</s>", 4), ("a b", 3)]);
    assert_eq!(ends(&file), [256, 257, 258]);
    assert_eq!(ends(&File::bpe(&[("</s>", 3), ("<|im_end|>", 1)])), [256]);
    let named = file.id("eos_token_id", 260).id("eot_token_id", 5).id("eom_token_id", 257);
    assert_eq!(ends(&named), [5, 256, 257, 258, 260]);
    assert_eq!(ends(&file.id("eos_token_id", 261).id("eot_token_id", u32::MAX)), [256, 257, 258]);
}

#[test]
fn every_end_is_known_by_its_text_or_its_key() {
    let texts = [
        "<|im_end|>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<end_of_turn>",
        "<eos>",
        "</s>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<EOT>",
        "[EOS]",
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",
    ];
    let ends = |file: File| {
        let t = file.build();
        [256, 257].map(|id| t.is_end(id))
    };
    for text in texts {
        assert_eq!(ends(File::bpe(&[(text, 3), ("<|start|>", 3)])), [true, false], "{text}");
    }
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        assert_eq!(ends(File::bpe(&[("<one>", 3), ("<two>", 3)]).id(key, 257)), [false, true], "{key}");
    }
}

#[test]
fn messages_are_not_answers_where_return_and_call_exist() {
    let file = File::bpe(&[("<|end|>", 3), ("<|return|>", 3), ("<|call|>", 3)]);
    let t = file.build();
    assert_eq!([256, 257, 258].map(|id| t.is_end(id)), [false, true, true]);
    assert!(file.id("eos_token_id", 256).build().is_end(256));
}

#[test]
fn text_outside_the_alphabet_stays_as_it_is() {
    let t = File::bpe(&[(" ", 1), ("中", 1), ("", 1)]).build();
    assert_eq!(t.encode(" 中", PLAIN).unwrap(), [0x20, 0xE4, 0xB8, 0xAD]);
    assert_eq!((t.bytes(256), t.bytes(257), t.bytes(258)), (&b" "[..], "中".as_bytes(), &b""[..]));
}

#[test]
fn what_the_vocabulary_cannot_say_is_the_prompts_fault() {
    for model in ["gpt2", "llama"] {
        let t = File::new(model, owned(&[("a", 1)])).flag("add_bos_token", false).build();
        let error = t.encode("ab", PLAIN).err().unwrap();
        assert_eq!(error.code(), crate::error::ErrorCode::InvalidParameter);
        assert!(error.reason().contains("the prompt holds"), "{error}");
    }
}

#[test]
fn scores_merge_the_best_pair_leftmost_first() {
    let file = File::spm(&[("a", 1), ("b", 1), ("▁", 1), ("ab", 1), ("ba", 1), ("▁a", 1), ("abab", 1)]);
    let mut scores = vec![0.0; file.tokens.len()];
    scores[262..].copy_from_slice(&[-1.0, -1.0, -2.0, -3.0]);
    let file = file.scores(&scores);
    let t = file.build();
    assert_eq!(t.encode("bab", PLAIN).unwrap(), [261, 263, 260]);
    assert_eq!(t.encode("abab", FULL).unwrap(), [1, 261, 265]);
    assert_eq!(t.encode("aa", PLAIN).unwrap(), [264, 259]);
    assert_eq!(t.decode(&[1, 264, 259]), b"aa");
    let t = file.flag("add_space_prefix", false).build();
    assert_eq!(t.encode("aa a", FULL).unwrap(), [1, 259, 259, 264]);
    assert_eq!(t.decode(&[1, 264, 259]), b" aa");
}

#[test]
fn characters_without_a_token_become_bytes_or_unknown() {
    let mut file = File::spm(&[("▁", 1), ("a", 1)]);
    let t = file.build();
    assert_eq!(t.encode("é\na", PLAIN).unwrap(), [259, 3 + 0xC3, 3 + 0xA9, 3 + 10, 260]);
    assert_eq!((t.bytes(3 + 0xC3), t.bytes(0)), (&b"\xC3"[..], &b""[..]));
    // The names of byte, control and unknown tokens are text like any other.
    let spelled = t.encode("<s><unk><0x0A>", PLAIN).unwrap();
    assert!(spelled.iter().all(|&id| id > 2 && id != 13), "{spelled:?}");
    assert_eq!(t.decode(&spelled), b"<s><unk><0x0A>");
    file.tokens.truncate(100);
    assert_eq!(file.scores(&[0.0; 100]).build().encode("é", PLAIN).unwrap(), [3 + 0x20, 0]);
}

#[test]
fn a_space_follows_each_special_token_where_one_starts_the_text() {
    let file = File::spm(&[("▁", 1), ("a", 1), ("▁a", 1)]);
    let t = file.build();
    assert_eq!(t.encode("a</s>a", FULL).unwrap(), [1, 261, 2, 261]);
    assert_eq!(t.encode("▁a", PLAIN).unwrap(), [259, 261]);
    for named in [file.text("general.name", "Phi-3 mini"), file.text("general.architecture", "phi3")] {
        assert_eq!(named.build().encode("</s> \n a<s> a", PARSE).unwrap(), [2, 261, 1, 259, 261]);
    }
}

#[test]
fn a_sentencepiece_file_without_ids_has_the_usual_ones() {
    let t = File::spm(&[("▁", 1)]).build();
    assert_eq!((t.bos(), t.eos(), t.is_end(2)), (Some(1), Some(2), true));
    let file = File::new("llama", owned(&[("a", 1), ("b", 1), ("c", 1)]));
    assert!(file.refusal().contains("tokenizer.ggml.bos_token_id"));
}

#[test]
fn unknown_kinds_and_splits_are_refused() {
    for model in ["", "bert", "GPT2", "t5", "no_vocab"] {
        assert!(File::bpe(&[]).text("model", model).refusal().contains("tokenizer.ggml.model"), "{model}");
    }
    for pre in ["", "default", "qwen9"] {
        assert!(File::bpe(&[]).text("pre", pre).refusal().contains("tokenizer.ggml.pre"), "{pre:?}");
    }
    assert!(File::bpe(&[]).set("pre", None).refusal().contains("tokenizer.ggml.pre"));
}
