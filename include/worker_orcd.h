/**
 * @file
 * libworker_orcd: GGUF language models for any host that can call C.
 *
 * Open a device (cuda_init), load a file (cuda_load_model), start an answer (cuda_inference_start), pull
 * its text piece by piece (cuda_inference_next_token), and give everything back in any order.
 *
 * Every function may be called from any thread at any time; two calls on one InferenceResult at once
 * take turns. Handles are ids that are checked on each call: NULL, freed or wrong ones give
 * CUDA_ERROR_INVALID_PARAMETER (from getters 0) and do no harm. Where there is an error_code it must not
 * be NULL, and is set to 0 on success. Any bytes as model, any bytes as prompt, any order of calls and any
 * single failure of the driver give a code: nothing aborts, nothing is printed. Two exceptions: a host
 * that is out of memory for a small allocation, and a model file that another program shortens while
 * the CPU device has it mapped.
 *
 * Generated from src/ffi; do not edit. */

#ifndef WORKER_ORCD_H
#define WORKER_ORCD_H

#include "worker_ffi.h"

/** The version that this header belongs to; worker_orcd_version() is the library's. */
#define WORKER_ORCD_VERSION "0.1.0"
/** A part of it. */
#define WORKER_ORCD_VERSION_MAJOR 0
/** A part of it. */
#define WORKER_ORCD_VERSION_MINOR 1
/** A part of it. */
#define WORKER_ORCD_VERSION_PATCH 0

#endif /* WORKER_ORCD_H */
