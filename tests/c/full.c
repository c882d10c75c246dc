/* A GPU without room. A model that does not fit is refused before anything is taken for it, an answer that does not fit is
 * refused at its start, what runs goes on unharmed, and once there is room again both are welcome. */

#include "driver.h"

enum { CHUNKS = 4096, ANSWERS = 2000, TOGETHER = 40 };

static unsigned long long chunks[CHUNKS];
static int taken = 0;

/* Takes the card's memory until no piece of `bytes` is left. */
static void take(const struct driver* d, size_t bytes)
{
    while (taken < CHUNKS && d->memory_alloc(&chunks[taken], bytes) == 0) taken++;
    CHECK(taken < CHUNKS);
}

static void give_back(const struct driver* d)
{
    while (taken > 0) CHECK(d->memory_free(chunks[--taken]) == 0);
}

static void a_model_is_refused(const struct driver* d, CudaContext* context)
{
    const uint64_t held = cuda_get_process_vram_usage(context);
    const size_t left = free_bytes(d);
    uint64_t bytes = 12345;
    int code = UNSET;
    CHECK(cuda_load_model(context, model_path("llama-f32.gguf"), &bytes, &code) == NULL);
    CHECK(code == CUDA_ERROR_OUT_OF_MEMORY && bytes == 12345);
    /* Other models may have given back pages that they kept for later; nothing was taken. */
    CHECK(cuda_get_process_vram_usage(context) <= held);
    CHECK(free_bytes(d) - left == held - cuda_get_process_vram_usage(context));
}

/* Starts answers until one is refused or there are `most`, and pulls them all: each gives the text that it gives alone.
 * Returns the code of the last start. */
static int crowd(CudaModel* model, int most, const char* alone)
{
    InferenceResult* answers[ANSWERS];
    char text[4096];
    int code = 0, last = 0, count = 0, i;
    while (count < most) {
        answers[count] = cuda_inference_start(model, "Hello", 400, 1.0f, 9, &last);
        if (answers[count] == NULL) break;
        count++;
    }
    for (i = 0; i < count; i++) {
        text[0] = '\0';
        pull(answers[i], text, sizeof text, &code);
        CHECK(code == 0 && strcmp(text, alone) == 0);
        cuda_inference_free(answers[i]);
    }
    return last;
}

int main(void)
{
    struct driver driver;
    CudaContext* context;
    CudaModel *model, *later;
    InferenceResult* running;
    char alone[4096], text[4096] = "", piece[256];
    int code = UNSET;
    if (!open_driver(&driver)) return 0;
    context = open_context();
    model = load_model(context);
    answer_of(model, "Hello", 400, 1.0f, 9, alone, sizeof alone);
    CHECK(crowd(model, TOGETHER, alone) == 0);

    take(&driver, (size_t)1 << 30);
    take(&driver, (size_t)64 << 20);
    a_model_is_refused(&driver, context);
    running = start(model, "Hello", 400, 1.0f, 9);
    CHECK(cuda_inference_next_token(running, piece, sizeof piece, NULL, &code) && code == 0);
    strcpy(text, piece);
    take(&driver, (size_t)2 << 20);
    a_model_is_refused(&driver, context);
    CHECK(crowd(model, ANSWERS, alone) == CUDA_ERROR_OUT_OF_MEMORY);
    pull(running, text, sizeof text, &code);
    CHECK(code == 0 && strcmp(text, alone) == 0);
    cuda_inference_free(running);

    give_back(&driver);
    later = load_model(context);
    CHECK(crowd(later, TOGETHER, alone) == 0);
    cuda_unload_model(later);
    cuda_unload_model(model);
    CHECK(cuda_get_process_vram_usage(context) == 0);
    cuda_destroy(context);
    return 0;
}
