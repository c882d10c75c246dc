/* The 14 prototypes and the ten codes as hosts were compiled against them. A change here breaks hosts.
 * Compiled as C11 and as C++17; nothing of it is run. */

#include "worker_orcd.h"

#ifdef __cplusplus
#include <type_traits>
#define SAME(name, ...) static_assert(std::is_same<decltype(&name), __VA_ARGS__>::value, #name)
#define VALUE(name, number) static_assert(name == number, #name)
#else
#define SAME(name, ...) _Static_assert(_Generic(&name, __VA_ARGS__ : 1, default : 0), #name)
#define VALUE(name, number) _Static_assert(name == number, #name)
#endif

SAME(cuda_init, CudaContext* (*)(int, int*));
SAME(cuda_destroy, void (*)(CudaContext*));
SAME(cuda_load_model, CudaModel* (*)(CudaContext*, const char*, uint64_t*, int*));
SAME(cuda_unload_model, void (*)(CudaModel*));
SAME(cuda_model_get_vram_usage, uint64_t (*)(CudaModel*));
SAME(cuda_inference_start, InferenceResult* (*)(CudaModel*, const char*, int, float, uint64_t, int*));
SAME(cuda_inference_next_token, bool (*)(InferenceResult*, char*, int, int*, int*));
SAME(cuda_inference_free, void (*)(InferenceResult*));
SAME(cuda_check_vram_residency, bool (*)(CudaModel*, int*));
SAME(cuda_get_vram_usage, uint64_t (*)(CudaModel*));
SAME(cuda_get_process_vram_usage, uint64_t (*)(CudaContext*));
SAME(cuda_check_device_health, bool (*)(CudaContext*, int*));
SAME(cuda_error_message, const char* (*)(int));
SAME(cuda_get_device_count, int (*)(void));

VALUE(CUDA_SUCCESS, 0);
VALUE(CUDA_ERROR_INVALID_DEVICE, 1);
VALUE(CUDA_ERROR_OUT_OF_MEMORY, 2);
VALUE(CUDA_ERROR_MODEL_LOAD_FAILED, 3);
VALUE(CUDA_ERROR_INFERENCE_FAILED, 4);
VALUE(CUDA_ERROR_INVALID_PARAMETER, 5);
VALUE(CUDA_ERROR_KERNEL_LAUNCH_FAILED, 6);
VALUE(CUDA_ERROR_VRAM_RESIDENCY_FAILED, 7);
VALUE(CUDA_ERROR_DEVICE_NOT_FOUND, 8);
VALUE(CUDA_ERROR_UNKNOWN, 99);
