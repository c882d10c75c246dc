/* What the C tests share: a check that names its line, and the calls that every test begins with.
 * All of it is C11 and C++17 at once. */

#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker_orcd.h"

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* Code variables start as something that is no code, so that a call that forgets to set it shows. */
#define UNSET (-77)

/* A model's path: NAME in the folder of tiny models that the driver names. */
static inline const char* model_path(const char* name)
{
    static char path[4096];
    const char* folder = getenv("WORKER_ORCD_GOLDENS");
    CHECK(folder != NULL);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static inline CudaContext* open_context(void)
{
    int code = UNSET;
    CudaContext* context = cuda_init(0, &code);
    CHECK(context != NULL && code == 0);
    return context;
}

static inline CudaModel* load_model(CudaContext* context)
{
    int code = UNSET;
    uint64_t bytes = 0;
    CudaModel* model = cuda_load_model(context, model_path("llama-f32.gguf"), &bytes, &code);
    CHECK(model != NULL && code == 0 && bytes > 0);
    return model;
}

static inline InferenceResult* start(CudaModel* model, const char* prompt, int tokens, float temperature,
                                     uint64_t seed)
{
    int code = UNSET;
    InferenceResult* answer = cuda_inference_start(model, prompt, tokens, temperature, seed, &code);
    CHECK(answer != NULL && code == 0);
    return answer;
}

/* Pulls the rest of an answer onto the end of `text`; returns the pieces, and the last code in *code. */
static inline int pull(InferenceResult* answer, char* text, size_t size, int* code)
{
    char piece[256];
    int index, pieces = 0;
    while (cuda_inference_next_token(answer, piece, sizeof piece, &index, code)) {
        CHECK(*code == 0 && piece[0] != '\0');
        CHECK(strlen(text) + strlen(piece) < size);
        strcat(text, piece);
        pieces++;
    }
    return pieces;
}

/* A whole answer, which must go well. */
static inline int answer_of(CudaModel* model, const char* prompt, int tokens, float temperature, uint64_t seed,
                            char* text, size_t size)
{
    int code = UNSET, pieces;
    InferenceResult* answer = start(model, prompt, tokens, temperature, seed);
    text[0] = '\0';
    pieces = pull(answer, text, size, &code);
    CHECK(code == 0);
    cuda_inference_free(answer);
    return pieces;
}

static inline double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Under valgrind or a sanitizer the driver sets CHECK_SLOW: limits in time then do not hold. */
static inline bool in_time(double limit_seconds, double started)
{
    return getenv("CHECK_SLOW") != NULL || seconds() - started <= limit_seconds;
}

#endif
