/* What worker_orcd_ext.h offers: starting with options, what is known of an answer, text and tokens, facts,
 * loading with options, and the log. Everything is checked as the 14 functions check. */

#include "check.h"

#include <pthread.h>

#include "worker_orcd_ext.h"

static worker_orcd_start_options with_tokens(uint32_t tokens)
{
    worker_orcd_start_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.max_tokens = tokens;
    return options;
}

static InferenceResult* begin(CudaModel* model, const char* prompt, const worker_orcd_start_options* options)
{
    int code = UNSET;
    InferenceResult* answer = worker_orcd_start(model, prompt, options, &code);
    CHECK(answer != NULL && code == 0);
    return answer;
}

static void read_all(InferenceResult* answer, char* text, size_t size)
{
    int code = UNSET;
    text[0] = '\0';
    pull(answer, text, size, &code);
    CHECK(code == 0);
}

static worker_orcd_statistics statistics_of(InferenceResult* answer)
{
    worker_orcd_statistics statistics;
    int code = UNSET;
    memset(&statistics, 0, sizeof statistics);
    statistics.size = sizeof statistics;
    CHECK(worker_orcd_get_statistics(answer, &statistics, &code) && code == 0);
    CHECK(statistics.size == sizeof statistics);
    return statistics;
}

/* With nothing asked for, the text is that of cuda_inference_start; log-probabilities do not change it. */
static void as_without(CudaModel* model)
{
    const float temperatures[] = {0.0f, 0.8f, 2.0f};
    char plain[8192], text[8192];
    uint32_t ids[64];
    float logprobs[64];
    int i, code = UNSET;
    for (i = 0; i < 6; i++) {
        worker_orcd_start_options options = with_tokens(40);
        InferenceResult* answer;
        size_t n, t;
        options.temperature = temperatures[i / 2];
        options.seed = 7;
        options.logprobs = i % 2;
        answer_of(model, "Hello, world!", 40, options.temperature, 7, plain, sizeof plain);
        answer = begin(model, "Hello, world!", &options);
        read_all(answer, text, sizeof text);
        CHECK(strcmp(text, plain) == 0);
        n = worker_orcd_tokens(answer, 0, ids, logprobs, 64, &code);
        CHECK(code == 0 && n == statistics_of(answer).tokens && n > 0 && n <= 40);
        for (t = 0; t < n; t++) CHECK(options.logprobs ? logprobs[t] <= 0.0f : logprobs[t] != logprobs[t]);
        /* A part, and none. */
        ids[1] = 12345678;
        CHECK(worker_orcd_tokens(answer, n - 1, ids, NULL, 1, &code) == 1 && ids[1] == 12345678);
        CHECK(worker_orcd_tokens(answer, n, ids, logprobs, 64, &code) == 0 && code == 0);
        CHECK(worker_orcd_tokens(answer, (size_t)-1, NULL, NULL, 0, &code) == 0 && code == 0);
        cuda_inference_free(answer);
        CHECK(worker_orcd_tokens(answer, 0, NULL, NULL, 0, &code) == 0 && code == CUDA_ERROR_INVALID_PARAMETER);
    }
}

/* Options that leave one token to draw from give the text of temperature 0, whatever the temperature. */
static void narrowed(CudaModel* model)
{
    char plain[8192], text[8192];
    int i;
    answer_of(model, "Hello, world!", 24, 0.0f, 0, plain, sizeof plain);
    for (i = 0; i < 4; i++) {
        worker_orcd_start_options options = with_tokens(24);
        InferenceResult* answer;
        options.temperature = 2.0f;
        options.seed = (uint64_t)i;
        if (i == 0) options.top_k = 1;
        if (i == 1) options.top_p = 1e-6f;
        if (i == 2) options.min_p = 1.0f;
        /* Without effect: nothing is drawn at temperature 0. */
        if (i == 3) options.temperature = 0.0f, options.top_k = 40, options.top_p = 0.5f, options.min_p = 0.1f;
        answer = begin(model, "Hello, world!", &options);
        read_all(answer, text, sizeof text);
        CHECK(strcmp(text, plain) == 0);
        cuda_inference_free(answer);
    }
}

