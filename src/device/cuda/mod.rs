//! The CUDA device: models on an NVIDIA GPU, their weights kept quantised.
//!
//! The driver is found at run time; without a usable one there are no devices and everything answers with a code. kernels/
//! holds the device's code, params.rs its interface.

mod attend;
mod card;
mod chosen;
mod driver;
mod executor;
mod expert_params;
mod experts;
mod few;
mod gpu;
mod graph;
mod inputs;
mod kernels;
mod kv;
mod many;
mod memory;
mod packed;
mod panels;
mod params;
mod pass;
mod place;
mod products;
mod raw;
mod ring;
mod row;
mod rows;
mod scratch;
mod staging;
mod upload;
mod wants;
mod ways;
mod weights;

pub use place::CudaDevice;

use super::Device;
use crate::error::{Error, ErrorCode, Result};
use std::sync::Arc;

/// How many GPUs there are: 0 without a driver, a usable driver or a device.
pub fn device_count() -> i32 {
    gpu::count()
}

/// The GPU with this CUDA ordinal. Code 8 where there is none at all, 1 where there are others.
pub fn device(ordinal: i32) -> Result<Arc<dyn Device>> {
    let count = gpu::count();
    if !(0..count).contains(&ordinal) {
        let none = count == 0 && ordinal == 0;
        let code = if none { ErrorCode::DeviceNotFound } else { ErrorCode::InvalidDevice };
        let why = driver::Api::get().err().unwrap_or_else(|| format!("there are {count} GPUs"));
        return Err(Error::new(code, format!("no GPU {ordinal}: {why}")));
    }
    Ok(Arc::new(CudaDevice::new(ordinal)?))
}
