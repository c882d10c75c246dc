/*
 * Speeds of one model through the C functions, one line each.
 *
 *   cc -O2 -std=c11 -I include tests/bench/speed.c -L target/release -lworker_orcd -lpthread -o speed
 *   speed MODEL.gguf [-r RUNS] [-p TOKENS,..] [-d TOKENS,..] [-s SEQUENCES,..] [-i TOKENS]
 *
 * load   seconds of the first cuda_init, of another one, and of cuda_load_model
 * -p     prompt tokens/s: the time from the start of an inference to its first piece, for each length
 * -d     tokens/s over 128 generated tokens with so many tokens before them, for each number
 * -s     so many inferences at once, prompts of 128 tokens that differ, 128 tokens each: generated tokens/s in all between the
 *        moment from which all of them answer and the first one's end, which is what llama.cpp's batched-bench gives (its prompts
 *        are done before it begins to generate); and all generated tokens over the whole time, prompts included
 * -i     32 running answers are joined by a prompt of so many tokens: the longest time in which none of them got anything, and in which
 *        one of them did not (a random model's token may have no text of its own, so that its piece comes with the next), and the
 *        newcomer's first token
 *
 * Medians of RUNS. A prompt is made of words that are one token each in the usual vocabularies.
 */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker_orcd.h"

enum { GENERATED = 128, MOST = 128, BUFFER = 4096 };

static CudaModel *model;
static int runs = 5;
/* Answers that have begun. */
static atomic_int begun;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(int code, const char *what) {
    if (code != 0) {
        fprintf(stderr, "%s: %s\n", what, cuda_error_message(code));
        exit(code);
    }
}

/* A text of `tokens` words; other `seed`, other text. */
static char *text(int tokens, unsigned seed) {
    static const char *const words[] = {" the", " of", " and", " to", " in", " is", " for", " on"};
    char *out = malloc((size_t)tokens * 5 + 1), *end = out;
    for (int i = 0; out && i < tokens; i++) {
        seed = seed * 1664525u + 1013904223u;
        const char *word = words[seed >> 29];
        memcpy(end, word, strlen(word));
        end += strlen(word);
    }
    if (!out) exit(2);
    *end = 0;
    return out;
}

/* One answer: the times of its pieces. */
struct answer {
    char *prompt;
    int tokens, pieces;
    double began, at[GENERATED + 1], ended;
};

static void *run(void *argument) {
    struct answer *a = argument;
    char piece[BUFFER];
    int code = 0;
    a->pieces = 0;
    a->began = now();
    InferenceResult *r = cuda_inference_start(model, a->prompt, a->tokens, 0.0f, 0, &code);
    check(code, "cuda_inference_start");
    while (a->pieces < a->tokens && cuda_inference_next_token(r, piece, BUFFER, NULL, &code)) {
        a->at[a->pieces++] = now();
        if (a->pieces == 1) atomic_fetch_add(&begun, 1);
    }
    while (cuda_inference_next_token(r, piece, BUFFER, NULL, &code)) {}
    a->ended = now();
    check(code, "cuda_inference_next_token");
    cuda_inference_free(r);
    return NULL;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n) {
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static void prompt_speed(int tokens) {
    double v[64];
    for (int i = 0; i < runs; i++) {
        /* No two begin alike, or a longer one would find the pages of a shorter one. */
        struct answer a = {.prompt = text(tokens, 1000003u * (unsigned)tokens + (unsigned)i), .tokens = 1};
        run(&a);
        v[i] = a.ended - a.began;
        free(a.prompt);
    }
    double seconds = median(v, runs);
    printf("  prompt of %-6d %10.0f tokens/s, first token after %.2f ms\n", tokens, tokens / seconds, 1e3 * seconds);
}

static void decode_speed(int before) {
    double v[64];
    for (int i = 0; i < runs; i++) {
        struct answer a = {.prompt = text(before, 77u + (unsigned)i), .tokens = GENERATED};
        run(&a);
        v[i] = (GENERATED - 1) / (a.ended - a.at[0]);
        free(a.prompt);
    }
    printf("  decode after %-4d %10.1f tokens/s\n", before, median(v, runs));
}

static void start_all(struct answer *a, pthread_t *threads, int n, unsigned seed) {
    for (int i = 0; i < n; i++) {
        a[i] = (struct answer){.prompt = text(128, seed + (unsigned)i), .tokens = GENERATED};
        if (pthread_create(&threads[i], NULL, run, &a[i])) exit(2);
    }
}

static void join_all(struct answer *a, pthread_t *threads, int n) {
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        free(a[i].prompt);
    }
}

