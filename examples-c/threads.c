/* threads: many conversations at once on one model.
 *
 *     threads MODEL [CONVERSATIONS [TOKENS]]
 *
 * Each conversation has a thread of its own that starts an answer and pulls it; the library runs all of
 * them together, one batch a step, which is much faster than one after another. The same prompt and
 * seed give the same text as they would alone. */

#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker_orcd.h"
#include "worker_orcd_ext.h"

typedef struct {
    CudaModel* model;
    int number;
    int tokens;
    int pieces;
    int code;
    char reason[256];
    char text[4096];
} Conversation;

static const char* const questions[] = {
    "What is a lighthouse for?",
    "Name three prime numbers.",
    "Write one line about rain.",
    "Why do cats purr?",
};

/* Runs on the conversation's thread. The reason of an error belongs to the thread that got it, so it is
 * copied here and not in main. */
static void* talk(void* argument)
{
    Conversation* c = argument;
    char prompt[256], piece[256];
    InferenceResult* answer;
    snprintf(prompt, sizeof prompt, "<|im_start|>user\n%s<|im_end|>\n<|im_start|>assistant\n",
             questions[(size_t)c->number % (sizeof questions / sizeof *questions)]);
    answer = cuda_inference_start(c->model, prompt, c->tokens, 0.7f, (uint64_t)c->number, &c->code);
    while (answer != NULL && cuda_inference_next_token(answer, piece, sizeof piece, NULL, &c->code)) {
        strncat(c->text, piece, sizeof c->text - strlen(c->text) - 1);
        c->pieces++;
    }
    if (c->code != CUDA_SUCCESS) worker_orcd_last_error(c->reason, sizeof c->reason);
    cuda_inference_free(answer);
    return NULL;
}

static int report(const Conversation* all, int count, double seconds)
{
    int i, pieces = 0, code = CUDA_SUCCESS;
    for (i = 0; i < count; i++) {
        printf("--- %d\n%s\n", i, all[i].text);
        pieces += all[i].pieces;
        if (all[i].code == CUDA_SUCCESS) continue;
        code = all[i].code;
        fprintf(stderr, "%d: error %d: %s: %s\n", i, code, cuda_error_message(code), all[i].reason);
    }
    fprintf(stderr, "%d conversations, %d pieces, %.1f a second\n", count, pieces, pieces / seconds);
    return code;
}

static int converse(CudaModel* model, int count, int tokens)
{
    Conversation* all = calloc((size_t)count, sizeof *all);
    pthread_t* threads = calloc((size_t)count, sizeof *threads);
    struct timespec from, to;
    int i, started = 0, code = CUDA_ERROR_UNKNOWN;
    if (all != NULL && threads != NULL) {
        timespec_get(&from, TIME_UTC);
        for (i = 0; i < count; i++) {
            all[i].model = model;
            all[i].number = i;
            all[i].tokens = tokens;
            if (pthread_create(&threads[i], NULL, talk, &all[i]) != 0) break;
            started++;
        }
        for (i = 0; i < started; i++) pthread_join(threads[i], NULL);
        timespec_get(&to, TIME_UTC);
        code = report(all, started, (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
    }
    free(threads);
    free(all);
    return code;
}

int main(int argc, char** argv)
{
    int count = argc > 2 ? atoi(argv[2]) : 8, tokens = argc > 3 ? atoi(argv[3]) : 64;
    int code = 0;
    uint64_t bytes;
    CudaContext* context;
    CudaModel* model;
    char reason[256] = "";
    if (argc < 2 || count < 1) {
        fputs("usage: threads MODEL [CONVERSATIONS [TOKENS]]\n", stderr);
        return 64;
    }
    context = cuda_init(0, &code);
    model = cuda_load_model(context, argv[1], &bytes, &code);
    if (model != NULL) {
        code = converse(model, count, tokens);
    } else {
        worker_orcd_last_error(reason, sizeof reason);
        fprintf(stderr, "error %d: %s: %s\n", code, cuda_error_message(code), reason);
    }
    cuda_unload_model(model);
    cuda_destroy(context);
    return code;
}
