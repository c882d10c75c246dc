/**
 * @file
 * What libworker_orcd offers beyond the 14 functions of worker_orcd.h.
 *
 * Generated from src/ffi; do not edit. */

#ifndef WORKER_ORCD_EXT_H
#define WORKER_ORCD_EXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "worker_types.h"

/**
 * Why an answer ended.
 */
typedef enum {
    /**
     * It has not ended, or not everything before its end was pulled.
     */
    WORKER_ORCD_FINISH_NONE = 0,
    /**
     * The model ended it.
     */
    WORKER_ORCD_FINISH_END_TOKEN = 1,
    /**
     * It came to one of options->stops.
     */
    WORKER_ORCD_FINISH_STOP_STRING = 2,
    /**
     * It has max_tokens.
     */
    WORKER_ORCD_FINISH_LENGTH = 3,
    /**
     * The context is full.
     */
    WORKER_ORCD_FINISH_CONTEXT = 4,
    /**
     * worker_orcd_cancel().
     */
    WORKER_ORCD_FINISH_CANCELLED = 5,
    /**
     * cuda_inference_next_token() gave a code, and gives it again.
     */
    WORKER_ORCD_FINISH_FAILED = 6,
} worker_orcd_finish;

/**
 * How keys and values of an answer are stored.
 */
typedef enum {
    /**
     * As the device does by itself.
     */
    WORKER_ORCD_KV_DEFAULT = 0,
    /**
     * 16 bits.
     */
    WORKER_ORCD_KV_F16 = 1,
    /**
     * 32 bits; on the CPU alone.
     */
    WORKER_ORCD_KV_F32 = 2,
} worker_orcd_kv_type;

/**
 * How grave a message is; each level includes those above it.
 */
typedef enum {
    /**
     * Nothing at all.
     */
    WORKER_ORCD_LOG_OFF = 0,
    /**
     * What fails.
     */
    WORKER_ORCD_LOG_ERROR = 1,
    /**
     * What may be wrong.
     */
    WORKER_ORCD_LOG_WARN = 2,
    /**
     * What is done: loads, devices.
     */
    WORKER_ORCD_LOG_INFO = 3,
    /**
     * How it is done, step by step.
     */
    WORKER_ORCD_LOG_DEBUG = 4,
} worker_orcd_log_level;

/**
 * What an answer has come to so far. Set `size` to sizeof before the call; after it, it says how many bytes were filled in.
 */
typedef struct {
    /**
     * sizeof(worker_orcd_statistics).
     */
    size_t size;
    /**
     * Tokens of the prompt, special ones included.
     */
    uint64_t prompt_tokens;
    /**
     * Of these, tokens that did not have to be computed, since another prompt began alike.
     */
    uint64_t reused_tokens;
    /**
     * Tokens of the answer whose text was pulled, or is held back as it may be a stop string.
     */
    uint64_t tokens;
    /**
     * Nanoseconds from the start to the first token; 0 before it.
     */
    uint64_t first_token_ns;
    /**
     * Nanoseconds from the start to the last token computed so far, pulled or not; 0 before the first.
     */
    uint64_t last_token_ns;
    /**
     * A worker_orcd_finish.
     */
    int32_t finish;
    /**
     * 0.
     */
    int32_t reserved;
} worker_orcd_statistics;

/**
 * What a file says of its model. Set `size` to sizeof before the call; after it, it says how many bytes were filled in.
 */
typedef struct {
    /**
     * sizeof(worker_orcd_model_facts).
     */
    size_t size;
    /**
     * Numbers in all tensors.
     */
    uint64_t parameters;
    /**
     * Tokens that an answer and its prompt may have together.
     */
    uint64_t context;
    /**
     * Tokens that the tokenizer knows.
     */
    uint64_t vocabulary;
    /**
     * The token that begins a text; -1 if the file names none.
     */
    int64_t bos;
    /**
     * The token that ends a text; -1 if the file names none.
     */
    int64_t eos;
    /**
     * The architecture, such as "llama"; NUL-terminated.
     */
    char family[32];
    /**
     * The mixture of types that the file names, such as "Q4_K_M", or the type of most of its numbers; NUL-terminated.
     */
    char quantisation[32];
} worker_orcd_model_facts;

/**
 * How a model is loaded. Zero every byte, set `size` to sizeof, then set what is wanted: 0 and NULL mean "as without it".
 */
