/*
 * Many conversations at once on one model, through the C functions: whether each is as if alone, and what they share.
 *
 *   cc -O2 -std=c11 -I include tests/bench/crowd.c -L target/release -lworker_orcd -lpthread -o crowd
 *   crowd MODEL.gguf [-a ANSWERS] [-x TOKENS] [-k SECONDS]
 *
 * -a     so many answers, greedy and sampled, with prompts of 20 to 400 words of which some begin alike: each alone, then all at
 *        once in three orders and paces of arrival. The texts must be the same; their sum is printed, so that runs with other
 *        settings (WORKER_ORCD_PREFIX=off) can be compared
 * -x     32 inferences whose prompts begin with the same so many tokens: the first tokens against one's alone, and the memory held
 * -k     16 threads start, pull, abandon and free at random for so long; the texts that end must be those they give alone, and
 *        the memory held must not grow
 *
 * Exit code 1 if anything is not as it should be.
 */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker_orcd.h"

enum { MOST = 128, BUFFER = 4096, TEXT = 16384, SHARED = 32, SOAKERS = 16, KINDS = 24, OPEN = 5 };

static CudaContext *context;
static CudaModel *model;
static uint64_t weights;
static int failures;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void pause_for(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

static void check(int code, const char *what) {
    if (code != 0) {
        fprintf(stderr, "%s: %s\n", what, cuda_error_message(code));
        exit(code);
    }
}

static unsigned next(unsigned *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Appends `count` words to what is at `to`; other `seed`, other words. */
static void words(char *to, int count, unsigned seed) {
    static const char *const list[] = {" the", " of", " and", " to", " in", " is", " for", " on"};
    to += strlen(to);
    for (int i = 0; i < count; i++) {
        const char *word = list[next(&seed) >> 21];
        memcpy(to, word, strlen(word));
        to += strlen(word);
    }
    *to = 0;
}

static char *room(size_t bytes) {
    char *p = malloc(bytes);
    if (!p) exit(2);
    *p = 0;
    return p;
}

struct answer {
    char *prompt, *text;
    int tokens, place;
    float temperature;
    uint64_t seed;
    double began, first, wait;
};

/* The n-th of a mixed lot. Two in three begin with the same 200 words. */
static void describe(struct answer *a, int n) {
    a->prompt = room(4096);
    a->text = room(TEXT);
    if (n % 3) words(a->prompt, 200, 1);
    words(a->prompt, 20 + n * 37 % 180, 100u + (unsigned)n);
    a->tokens = 16 + n * 13 % 49;
    a->temperature = (float)(n % 4) * 0.5f;
    a->seed = (uint64_t)n * 1000003u;
}

static void run_into(struct answer *a, char *text) {
    char piece[BUFFER];
    int code = 0;
    size_t length = 0;
    a->began = now(), a->first = 0;
    InferenceResult *r = cuda_inference_start(model, a->prompt, a->tokens, a->temperature, a->seed, &code);
    check(code, "cuda_inference_start");
    text[0] = 0;
    while (cuda_inference_next_token(r, piece, BUFFER, NULL, &code)) {
        if (a->first == 0) a->first = now();
        size_t n = strlen(piece);
        if (length + n + 1 > TEXT) exit(3);
        memcpy(text + length, piece, n + 1);
        length += n;
    }
    check(code, "cuda_inference_next_token");
    cuda_inference_free(r);
}

static void *in_company(void *argument) {
    struct answer *a = argument;
    char *text = room(TEXT);
    pause_for(a->wait);
    run_into(a, text);
    if (strcmp(text, a->text) != 0) {
        pthread_mutex_lock(&guard);
        failures++;
        printf("  answer %d differs:\n    %.200s\n    %.200s\n", a->place, text, a->text);
        pthread_mutex_unlock(&guard);
    }
    free(text);
    return NULL;
}

static void all_at_once(struct answer *answers, int n, unsigned seed, double spread) {
    pthread_t threads[MOST];
    int order[MOST];
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int j = (int)(next(&seed) % (unsigned)(i + 1)), swap = order[i];
        order[i] = order[j], order[j] = swap;
    }
    for (int i = 0; i < n; i++) {
        struct answer *a = &answers[order[i]];
        a->wait = spread * (double)(next(&seed) % 1000) / 1000;
        if (pthread_create(&threads[i], NULL, in_company, a)) exit(2);
    }
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
}

static void crowd(int n) {
    struct answer answers[MOST];
    uint64_t sum = 1469598103934665603u;
    double t0 = now();
    for (int i = 0; i < n; i++) {
        describe(&answers[i], i);
        answers[i].place = i;
        run_into(&answers[i], answers[i].text);
        for (const char *c = answers[i].text; *c; c++) sum = (sum ^ (unsigned char)*c) * 1099511628211u;
    }
    double alone = now() - t0;
    int before = failures;
    t0 = now();
    all_at_once(answers, n, 1, 0);
    double together = now() - t0;
    all_at_once(answers, n, 2, 0.2);
    all_at_once(answers, n, 3, alone / 8);
    printf("  %d answers: %d unlike those given alone in 3 orders of arrival; texts %016llx; %.2f s alone, %.2f s at once\n", n,
           failures - before, (unsigned long long)sum, alone, together);
    for (int i = 0; i < n; i++) free(answers[i].prompt), free(answers[i].text);
}

static void *to_first(void *argument) {
    struct answer *a = argument;
    run_into(a, a->text);
    return NULL;
}

/* One inference alone on a fresh beginning, then all on another. */
static void shared(int tokens) {
    struct answer answers[SHARED + 1];
    pthread_t threads[SHARED];
    double most = 0;
    for (int i = 0; i <= SHARED; i++) {
        answers[i] = (struct answer){.prompt = room((size_t)tokens * 5 + 4096), .text = room(TEXT), .tokens = 32};
        words(answers[i].prompt, tokens, i == SHARED ? 51 : 52);
        words(answers[i].prompt, 24, 60u + (unsigned)i);
    }
    struct answer *one = &answers[SHARED];
    run_into(one, one->text);
    double alone = one->first - one->began;
    uint64_t before = cuda_model_get_vram_usage(model);
    double t0 = now();
    for (int i = 0; i < SHARED; i++)
        if (pthread_create(&threads[i], NULL, to_first, &answers[i])) exit(2);
    for (int i = 0; i < SHARED; i++) pthread_join(threads[i], NULL);
    uint64_t after = cuda_model_get_vram_usage(model);
    for (int i = 0; i < SHARED; i++)
        if (answers[i].first - t0 > most) most = answers[i].first - t0;
    printf("  %d begin with the same %d: the last first token after %.1f ms, one alone %.1f ms, %.2f times; held %.1f MiB before, %.1f after\n",
           SHARED, tokens, 1e3 * most, 1e3 * alone, most / alone, (double)(before - weights) / 1048576, (double)(after - weights) / 1048576);
    for (int i = 0; i <= SHARED; i++) free(answers[i].prompt), free(answers[i].text);
}

static struct answer kinds[KINDS];
static double soak_until;
static long long started, ended, abandoned, refused;

struct open {
    InferenceResult *answer;
    int kind;
    size_t length;
    char *text;
};

/* Pulls up to `most` pieces. True at the end. */
static bool pull(struct open *o, int most) {
    char piece[BUFFER];
    int code = 0;
    while (most-- > 0) {
        if (!cuda_inference_next_token(o->answer, piece, BUFFER, NULL, &code)) {
            check(code, "cuda_inference_next_token");
            return true;
        }
        size_t n = strlen(piece);
        if (o->length + n + 1 > TEXT) exit(3);
        memcpy(o->text + o->length, piece, n + 1);
        o->length += n;
    }
    return false;
}

static void close_one(struct open *o, bool at_end) {
    pthread_mutex_lock(&guard);
    if (at_end && strcmp(o->text, kinds[o->kind].text) != 0) {
        failures++;
        printf("  answer %d differs\n", o->kind);
    }
    if (at_end) ended++;
    else abandoned++;
    pthread_mutex_unlock(&guard);
    cuda_inference_free(o->answer);
    free(o->text);
}

static void *soaker(void *argument) {
    unsigned state = *(unsigned *)argument;
    struct open open[OPEN];
    int n = 0;
    while (now() < soak_until || n > 0) {
        if (n < OPEN && now() < soak_until && next(&state) % 3) {
            int code = 0, kind = (int)(next(&state) % KINDS);
            const struct answer *a = &kinds[kind];
            InferenceResult *r = cuda_inference_start(model, a->prompt, a->tokens, a->temperature, a->seed, &code);
            pthread_mutex_lock(&guard);
            started += r != NULL, refused += r == NULL;
            pthread_mutex_unlock(&guard);
            if (code != 0 && code != CUDA_ERROR_OUT_OF_MEMORY) check(code, "cuda_inference_start");
            if (r) open[n++] = (struct open){r, kind, 0, room(TEXT)};
        }
        for (int i = n - 1; i >= 0; i--) {
            bool over = next(&state) % 4 == 0 && pull(&open[i], 1 + (int)(next(&state) % 40));
            if (over || next(&state) % 64 == 0) {
                close_one(&open[i], over);
                open[i] = open[--n];
            }
        }
        if (next(&state) % 16 == 0) pause_for(0.001);
    }
    return NULL;
}

static long resident_kib(void) {
    long pages = 0, all = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f) {
        if (fscanf(f, "%ld %ld", &all, &pages) != 2) pages = 0;
        fclose(f);
    }
    return pages * 4;
}

