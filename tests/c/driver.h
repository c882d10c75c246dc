/* The GPU's driver as a host may use it beside the library: the few functions that tests need, found at run time. */

#ifndef DRIVER_H
#define DRIVER_H

#include <dlfcn.h>

#include "check.h"

struct driver {
    int (*init)(unsigned);
    int (*device_get)(int*, int);
    int (*primary_retain)(void**, int);
    int (*context_push)(void*);
    int (*context_pop)(void**);
    int (*synchronize)(void);
    int (*memory_info)(size_t*, size_t*);
    int (*memory_alloc)(unsigned long long*, size_t);
    int (*memory_free)(unsigned long long);
    int (*module_load)(void**, const void*);
    int (*module_function)(void**, void*, const char*);
    int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
    void* context;
};

static inline void find(void* library, const char* name, void* place)
{
    void* symbol = dlsym(library, name);
    CHECK(symbol != NULL);
    memcpy(place, &symbol, sizeof symbol);
}

/* The driver and the primary context of device 0; false where the library is told to use the CPU. */
static inline bool open_driver(struct driver* d)
{
    const char* device = getenv("WORKER_ORCD_DEVICE");
    void* library;
    int ordinal = 0;
    if (device != NULL && strcmp(device, "cpu") == 0) return false;
    library = dlopen("libcuda.so.1", RTLD_NOW);
    if (library == NULL) return false;
    find(library, "cuInit", &d->init);
    find(library, "cuDeviceGet", &d->device_get);
    find(library, "cuDevicePrimaryCtxRetain", &d->primary_retain);
    find(library, "cuCtxPushCurrent_v2", &d->context_push);
    find(library, "cuCtxPopCurrent_v2", &d->context_pop);
    find(library, "cuCtxSynchronize", &d->synchronize);
    find(library, "cuMemGetInfo_v2", &d->memory_info);
    find(library, "cuMemAlloc_v2", &d->memory_alloc);
    find(library, "cuMemFree_v2", &d->memory_free);
    find(library, "cuModuleLoadData", &d->module_load);
    find(library, "cuModuleGetFunction", &d->module_function);
    find(library, "cuLaunchKernel", &d->launch);
    if (d->init(0) != 0 || d->device_get(&ordinal, 0) != 0) return false;
    CHECK(d->primary_retain(&d->context, ordinal) == 0 && d->context_push(d->context) == 0);
    return true;
}

/* Bytes that the driver calls free. */
static inline size_t free_bytes(const struct driver* d)
{
    size_t left = 0, all = 0;
    CHECK(d->memory_info(&left, &all) == 0);
    return left;
}

#endif
