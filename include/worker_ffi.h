/**
 * @file
 * The functions of libworker_orcd, for hosts that know it under its old name.
 *
 * Generated from src/ffi; do not edit. */

#ifndef WORKER_FFI_H
#define WORKER_FFI_H

#include <stdbool.h>
#include <stdint.h>
#include "worker_errors.h"
#include "worker_types.h"

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Opens a device.
 *
 * Which devices there are is decided by the environment variable WORKER_ORCD_DEVICE, read at each call: unset or "cuda" means
 * the CUDA devices by their ordinals; "cpu" means the host's processor as device 0. Several contexts on one device
 * are independent of each other.
 *
 * @param gpu_device  0 up to, and without, cuda_get_device_count().
 * @param error_code  must not be NULL. 1: no such device. 8: id 0 on a machine without any device.
 * @return the context, to be given to cuda_destroy(); NULL on failure.
 */
CudaContext *cuda_init(int gpu_device, int *error_code);

/**
 * Closes a context. Models that were loaded with it go on working; what they share is freed with the last.
 *
 * @param ctx  a context. NULL or one that is not open: nothing happens.
 */
void cuda_destroy(CudaContext *ctx);

/**
 * The number of devices, as WORKER_ORCD_DEVICE says which.
 *
 * @return the number; 0 without a driver, a usable driver or a device.
 */
int cuda_get_device_count(void);

/**
 * Loads a model from a GGUF file.
 *
 * The context length is what the file names; WORKER_ORCD_CONTEXT lowers it. Weights stay quantised as they are stored.
 *
 * @param ctx              an open context.
 * @param model_path       the file, or the first of several parts; any bytes, NUL-terminated.
 * @param vram_bytes_used  receives the bytes allocated on the device; untouched on failure. Must not be NULL.
 * @param error_code       must not be NULL. 2: weights and working memory do not fit; nothing was uploaded. 3: not a file that
 *                         can be read, or not a model that the library runs. 5: an argument is at fault.
 * @return the model, to be given to cuda_unload_model(); NULL on failure.
 */
CudaModel *cuda_load_model(CudaContext *ctx, const char *model_path, uint64_t *vram_bytes_used, int *error_code);

/**
 * Unloads a model and frees its memory, once the step in flight has ended. Inferences that are still open end at their next
 * call with code 5, and remain to be given to cuda_inference_free().
 *
 * @param model  a model. NULL or one that is not open: nothing happens.
 */
void cuda_unload_model(CudaModel *model);

/**
 * The bytes that a model holds on its device now: what loading took, and the KV pages that inferences hold or have left for
 * the next ones.
 *
 * @param model  a model.
 * @return the bytes; 0 for a model that is not open.
 */
uint64_t cuda_model_get_vram_usage(CudaModel *model);

/**
 * Starts an answer to a prompt. Many may run at once, on one model, from any threads.
 *
 * The same device, file, prompt, temperature and seed give the same text, whatever else runs at the time.
 *
 * @param model        an open model.
 * @param prompt       UTF-8, NUL-terminated; the text of control tokens in it becomes those tokens.
 * @param max_tokens   1 to 2048.
 * @param temperature  0.0 to 2.0; 0.0 always takes the likeliest token.
 * @param seed         of the random numbers; without effect at temperature 0.0.
 * @param error_code   must not be NULL. 2: no memory for the prompt and max_tokens now; a later try may succeed. 5: an
 *                     argument is at fault, or the prompt has no token, or as many as the context holds.
 * @return the answer, to be given to cuda_inference_free(); NULL on failure.
 */
InferenceResult *cuda_inference_start(CudaModel *model, const char *prompt, int max_tokens, float temperature, uint64_t seed, int *error_code);

/**
 * Waits for the next piece of an answer's text.
 *
 * A piece is whole UTF-8, NUL-terminated and never empty. A piece that does not fit is code 5 and is not lost: call again
 * with a larger buffer. 256 bytes hold any piece of a sane vocabulary. Of two calls on one answer at once, one waits.
 *
 * @param result             an open answer.
 * @param token_out          receives the piece. Must not be NULL.
 * @param token_buffer_size  the bytes that token_out has room for, the NUL included; at least 1.
 * @param token_index        receives 0, 1, 2, ... for each piece; may be NULL.
 * @param error_code         must not be NULL. 4: the answer cannot go on. 5: an argument is at fault, the piece does not
 *                           fit, or the model has been unloaded.
 * @return true with a piece; false with code 0 when the answer has ended, and again at each later call.
 */
bool cuda_inference_next_token(InferenceResult *result, char *token_out, int token_buffer_size, int *token_index, int *error_code);

/**
 * Ends an answer, finished or not, and gives its memory back, once the step in flight has ended: this is how to cancel. A call
 * that waits for it on another thread returns with code 5.
 *
 * @param result  an answer. NULL or one that is not open: nothing happens.
 */
void cuda_inference_free(InferenceResult *result);

/**
 * Asks the driver whether every weight of a model is where it should be: in device memory alone.
 *
 * @param model       an open model.
 * @param error_code  must not be NULL. 7: one is not. 5: the model is not open.
 * @return true if all are.
 */
bool cuda_check_vram_residency(CudaModel *model, int *error_code);

/**
 * The same as cuda_model_get_vram_usage().
 *
 * @param model  a model.
 * @return the bytes; 0 for a model that is not open.
 */
uint64_t cuda_get_vram_usage(CudaModel *model);

/**
 * The bytes that this process holds on the context's device through this library, all models together.
 *
 * @param ctx  a context.
 * @return the bytes; 0 for a context that is not open.
 */
uint64_t cuda_get_process_vram_usage(CudaContext *ctx);

/**
 * Whether a device still works; within 10 ms.
 *
 * @param ctx         an open context.
 * @param error_code  must not be NULL. 1: the device has reported an error that it does not recover from; every later call
 *                    on it fails. 5: the context is not open.
 * @return true if it works.
 */
bool cuda_check_device_health(CudaContext *ctx, int *error_code);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* WORKER_FFI_H */
