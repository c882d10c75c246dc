/* "Types and numbers": every code has its string, static and never NULL; any other int has one too. */

#include "check.h"

#include <limits.h>

int main(void)
{
    static const struct {
        int code, number;
        const char* text;
    } table[] = {
        {CUDA_SUCCESS, 0, "Success"},
        {CUDA_ERROR_INVALID_DEVICE, 1, "Invalid GPU device ID"},
        {CUDA_ERROR_OUT_OF_MEMORY, 2, "Insufficient VRAM"},
        {CUDA_ERROR_MODEL_LOAD_FAILED, 3, "Model loading failed"},
        {CUDA_ERROR_INFERENCE_FAILED, 4, "Inference execution failed"},
        {CUDA_ERROR_INVALID_PARAMETER, 5, "Invalid function parameter"},
        {CUDA_ERROR_KERNEL_LAUNCH_FAILED, 6, "CUDA kernel launch failed"},
        {CUDA_ERROR_VRAM_RESIDENCY_FAILED, 7, "VRAM residency check failed"},
        {CUDA_ERROR_DEVICE_NOT_FOUND, 8, "No CUDA devices found"},
        {CUDA_ERROR_UNKNOWN, 99, "Unknown error"},
    };
    static const int others[] = {-1, 9, 42, 98, 100, 256, 999, INT_MAX, INT_MIN};
    size_t i;
    for (i = 0; i < sizeof table / sizeof *table; i++) {
        const char* text = cuda_error_message(table[i].number);
        CHECK(table[i].code == table[i].number);
        CHECK(text != NULL && strcmp(text, table[i].text) == 0);
        CHECK(cuda_error_message(table[i].number) == text);
    }
    for (i = 0; i < sizeof others / sizeof *others; i++) {
        CHECK(strcmp(cuda_error_message(others[i]), "Unrecognized error code") == 0);
    }
    return 0;
}