/* Answers with and without options, at once: each as if alone. */
static void together(CudaModel* model)
{
    enum { MANY = 12 };
    static char alone[MANY][4096], text[4096];
    InferenceResult* answers[MANY];
    int round, i;
    for (round = 0; round < 2; round++) {
        for (i = 0; i < MANY; i++) {
            worker_orcd_start_options options = with_tokens((uint32_t)(16 + i));
            options.temperature = 0.5f * (float)(i % 3);
            options.seed = (uint64_t)i;
            options.top_k = i % 4 == 1 ? 20 : 0;
            options.top_p = i % 4 == 2 ? 0.9f : 0.0f;
            options.repetition_penalty = i % 5 == 1 ? 1.3f : 0.0f;
            options.presence_penalty = i % 5 == 2 ? 1.0f : 0.0f;
            options.frequency_penalty = i % 5 == 3 ? 0.5f : 0.0f;
            options.logprobs = i % 2;
            answers[i] = begin(model, "Once upon a time", &options);
            if (round == 0) {
                read_all(answers[i], alone[i], sizeof alone[i]);
                cuda_inference_free(answers[i]);
            }
        }
        for (i = 0; round == 1 && i < MANY; i++) {
            read_all(answers[i], text, sizeof text);
            CHECK(strcmp(text, alone[i]) == 0);
            cuda_inference_free(answers[i]);
        }
    }
}

static void stops(CudaModel* model)
{
    char whole[8192], text[8192], stop[16];
    const char* list[2];
    worker_orcd_start_options options = with_tokens(48);
    InferenceResult* answer;
    size_t at = 0;
    answer_of(model, "Hello", 48, 0.0f, 0, whole, sizeof whole);
    for (at = strlen(whole) / 2; ((unsigned char)whole[at] & 0xc0) == 0x80;) at++;
    snprintf(stop, sizeof stop, "%.*s", 1, whole + at);
    if ((unsigned char)whole[at] >= 0x80) {
        size_t n = 1;
        while (((unsigned char)whole[at + n] & 0xc0) == 0x80) n++;
        snprintf(stop, sizeof stop, "%.*s", (int)n, whole + at);
    }
    list[0] = "this does not come";
    list[1] = stop;
    options.stops = list;
    options.stop_count = 2;
    answer = begin(model, "Hello", &options);
    read_all(answer, text, sizeof text);
    CHECK(strlen(text) == (size_t)(strstr(whole, stop) - whole) && strncmp(text, whole, strlen(text)) == 0);
    CHECK(statistics_of(answer).finish == WORKER_ORCD_FINISH_STOP_STRING);
    cuda_inference_free(answer);
}

static void finishes(CudaModel* model)
{
    char text[65536];
    worker_orcd_start_options options = with_tokens(5);
    worker_orcd_statistics s;
    InferenceResult* answer = begin(model, "Hello", &options);
    CHECK(statistics_of(answer).finish == WORKER_ORCD_FINISH_NONE);
    read_all(answer, text, sizeof text);
    s = statistics_of(answer);
    CHECK(s.finish == WORKER_ORCD_FINISH_LENGTH || s.finish == WORKER_ORCD_FINISH_END_TOKEN);
    CHECK(s.prompt_tokens > 0 && s.reused_tokens <= s.prompt_tokens && s.tokens <= 5);
    CHECK(s.first_token_ns > 0 && s.last_token_ns >= s.first_token_ns);
    cuda_inference_free(answer);
    options.max_tokens = 0;
    options.temperature = 1.0f;
    answer = begin(model, "Hello", &options);
    read_all(answer, text, sizeof text);
    s = statistics_of(answer);
    CHECK(s.finish == WORKER_ORCD_FINISH_CONTEXT || s.finish == WORKER_ORCD_FINISH_END_TOKEN);
    CHECK(s.finish != WORKER_ORCD_FINISH_CONTEXT || s.prompt_tokens + s.tokens == 512);
    cuda_inference_free(answer);
}

static void* cancel_it(void* answer)
{
    int code = UNSET;
    CHECK(worker_orcd_cancel((InferenceResult*)answer, &code) && code == 0);
    return NULL;
}

static void cancels(CudaModel* model)
{
    worker_orcd_start_options options = with_tokens(400);
    InferenceResult* answer = begin(model, "Hello", &options);
    char text[65536] = "", piece[256];
    pthread_t thread;
    int code = UNSET, finish;
    CHECK(cuda_inference_next_token(answer, piece, sizeof piece, NULL, &code));
    CHECK(pthread_create(&thread, NULL, cancel_it, answer) == 0);
    pull(answer, text, sizeof text, &code);
    CHECK(code == 0);
    pthread_join(thread, NULL);
    finish = statistics_of(answer).finish;
    CHECK(finish == WORKER_ORCD_FINISH_CANCELLED || finish == WORKER_ORCD_FINISH_END_TOKEN ||
          finish == WORKER_ORCD_FINISH_LENGTH);
    CHECK(!cuda_inference_next_token(answer, piece, sizeof piece, NULL, &code) && code == 0);
    cuda_inference_free(answer);
    CHECK(!worker_orcd_cancel(answer, &code) && code == CUDA_ERROR_INVALID_PARAMETER);
}

