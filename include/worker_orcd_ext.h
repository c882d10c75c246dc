/* What libworker_orcd offers beyond the 14 functions of worker_orcd.h.
 *
 * Generated from src/ffi; do not edit. */

#ifndef WORKER_ORCD_EXT_H
#define WORKER_ORCD_EXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "worker_types.h"

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The library's version, such as "0.1.0". The string is static: never NULL, never to be freed.
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

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif /* WORKER_ORCD_EXT_H */
