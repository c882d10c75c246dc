/* "Model": what loads, what does not, and the bytes that are reported. */

#include "check.h"

#include <sys/stat.h>
#include <unistd.h>

static char folder[] = "/tmp/worker_orcd.XXXXXX";

static const char* in_folder(const char* name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* Writes the first `limit` bytes of the tiny model to `name`; returns the size of the whole. */
static long copy_model(const char* name, long limit)
{
    FILE* from = fopen(model_path("llama-f32.gguf"), "rb");
    FILE* to = fopen(in_folder(name), "wb");
    long done = 0;
    int c;
    CHECK(from != NULL && to != NULL);
    while ((limit < 0 || done < limit) && (c = getc(from)) != EOF) {
        CHECK(putc(c, to) != EOF);
        done++;
    }
    fseek(from, 0, SEEK_END);
    done = ftell(from);
    fclose(from);
    CHECK(fclose(to) == 0);
    return done;
}

static void refused(CudaContext* context, const char* path)
{
    int code = UNSET;
    uint64_t bytes = 12345;
    CHECK(cuda_load_model(context, path, &bytes, &code) == NULL);
    CHECK(code == CUDA_ERROR_MODEL_LOAD_FAILED);
    CHECK(bytes == 12345);
}

static void write_text(const char* name, const char* text)
{
    FILE* file = fopen(in_folder(name), "wb");
    CHECK(file != NULL && fputs(text, file) != EOF && fclose(file) == 0);
}

static void what_does_not_load(CudaContext* context)
{
    static char long_path[20000];
    long size = copy_model("whole", -1);
    memset(long_path, 'a', sizeof long_path - 1);
    refused(context, "");
    refused(context, "/nowhere/at/all.gguf");
    refused(context, long_path);
    refused(context, folder);
    refused(context, "/dev/zero");
    CHECK(mkfifo(in_folder("pipe"), 0600) == 0);
    refused(context, in_folder("pipe"));
    write_text("empty", "");
    refused(context, in_folder("empty"));
    write_text("magic", "GGUF");
    refused(context, in_folder("magic"));
    write_text("other", "This is a letter, not a model. It goes on for a while, as letters do.");
    refused(context, in_folder("other"));
    copy_model("half", size / 2);
    refused(context, in_folder("half"));
    copy_model("short", size - 1);
    refused(context, in_folder("short"));
    CHECK(symlink("loop", in_folder("loop")) == 0);
    refused(context, in_folder("loop"));
    unlink(in_folder("loop"));
    unlink(in_folder("pipe"));
    unlink(in_folder("empty"));
    unlink(in_folder("magic"));
    unlink(in_folder("other"));
    unlink(in_folder("half"));
    unlink(in_folder("short"));
    unlink(in_folder("whole"));
}

static void any_bytes_are_a_path(CudaContext* context)
{
    int code = UNSET;
    uint64_t bytes = 0;
    CudaModel* model;
    copy_model("m\xff\xfe ~%n", -1);
    model = cuda_load_model(context, in_folder("m\xff\xfe ~%n"), &bytes, &code);
    CHECK(model != NULL && code == 0);
    cuda_unload_model(model);
    unlink(in_folder("m\xff\xfe ~%n"));
}

static void wrong_arguments(CudaContext* context)
{
    int code = UNSET;
    uint64_t bytes = 12345;
    CHECK(cuda_load_model(context, NULL, &bytes, &code) == NULL && code == CUDA_ERROR_INVALID_PARAMETER);
    code = UNSET;
    CHECK(cuda_load_model(NULL, model_path("llama-f32.gguf"), &bytes, &code) == NULL);
    CHECK(code == CUDA_ERROR_INVALID_PARAMETER && bytes == 12345);
    CHECK(cuda_load_model(context, model_path("llama-f32.gguf"), &bytes, NULL) == NULL && bytes == 12345);
}

static void bytes_are_counted(CudaContext* context)
{
    int code = UNSET;
    uint64_t bytes = 0, again = 0;
    CudaModel* first = cuda_load_model(context, model_path("llama-f32.gguf"), &bytes, &code);
    CudaModel* second;
    CHECK(first != NULL && code == 0 && bytes > 100000);
    CHECK(cuda_model_get_vram_usage(first) == bytes);
    CHECK(cuda_get_vram_usage(first) == bytes);
    second = cuda_load_model(context, model_path("llama-f32.gguf"), &again, &code);
    CHECK(second != NULL && code == 0 && again == bytes);
    CHECK(cuda_get_process_vram_usage(context) >= bytes);
    cuda_unload_model(first);
    CHECK(cuda_model_get_vram_usage(first) == 0 && cuda_get_vram_usage(first) == 0);
    CHECK(cuda_model_get_vram_usage(second) == bytes);
    cuda_unload_model(second);
    cuda_unload_model(second);
    CHECK(cuda_get_process_vram_usage(context) == 0);
}

static void kv_is_counted(CudaContext* context)
{
    CudaModel* model = load_model(context);
    uint64_t before = cuda_model_get_vram_usage(model);
    InferenceResult* answer = start(model, "Hello, world", 100, 0.0f, 0);
    CHECK(cuda_model_get_vram_usage(model) > before);
    cuda_inference_free(answer);
    CHECK(cuda_model_get_vram_usage(model) >= before);
    cuda_unload_model(model);
    CHECK(cuda_get_process_vram_usage(context) == 0);
}

int main(void)
{
    CudaContext* context;
    CHECK(mkdtemp(folder) != NULL);
    context = open_context();
    what_does_not_load(context);
    any_bytes_are_a_path(context);
    wrong_arguments(context);
    bytes_are_counted(context);
    kv_is_counted(context);
    cuda_destroy(context);
    rmdir(folder);
    return 0;
}