typedef struct {
    /**
     * sizeof(worker_orcd_load_options).
     */
    size_t size;
    /**
     * Called during the load, on the thread that loads, with the bytes that are done and the bytes in all; false ends the load
     * with code 3. It must return: no exception and no longjmp may leave it.
     */
    bool (*progress)(void *user, uint64_t done_bytes, uint64_t all_bytes);
    /**
     * Given to progress.
     */
    void *user;
    /**
     * Lowers the tokens that an answer and its prompt may have together; 0: as many as the file names.
     */
    uint32_t context;
    /**
     * Lowers the number of answers that are computed at once; more than that take turns. 0: as many as the device suits.
     */
    uint32_t sequences;
    /**
     * A worker_orcd_kv_type.
     */
    int32_t kv_type;
    /**
     * Must be 0.
     */
    uint32_t reserved;
} worker_orcd_load_options;

/**
 * How an answer goes on from its prompt. Zero every byte, set `size` to sizeof, then set what is wanted: 0 and NULL mean "as
 * without it". In this order the penalties change the logits; top_k, top_p and min_p keep some of the tokens, by their
 * probabilities at temperature 1; temperature and seed draw one of those.
 */
typedef struct {
    /**
     * sizeof(worker_orcd_start_options).
     */
    size_t size;
    /**
     * Of the random numbers; without effect at temperature 0.
     */
    uint64_t seed;
    /**
     * The prompt as token ids, where there is no prompt as text; nothing is added to them.
     */
    const uint32_t *prompt_ids;
    /**
     * How many prompt_ids there are.
     */
    size_t prompt_id_count;
    /**
     * Strings that end the answer and are no part of it: UTF-8, NUL-terminated, 1 to 1024 bytes each, up to 64 of them.
     */
    const char *const *stops;
    /**
     * How many stops there are.
     */
    size_t stop_count;
    /**
     * The most tokens of the answer; 0: as many as the context holds. Memory for all of them is taken at the start.
     */
    uint32_t max_tokens;
    /**
     * 0.0 to 2.0; 0.0 always takes the likeliest token.
     */
    float temperature;
    /**
     * Only the k likeliest tokens; 0: all.
     */
    uint32_t top_k;
    /**
     * Only the likeliest tokens that together have this probability, up to 1; 0: all.
     */
    float top_p;
    /**
     * Only tokens whose probability is at least this share, up to 1, of the likeliest one's; 0: all.
     */
    float min_p;
    /**
     * Divides positive logits, and multiplies negative ones, of tokens that prompt or answer have: 0.01 to 100; 0 or 1: nothing.
     */
    float repetition_penalty;
    /**
     * Taken from a token's logit for each time that the answer has it: -10 to 10.
     */
    float frequency_penalty;
    /**
     * Taken from a token's logit if the answer has it: -10 to 10.
     */
    float presence_penalty;
    /**
     * 1: keep the log-probability of each token, for worker_orcd_tokens().
     */
    uint32_t logprobs;
    /**
     * Must be 0.
     */
    uint32_t reserved;
} worker_orcd_start_options;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * What an answer has come to so far. Never waits for the answer.
 *
 * @param result      an open answer, whichever function started it.
 * @param statistics  receives it; untouched on failure. Must not be NULL.
 * @param error_code  must not be NULL. 5: the answer is not open, or statistics->size is wrong.
 * @return true on success.
 */
bool worker_orcd_get_statistics(InferenceResult *result, worker_orcd_statistics *statistics, int *error_code);

/**
 * Copies out the tokens of an answer, as far as their text was pulled or is held back.
 *
 * @param result      an open answer.
 * @param first       the number of the first token wanted; 0 is the answer's first.
 * @param ids         receives the ids; may be NULL.
 * @param logprobs    receives the natural logarithm of the probability that the model gave each token, before options and
 *                    temperature; NaN unless the answer was started with options->logprobs. May be NULL.
 * @param capacity    the tokens that ids and logprobs each have room for.
 * @param error_code  must not be NULL. 5: the answer is not open.
 * @return how many tokens there are from the first one wanted on, copied or not; 0 on failure.
 */
size_t worker_orcd_tokens(InferenceResult *result, size_t first, uint32_t *ids, float *logprobs, size_t capacity, int *error_code);

/**
 * Ends an answer where it is, from any thread. A call that waits for it returns, and it and later ones say that the answer has
 * ended: false with code 0. The answer stays open and remains to be given to cuda_inference_free(); its memory is given
 * back at once. One that has ended already stays as it is.
 *
 * @param result      an open answer.
 * @param error_code  must not be NULL. 5: the answer is not open.
 * @return true on success.
 */
bool worker_orcd_cancel(InferenceResult *result, int *error_code);

/**
 * The library's version, such as "0.1.0".
 *
 * @return a static string: never NULL, never to be freed.
 */
const char *worker_orcd_version(void);

/**
 * Copies the reason of the last failure of a call on this thread, in words; a success leaves it as it was.
 *
 * @param buffer  receives the text, cut to fit at the end of a character, with a NUL; may be NULL.
 * @param size    the bytes that buffer has room for, the NUL included; may be 0.
 * @return the whole text's length in bytes without the NUL; 0 if nothing has failed on this thread.
 */
