/* The prototypes, structs and numbers as hosts were compiled against them: those of the 14 functions never change, the others
 * only grow. A change here breaks hosts. Compiled as C11 and as C++17; nothing of it is run. */

#include "worker_orcd.h"
#include "worker_orcd_ext.h"

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

/* What worker_orcd_ext.h adds only grows: functions stay as they are, structs and enums get more at their ends. */

SAME(worker_orcd_version, const char* (*)(void));
SAME(worker_orcd_last_error, size_t (*)(char*, size_t));
SAME(worker_orcd_set_log, bool (*)(void (*)(void*, int, const char*), void*, int, int*));
SAME(worker_orcd_load, CudaModel* (*)(CudaContext*, const char*, const worker_orcd_load_options*, uint64_t*, int*));
SAME(worker_orcd_start, InferenceResult* (*)(CudaModel*, const char*, const worker_orcd_start_options*, int*));
SAME(worker_orcd_get_statistics, bool (*)(InferenceResult*, worker_orcd_statistics*, int*));
SAME(worker_orcd_tokens, size_t (*)(InferenceResult*, size_t, uint32_t*, float*, size_t, int*));
SAME(worker_orcd_cancel, bool (*)(InferenceResult*, int*));
SAME(worker_orcd_tokenize, size_t (*)(CudaModel*, const char*, int, int, uint32_t*, size_t, int*));
SAME(worker_orcd_detokenize, size_t (*)(CudaModel*, const uint32_t*, size_t, char*, size_t, int*));
SAME(worker_orcd_get_model_facts, bool (*)(CudaModel*, worker_orcd_model_facts*, int*));
SAME(worker_orcd_chat_template, size_t (*)(CudaModel*, char*, size_t, int*));

/* The last field of the first version, and where that version ended: on 64-bit machines. */
#define LAID_OUT(type, field, offset, bytes) \
    VALUE(offsetof(type, size), 0); \
    VALUE(offsetof(type, field), offset); \
    VALUE(sizeof(type), bytes)

LAID_OUT(worker_orcd_statistics, reserved, 52, 56);
LAID_OUT(worker_orcd_model_facts, quantisation, 80, 112);
LAID_OUT(worker_orcd_load_options, reserved, 36, 40);
LAID_OUT(worker_orcd_start_options, reserved, 84, 88);

VALUE(offsetof(worker_orcd_statistics, prompt_tokens), 8);
VALUE(offsetof(worker_orcd_statistics, reused_tokens), 16);
VALUE(offsetof(worker_orcd_statistics, tokens), 24);
VALUE(offsetof(worker_orcd_statistics, first_token_ns), 32);
VALUE(offsetof(worker_orcd_statistics, last_token_ns), 40);
VALUE(offsetof(worker_orcd_statistics, finish), 48);
VALUE(offsetof(worker_orcd_model_facts, parameters), 8);
VALUE(offsetof(worker_orcd_model_facts, context), 16);
VALUE(offsetof(worker_orcd_model_facts, vocabulary), 24);
VALUE(offsetof(worker_orcd_model_facts, bos), 32);
VALUE(offsetof(worker_orcd_model_facts, eos), 40);
VALUE(offsetof(worker_orcd_model_facts, family), 48);
VALUE(offsetof(worker_orcd_load_options, progress), 8);
VALUE(offsetof(worker_orcd_load_options, user), 16);
VALUE(offsetof(worker_orcd_load_options, context), 24);
VALUE(offsetof(worker_orcd_load_options, sequences), 28);
VALUE(offsetof(worker_orcd_load_options, kv_type), 32);
VALUE(offsetof(worker_orcd_start_options, seed), 8);
VALUE(offsetof(worker_orcd_start_options, prompt_ids), 16);
VALUE(offsetof(worker_orcd_start_options, prompt_id_count), 24);
VALUE(offsetof(worker_orcd_start_options, stops), 32);
VALUE(offsetof(worker_orcd_start_options, stop_count), 40);
VALUE(offsetof(worker_orcd_start_options, max_tokens), 48);
VALUE(offsetof(worker_orcd_start_options, temperature), 52);
VALUE(offsetof(worker_orcd_start_options, top_k), 56);
VALUE(offsetof(worker_orcd_start_options, top_p), 60);
VALUE(offsetof(worker_orcd_start_options, min_p), 64);
VALUE(offsetof(worker_orcd_start_options, repetition_penalty), 68);
VALUE(offsetof(worker_orcd_start_options, frequency_penalty), 72);
VALUE(offsetof(worker_orcd_start_options, presence_penalty), 76);
VALUE(offsetof(worker_orcd_start_options, logprobs), 80);

VALUE(WORKER_ORCD_FINISH_NONE, 0);
VALUE(WORKER_ORCD_FINISH_END_TOKEN, 1);
VALUE(WORKER_ORCD_FINISH_STOP_STRING, 2);
VALUE(WORKER_ORCD_FINISH_LENGTH, 3);
VALUE(WORKER_ORCD_FINISH_CONTEXT, 4);
VALUE(WORKER_ORCD_FINISH_CANCELLED, 5);
VALUE(WORKER_ORCD_FINISH_FAILED, 6);
VALUE(WORKER_ORCD_KV_DEFAULT, 0);
VALUE(WORKER_ORCD_KV_F16, 1);
VALUE(WORKER_ORCD_KV_F32, 2);
VALUE(WORKER_ORCD_LOG_OFF, 0);
VALUE(WORKER_ORCD_LOG_ERROR, 1);
VALUE(WORKER_ORCD_LOG_WARN, 2);
VALUE(WORKER_ORCD_LOG_INFO, 3);
VALUE(WORKER_ORCD_LOG_DEBUG, 4);
