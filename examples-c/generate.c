/* generate: streams one answer.
 *
 *     generate --model FILE [--device auto|cuda|cpu] [--tokens N] [--temperature T] [--seed N] [--chat] [PROMPT]
 *
 * The prompt comes from standard input if it is not given. The text goes to standard output, everything
 * else to standard error. Without --device, WORKER_ORCD_DEVICE decides. The exit status is the library's
 * error code, or 64 for a wrong option. */

#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "worker_orcd.h"
#include "worker_orcd_ext.h"

typedef struct {
    const char* model;
    const char* device;
    const char* prompt;
    int tokens;
    float temperature;
    uint64_t seed;
    int chat;
} Options;

static int usage(void)
{
    fputs("usage: generate --model FILE [--device auto|cuda|cpu] [--tokens 1..2048]\n"
          "                [--temperature 0..2] [--seed N] [--chat] [PROMPT]\n",
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

static int parse(int argc, char** argv, Options* o)
{
    int i;
    for (i = 1; i < argc; i++) {
        const char* name = argv[i];
        const char* value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(name, "--chat") == 0) {
            o->chat = 1;
            continue;
        }
        if (strncmp(name, "--", 2) != 0) {
            o->prompt = name;
            continue;
        }
        if (value == NULL) return usage();
        i++;
        if (strcmp(name, "--model") == 0) o->model = value;
        else if (strcmp(name, "--device") == 0) o->device = value;
        else if (strcmp(name, "--tokens") == 0) o->tokens = atoi(value);
        else if (strcmp(name, "--temperature") == 0) o->temperature = (float)atof(value);
        else if (strcmp(name, "--seed") == 0) o->seed = strtoull(value, NULL, 10);
        else return usage();
    }
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

/* Pulls pieces until the answer ends. A piece that does not fit is not lost: the call is repeated with
 * a larger buffer. 256 bytes are enough for any usual vocabulary. */
static int stream(InferenceResult* answer, double started)
{
    int size = 256, index = 0, pieces = 0, code = 0;
    double first = 0;
    char* piece = malloc((size_t)size);
    while (piece != NULL) {
        if (cuda_inference_next_token(answer, piece, size, &index, &code)) {
            if (pieces++ == 0) first = now();
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
    if (code != CUDA_SUCCESS) return failed("answer", code);
    if (pieces > 1)
        fprintf(stderr, "first piece after %.0f ms, then %.1f tokens/s (%d pieces)\n", 1e3 * (first - started),
                (pieces - 1) / (now() - first), pieces);
    return 0;
}

static int answer(CudaModel* model, const Options* o)
{
    int code = 0;
    double started = now();
    char* prompt = format_prompt(o);
    InferenceResult* result;
    if (prompt == NULL) return CUDA_ERROR_UNKNOWN;
    result = cuda_inference_start(model, prompt, o->tokens, o->temperature, o->seed, &code);
    free(prompt);
    if (result == NULL) return failed("start", code);
    code = stream(result, started);
    cuda_inference_free(result);
    return code;
}

int main(int argc, char** argv)
{
    Options o = {NULL, NULL, NULL, 256, 0.0f, 42, 0};
    CudaContext* context;
    CudaModel* model;
    uint64_t bytes = 0;
    int code = parse(argc, argv, &o);
    double started;
    if (code == 0) code = choose_device(o.device);
    if (code != 0) return code;

    context = cuda_init(0, &code);
    if (context == NULL) return failed("device", code);
    fprintf(stderr, "loading %s ...\n", o.model);
    started = now();
    model = cuda_load_model(context, o.model, &bytes, &code);
    if (model == NULL) {
        failed(o.model, code);
    } else {
        fprintf(stderr, "loaded %.1f MB in %.0f ms\n", (double)bytes / 1e6, 1e3 * (now() - started));
        code = answer(model, &o);
    }
    cuda_unload_model(model);
    cuda_destroy(context);
    return code;
}
