/* A file of an old host that needs the opaque types alone. */

#include "worker_types.h"
#include "worker_types.h"

int legacy_has_model(const CudaModel* model, const CudaContext* context, const InferenceResult* result);

int legacy_has_model(const CudaModel* model, const CudaContext* context, const InferenceResult* result)
{
    return model != 0 && context != 0 && result == 0;
}
