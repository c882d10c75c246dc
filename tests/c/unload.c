/* dlopen, use, dlclose, again and again: the library stays mapped, since its threads may still end. */

#include "check.h"

#include <dlfcn.h>

typedef CudaContext* (*Init)(int, int*);
typedef void (*Destroy)(CudaContext*);

static void* symbol(void* library, const char* name)
{
    void* found = dlsym(library, name);
    CHECK(found != NULL);
    return found;
}

int main(int argc, char** argv)
{
    int i;
    CHECK(argc == 2);
    for (i = 0; i < 200; i++) {
        void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        Init init;
        Destroy destroy;
        void* address;
        int code = UNSET;
        CHECK(library != NULL);
        address = symbol(library, "cuda_init");
        memcpy(&init, &address, sizeof init);
        address = symbol(library, "cuda_destroy");
        memcpy(&destroy, &address, sizeof destroy);
        destroy(init(0, &code));
        CHECK(code == 0);
        CHECK(dlclose(library) == 0);
    }
    CHECK(dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) != NULL); /* -z nodelete */
    return 0;
}
