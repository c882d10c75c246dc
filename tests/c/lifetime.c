/* Contexts, models and answers may be closed in any order, at any point of an answer; afterwards
 * nothing is held. */

#include "check.h"

static CudaContext* context;
static CudaModel* model;
static InferenceResult* answer;

static void close_one(char which)
{
    if (which == 'c') cuda_destroy(context);
    if (which == 'm') cuda_unload_model(model);
    if (which == 'i') cuda_inference_free(answer);
}

/* Uses everything after a step of `order`; open ones work, closed ones give code 5. */
static void use(const char* closed)
{
    char piece[256];
    int code = UNSET;
    bool has_context = strchr(closed, 'c') == NULL;
    bool has_model = strchr(closed, 'm') == NULL;
    bool has_answer = strchr(closed, 'i') == NULL;
    CHECK(cuda_check_device_health(context, &code) == has_context);
    CHECK(code == (has_context ? 0 : CUDA_ERROR_INVALID_PARAMETER));
    CHECK((cuda_model_get_vram_usage(model) > 0) == has_model);
    CHECK(cuda_inference_next_token(answer, piece, sizeof piece, NULL, &code) == (has_model && has_answer));
    CHECK(code == (has_model && has_answer ? 0 : CUDA_ERROR_INVALID_PARAMETER));
}

static void in_order(const char* order, int pieces_first)
{
    char closed[4] = {0}, piece[256];
    int code = UNSET, i;
    context = open_context();
    model = load_model(context);
    answer = start(model, "Hello, world", 200, 1.0f, 11);
    for (i = 0; i < pieces_first; i++) {
        CHECK(cuda_inference_next_token(answer, piece, sizeof piece, NULL, &code));
    }
    for (i = 0; i < 3; i++) {
        close_one(order[i]);
        closed[i] = order[i];
        closed[i + 1] = '\0';
        use(closed);
    }
}

int main(void)
{
    static const char* const orders[] = {"cmi", "cim", "mci", "mic", "icm", "imc"};
    double started;
    int i, pieces;
    for (i = 0; i < 6; i++) {
        for (pieces = 0; pieces < 3; pieces++) in_order(orders[i], pieces);
    }

    /* Freeing is how a host cancels: it takes no longer than the step in flight, and memory is reused. */
    context = open_context();
    model = load_model(context);
    started = seconds();
    for (i = 0; i < 100; i++) cuda_inference_free(start(model, "Hello, world", 400, 1.0f, (uint64_t)i));
    CHECK(in_time(10.0, started));
    {
        uint64_t held = cuda_model_get_vram_usage(model);
        for (i = 0; i < 100; i++) cuda_inference_free(start(model, "Hello, world", 400, 1.0f, (uint64_t)i));
        CHECK(cuda_model_get_vram_usage(model) <= held);
    }
    cuda_unload_model(model);
    CHECK(cuda_get_process_vram_usage(context) == 0);
    cuda_destroy(context);
    return 0;
}