size_t worker_orcd_last_error(char *buffer, size_t size);

/**
 * What a file says of its model.
 *
 * @param model       an open model.
 * @param facts       receives it; untouched on failure. Must not be NULL.
 * @param error_code  must not be NULL. 5: the model is not open, or facts->size is wrong.
 * @return true on success.
 */
bool worker_orcd_get_model_facts(CudaModel *model, worker_orcd_model_facts *facts, int *error_code);

/**
 * The text of a model's chat template, as the file has it. The library does not run it: hosts write their prompts themselves.
 *
 * @param model       an open model.
 * @param buffer      receives the text, cut to fit at the end of a character, with a NUL; may be NULL.
 * @param size        the bytes that buffer has room for, the NUL included; may be 0.
 * @param error_code  must not be NULL. 5: the model is not open.
 * @return the whole text's length in bytes without the NUL; 0 if there is none, and on failure.
 */
size_t worker_orcd_chat_template(CudaModel *model, char *buffer, size_t size, int *error_code);

/**
 * Loads a model, as cuda_load_model() does, with options.
 *
 * @param ctx              an open context.
 * @param model_path       the file, or the first of several parts; any bytes, NUL-terminated.
 * @param options          must not be NULL.
 * @param vram_bytes_used  receives the bytes allocated on the device; untouched on failure. May be NULL.
 * @param error_code       must not be NULL. 2: weights and working memory do not fit. 3: not a model that the library runs, or
 *                         progress has ended the load. 5: an argument or option is at fault.
 * @return the model, to be given to cuda_unload_model(); NULL on failure.
 */
CudaModel *worker_orcd_load(CudaContext *ctx, const char *model_path, const worker_orcd_load_options *options, uint64_t *vram_bytes_used, int *error_code);

/**
 * Has the library's messages sent to the host, or, with NULL, to nobody again, which is how it begins. Once this returns,
 * the callback given before is not called any more.
 *
 * @param callback    called from any thread, by several at once, with user, a worker_orcd_log_level and the message, which is
 *                    gone afterwards. It must return: no exception and no longjmp may leave it. What it makes the library
 *                    log is dropped.
 * @param user        given to the callback.
 * @param level       a worker_orcd_log_level: what is less grave is not sent.
 * @param error_code  must not be NULL. 5: no such level; called from inside the callback; or the process, a Rust host's, has a
 *                    logger of its own.
 * @return true on success.
 */
bool worker_orcd_set_log(void (*callback)(void *user, int level, const char *message), void *user, int level, int *error_code);

/**
 * Starts an answer, as cuda_inference_start() does, with options. Pull it with cuda_inference_next_token(), and give it to
 * cuda_inference_free().
 *
 * @param model       an open model.
 * @param prompt      UTF-8, NUL-terminated; the text of control tokens in it becomes those tokens. NULL: options->prompt_ids.
 * @param options     must not be NULL.
 * @param error_code  must not be NULL. 2: no memory for the prompt and max_tokens now; a later try may succeed. 5: an
 *                    argument or option is at fault, or the prompt has no token, or as many as the context holds.
 * @return the answer; NULL on failure.
 */
InferenceResult *worker_orcd_start(CudaModel *model, const char *prompt, const worker_orcd_start_options *options, int *error_code);

/**
 * The tokens of a text.
 *
 * @param model       an open model.
 * @param text        UTF-8, NUL-terminated.
 * @param special     1: add the tokens that the file wants around a prompt, such as its first one. 0: add none.
 * @param control     1: the text of a control token becomes that token. 0: it stays text, as is right for what users write.
 * @param ids         receives the ids, as many as there is room for; may be NULL.
 * @param capacity    the ids that there is room for.
 * @param error_code  must not be NULL. 5: an argument is at fault.
 * @return the number of tokens, copied or not; 0 on failure.
 */
size_t worker_orcd_tokenize(CudaModel *model, const char *text, int special, int control, uint32_t *ids, size_t capacity, int *error_code);

/**
 * The bytes that tokens stand for; control tokens stand for none. They need not be UTF-8, as a character may be cut, and they
 * may hold a NUL.
 *
 * @param model       an open model.
 * @param ids         the tokens; may be NULL if there are none.
 * @param count       how many.
 * @param buffer      receives as many bytes as fit before a NUL; may be NULL.
 * @param size        the bytes that buffer has room for, the NUL included; may be 0.
 * @param error_code  must not be NULL. 5: an argument is at fault, such as an id beyond the vocabulary.
 * @return the number of bytes without the NUL, copied or not; 0 on failure.
 */
size_t worker_orcd_detokenize(CudaModel *model, const uint32_t *ids, size_t count, char *buffer, size_t size, int *error_code);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* WORKER_ORCD_EXT_H */
