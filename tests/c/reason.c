/* The reason of an error is kept per thread, names the culprit, and is copied out whole or cut short. */

#include "check.h"

#include <pthread.h>

#include "worker_orcd_ext.h"

static char reason[1024];

static void* elsewhere(void* argument)
{
    char mine[1024] = "";
    int code = UNSET;
    (void)argument;
    CHECK(cuda_init(-5, &code) == NULL && code == CUDA_ERROR_INVALID_DEVICE);
    CHECK(worker_orcd_last_error(mine, sizeof mine) > 0 && strstr(mine, "-5") != NULL);
    return NULL;
}

int main(void)
{
    CudaContext* context = open_context();
    uint64_t bytes;
    int code = UNSET;
    size_t length, cut;
    char small[8];
    pthread_t thread;
    CHECK(cuda_load_model(context, "/nowhere/some-model.gguf", &bytes, &code) == NULL);
    length = worker_orcd_last_error(reason, sizeof reason);
    CHECK(length == strlen(reason) && strstr(reason, "some-model") != NULL);

    /* Another thread's error changes nothing here. */
    CHECK(pthread_create(&thread, NULL, elsewhere, NULL) == 0);
    pthread_join(thread, NULL);
    CHECK(worker_orcd_last_error(reason, sizeof reason) == length && strstr(reason, "some-model") != NULL);

    /* Too small a buffer gets the beginning, and the length that would be needed. */
    memset(small, 'x', sizeof small);
    cut = worker_orcd_last_error(small, sizeof small);
    CHECK(cut == length && strlen(small) < sizeof small && strncmp(small, reason, strlen(small)) == 0);
    CHECK(worker_orcd_last_error(NULL, 0) == length);
    CHECK(worker_orcd_last_error(small, 0) == length);
    cuda_destroy(context);
    return 0;
}
