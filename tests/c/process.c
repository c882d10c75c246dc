/* The library among the things a process does: fork, signals, unloading, and exit in mid-answer. */

#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static volatile sig_atomic_t ticks;

static void tick(int signal)
{
    (void)signal;
    ticks = ticks + 1;
}

/* A child may not use the library, but it may try: codes or nothing, and it ends. */
static void forked(CudaContext* context, CudaModel* model)
{
    char before[2048], after[2048], piece[256];
    int code = UNSET, status = 0;
    InferenceResult* answer = start(model, "Hello, world", 64, 1.0f, 7);
    pid_t child;
    CHECK(cuda_inference_next_token(answer, piece, sizeof piece, NULL, &code));
    answer_of(model, "Hello", 16, 1.0f, 9, before, sizeof before);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(60);
        cuda_inference_next_token(answer, piece, sizeof piece, NULL, &code);
        cuda_inference_start(model, "Hello", 4, 0.0f, 0, &code);
        cuda_check_device_health(context, &code);
        cuda_check_vram_residency(model, &code);
        cuda_inference_free(answer);
        cuda_unload_model(model);
        cuda_destroy(context);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    answer_of(model, "Hello", 16, 1.0f, 9, after, sizeof after);
    CHECK(strcmp(before, after) == 0);
    pull(answer, before, sizeof before, &code);
    CHECK(code == 0);
    cuda_inference_free(answer);
}

/* A storm of signals disturbs neither a load nor an answer. */
static void signals(CudaContext* context)
{
    struct itimerval every = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    struct sigaction action;
    char calm[2048], storm[2048];
    CudaModel* model = load_model(context);
    answer_of(model, "Hello", 64, 1.0f, 9, calm, sizeof calm);
    cuda_unload_model(model);
    memset(&action, 0, sizeof action);
    action.sa_handler = tick; /* and no SA_RESTART: every slow call sees EINTR */
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
    do {
        model = load_model(context);
        answer_of(model, "Hello", 64, 1.0f, 9, storm, sizeof storm);
        cuda_unload_model(model);
        CHECK(strcmp(calm, storm) == 0);
    } while (ticks < 20);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

/* While the process ends under it, an answer may end with a code. */
static void* pull_for_ever(void* model)
{
    char piece[256];
    int code = 0;
    while (code == 0) {
        InferenceResult* answer = cuda_inference_start((CudaModel*)model, "Hello", 400, 1.0f, 1, &code);
        while (cuda_inference_next_token(answer, piece, sizeof piece, NULL, &code)) {
        }
        cuda_inference_free(answer);
    }
    return NULL;
}

int main(void)
{
    CudaContext* context = open_context();
    CudaModel* model = load_model(context);
    pthread_t thread;
    forked(context, model);
    signals(context);

    /* exit() runs while another thread is in the middle of an answer. */
    CHECK(pthread_create(&thread, NULL, pull_for_ever, model) == 0);
    usleep(50000);
    exit(0);
}
