/**
 * @file
 * The error codes, and each in words.
 *
 * Generated from src/ffi; do not edit. */

#ifndef WORKER_ERRORS_H
#define WORKER_ERRORS_H

/* The names clash with those of <cuda.h>: define WORKER_ORCD_NO_ERROR_ENUM to leave them out. */
#ifndef WORKER_ORCD_NO_ERROR_ENUM
/**
 * What went wrong. `cuda_error_message` says each in words.
 */
typedef enum {
    /**
     * All went well.
     */
    CUDA_SUCCESS = 0,
    /**
     * No such device, or the device is lost.
     */
    CUDA_ERROR_INVALID_DEVICE = 1,
    /**
     * Memory that is not to be had now.
     */
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    /**
     * The file cannot be read, or is not a model that the library runs.
     */
    CUDA_ERROR_MODEL_LOAD_FAILED = 3,
    /**
     * A step of the computation failed; the answer cannot go on.
     */
    CUDA_ERROR_INFERENCE_FAILED = 4,
    /**
     * An argument is at fault, or a handle is not one that is open.
     */
    CUDA_ERROR_INVALID_PARAMETER = 5,
    /**
     * The driver refused a kernel.
     */
    CUDA_ERROR_KERNEL_LAUNCH_FAILED = 6,
    /**
     * A weight is not in device memory.
     */
    CUDA_ERROR_VRAM_RESIDENCY_FAILED = 7,
    /**
     * No driver, no usable driver, or no device.
     */
    CUDA_ERROR_DEVICE_NOT_FOUND = 8,
    /**
     * Nothing more precise is known.
     */
    CUDA_ERROR_UNKNOWN = 99,
} CudaErrorCode;
#endif

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What a code means, in words.
 *
 * @param error_code  any number; what is no code is "Unrecognized error code".
 * @return a static string: never NULL, never to be freed.
 */
const char *cuda_error_message(int error_code);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* WORKER_ERRORS_H */
