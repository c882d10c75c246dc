/* A host: loads the model named on its command line and prints eight tokens. C11 and C++17. */

#include <stdio.h>

#include "worker_orcd.h"
#include "worker_orcd_ext.h"

int main(int argc, char** argv)
{
    char piece[256], reason[256] = "";
    int code = 0, index = 0;
    uint64_t bytes = 0;
    CudaContext* context = cuda_init(0, &code);
    CudaModel* model = cuda_load_model(context, argc > 1 ? argv[1] : "", &bytes, &code);
    InferenceResult* answer = cuda_inference_start(model, "Hello", 8, 0.0f, 0, &code);
    while (cuda_inference_next_token(answer, piece, sizeof piece, &index, &code)) printf("%d:%s\n", index, piece);
    if (code != CUDA_SUCCESS) {
        worker_orcd_last_error(reason, sizeof reason);
        fprintf(stderr, "%s: %s\n", cuda_error_message(code), reason);
    }
    cuda_inference_free(answer);
    cuda_unload_model(model);
    cuda_destroy(context);
    return code;
}