static void many(int n) {
    static struct answer a[MOST];
    pthread_t threads[MOST];
    double together[64], whole[64];
    for (int k = 0; k < runs; k++) {
        start_all(a, threads, n, 1u + 1000u * (unsigned)k);
        join_all(a, threads, n);
        double began = a[0].began, ended = 0, from = 0, to = 1e300, generated = 0;
        for (int i = 0; i < n; i++) {
            double last = a[i].at[a[i].pieces - 1];
            if (a[i].began < began) began = a[i].began;
            if (a[i].ended > ended) ended = a[i].ended;
            if (a[i].at[0] > from) from = a[i].at[0];
            if (last < to) to = last;
        }
        for (int i = 0; i < n; i++) {
            int inside = 0;
            for (int j = 0; j < a[i].pieces; j++) inside += a[i].at[j] > from && a[i].at[j] <= to;
            generated += inside * ((double)GENERATED / a[i].pieces);
        }
        together[k] = to > from ? generated / (to - from) : 0;
        whole[k] = n * (double)GENERATED / (ended - began);
    }
    double all = median(together, runs);
    if (all > 0)
        printf("  %3d at once      %10.0f tokens/s, %.0f with prompts\n", n, all, median(whole, runs));
    else
        printf("  %3d never answered all at once; %.0f tokens/s with prompts\n", n, median(whole, runs));
}

static void intruder(int tokens) {
    enum { RUNNING = 32 };
    static struct answer a[RUNNING];
    pthread_t threads[RUNNING];
    static unsigned seed;
    seed += 2;  /* no prompt that was there before */
    struct answer alone = {.prompt = text(tokens, 5000u + seed), .tokens = 1}, late = {.prompt = text(tokens, 5001u + seed), .tokens = 1};
    static double gaps[RUNNING * GENERATED], times[RUNNING * GENERATED];
    double longest = 0, silence = 0;
    int n = 0, m = 0;
    run(&alone);
    atomic_store(&begun, 0);
    start_all(a, threads, RUNNING, 99);
    const struct timespec pause = {0, 200000};
    while (atomic_load(&begun) < RUNNING) nanosleep(&pause, NULL);
    run(&late);
    join_all(a, threads, RUNNING);
    for (int i = 0; i < RUNNING; i++)
        for (int j = 1; j < a[i].pieces; j++) {
            times[m++] = a[i].at[j];
            double gap = a[i].at[j] - a[i].at[j - 1];
            if (a[i].at[j] > late.began && a[i].at[j - 1] < late.ended && gap > longest) longest = gap;
            gaps[n++] = gap;
        }
    double usual = median(gaps, n);
    qsort(times, (size_t)m, sizeof *times, by_value);
    for (int i = 1; i < m; i++)
        if (times[i] > late.began && times[i - 1] < late.ended && times[i] - times[i - 1] > silence) silence = times[i] - times[i - 1];
    printf("  %d tokens join 32: longest step %.1f ms = %.1f median gaps, longest wait %.1f ms = %.1f; first token %.1f ms = %.2f times alone\n",
           tokens, 1e3 * silence, silence / usual, 1e3 * longest, longest / usual, 1e3 * (late.ended - late.began),
           (late.ended - late.began) / (alone.ended - alone.began));
    free(alone.prompt);
    free(late.prompt);
}

static void each(char *list, void (*measure)(int)) {
    for (char *item = strtok(list, ","); item; item = strtok(NULL, ",")) measure(atoi(item));
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: speed MODEL.gguf [-r RUNS] [-p TOKENS,..] [-d TOKENS,..] [-s SEQUENCES,..] [-i TOKENS]\n");
        return 64;
    }
    int code = 0;
    uint64_t bytes = 0;
    double t0 = now();
    CudaContext *first = cuda_init(0, &code);
    check(code, "cuda_init");
    double t1 = now();
    CudaContext *context = cuda_init(0, &code);
    check(code, "cuda_init");
    double t2 = now();
    model = cuda_load_model(context, argv[1], &bytes, &code);
    check(code, "cuda_load_model");
    printf("%s\n  init %.1f ms, again %.2f ms, load %.1f ms, %.0f MiB\n", argv[1], 1e3 * (t1 - t0), 1e3 * (t2 - t1),
           1e3 * (now() - t2), (double)bytes / 1048576);
    for (int i = 2; i + 1 < argc; i += 2) {
        switch (argv[i][1]) {
        case 'r': runs = atoi(argv[i + 1]) > 63 ? 63 : atoi(argv[i + 1]); break;
        case 'p': each(argv[i + 1], prompt_speed); break;
        case 'd': each(argv[i + 1], decode_speed); break;
        case 's': each(argv[i + 1], many); break;
        case 'i': each(argv[i + 1], intruder); break;
        default: fprintf(stderr, "unknown option %s\n", argv[i]); return 64;
        }
        fflush(stdout);
    }
    cuda_unload_model(model);
    cuda_destroy(context);
    cuda_destroy(first);
    return 0;
}
