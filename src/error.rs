//! Errors: a stable integer for the host, and the reason in words for a person.
//!
//! Every failure in the crate is an [`Error`]. Its [`ErrorCode`] is what crosses the C boundary; its
//! reason names the key, the tensor, the value and the limit, and is kept per thread by `ffi`.

use std::fmt;

/// The codes of the C contract. The numbers never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum ErrorCode {
    Success = 0,
    InvalidDevice = 1,
    OutOfMemory = 2,
    ModelLoadFailed = 3,
    InferenceFailed = 4,
    InvalidParameter = 5,
    KernelLaunchFailed = 6,
    VramResidencyFailed = 7,
    DeviceNotFound = 8,
    Unknown = 99,
}

/// A failure: what kind, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    code: ErrorCode,
    reason: String,
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl Error {
    pub fn new(code: ErrorCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// Code 1: no such device, or the device is lost.
    pub fn device(reason: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidDevice, reason)
    }

    /// Code 2: memory that is not to be had.
    pub fn memory(reason: impl Into<String>) -> Self {
        Self::new(ErrorCode::OutOfMemory, reason)
    }

    /// Code 3: the file is not a model that we run.
    pub fn load(reason: impl Into<String>) -> Self {
        Self::new(ErrorCode::ModelLoadFailed, reason)
    }

    /// Code 4: a step went wrong.
    pub fn inference(reason: impl Into<String>) -> Self {
        Self::new(ErrorCode::InferenceFailed, reason)
    }

    /// Code 5: the caller's argument is at fault.
    pub fn parameter(reason: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidParameter, reason)
    }

    /// Code 6: the driver refused a launch.
    pub fn launch(reason: impl Into<String>) -> Self {
        Self::new(ErrorCode::KernelLaunchFailed, reason)
    }

    /// Code 99: nothing more precise is known.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unknown, reason)
    }

    pub fn code(&self) -> ErrorCode {
        self.code
    }

    pub fn reason(&self) -> &str {
        &self.reason
    }
}
