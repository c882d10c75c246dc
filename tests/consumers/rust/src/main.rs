//! A Rust host on the names that old Rust hosts compile against. The model is named on the command line.

use worker_orcd::cuda;
use worker_orcd::cuda_ffi::{Context, CudaError, Inference, Model};

fn main() -> Result<(), CudaError> {
    let path = std::env::args().nth(1).expect("a model");
    let context = Context::new(0)?;
    assert!(Context::device_count() >= 1 && context.check_device_health()?);
    let model: cuda::Model = context.load_model(&path)?;
    assert!(model.check_vram_residency()? && context.process_vram_usage() >= model.vram_bytes());
    let mut inference = Inference::start(&model, "Hello", 8, 0.0, 0)?;
    while let Some((piece, index)) = inference.next_token()? {
        println!("{index}:{piece}");
    }
    let error = Model::load(&context, "/nowhere/lost.gguf").err().expect("an error");
    assert!(matches!(&error, CudaError::ModelLoadFailed(reason) if reason.contains("lost.gguf")));
    assert_eq!(error.code(), 3);
    let mut unfinished = model.start_inference("Hello", 100, 1.0, 7)?;
    drop(context);
    assert!(unfinished.next_token()?.is_some());
    drop(model);
    assert!(matches!(unfinished.next_token(), Err(CudaError::InvalidParameter(_))));
    Ok(())
}
