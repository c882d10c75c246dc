//! A device, chosen by `WORKER_ORCD_DEVICE` and an id.
//!
//! Unset or `cuda`: ids are CUDA ordinals, and nothing falls back to the CPU silently. `cpu`: one device, id 0. The variable
//! is read at each count and each opening.

use super::process;
use crate::device::{Device, cpu};
use crate::error::{Error, ErrorCode, Result};
use std::sync::Arc;

#[cfg(feature = "cuda")]
use crate::device::cuda as nvidia;

/// A build without the kernels is like a machine without a device.
#[cfg(not(feature = "cuda"))]
mod nvidia {
    use super::{Arc, Device, Error, Result};

    pub fn device_count() -> i32 {
        0
    }

    pub fn device(_: i32) -> Result<Arc<dyn Device>> {
        Err(Error::device("this build has no kernels for CUDA devices"))
    }
}

const VARIABLE: &str = "WORKER_ORCD_DEVICE";

/// Which devices the ids stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Cuda,
    Cpu,
}

impl Family {
    fn chosen() -> Result<Self> {
        let value = std::env::var_os(VARIABLE).unwrap_or_default();
        match value.to_str() {
            Some("" | "cuda") => Ok(Family::Cuda),
            Some("cpu") => Ok(Family::Cpu),
            _ => Err(Error::device(format!("{VARIABLE} is {value:?}, which is neither \"cuda\" nor \"cpu\""))),
        }
    }

    fn count(self) -> i32 {
        match self {
            Family::Cuda => nvidia::device_count().max(0),
            Family::Cpu => 1,
        }
    }

    fn open(self, id: i32) -> Result<Arc<dyn Device>> {
        match self {
            Family::Cuda => nvidia::device(id),
            Family::Cpu => cpu::device(),
        }
    }
}

/// A device that models can be loaded to. Several contexts on one device are independent.
#[derive(Clone)]
pub struct Context {
    device: Arc<dyn Device>,
}

impl Context {
    /// How many devices there are; 0 where the driver is missing or broken.
    pub fn device_count() -> i32 {
        match process::claim().and_then(|()| Family::chosen()) {
            Ok(family) => family.count(),
            Err(_) => 0,
        }
    }

    pub fn open(id: i32) -> Result<Self> {
        process::claim()?;
        let family = Family::chosen()?;
        check_id(id, family.count())?;
        Ok(Self { device: family.open(id)? })
    }

    /// On a device that is not chosen by the environment.
    pub fn on(device: Arc<dyn Device>) -> Self {
        Self { device }
    }

    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Bytes that this process holds on the device through this library.
    pub fn held_bytes(&self) -> u64 {
        self.device.held_bytes()
    }

    /// Code 1 once the device has reported an error that it does not recover from.
    pub fn check_health(&self) -> Result<()> {
        self.device.check_health()
    }
}

fn check_id(id: i32, count: i32) -> Result<()> {
    if id == 0 && count == 0 {
        return Err(Error::new(ErrorCode::DeviceNotFound, "no CUDA device, or no usable driver"));
    }
    if !(0..count).contains(&id) {
        return Err(Error::device(format!("device id {id} is not below the count of {count}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_against_the_count() {
        let code = |id, count| check_id(id, count).map_err(|e| e.code());
        assert_eq!(code(0, 1), Ok(()));
        assert_eq!(code(3, 4), Ok(()));
        assert_eq!(code(0, 0), Err(ErrorCode::DeviceNotFound));
        for (id, count) in [(-1, 0), (1, 0), (-1, 2), (2, 2), (i32::MAX, 8), (i32::MIN, 8)] {
            assert_eq!(code(id, count), Err(ErrorCode::InvalidDevice), "{id} of {count}");
        }
    }
}
