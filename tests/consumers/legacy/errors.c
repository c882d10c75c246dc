/* A file of an old host that needs the error codes alone. */

#include "worker_errors.h"
#include "worker_errors.h"

const char* legacy_describe(CudaErrorCode code);

const char* legacy_describe(CudaErrorCode code)
{
    switch (code) {
    case CUDA_SUCCESS:
        return "fine";
    default:
        return cuda_error_message(code);
    }
}
