/* "Context", on a machine without a device: a count of 0, and codes instead of a fall-back to the CPU.
 * With a device there is nothing to see here. */

#include "check.h"

int main(void)
{
    int code = UNSET;
    setenv("WORKER_ORCD_DEVICE", "cuda", 1);
    if (cuda_get_device_count() > 0) return 0;
    CHECK(cuda_get_device_count() == 0);
    CHECK(cuda_init(0, &code) == NULL && code == CUDA_ERROR_DEVICE_NOT_FOUND);
    CHECK(cuda_init(1, &code) == NULL && code == CUDA_ERROR_INVALID_DEVICE);
    CHECK(cuda_init(-1, &code) == NULL && code == CUDA_ERROR_INVALID_DEVICE);
    unsetenv("WORKER_ORCD_DEVICE");
    CHECK(cuda_get_device_count() == 0);
    CHECK(cuda_init(0, &code) == NULL && code == CUDA_ERROR_DEVICE_NOT_FOUND);

    /* The variable is read at each call. */
    setenv("WORKER_ORCD_DEVICE", "cpu", 1);
    CHECK(cuda_get_device_count() == 1);
    cuda_destroy(open_context());
    return 0;
}
