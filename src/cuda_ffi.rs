//! The Rust face of the engine, under the names that Rust hosts of the C library compile against.
//!
//! ```no_run
//! use worker_orcd::cuda::{Context, Inference, Model};
//!
//! # fn main() -> Result<(), worker_orcd::cuda::CudaError> {
//! let context = Context::new(0)?;
//! let model = Model::load(&context, "model.gguf")?;
//! let mut inference = Inference::start(&model, "Why is the sky blue?", 100, 0.7, 42)?;
//! while let Some((piece, _index)) = inference.next_token()? {
//!     print!("{piece}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! No lifetimes bind the three, and they may be dropped in any order: a model goes on without its context; dropping a model
//! unloads it, and inferences that are still open end at their next call with [`CudaError::InvalidParameter`].

#![forbid(unsafe_code)]

use crate::engine;
use crate::error::{Error, ErrorCode};
use std::path::Path;

/// A failure, one variant for each code of the C interface; the string is the reason in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    #[error("Invalid GPU device ID: {0}")]
    InvalidDevice(String),
    #[error("Insufficient VRAM: {0}")]
    OutOfMemory(String),
    #[error("Model loading failed: {0}")]
    ModelLoadFailed(String),
    #[error("Inference execution failed: {0}")]
    InferenceFailed(String),
    #[error("Invalid function parameter: {0}")]
    InvalidParameter(String),
    #[error("CUDA kernel launch failed: {0}")]
    KernelLaunchFailed(String),
    #[error("VRAM residency check failed: {0}")]
    VramResidencyFailed(String),
    #[error("No CUDA devices found: {0}")]
    DeviceNotFound(String),
    #[error("Unknown error {code}: {message}")]
    Unknown { code: i32, message: String },
}

impl CudaError {
    /// The code of the C interface.
    pub fn code(&self) -> i32 {
        match self {
            Self::InvalidDevice(_) => ErrorCode::InvalidDevice as i32,
            Self::OutOfMemory(_) => ErrorCode::OutOfMemory as i32,
            Self::ModelLoadFailed(_) => ErrorCode::ModelLoadFailed as i32,
            Self::InferenceFailed(_) => ErrorCode::InferenceFailed as i32,
            Self::InvalidParameter(_) => ErrorCode::InvalidParameter as i32,
            Self::KernelLaunchFailed(_) => ErrorCode::KernelLaunchFailed as i32,
            Self::VramResidencyFailed(_) => ErrorCode::VramResidencyFailed as i32,
            Self::DeviceNotFound(_) => ErrorCode::DeviceNotFound as i32,
            Self::Unknown { code, .. } => *code,
        }
    }
}

impl From<Error> for CudaError {
    fn from(error: Error) -> Self {
        let reason = error.reason().to_owned();
        match error.code() {
            ErrorCode::InvalidDevice => Self::InvalidDevice(reason),
            ErrorCode::OutOfMemory => Self::OutOfMemory(reason),
            ErrorCode::ModelLoadFailed => Self::ModelLoadFailed(reason),
            ErrorCode::InferenceFailed => Self::InferenceFailed(reason),
            ErrorCode::InvalidParameter => Self::InvalidParameter(reason),
            ErrorCode::KernelLaunchFailed => Self::KernelLaunchFailed(reason),
            ErrorCode::VramResidencyFailed => Self::VramResidencyFailed(reason),
            ErrorCode::DeviceNotFound => Self::DeviceNotFound(reason),
            code @ (ErrorCode::Success | ErrorCode::Unknown) => Self::Unknown { code: code as i32, message: reason },
        }
    }
}

/// A device, opened. `WORKER_ORCD_DEVICE` says which devices the ids stand for.
pub struct Context(engine::Context);

impl Context {
    pub fn new(gpu_device: i32) -> Result<Self, CudaError> {
        Ok(Self(engine::Context::open(gpu_device)?))
    }

    /// 0 without a driver, a usable driver or a device.
    pub fn device_count() -> i32 {
        engine::Context::device_count()
    }

    pub fn load_model(&self, model_path: &str) -> Result<Model, CudaError> {
        Model::load(self, model_path)
    }

    /// Bytes that this process holds on the device through this library.
    pub fn process_vram_usage(&self) -> u64 {
        self.0.held_bytes()
    }

    /// True, or the error that the device does not recover from.
    pub fn check_device_health(&self) -> Result<bool, CudaError> {
        self.0.check_health()?;
        Ok(true)
    }
}

/// A model on a device; unloaded when dropped.
pub struct Model(engine::Model);

impl Model {
    pub fn load(context: &Context, model_path: &str) -> Result<Self, CudaError> {
        Ok(Self(engine::Model::load(&context.0, Path::new(model_path))?))
    }

    /// Bytes held on the device now: what loading took, and the KV pages in use or in the pool.
    pub fn vram_bytes(&self) -> u64 {
        self.0.held_bytes()
    }

    /// True, or the error that says which weight is not in device memory.
    pub fn check_vram_residency(&self) -> Result<bool, CudaError> {
        self.0.check_residency()?;
        Ok(true)
    }

    pub fn start_inference(
        &self,
        prompt: &str,
        max_tokens: u32,
        temperature: f32,
        seed: u64,
    ) -> Result<Inference, CudaError> {
        Inference::start(self, prompt, max_tokens, temperature, seed)
    }
}

/// An answer under way; cancelled when dropped.
pub struct Inference(engine::Inference);

impl Inference {
    /// `max_tokens` is 1 to 2048, `temperature` 0.0 (always the likeliest token) to 2.0.
    pub fn start(model: &Model, prompt: &str, max_tokens: u32, temperature: f32, seed: u64) -> Result<Self, CudaError> {
        let request = engine::Request::new(prompt, max_tokens, temperature, seed)?;
        Ok(Self(model.0.start(&request)?))
    }

    /// Waits for the next piece of text and its number from 0; None when the answer has ended.
    pub fn next_token(&mut self) -> Result<Option<(String, u32)>, CudaError> {
        Ok(self.0.next_piece()?)
    }
}
