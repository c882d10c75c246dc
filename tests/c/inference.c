/* "Inference": arguments, the course of an answer, its end, and that it can be repeated. */

#include "check.h"

#include <limits.h>
#include <math.h>

static void refused(CudaModel* model, const char* prompt, int tokens, float temperature)
{
    int code = UNSET;
    CHECK(cuda_inference_start(model, prompt, tokens, temperature, 1, &code) == NULL);
    CHECK(code == CUDA_ERROR_INVALID_PARAMETER);
}

static void arguments(CudaModel* model)
{
    const int tokens[] = {0, -1, 2049, INT_MIN, INT_MAX};
    const float temperatures[] = {-0.001f, 2.001f, (float)NAN, (float)INFINITY, (float)-INFINITY, 1e30f};
    size_t i;
    for (i = 0; i < sizeof tokens / sizeof *tokens; i++) refused(model, "Hello", tokens[i], 0.0f);
    for (i = 0; i < sizeof temperatures / sizeof *temperatures; i++) refused(model, "Hello", 4, temperatures[i]);
    refused(model, NULL, 4, 0.0f);
    refused(model, "", 4, 0.0f); /* this model adds no BOS, so that is no token at all */
    refused(model, "\xff\xfe", 4, 0.0f);
    refused(model, "half a code point: \xe6\x97", 4, 0.0f);
    refused(model, "a surrogate: \xed\xa0\x80", 4, 0.0f);
    CHECK(cuda_inference_start(model, "Hello", 4, 0.0f, 1, NULL) == NULL);
    cuda_inference_free(start(model, "Hello", 1, 0.0f, 1));
    cuda_inference_free(start(model, "Hello", 2048, 2.0f, UINT64_MAX));
}

static void long_prompts(CudaModel* model)
{
    static char prompt[8192];
    char text[8192] = "";
    int code = UNSET, pieces;
    InferenceResult* answer;
    memset(prompt, 'Q', sizeof prompt - 1);
    refused(model, prompt, 4, 0.0f);
    prompt[512] = '\0'; /* the whole context: no token could follow */
    refused(model, prompt, 4, 0.0f);
    prompt[500] = '\0'; /* 12 places are left, and that ends the answer */
    answer = start(model, prompt, 2048, 1.0f, 3);
    pieces = pull(answer, text, sizeof text, &code);
    CHECK(code == 0 && pieces <= 13);
    cuda_inference_free(answer);
}

/* Indices count up from 0; at the end each further call says so and leaves the buffers alone. */
static void the_course_of_an_answer(CudaModel* model)
{
    InferenceResult* answer = start(model, "Hello, world!", 24, 0.0f, 0);
    char piece[256], untouched[256];
    int index = UNSET, code = UNSET, expected = 0, i;
    while (cuda_inference_next_token(answer, piece, sizeof piece, &index, &code)) {
        CHECK(code == 0);
        CHECK(index == expected++);
        CHECK(piece[0] != '\0' && memchr(piece, 0, sizeof piece) != NULL);
        code = UNSET;
    }
    CHECK(code == 0);
    CHECK(expected >= 1 && expected <= 24);
    memset(piece, 'x', sizeof piece);
    memset(untouched, 'x', sizeof untouched);
    for (i = 0; i < 3; i++) {
        index = UNSET;
        code = UNSET;
        CHECK(!cuda_inference_next_token(answer, piece, sizeof piece, &index, &code));
        CHECK(code == 0 && index == UNSET && memcmp(piece, untouched, sizeof piece) == 0);
    }
    cuda_inference_free(answer);
}

static void max_tokens_is_a_limit(CudaModel* model)
{
    char text[4096], longer[4096];
    int tokens;
    answer_of(model, "The quick brown fox", 30, 0.0f, 0, longer, sizeof longer);
    for (tokens = 1; tokens <= 10; tokens++) {
        int pieces = answer_of(model, "The quick brown fox", tokens, 0.0f, 0, text, sizeof text);
        size_t length = strlen(text);
        CHECK(pieces <= tokens);
        /* Bytes of an unfinished code point at the limit become U+FFFD; the rest is a prefix. */
        if (length >= 3 && strcmp(text + length - 3, "\xef\xbf\xbd") == 0) length -= 3;
        CHECK(strncmp(text, longer, length) == 0);
    }
}

static void the_index_may_be_null(CudaModel* model)
{
    InferenceResult* answer = start(model, "Hello", 8, 0.0f, 0);
    char piece[256];
    int code = UNSET;
    CHECK(cuda_inference_next_token(answer, piece, sizeof piece, NULL, &code) && code == 0);
    CHECK(!cuda_inference_next_token(answer, piece, sizeof piece, NULL, NULL));
    cuda_inference_free(answer);
}

static void the_same_again(CudaModel* model)
{
    char first[8192], second[8192], greedy[8192];
    int seed, different = 0;
    for (seed = 0; seed < 8; seed++) {
        answer_of(model, "Hello, world!", 24, 1.5f, (uint64_t)seed, first, sizeof first);
        answer_of(model, "Hello, world!", 24, 1.5f, (uint64_t)seed, second, sizeof second);
        CHECK(strcmp(first, second) == 0);
        answer_of(model, "Hello, world!", 24, 1.5f, (uint64_t)seed + 1, second, sizeof second);
        different += strcmp(first, second) != 0;
    }
    CHECK(different >= 7);
    answer_of(model, "Hello, world!", 24, 0.0f, 1, greedy, sizeof greedy);
    answer_of(model, "Hello, world!", 24, 0.0f, 2, second, sizeof second);
    CHECK(strcmp(greedy, second) == 0); /* greedy looks at no seed */
}

static void the_context_can_be_lowered(CudaContext* context)
{
    static char prompt[128];
    CudaModel* model;
    setenv("WORKER_ORCD_CONTEXT", "64", 1);
    model = load_model(context);
    unsetenv("WORKER_ORCD_CONTEXT");
    memset(prompt, 'Q', 100);
    refused(model, prompt, 4, 0.0f);
    prompt[20] = '\0';
    cuda_inference_free(start(model, prompt, 4, 0.0f, 0));
    cuda_unload_model(model);
}

int main(void)
{
    CudaContext* context = open_context();
    CudaModel* model = load_model(context);
    arguments(model);
    long_prompts(model);
    the_course_of_an_answer(model);
    max_tokens_is_a_limit(model);
    the_index_may_be_null(model);
    the_same_again(model);
    cuda_unload_model(model);
    the_context_can_be_lowered(context);
    cuda_destroy(context);
    return 0;
}
