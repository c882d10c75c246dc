//! The reader on the models that lie beside the repository.

use super::*;

fn shared(name: &str) -> std::path::PathBuf {
    let root = std::env::var_os("WORKER_ORCD_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), Into::into);
    root.join(name)
}

#[test]
fn a_small_model_reads_as_written() {
    let gguf = Gguf::open(&shared("models/tiny/llama-256-q2_k.gguf")).unwrap();
    assert_eq!(gguf.architecture().unwrap(), "llama");
    let metadata = gguf.metadata();
    assert_eq!(metadata.len(), 25);
    assert_eq!(metadata.u32("llama.embedding_length").unwrap(), Some(256));
    assert_eq!(metadata.u64("llama.context_length").unwrap(), Some(512));
    assert_eq!(metadata.f32("llama.rope.freq_base").unwrap(), Some(10_000.0));
    assert_eq!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap(), Some(false));
    assert_eq!(metadata.u32("no.such.key").unwrap(), None);
    let tokens = metadata.require_strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens.len(), 320);
    assert_eq!(tokens.get(3).unwrap(), "$");
    assert_eq!(gguf.tensors().len(), 11);
    let q = gguf.tensor("blk.0.attn_q.weight").unwrap();
    assert_eq!((q.dims, q.n_dims), ([256, 256, 1, 1], 2));
    assert_eq!(q.ty, crate::quant::QuantType::Q2K);
    assert_eq!(gguf.source().bytes(&q.data).len(), 256 * 84);
}

