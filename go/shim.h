/* Handles are ids that travel in pointers and point nowhere. Go's runtime must not see such a value as a
 * pointer (it stops the program when it finds one on a stack), so they cross as integers. */

#ifndef WORKER_ORCD_GO_SHIM_H
#define WORKER_ORCD_GO_SHIM_H

#include <stdlib.h>

#include "worker_orcd.h"
#include "worker_orcd_ext.h"

/* In callbacks.go. */
extern bool workerOrcdProgress(uintptr_t user, uint64_t done, uint64_t all);
extern void workerOrcdLog(int level, char* message);

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

static inline bool shim_progress(void* user, uint64_t done, uint64_t all)
{
    return workerOrcdProgress((uintptr_t)user, done, all);
}

static inline uintptr_t shim_load(uintptr_t context, const char* path, uint32_t tokens, uint32_t sequences,
                                  int32_t kv_type, uintptr_t user, int* code)
{
    worker_orcd_load_options options = {0};
    options.size = sizeof options;
    options.progress = shim_progress;
    options.user = (void*)user;
    options.context = tokens;
    options.sequences = sequences;
    options.kv_type = kv_type;
    return (uintptr_t)worker_orcd_load((CudaContext*)context, path, &options, NULL, code);
}

static inline void shim_unload(uintptr_t model) { cuda_unload_model((CudaModel*)model); }

static inline uint64_t shim_usage(uintptr_t model) { return cuda_model_get_vram_usage((CudaModel*)model); }

static inline void shim_check_residency(uintptr_t model, int* code)
{
    cuda_check_vram_residency((CudaModel*)model, code);
}

static inline void shim_facts(uintptr_t model, worker_orcd_model_facts* facts, int* code)
{
    facts->size = sizeof *facts;
    worker_orcd_get_model_facts((CudaModel*)model, facts, code);
}

static inline size_t shim_chat_template(uintptr_t model, char* buffer, size_t size, int* code)
{
    return worker_orcd_chat_template((CudaModel*)model, buffer, size, code);
}

static inline size_t shim_tokenize(uintptr_t model, const char* text, bool special, bool control, uint32_t* ids,
                                   size_t capacity, int* code)
{
    return worker_orcd_tokenize((CudaModel*)model, text, special, control, ids, capacity, code);
}

static inline size_t shim_detokenize(uintptr_t model, const uint32_t* ids, size_t count, char* buffer, size_t size,
                                     int* code)
{
    return worker_orcd_detokenize((CudaModel*)model, ids, count, buffer, size, code);
}

/* The options come by value, since they receive pointers here that Go may not keep. */
static inline uintptr_t shim_start(uintptr_t model, const char* prompt, const uint32_t* ids, size_t id_count,
                                   worker_orcd_start_options options, int* code)
{
    options.size = sizeof options;
    options.prompt_ids = ids;
    options.prompt_id_count = id_count;
    return (uintptr_t)worker_orcd_start((CudaModel*)model, prompt, &options, code);
}

static inline bool shim_next(uintptr_t answer, char* buffer, int size, int* index, int* code)
{
    return cuda_inference_next_token((InferenceResult*)answer, buffer, size, index, code);
}

static inline void shim_statistics(uintptr_t answer, worker_orcd_statistics* statistics, int* code)
{
    statistics->size = sizeof *statistics;
    worker_orcd_get_statistics((InferenceResult*)answer, statistics, code);
}

static inline size_t shim_tokens(uintptr_t answer, size_t first, uint32_t* ids, float* logprobs, size_t capacity,
                                 int* code)
{
    return worker_orcd_tokens((InferenceResult*)answer, first, ids, logprobs, capacity, code);
}

static inline void shim_cancel(uintptr_t answer, int* code) { worker_orcd_cancel((InferenceResult*)answer, code); }

static inline void shim_free(uintptr_t answer) { cuda_inference_free((InferenceResult*)answer); }

static inline void shim_log(void* user, int level, const char* message)
{
    (void)user;
    workerOrcdLog(level, (char*)message);
}

static inline void shim_set_log(bool on, int level, int* code)
{
    worker_orcd_set_log(on ? shim_log : NULL, NULL, level, code);
}

#endif
