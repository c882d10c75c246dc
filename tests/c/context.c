/* "Context": device ids, independence, speed, and what outlives a context. */

#include "check.h"

#include <limits.h>

static void ids(void)
{
    int count = cuda_get_device_count(), i;
    const int wrong[] = {-1, INT_MIN, count, count + 1, INT_MAX};
    CHECK(count >= 1);
    for (i = 0; i < 5; i++) {
        int code = UNSET;
        CHECK(cuda_init(wrong[i], &code) == NULL);
        CHECK(code == CUDA_ERROR_INVALID_DEVICE);
    }
    for (i = 0; i < count; i++) {
        int code = UNSET;
        CudaContext* context = cuda_init(i, &code);
        CHECK(context != NULL && code == 0);
        cuda_destroy(context);
    }
}

static void no_place_for_the_code(void)
{
    CHECK(cuda_init(0, NULL) == NULL);
    CHECK(cuda_init(-1, NULL) == NULL);
}

static void independent(void)
{
    CudaContext* first = open_context();
    CudaContext* second = open_context();
    CudaModel* model = load_model(first);
    char text[2048];
    int code = UNSET;
    CHECK(first != second);
    CHECK(cuda_get_process_vram_usage(first) > 0);
    cuda_destroy(second);
    CHECK(cuda_check_device_health(first, &code) && code == 0);
    code = UNSET;
    CHECK(!cuda_check_device_health(second, &code) && code == CUDA_ERROR_INVALID_PARAMETER);
    CHECK(answer_of(model, "Hello", 4, 0.0f, 0, text, sizeof text) > 0);
    cuda_unload_model(model);
    cuda_destroy(first);
}

static void models_outlive_it(void)
{
    CudaContext* context = open_context();
    CudaModel* model = load_model(context);
    char before[2048], after[2048];
    int code = UNSET;
    answer_of(model, "Hello", 8, 0.0f, 0, before, sizeof before);
    cuda_destroy(context);
    answer_of(model, "Hello", 8, 0.0f, 0, after, sizeof after);
    CHECK(strcmp(before, after) == 0);
    CHECK(cuda_check_vram_residency(model, &code) && code == 0);
    cuda_unload_model(model);

    context = open_context();
    CHECK(cuda_get_process_vram_usage(context) == 0);
    cuda_destroy(context);
}

static void quick_after_the_first(void)
{
    double started = seconds();
    int i;
    for (i = 0; i < 10; i++) cuda_destroy(open_context());
    CHECK(in_time(0.5, started));
}

int main(void)
{
    ids();
    no_place_for_the_code();
    independent();
    models_outlive_it();
    quick_after_the_first();
    return 0;
}
