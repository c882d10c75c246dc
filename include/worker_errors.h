/* The error codes, and each in words.
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
    CUDA_ERROR_INFERENCE_FAILED = 4,
    /**
     * An argument is at fault, or a handle is not one that is open.
     */
    CUDA_ERROR_INVALID_PARAMETER = 5,
    CUDA_ERROR_KERNEL_LAUNCH_FAILED = 6,
    CUDA_ERROR_VRAM_RESIDENCY_FAILED = 7,
    /**
     * No driver, no usable driver, or no device.
     */
    CUDA_ERROR_DEVICE_NOT_FOUND = 8,
    CUDA_ERROR_UNKNOWN = 99,
} CudaErrorCode;
#endif

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What a code means, in words. The string is static: never NULL, never to be freed.
 */
const char *cuda_error_message(int error_code);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* WORKER_ERRORS_H */
