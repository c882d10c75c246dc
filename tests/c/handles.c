/* "Every function": a NULL, dangling, freed or wrong-typed handle is code 5, from getters 0, and for the
 * functions that close, nothing. All 14 functions, against every kind of wrong handle. */

#include "check.h"

static char piece[256];

static void context_calls(void* raw)
{
    CudaContext* handle = (CudaContext*)raw;
    int code = UNSET;
    uint64_t bytes = 12345;
    CHECK(cuda_load_model(handle, model_path("llama-f32.gguf"), &bytes, &code) == NULL);
    CHECK(code == CUDA_ERROR_INVALID_PARAMETER && bytes == 12345);
    CHECK(cuda_get_process_vram_usage(handle) == 0);
    code = UNSET;
    CHECK(!cuda_check_device_health(handle, &code) && code == CUDA_ERROR_INVALID_PARAMETER);
    CHECK(!cuda_check_device_health(handle, NULL));
    cuda_destroy(handle);
}

static void model_calls(void* raw)
{
    CudaModel* handle = (CudaModel*)raw;
    int code = UNSET;
    CHECK(cuda_model_get_vram_usage(handle) == 0);
    CHECK(cuda_get_vram_usage(handle) == 0);
    CHECK(cuda_inference_start(handle, "Hello", 4, 0.0f, 0, &code) == NULL);
    CHECK(code == CUDA_ERROR_INVALID_PARAMETER);
    code = UNSET;
    CHECK(!cuda_check_vram_residency(handle, &code) && code == CUDA_ERROR_INVALID_PARAMETER);
    CHECK(!cuda_check_vram_residency(handle, NULL));
    cuda_unload_model(handle);
}

static void inference_calls(void* raw)
{
    InferenceResult* handle = (InferenceResult*)raw;
    int code = UNSET, index = UNSET;
    memset(piece, 'x', sizeof piece);
    CHECK(!cuda_inference_next_token(handle, piece, sizeof piece, &index, &code));
    CHECK(code == CUDA_ERROR_INVALID_PARAMETER && index == UNSET && piece[0] == 'x');
    CHECK(!cuda_inference_next_token(handle, piece, sizeof piece, &index, NULL));
    cuda_inference_free(handle);
}

static void all_calls(void* raw)
{
    context_calls(raw);
    model_calls(raw);
    inference_calls(raw);
}

static void* pointer(uint64_t bits) { return (void*)(uintptr_t)bits; }

static const void* open_handles[3];

static void unless_open(uint64_t bits)
{
    int i;
    for (i = 0; i < 3; i++) {
        if (open_handles[i] == pointer(bits)) return;
    }
    all_calls(pointer(bits));
}

/* Bits that were never a handle, at random and close to a real one. */
static void never_handed_out(const void* real)
{
    static const uint64_t odd[] = {1, 2, 7, 8, 16, 255, 4096, 0xdeadbeef, 0x7fffffffffffull, 0xffffffffffffffffull};
    uint64_t bits = (uint64_t)(uintptr_t)real, random = 88172645463325252ull;
    int i;
    all_calls(NULL);
    for (i = 0; i < (int)(sizeof odd / sizeof *odd); i++) unless_open(odd[i]);
    for (i = 0; i < 64; i++) unless_open(bits ^ 1ull << i);
    for (i = 0; i < 500; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        unless_open(random);
    }
    all_calls(piece); /* memory of the host's own */
}

int main(void)
{
    CudaContext* context = open_context();
    CudaContext* other_context = open_context();
    CudaModel* model = load_model(context);
    CudaModel* other_model = load_model(context);
    InferenceResult* answer = start(model, "Hello", 16, 0.0f, 0);
    InferenceResult* other_answer = start(model, "Hello", 16, 0.0f, 0);
    int code = UNSET, i;

    open_handles[0] = context;
    open_handles[1] = model;
    open_handles[2] = answer;

    /* Of the wrong kind. */
    model_calls(context);
    inference_calls(context);
    context_calls(model);
    inference_calls(model);
    context_calls(answer);
    model_calls(answer);

    /* Freed; twice. */
    cuda_inference_free(other_answer);
    cuda_unload_model(other_model);
    cuda_destroy(other_context);
    for (i = 0; i < 2; i++) {
        all_calls(other_answer);
        all_calls(other_model);
        all_calls(other_context);
    }

    never_handed_out(context);
    never_handed_out(model);

    /* A freed handle stays freed, whatever is opened after it. */
    for (i = 0; i < 300; i++) {
        InferenceResult* later = start(model, "Hello", 1, 0.0f, 0);
        CHECK(later != other_answer && later != answer);
        cuda_inference_free(later);
    }
    inference_calls(other_answer);

    /* And the three that are open have taken no harm. */
    CHECK(cuda_check_device_health(context, &code) && code == 0);
    CHECK(cuda_model_get_vram_usage(model) > 0);
    CHECK(cuda_inference_next_token(answer, piece, sizeof piece, NULL, &code) && code == 0);
    cuda_inference_free(answer);
    cuda_unload_model(model);
    cuda_destroy(context);
    return 0;
}