static void tokens(CudaModel* model)
{
    const char* prompt = "Hello, na\xc3\xafve world";
    uint32_t ids[64];
    char text[256], plain[8192], again[8192];
    worker_orcd_start_options options = with_tokens(24);
    InferenceResult* answer;
    int code = UNSET;
    size_t bare, n = worker_orcd_tokenize(model, prompt, 1, 1, ids, 64, &code);
    CHECK(code == 0 && n > 0 && n < 64);
    options.prompt_ids = ids;
    options.prompt_id_count = n;
    answer = begin(model, NULL, &options);
    CHECK(statistics_of(answer).prompt_tokens == n);
    read_all(answer, again, sizeof again);
    cuda_inference_free(answer);
    answer_of(model, prompt, 24, 0.0f, 0, plain, sizeof plain);
    CHECK(strcmp(again, plain) == 0);
    CHECK(worker_orcd_start(model, prompt, &options, &code) == NULL && code == CUDA_ERROR_INVALID_PARAMETER);
    ids[0] = 0xffffffffu;
    CHECK(worker_orcd_start(model, NULL, &options, &code) == NULL && code == CUDA_ERROR_INVALID_PARAMETER);
    CHECK(worker_orcd_detokenize(model, ids, 1, text, sizeof text, &code) == 0 && code == CUDA_ERROR_INVALID_PARAMETER);

    bare = worker_orcd_tokenize(model, prompt, 0, 0, ids, 64, &code);
    CHECK(code == 0 && bare > 0 && bare <= n);
    CHECK(worker_orcd_detokenize(model, ids, bare, text, sizeof text, &code) == strlen(prompt) && code == 0);
    CHECK(strcmp(text, prompt) == 0);
    /* Too small a buffer is cut, and never written past. */
    memset(text, 'x', sizeof text);
    CHECK(worker_orcd_detokenize(model, ids, bare, text, 4, &code) == strlen(prompt) && code == 0);
    CHECK(memcmp(text, "Hel\0x", 5) == 0);
    CHECK(worker_orcd_detokenize(model, NULL, 0, NULL, 0, &code) == 0 && code == 0);
    CHECK(worker_orcd_detokenize(model, NULL, 3, NULL, 0, &code) == 0 && code == CUDA_ERROR_INVALID_PARAMETER);
    ids[2] = 99;
    CHECK(worker_orcd_tokenize(model, prompt, 0, 0, ids, 2, &code) == bare && ids[2] == 99);
    CHECK(worker_orcd_tokenize(model, prompt, 0, 0, NULL, 9, &code) == bare && code == 0);
    CHECK(worker_orcd_tokenize(model, prompt, 2, 0, ids, 2, &code) == 0 && code == CUDA_ERROR_INVALID_PARAMETER);
    CHECK(worker_orcd_tokenize(model, "\xff", 0, 0, ids, 2, &code) == 0 && code == CUDA_ERROR_INVALID_PARAMETER);
    CHECK(worker_orcd_tokenize(model, NULL, 0, 0, ids, 2, &code) == 0 && code == CUDA_ERROR_INVALID_PARAMETER);
}

static void facts(CudaModel* model)
{
    worker_orcd_model_facts f;
    char text[8];
    int code = UNSET;
    memset(&f, 0, sizeof f);
    CHECK(!worker_orcd_get_model_facts(model, &f, &code) && code == CUDA_ERROR_INVALID_PARAMETER);
    f.size = sizeof f;
    CHECK(worker_orcd_get_model_facts(model, &f, &code) && code == 0);
    CHECK(strcmp(f.family, "llama") == 0 && strcmp(f.quantisation, "F32") == 0);
    CHECK(f.context == 512 && f.vocabulary > 256 && f.parameters > 10000 && f.eos >= 0);
    CHECK(worker_orcd_chat_template(model, text, sizeof text, &code) < 100000 && code == 0);
    CHECK(worker_orcd_chat_template(NULL, text, sizeof text, &code) == 0 && code == CUDA_ERROR_INVALID_PARAMETER);
}

