/* Memory that is not to be had is code 2: at a load before anything is taken, at the start of an answer
 * without harm to others, and a later try may succeed. WORKER_ORCD_MEMORY caps the CPU device alone. */

#include "check.h"

static void a_load_that_does_not_fit(CudaContext* context, CudaModel* other)
{
    char before[2048], after[2048];
    uint64_t bytes = 12345, held = cuda_get_process_vram_usage(context);
    int code = UNSET;
    answer_of(other, "Hello", 16, 1.0f, 9, before, sizeof before);
    setenv("WORKER_ORCD_MEMORY", "1", 1);
    CHECK(cuda_load_model(context, model_path("llama-f32.gguf"), &bytes, &code) == NULL);
    CHECK(code == CUDA_ERROR_OUT_OF_MEMORY && bytes == 12345);
    unsetenv("WORKER_ORCD_MEMORY");
    CHECK(cuda_get_process_vram_usage(context) >= held);
    answer_of(other, "Hello", 16, 1.0f, 9, after, sizeof after);
    CHECK(strcmp(before, after) == 0);
}

/* Caps the memory at the next whole MiB above what is held. */
static void cap_above(uint64_t bytes)
{
    char mib[32];
    snprintf(mib, sizeof mib, "%llu", (unsigned long long)(bytes / 1048576 + 1));
    setenv("WORKER_ORCD_MEMORY", mib, 1);
}

enum { MOST = 64 };

static void an_answer_that_does_not_fit(CudaContext* context)
{
    CudaModel* model = load_model(context);
    InferenceResult *running, *others[MOST], *later;
    char alone[2048], beside[2048] = "", piece[256];
    int code = UNSET, count = 0, i;
    answer_of(model, "Hello", 8, 1.0f, 9, alone, sizeof alone);
    cap_above(cuda_get_process_vram_usage(context));
    running = start(model, "Hello", 8, 1.0f, 9);
    CHECK(cuda_inference_next_token(running, piece, sizeof piece, NULL, &code) && code == 0);
    strcpy(beside, piece);
    while (count < MOST) {
        others[count] = cuda_inference_start(model, "Hello", 400, 1.0f, 1, &code);
        if (others[count] == NULL) break;
        count++;
    }
    CHECK(count < MOST && code == CUDA_ERROR_OUT_OF_MEMORY);
    pull(running, beside, sizeof beside, &code);
    CHECK(code == 0 && strcmp(alone, beside) == 0);
    cuda_inference_free(running);
    for (i = 0; i < count; i++) cuda_inference_free(others[i]);
    unsetenv("WORKER_ORCD_MEMORY");
    later = start(model, "Hello", 400, 1.0f, 1);
    cuda_inference_free(later);
    cuda_unload_model(model);
}

int main(void)
{
    const char* device = getenv("WORKER_ORCD_DEVICE");
    CudaContext* context;
    CudaModel* model;
    if (device == NULL || strcmp(device, "cpu") != 0) return 0;
    context = open_context();
    model = load_model(context);
    a_load_that_does_not_fit(context, model);
    cuda_unload_model(model);
    CHECK(cuda_get_process_vram_usage(context) == 0);
    an_answer_that_does_not_fit(context);
    CHECK(cuda_get_process_vram_usage(context) == 0);
    cuda_destroy(context);
    return 0;
}
