/* generate: streams one answer.
 *
 *     generate --model FILE [--device auto|cuda|cpu] [--tokens N] [--temperature T] [--seed N] [--top-k N]
 *              [--top-p P] [--min-p P] [--repeat R] [--stop TEXT]... [--chat] [PROMPT]
 *
 * The prompt comes from standard input if it is not given. The text goes to standard output, everything
 * else to standard error. Without --device, WORKER_ORCD_DEVICE decides; --tokens 0 is as many as the
 * context holds. The exit status is the library's error code, or 64 for a wrong option. */

#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "worker_orcd.h"
#include "worker_orcd_ext.h"

#define MOST_STOPS 16

typedef struct {
    const char* model;
    const char* device;
    const char* prompt;
    int chat;
    const char* stops[MOST_STOPS];
    worker_orcd_start_options start;
} Options;

static int usage(void)
{
    fputs("usage: generate --model FILE [--device auto|cuda|cpu] [--tokens N] [--temperature 0..2] [--seed N]\n"
          "                [--top-k N] [--top-p P] [--min-p P] [--repeat R] [--stop TEXT]... [--chat] [PROMPT]\n",
          stderr);
    return 64;
}

/* What went wrong, in words: the code's name, then the reason that the library keeps for this thread. */
static int failed(const char* what, int code)
{
    char reason[512] = "";
    worker_orcd_last_error(reason, sizeof reason);
    fprintf(stderr, "%s: error %d: %s%s%s\n", what, code, cuda_error_message(code), reason[0] ? ": " : "", reason);
    return code;
}

static double now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One option with its value; false if there is none of that name. */
static bool take(Options* o, const char* name, const char* value)
{
    worker_orcd_start_options* s = &o->start;
    if (strcmp(name, "--model") == 0) o->model = value;
    else if (strcmp(name, "--device") == 0) o->device = value;
    else if (strcmp(name, "--tokens") == 0) s->max_tokens = (uint32_t)strtoul(value, NULL, 10);
    else if (strcmp(name, "--temperature") == 0) s->temperature = (float)atof(value);
    else if (strcmp(name, "--seed") == 0) s->seed = strtoull(value, NULL, 10);
    else if (strcmp(name, "--top-k") == 0) s->top_k = (uint32_t)strtoul(value, NULL, 10);
    else if (strcmp(name, "--top-p") == 0) s->top_p = (float)atof(value);
    else if (strcmp(name, "--min-p") == 0) s->min_p = (float)atof(value);
    else if (strcmp(name, "--repeat") == 0) s->repetition_penalty = (float)atof(value);
    else if (strcmp(name, "--stop") == 0 && s->stop_count < MOST_STOPS) o->stops[s->stop_count++] = value;
    else return false;
    return true;
}

static int parse(int argc, char** argv, Options* o)
{
    int i;
    for (i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--chat") == 0) o->chat = 1;
        else if (strncmp(argv[i], "--", 2) != 0) o->prompt = argv[i];
        else if (i + 1 < argc && take(o, argv[i], argv[i + 1])) i++;
        else return usage();
    }
    o->start.stops = o->stops;
    return o->model == NULL ? usage() : 0;
}

/* The device is chosen by an environment variable, read when the library counts or opens devices. */
static int choose_device(const char* device)
{
    if (device == NULL) return 0;
    if (strcmp(device, "auto") == 0) {
        unsetenv("WORKER_ORCD_DEVICE");
        device = cuda_get_device_count() > 0 ? "cuda" : "cpu";
    } else if (strcmp(device, "cuda") != 0 && strcmp(device, "cpu") != 0) {
        return usage();
    }
    setenv("WORKER_ORCD_DEVICE", device, 1);
    fprintf(stderr, "device: %s\n", strcmp(device, "cpu") == 0 ? "CPU" : "CUDA GPU 0");
    return 0;
}

static char* read_all(FILE* file)
{
    size_t size = 0, room = 4096;
    char* text = malloc(room);
    while (text != NULL) {
        size += fread(text + size, 1, room - size - 1, file);
        if (size + 1 < room) break;
        room *= 2;
        char* larger = realloc(text, room);
        if (larger == NULL) free(text);
        text = larger;
    }
    if (text != NULL) text[size] = '\0';
    return text;
}

