/* "Health": residency, the device, and the bytes of the process. */

#include "check.h"

int main(void)
{
    CudaContext* context = open_context();
    CudaModel* model;
    int code = UNSET, i;
    double started;
    CHECK(cuda_get_process_vram_usage(context) == 0);
    model = load_model(context);
    CHECK(cuda_check_vram_residency(model, &code) && code == 0);
    code = UNSET;
    CHECK(cuda_check_device_health(context, &code) && code == 0);
    started = seconds();
    for (i = 0; i < 10; i++) CHECK(cuda_check_device_health(context, &code));
    CHECK(in_time(0.1, started));
    CHECK(cuda_get_process_vram_usage(context) >= cuda_model_get_vram_usage(model));
    CHECK(!cuda_check_vram_residency(model, NULL));
    CHECK(!cuda_check_device_health(context, NULL));
    cuda_unload_model(model);
    CHECK(cuda_get_process_vram_usage(context) == 0);
    cuda_destroy(context);
    CHECK(cuda_get_process_vram_usage(context) == 0);
    return 0;
}
