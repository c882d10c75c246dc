//! What a GPU is: what the driver says of it once and for all.

use super::driver::{self, Api};
use crate::error::{Error, Result};
use std::ffi::{CStr, c_int};

#[derive(Debug)]
pub(super) struct Card {
    pub name: String,
    pub multiprocessors: usize,
    pub memory_bytes: u64,
    /// Shared memory that one block may have, the kernel's own included.
    pub shared_bytes: usize,
    /// Whether experts go through product_experts.cu, which WORKER_ORCD_CUDA_EXPERTS=sorted turns off.
    pub experts: bool,
}

impl Card {
    /// The card of a device that the driver has given.
    pub(super) fn ask(api: &Api, ordinal: c_int, device: c_int) -> Result<Card> {
        let fail = |what: &str, code| Error::device(format!("GPU {ordinal}: {what} not known: {}", api.name_of(code)));
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: a place for the value.
            match unsafe { api.device_attribute(&mut value, which, device) } {
                0 => Ok(value),
                code => Err(fail("its properties are", code)),
            }
        };
        let capability = (attribute(driver::DEVICE_MAJOR)?, attribute(driver::DEVICE_MINOR)?);
        if capability < (8, 0) {
            let (major, minor) = capability;
            let reason = format!("GPU {ordinal}: compute capability {major}.{minor} is below 8.0, the least supported");
            return Err(Error::device(reason));
        }
        let mut memory_bytes = 0;
        // SAFETY: a place for the number.
        match unsafe { api.device_memory(&mut memory_bytes, device) } {
            0 => {}
            code => return Err(fail("its memory is", code)),
        }
        Ok(Card {
            name: name_of(api, device),
            multiprocessors: attribute(driver::DEVICE_MULTIPROCESSORS)?.max(1) as usize,
            memory_bytes: memory_bytes as u64,
            shared_bytes: less(attribute(driver::DEVICE_BLOCK_SHARED)?.max(0) as usize),
            experts: std::env::var_os("WORKER_ORCD_CUDA_EXPERTS").is_none_or(|v| v != "sorted"),
        })
    }
}

/// `bytes`, or the bytes that WORKER_ORCD_CUDA_SHARED names: the kernels as a smaller card would have them.
fn less(bytes: usize) -> usize {
    let asked = std::env::var("WORKER_ORCD_CUDA_SHARED").ok().and_then(|v| v.trim().parse().ok());
    asked.map_or(bytes, |asked: usize| asked.min(bytes))
}

fn name_of(api: &Api, device: c_int) -> String {
    let mut name = [0; 256];
    // SAFETY: room for 256 bytes, which the driver ends with NUL.
    match unsafe { api.device_name(name.as_mut_ptr(), 255, device) } {
        // SAFETY: the array was zero and its last byte still is.
        0 => unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned(),
        _ => "NVIDIA GPU".to_string(),
    }
}
