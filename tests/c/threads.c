/* Any function from any thread at any time: 64 answers from 8 threads are those that each gives alone;
 * calls on one answer take turns; handles may be closed under the feet of other threads. */

#include "check.h"

#include <pthread.h>

enum { THREADS = 8, EACH = 8, ALL = THREADS * EACH, SIZE = 4096 };

static CudaModel* model;
static char alone[ALL][SIZE];

static void one(int n, char* text)
{
    static const char* const prompts[] = {"Hello", "naïve café — “quotes”", "The quick brown fox jumps over", "1 2 3 4 5 6 7"};
    answer_of(model, prompts[n % 4], 4 + n % 13, (float)(n % 3) * 0.7f, (uint64_t)n, text, SIZE);
}

static void* eight(void* argument)
{
    int first = *(int*)argument, i;
    char* text = (char*)malloc(SIZE);
    CHECK(text != NULL);
    for (i = 0; i < EACH; i++) {
        one(first + i, text);
        CHECK(strcmp(text, alone[first + i]) == 0);
    }
    free(text);
    return NULL;
}

static void run(void* (*body)(void*), void* const* arguments)
{
    pthread_t threads[THREADS];
    int i;
    for (i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, body, arguments[i]) == 0);
    for (i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

static void as_alone(void)
{
    int first[THREADS], i;
    void* arguments[THREADS];
    for (i = 0; i < ALL; i++) one(i, alone[i]);
    for (i = 0; i < THREADS; i++) {
        first[i] = i * EACH;
        arguments[i] = &first[i];
    }
    run(eight, arguments);
}

/* Each piece of a shared answer goes to exactly one of the threads that pull it. */
static InferenceResult* shared_answer;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int seen[512], taken;

static void* pull_shared(void* unused)
{
    char text[256];
    int index, code = UNSET;
    (void)unused;
    while (cuda_inference_next_token(shared_answer, text, sizeof text, &index, &code)) {
        pthread_mutex_lock(&lock);
        CHECK(index >= 0 && index < 512);
        seen[index]++;
        taken++;
        pthread_mutex_unlock(&lock);
    }
    CHECK(code == 0 || code == CUDA_ERROR_INVALID_PARAMETER);
    return NULL;
}

static void one_waits(void)
{
    void* arguments[THREADS] = {NULL};
    char text[SIZE];
    int i, pieces = answer_of(model, "Hello", 100, 1.0f, 5, text, sizeof text);
    shared_answer = start(model, "Hello", 100, 1.0f, 5);
    run(pull_shared, arguments);
    cuda_inference_free(shared_answer);
    CHECK(taken == pieces);
    for (i = 0; i < taken; i++) CHECK(seen[i] == 1);
}

/* The first thread to get here closes it while the others pull. */
static void* pull_or_close(void* argument)
{
    if (argument != NULL) {
        char text[256];
        int code = UNSET;
        cuda_inference_next_token(shared_answer, text, sizeof text, NULL, &code);
        if (*(const char*)argument == 'i') cuda_inference_free(shared_answer);
        else cuda_unload_model(model);
        return NULL;
    }
    return pull_shared(NULL);
}

static void closed_meanwhile(CudaContext* context, const char* what)
{
    void* arguments[THREADS] = {NULL};
    char which = what[0];
    arguments[THREADS / 2] = &which;
    shared_answer = start(model, "Hello", 400, 1.0f, 6);
    run(pull_or_close, arguments);
    cuda_inference_free(shared_answer);
    cuda_unload_model(model);
    CHECK(cuda_get_process_vram_usage(context) == 0);
    model = load_model(context);
}

int main(void)
{
    CudaContext* context = open_context();
    model = load_model(context);
    as_alone();
    one_waits();
    closed_meanwhile(context, "i");
    closed_meanwhile(context, "m");
    cuda_unload_model(model);
    CHECK(cuda_get_process_vram_usage(context) == 0);
    cuda_destroy(context);
    return 0;
}
