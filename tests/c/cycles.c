/* A model comes and goes a hundred times: everything that it held is given back, as the library counts it and, on a GPU, as
 * the driver does. */

#include "driver.h"

static void cycle(CudaContext* context, const char* text)
{
    char again[2048];
    CudaModel* model = load_model(context);
    answer_of(model, "Hello", 12, 0.7f, 5, again, sizeof again);
    CHECK(strcmp(again, text) == 0);
    cuda_unload_model(model);
    CHECK(cuda_get_process_vram_usage(context) == 0);
}

int main(void)
{
    struct driver driver;
    CudaContext* context = open_context();
    CudaModel* model = load_model(context);
    const int cycles = getenv("CHECK_SLOW") ? 5 : 100;
    bool gpu = open_driver(&driver);
    char text[2048];
    size_t before = 0;
    int i;
    answer_of(model, "Hello", 12, 0.7f, 5, text, sizeof text);
    cuda_unload_model(model);
    /* What the driver keeps for a process, such as the kernels' code, is there after the first model. */
    if (gpu) before = free_bytes(&driver);
    for (i = 0; i < cycles; i++) cycle(context, text);
    if (gpu) CHECK(free_bytes(&driver) == before);
    cuda_destroy(context);
    return 0;
}