/// A file of these keys and no tensors: name, type, bytes of the value.
fn file(keys: &[(&str, Kind, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((keys.len() as u64).to_le_bytes());
    for (name, kind, value) in keys {
        bytes.extend(counted(name.as_bytes()));
        bytes.extend((*kind as u32).to_le_bytes());
        bytes.extend(value);
    }
    bytes
}

fn counted(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn array(kind: Kind, len: u64, elements: Vec<u8>) -> Vec<u8> {
    [&(kind as u32).to_le_bytes()[..], &len.to_le_bytes(), &elements].concat()
}

fn parsed(keys: &[(&str, Kind, Vec<u8>)]) -> Gguf {
    Gguf::from_bytes(file(keys)).unwrap()
}

#[test]
fn integers_of_every_width_read_alike() {
    let gguf = parsed(&[
        ("u8", Kind::U8, vec![200]),
        ("i8", Kind::I8, vec![100]),
        ("i16", Kind::I16, (-2i16).to_le_bytes().to_vec()),
        ("u64", Kind::U64, (1u64 << 40).to_le_bytes().to_vec()),
        ("i64", Kind::I64, i64::MIN.to_le_bytes().to_vec()),
    ]);
    let metadata = gguf.metadata();
    assert_eq!(metadata.u32("u8").unwrap(), Some(200));
    assert_eq!(metadata.u64("i8").unwrap(), Some(100));
    assert_eq!(metadata.i64("i16").unwrap(), Some(-2));
    assert_eq!(metadata.i64("i64").unwrap(), Some(i64::MIN));
    assert_eq!(metadata.u64("u64").unwrap(), Some(1 << 40));
    let negative = metadata.u64("i16").unwrap_err();
    assert_eq!(negative.reason(), "metadata key \"i16\" is -2, expected an unsigned integer");
    assert!(metadata.u32("u64").unwrap_err().reason().contains("1099511627776"));
}

#[test]
fn a_value_of_another_type_is_an_error_that_names_both() {
    let gguf = parsed(&[
        ("number", Kind::U32, vec![1, 0, 0, 0]),
        ("flag", Kind::Bool, vec![1]),
        ("list", Kind::Array, array(Kind::U8, 2, vec![1, 2])),
        ("big", Kind::F64, 1e300f64.to_le_bytes().to_vec()),
    ]);
    let metadata = gguf.metadata();
    let reason = |e: Error| e.reason().to_string();
    assert_eq!(reason(metadata.str("number").unwrap_err()), "metadata key \"number\" is u32, expected a string");
    assert_eq!(
        reason(metadata.u32("list").unwrap_err()),
        "metadata key \"list\" is an array of 2 u8, expected an unsigned integer of 32 bits"
    );
    assert!(metadata.f32("number").is_err() && metadata.f32("big").is_err());
    assert!(metadata.bool("number").is_err() && metadata.u32("flag").is_err());
    assert!(metadata.u64s("number").is_err() && metadata.strings("list").is_err());
    assert!(metadata.bools("list").is_err() && metadata.f32s("list").is_err());
    assert_eq!(metadata.bool("flag").unwrap(), Some(true));
    assert!(metadata.is_array("list") && !metadata.is_array("flag") && !metadata.is_array("none"));
    assert_eq!(reason(metadata.require_u32("none").unwrap_err()), "metadata key \"none\" is missing");
}

#[test]
fn arrays_of_numbers_widen_and_are_checked() {
    let shorts = [5i16, -1].into_iter().flat_map(i16::to_le_bytes).collect();
    let gguf = parsed(&[
        ("shorts", Kind::Array, array(Kind::I16, 2, shorts)),
        ("bools", Kind::Array, array(Kind::Bool, 3, vec![1, 0, 1])),
        ("doubles", Kind::Array, array(Kind::F64, 1, 0.5f64.to_le_bytes().to_vec())),
        ("none", Kind::Array, array(Kind::U32, 0, vec![])),
    ]);
    let metadata = gguf.metadata();
    assert_eq!(metadata.i32s("shorts").unwrap(), Some(vec![5, -1]));
    assert!(metadata.u64s("shorts").unwrap_err().reason().contains("element 1"));
    assert_eq!(metadata.bools("bools").unwrap(), Some(vec![true, false, true]));
    assert_eq!(metadata.f32s("doubles").unwrap(), Some(vec![0.5]));
    assert_eq!(metadata.u64s("none").unwrap(), Some(vec![]));
    assert_eq!(metadata.keys().collect::<Vec<_>>(), ["bools", "doubles", "none", "shorts"]);
}

#[test]
fn strings_are_found_by_index_and_in_order() {
    let texts: Vec<String> = (0..100).map(|i| "x".repeat(i % 7) + &i.to_string()).collect();
    let elements = texts.iter().flat_map(|t| counted(t.as_bytes())).chain(counted(b"\xff")).collect();
    let gguf = parsed(&[
        ("texts", Kind::Array, array(Kind::Str, 101, elements)),
        // Its name reads as one more string, were there no end.
        ("zzz", Kind::Bool, vec![1]),
    ]);
    let found = gguf.metadata().require_strings("texts").unwrap();
    assert_eq!(found.len(), 101);
    for (index, text) in texts.iter().enumerate() {
        assert_eq!(found.get(index).unwrap(), text);
    }
    assert!(found.iter().take(100).map(Result::unwrap).eq(texts.iter().map(String::as_str)));
    assert_eq!(found.iter_bytes().last(), Some(&b"\xff"[..]));
    assert!(found.get(100).unwrap_err().reason().contains("element 100 is not valid UTF-8"));
    assert!(found.get(101).unwrap_err().reason().contains("no element 101 in an array of 101"));
    assert_eq!(found.bytes(usize::MAX), None);
}

#[test]
fn the_architecture_is_a_short_text() {
    let named = |value: &[u8]| parsed(&[("general.architecture", Kind::Str, counted(value))]);
    assert_eq!(named(b"llama").architecture().unwrap(), "llama");
    for bad in [&b""[..], b"\xff", &[b'a'; 65]] {
        assert!(named(bad).architecture().unwrap_err().reason().contains("general.architecture"));
    }
    assert!(parsed(&[]).architecture().is_err());
}

#[test]
fn a_long_name_is_cut_in_messages() {
    assert_eq!(quoted("a\n\"b\""), r#""a\n\"b\"""#);
    let long = quoted(&"é".repeat(1_000));
    assert!(long.len() < 200 && long.ends_with("(2000 bytes)"), "{long}");
}

#[test]
fn every_vocabulary_beside_the_repository_is_read() {
    for name in ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"] {
        let gguf = Gguf::open(&shared(&format!("vocabs/ggml-vocab-{name}.gguf"))).unwrap();
        let tokens = gguf.metadata().require_strings("tokenizer.ggml.tokens").unwrap();
        assert!(tokens.len() > 30_000 && tokens.iter().all(|t| t.is_ok()), "{name}");
    }
}
