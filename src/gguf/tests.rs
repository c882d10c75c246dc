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
