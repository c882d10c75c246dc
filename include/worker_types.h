/**
 * @file
 * The handles: opaque, never to be dereferenced.
 *
 * Generated from src/ffi; do not edit. */

#ifndef WORKER_TYPES_H
#define WORKER_TYPES_H

/**
 * A device, opened. An id to be handed back, not the address of anything.
 */
typedef struct CudaContext CudaContext;

/**
 * A model on a device, loaded. An id to be handed back, not the address of anything.
 */
typedef struct CudaModel CudaModel;

/**
 * An answer under way. An id to be handed back, not the address of anything.
 */
typedef struct InferenceResult InferenceResult;

#endif /* WORKER_TYPES_H */
