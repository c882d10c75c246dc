/* A GPU that is lost: a kernel of the host's own faults in the context that the library shares with it. From then on every
 * call answers with a code, what is released is released, and the process lives. */

#include "driver.h"

#include <unistd.h>

static const char FAULT[] =
    ".version 7.0\n.target sm_70\n.address_size 64\n"
    ".visible .entry fault()\n{\n  .reg .b64 %a;\n  mov.u64 %a, 16;\n  st.global.u32 [%a], 1;\n  ret;\n}\n";

static void fault(const struct driver* d)
{
    void *module = NULL, *function = NULL;
    CHECK(d->module_load(&module, FAULT) == 0);
    CHECK(d->module_function(&function, module, "fault") == 0);
    CHECK(d->launch(function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL) == 0);
    CHECK(d->synchronize() != 0);
}

int main(void)
{
    struct driver driver;
    CudaContext* context;
    CudaModel* model;
    InferenceResult *running, *waiting;
    char piece[256], text[4096] = "";
    uint64_t bytes = 12345;
    int code = UNSET;
    if (!open_driver(&driver)) return 0;
    alarm(60);
    context = open_context();
    model = load_model(context);
    running = start(model, "Hello", 400, 1.0f, 9);
    waiting = start(model, "Hello", 400, 1.0f, 8);
    CHECK(cuda_inference_next_token(running, piece, sizeof piece, NULL, &code) && code == 0);

    fault(&driver);
    pull(running, text, sizeof text, &code);
    CHECK(code != 0);
    text[0] = '\0';
    pull(waiting, text, sizeof text, &code);
    CHECK(code != 0);
    code = UNSET;
    CHECK(!cuda_check_device_health(context, &code) && code == CUDA_ERROR_INVALID_DEVICE);
    CHECK(!cuda_inference_next_token(running, piece, sizeof piece, NULL, &code) && code != 0);
    code = 0;
    CHECK(cuda_inference_start(model, "Hello", 4, 0.0f, 1, &code) == NULL && code != 0);
    code = 0;
    CHECK(cuda_load_model(context, model_path("llama-f32.gguf"), &bytes, &code) == NULL && code != 0 && bytes == 12345);
    code = 0;
    CHECK(!cuda_check_vram_residency(model, &code) && code != 0);
    code = 0;
    CHECK(cuda_init(0, &code) == NULL && code == CUDA_ERROR_INVALID_DEVICE);
    CHECK(cuda_get_device_count() >= 1);

    cuda_inference_free(running);
    cuda_unload_model(model);
    cuda_inference_free(waiting);
    CHECK(cuda_get_process_vram_usage(context) == 0);
    CHECK(!cuda_check_device_health(context, &code) && code == CUDA_ERROR_INVALID_DEVICE);
    cuda_destroy(context);
    return 0;
}