/* The prompt as the model sees it: as it stands, or as one turn of a ChatML conversation. */
static char* format_prompt(const Options* o)
{
    static const char before[] = "<|im_start|>user\n", after[] = "<|im_end|>\n<|im_start|>assistant\n";
    char* prompt = o->prompt != NULL ? strdup(o->prompt) : read_all(stdin);
    char* turn;
    if (prompt == NULL || !o->chat) return prompt;
    turn = malloc(sizeof before + strlen(prompt) + sizeof after);
    if (turn != NULL) sprintf(turn, "%s%s%s", before, prompt, after);
    free(prompt);
    return turn;
}

/* How it went, as the library counted it: in tokens, and from the start of the answer. */
static void report(InferenceResult* answer)
{
    static const char* const ends[] = {"open", "end token", "stop string", "length", "full context", "cancelled", "failed"};
    worker_orcd_statistics s = {0};
    int code = 0;
    s.size = sizeof s;
    if (!worker_orcd_get_statistics(answer, &s, &code)) return;
    fprintf(stderr, "%llu tokens of prompt; ", (unsigned long long)s.prompt_tokens);
    if (s.tokens > 0) fprintf(stderr, "first token after %.1f ms, ", 1e-6 * (double)s.first_token_ns);
    if (s.tokens > 1)
        fprintf(stderr, "then %.1f tokens/s, ", 1e9 * (double)(s.tokens - 1) / (double)(s.last_token_ns - s.first_token_ns));
    fprintf(stderr, "%llu tokens; ended by: %s\n", (unsigned long long)s.tokens, ends[s.finish]);
}

/* Pulls pieces until the answer ends. A piece that does not fit is not lost: the call is repeated with
 * a larger buffer. 256 bytes are enough for any usual vocabulary. */
static int stream(InferenceResult* answer)
{
    int size = 256, index = 0, code = 0;
    char* piece = malloc((size_t)size);
    while (piece != NULL) {
        if (cuda_inference_next_token(answer, piece, size, &index, &code)) {
            fputs(piece, stdout);
            fflush(stdout);
        } else if (code == CUDA_ERROR_INVALID_PARAMETER && size < 1 << 16) {
            size *= 4;
            free(piece);
            piece = malloc((size_t)size);
        } else {
            break;
        }
    }
    free(piece);
    putchar('\n');
    fflush(stdout); /* before what stderr says */
    if (code != CUDA_SUCCESS) return failed("answer", code);
    report(answer);
    return 0;
}

static int answer(CudaModel* model, const Options* o)
{
    int code = 0;
    char* prompt = format_prompt(o);
    InferenceResult* result;
    if (prompt == NULL) return CUDA_ERROR_UNKNOWN;
    result = worker_orcd_start(model, prompt, &o->start, &code);
    free(prompt);
    if (result == NULL) return failed("start", code);
    code = stream(result);
    cuda_inference_free(result);
    return code;
}

/* Called again and again while a model loads; false would end the load. */
static bool show_progress(void* user, uint64_t done, uint64_t all)
{
    int* shown = user;
    int percent = all > 0 ? (int)(100 * done / all) : 100;
    if (percent != *shown) fprintf(stderr, "\r%3d %% of %.1f MB ", percent, (double)all / 1e6);
    *shown = percent;
    return true;
}

static CudaModel* load(CudaContext* context, const char* path, int* code)
{
    worker_orcd_load_options options = {0};
    double started = now();
    uint64_t bytes = 0;
    CudaModel* model;
    bool person = isatty(STDERR_FILENO) != 0;
    int shown = -1;
    options.user = &shown;
    options.size = sizeof options;
    options.progress = person ? show_progress : NULL;
    fprintf(stderr, "loading %s ...\n", path);
    model = worker_orcd_load(context, path, &options, &bytes, code);
    if (person) fputc('\r', stderr);
    if (model == NULL) failed(path, *code);
    else fprintf(stderr, "loaded %.1f MB in %.0f ms\n", (double)bytes / 1e6, 1e3 * (now() - started));
    return model;
}

int main(int argc, char** argv)
{
    Options o = {0};
    CudaContext* context;
    CudaModel* model;
    int code;
    o.start.size = sizeof o.start;
    o.start.max_tokens = 256;
    o.start.seed = 42;
    code = parse(argc, argv, &o);
    if (code == 0) code = choose_device(o.device);
    if (code != 0) return code;

    context = cuda_init(0, &code);
    if (context == NULL) return failed("device", code);
    model = load(context, o.model, &code);
    if (model != NULL) code = answer(model, &o);
    cuda_unload_model(model);
    cuda_destroy(context);
    return code;
}
