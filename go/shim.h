/* Handles are ids that travel in pointers and point nowhere. Go's runtime must not see such a value as a
 * pointer (it stops the program when it finds one on a stack), so they cross as integers. */

#ifndef WORKER_ORCD_GO_SHIM_H
#define WORKER_ORCD_GO_SHIM_H

#include <stdlib.h>

#include "worker_orcd.h"
#include "worker_orcd_ext.h"

static inline uintptr_t shim_init(int device, int* code) { return (uintptr_t)cuda_init(device, code); }

static inline void shim_destroy(uintptr_t context) { cuda_destroy((CudaContext*)context); }

static inline uint64_t shim_process_usage(uintptr_t context)
{
    return cuda_get_process_vram_usage((CudaContext*)context);
}

static inline void shim_check_health(uintptr_t context, int* code)
{
    cuda_check_device_health((CudaContext*)context, code);
}

static inline uintptr_t shim_load(uintptr_t context, const char* path, int* code)
{
    uint64_t bytes;
    return (uintptr_t)cuda_load_model((CudaContext*)context, path, &bytes, code);
}

static inline void shim_unload(uintptr_t model) { cuda_unload_model((CudaModel*)model); }

static inline uint64_t shim_usage(uintptr_t model) { return cuda_model_get_vram_usage((CudaModel*)model); }

static inline void shim_check_residency(uintptr_t model, int* code)
{
    cuda_check_vram_residency((CudaModel*)model, code);
}

static inline uintptr_t shim_start(uintptr_t model, const char* prompt, int tokens, float temperature,
                                   uint64_t seed, int* code)
{
    return (uintptr_t)cuda_inference_start((CudaModel*)model, prompt, tokens, temperature, seed, code);
}

static inline bool shim_next(uintptr_t answer, char* buffer, int size, int* index, int* code)
{
    return cuda_inference_next_token((InferenceResult*)answer, buffer, size, index, code);
}

static inline void shim_free(uintptr_t answer) { cuda_inference_free((InferenceResult*)answer); }

#endif