static void soak(int seconds) {
    pthread_t threads[SOAKERS];
    unsigned seeds[SOAKERS];
    for (int i = 0; i < KINDS; i++) {
        describe(&kinds[i], i);
        run_into(&kinds[i], kinds[i].text);
    }
    double t0 = now();
    long settled = 0, most = 0;
    uint64_t held = 0, held_settled = 0;
    soak_until = t0 + seconds;
    for (int i = 0; i < SOAKERS; i++) {
        seeds[i] = 7u + (unsigned)i;
        if (pthread_create(&threads[i], NULL, soaker, &seeds[i])) exit(2);
    }
    while (now() < soak_until) {
        pause_for(0.2);
        long kib = resident_kib();
        uint64_t bytes = cuda_model_get_vram_usage(model);
        if (now() < t0 + seconds / 3.0) {
            if (kib > settled) settled = kib;
            if (bytes > held_settled) held_settled = bytes;
        }
        if (kib > most) most = kib;
        if (bytes > held) held = bytes;
    }
    for (int i = 0; i < SOAKERS; i++) pthread_join(threads[i], NULL);
    printf("  soak of %d s: %lld started, %lld refused for memory, %lld read to their end, %lld abandoned; most resident %ld KiB in the first third, "
           "%ld in all; most held %.1f MiB, %.1f\n",
           seconds, started, refused, ended, abandoned, settled, most, (double)(held_settled - weights) / 1048576, (double)(held - weights) / 1048576);
    if (most > settled + settled / 10 + 8192) failures++, printf("  resident memory has grown\n");
    for (int i = 0; i < KINDS; i++) free(kinds[i].prompt), free(kinds[i].text);
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: crowd MODEL.gguf [-a ANSWERS] [-x TOKENS] [-k SECONDS]\n");
        return 64;
    }
    int code = 0;
    context = cuda_init(0, &code);
    check(code, "cuda_init");
    model = cuda_load_model(context, argv[1], &weights, &code);
    check(code, "cuda_load_model");
    printf("%s\n", argv[1]);
    for (int i = 2; i + 1 < argc; i += 2) {
        int n = atoi(argv[i + 1]);
        switch (argv[i][1]) {
        case 'a': crowd(n > MOST ? MOST : n); break;
        case 'x': shared(n); break;
        case 'k': soak(n); break;
        default: fprintf(stderr, "unknown option %s\n", argv[i]); return 64;
        }
        fflush(stdout);
    }
    cuda_unload_model(model);
    uint64_t left = cuda_get_process_vram_usage(context);
    if (left != 0) failures++, printf("  %llu bytes held at the end\n", (unsigned long long)left);
    cuda_destroy(context);
    return failures != 0;
}