struct seen {
    uint64_t calls, done, all;
    bool go_on;
};

static bool progress(void* user, uint64_t done, uint64_t all)
{
    struct seen* seen = (struct seen*)user;
    seen->calls++;
    seen->done = done;
    seen->all = all;
    return seen->go_on;
}

/* Keys and values of 32 bits are the CPU's alone; a GPU says so. */
static void kv_types(CudaContext* context)
{
    const char* device = getenv("WORKER_ORCD_DEVICE");
    bool on_cpu = device != NULL && strcmp(device, "cpu") == 0;
    worker_orcd_load_options options;
    int kv_type;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    for (kv_type = 0; kv_type <= 3; kv_type++) {
        int code = UNSET;
        CudaModel* model;
        options.kv_type = kv_type;
        model = worker_orcd_load(context, model_path("llama-f32.gguf"), &options, NULL, &code);
        if (kv_type <= (on_cpu ? WORKER_ORCD_KV_F32 : WORKER_ORCD_KV_F16)) CHECK(model != NULL && code == 0);
        else CHECK(model == NULL && code == CUDA_ERROR_INVALID_PARAMETER);
        cuda_unload_model(model);
    }
}

static void loads(CudaContext* context)
{
    const char* path = model_path("llama-f32.gguf");
    worker_orcd_load_options options;
    worker_orcd_model_facts f;
    struct seen seen = {0, 0, 0, true};
    uint64_t bytes = 0, before = cuda_get_process_vram_usage(context);
    int code = UNSET;
    CudaModel* model;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.context = 100;
    options.sequences = 2;
    options.kv_type = WORKER_ORCD_KV_F16;
    options.progress = progress;
    options.user = &seen;
    model = worker_orcd_load(context, path, &options, &bytes, &code);
    CHECK(model != NULL && code == 0 && bytes > 0);
    CHECK(seen.calls > 0 && seen.done == seen.all && seen.all > 0);
    memset(&f, 0, sizeof f);
    f.size = sizeof f;
    CHECK(worker_orcd_get_model_facts(model, &f, &code) && f.context == 100);
    {
        char text[8192], other[8192];
        answer_of(model, "Hello", 20, 0.0f, 0, text, sizeof text);
        answer_of(model, "Hello", 20, 0.0f, 0, other, sizeof other);
        CHECK(strcmp(text, other) == 0 && text[0] != '\0');
    }
    cuda_unload_model(model);
    seen.go_on = false;
    CHECK(worker_orcd_load(context, path, &options, NULL, &code) == NULL && code == CUDA_ERROR_MODEL_LOAD_FAILED);
    CHECK(cuda_get_process_vram_usage(context) == before);
    CHECK(worker_orcd_load(context, path, NULL, NULL, &code) == NULL && code == CUDA_ERROR_INVALID_PARAMETER);
    CHECK(worker_orcd_load(context, NULL, &options, NULL, &code) == NULL && code == CUDA_ERROR_INVALID_PARAMETER);
    CHECK(worker_orcd_load(context, path, &options, NULL, NULL) == NULL);
}

static void on_log(void* user, int level, const char* message)
{
    int code = UNSET;
    CHECK(level >= WORKER_ORCD_LOG_ERROR && level <= WORKER_ORCD_LOG_INFO && message[0] != '\0');
    /* Not from inside. */
    CHECK(!worker_orcd_set_log(NULL, NULL, 0, &code) && code == CUDA_ERROR_INVALID_PARAMETER);
    (*(int*)user)++;
}

static void logs(CudaContext* context)
{
    int messages = 0, code = UNSET, before;
    CHECK(!worker_orcd_set_log(on_log, &messages, 9, &code) && code == CUDA_ERROR_INVALID_PARAMETER);
    CHECK(worker_orcd_set_log(on_log, &messages, WORKER_ORCD_LOG_INFO, &code) && code == 0);
    cuda_unload_model(load_model(context));
    CHECK(messages > 0);
    before = messages;
    CHECK(worker_orcd_set_log(NULL, NULL, 0, &code) && code == 0);
    cuda_unload_model(load_model(context));
    CHECK(messages == before);
}

int main(void)
{
    CudaContext* context = open_context();
    CudaModel* model = load_model(context);
    as_without(model);
    narrowed(model);
    together(model);
    stops(model);
    finishes(model);
    cancels(model);
    tokens(model);
    facts(model);
    cuda_unload_model(model);
    loads(context);
    kv_types(context);
    logs(context);
    cuda_destroy(context);
    return 0;
}
