//! The codes under the names that C hosts know.
//!
//! The engine's [`ErrorCode`] is the one the crate speaks; this enum exists for the generated header, and the
//! assertions below keep the numbers of the two the same.

use crate::error::ErrorCode;
use std::ffi::CStr;

/// What went wrong. `cuda_error_message` says each in words.
#[repr(C)]
// The prefix is what C hosts know; Rust has none to offer that is not part of the name.
#[allow(clippy::enum_variant_names)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CudaErrorCode {
    /// All went well.
    CudaSuccess = 0,
    /// No such device, or the device is lost.
    CudaErrorInvalidDevice = 1,
    /// Memory that is not to be had now.
    CudaErrorOutOfMemory = 2,
    /// The file cannot be read, or is not a model that the library runs.
    CudaErrorModelLoadFailed = 3,
    /// A step of the computation failed; the answer cannot go on.
    CudaErrorInferenceFailed = 4,
    /// An argument is at fault, or a handle is not one that is open.
    CudaErrorInvalidParameter = 5,
    /// The driver refused a kernel.
    CudaErrorKernelLaunchFailed = 6,
    /// A weight is not in device memory.
    CudaErrorVramResidencyFailed = 7,
    /// No driver, no usable driver, or no device.
    CudaErrorDeviceNotFound = 8,
    /// Nothing more precise is known.
    CudaErrorUnknown = 99,
}

impl CudaErrorCode {
    pub(super) const ALL: [Self; 10] = [
        Self::CudaSuccess,
        Self::CudaErrorInvalidDevice,
        Self::CudaErrorOutOfMemory,
        Self::CudaErrorModelLoadFailed,
        Self::CudaErrorInferenceFailed,
        Self::CudaErrorInvalidParameter,
        Self::CudaErrorKernelLaunchFailed,
        Self::CudaErrorVramResidencyFailed,
        Self::CudaErrorDeviceNotFound,
        Self::CudaErrorUnknown,
    ];

    /// The words of the contract.
    pub(super) fn message(self) -> &'static CStr {
        match self {
            Self::CudaSuccess => c"Success",
            Self::CudaErrorInvalidDevice => c"Invalid GPU device ID",
            Self::CudaErrorOutOfMemory => c"Insufficient VRAM",
            Self::CudaErrorModelLoadFailed => c"Model loading failed",
            Self::CudaErrorInferenceFailed => c"Inference execution failed",
            Self::CudaErrorInvalidParameter => c"Invalid function parameter",
            Self::CudaErrorKernelLaunchFailed => c"CUDA kernel launch failed",
            Self::CudaErrorVramResidencyFailed => c"VRAM residency check failed",
            Self::CudaErrorDeviceNotFound => c"No CUDA devices found",
            Self::CudaErrorUnknown => c"Unknown error",
        }
    }
}

const _: () = {
    use CudaErrorCode as C;
    use ErrorCode as R;
    assert!(C::CudaSuccess as i32 == R::Success as i32);
    assert!(C::CudaErrorInvalidDevice as i32 == R::InvalidDevice as i32);
    assert!(C::CudaErrorOutOfMemory as i32 == R::OutOfMemory as i32);
    assert!(C::CudaErrorModelLoadFailed as i32 == R::ModelLoadFailed as i32);
    assert!(C::CudaErrorInferenceFailed as i32 == R::InferenceFailed as i32);
    assert!(C::CudaErrorInvalidParameter as i32 == R::InvalidParameter as i32);
    assert!(C::CudaErrorKernelLaunchFailed as i32 == R::KernelLaunchFailed as i32);
    assert!(C::CudaErrorVramResidencyFailed as i32 == R::VramResidencyFailed as i32);
    assert!(C::CudaErrorDeviceNotFound as i32 == R::DeviceNotFound as i32);
    assert!(C::CudaErrorUnknown as i32 == R::Unknown as i32);
};
