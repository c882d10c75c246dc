/* An old host: it includes worker_ffi.h and links -lworker_cuda as a whole archive. */

#include "worker_ffi.h"
#include "worker_errors.h"
#include "worker_ffi.h"
#include "worker_types.h"

#include <stdio.h>

int legacy_has_model(const CudaModel* model, const CudaContext* context, const InferenceResult* result);
const char* legacy_describe(CudaErrorCode code);

int main(int argc, char** argv)
{
    int error_code = 0, token_index = 0;
    uint64_t vram_bytes = 0;
    char token[256];
    CudaContext* ctx = cuda_init(0, &error_code);
    CudaModel* model = cuda_load_model(ctx, argc > 1 ? argv[1] : "", &vram_bytes, &error_code);
    InferenceResult* result;
    if (!legacy_has_model(model, ctx, NULL)) {
        fprintf(stderr, "%s\n", legacy_describe((CudaErrorCode)error_code));
        return 1;
    }
    result = cuda_inference_start(model, "Hello", 8, 0.0f, 0, &error_code);
    while (cuda_inference_next_token(result, token, sizeof token, &token_index, &error_code))
        printf("%d:%s\n", token_index, token);
    cuda_inference_free(result);
    cuda_unload_model(model);
    cuda_destroy(ctx);
    return error_code;
}
