// The C++ face, used in every way it can be: throwing and noexcept calls, moves, the range, errors.
// The model is named on the command line; nothing is printed if all is well.

#include <cstdio>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "worker_orcd.hpp"

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1); \
        } \
    } while (0)

using worker_orcd::Context;
using worker_orcd::Error;
using worker_orcd::Inference;
using worker_orcd::Model;
using worker_orcd::Piece;

static_assert(!std::is_copy_constructible<Context>::value && std::is_nothrow_move_constructible<Context>::value, "");
static_assert(!std::is_copy_assignable<Model>::value && std::is_nothrow_move_assignable<Model>::value, "");
static_assert(!std::is_copy_constructible<Inference>::value && sizeof(Inference) == sizeof(void*), "");
static_assert(noexcept(std::declval<Model&>().start("", 1, 0.0f, 0, std::declval<std::error_code&>())), "");

static std::string answer(Model& model, int tokens)
{
    std::string text;
    int expected = 0;
    Inference inference = model.start("Hello, world", tokens, 1.0f, 7);
    for (const Piece& piece : inference.pieces()) {
        CHECK(piece.index == expected++ && !piece.text.empty());
        text += piece.text;
    }
    return text;
}

template <typename F> static Error error_of(F call)
{
    try {
        call();
    } catch (const Error& error) {
        return error;
    }
    std::fprintf(stderr, "no error was thrown\n");
    std::exit(1);
}

static void errors(Context& context, Model& model)
{
    Error error = error_of([] { Context wrong(-3); });
    CHECK(error.code() == 1 && error.reason().find("-3") != std::string::npos);
    CHECK(std::string(error.what()).find("Invalid GPU device ID: ") == 0);
    error = error_of([&] { context.load(std::string("/nowhere/lost.gguf")); });
    CHECK(error.code() == 3 && error.reason().find("lost.gguf") != std::string::npos);
    CHECK(error_of([&] { model.start("Hello", 0); }).code() == 5);
    CHECK(error_of([&] { model.start(std::string("a\0b", 3), 4); }).code() == 5);

    std::error_code code;
    CHECK(!Context::open(-3, code) && code == worker_orcd::make_code(1));
    CHECK(code.message() == "Invalid GPU device ID" && code.category() == worker_orcd::category());
    CHECK(!context.load("/nowhere/lost.gguf", code) && code.value() == 3);
    CHECK(!model.start("Hello", 4, 9.0f, 0, code) && code.value() == 5);
}

static void moves(Model& model)
{
    Inference first = model.start("Hello", 8);
    InferenceResult* raw = first.get();
    Inference second = std::move(first);
    CHECK(second.get() == raw && !first);
    Piece piece;
    CHECK(error_of([&] { first.next(piece); }).code() == 5);
    CHECK(second.next(piece) && piece.index == 0);
    first = std::move(second);
    std::error_code code;
    char small[1];
    int index = 0;
    CHECK(!first.next(small, 1, index, code) && code.value() == worker_orcd::invalid_parameter);
    CHECK(first.next(piece, code) && !code && piece.index == 1);
    first.reset();
    first.reset();
    CHECK(!first);
    cuda_inference_free(model.start("Hello", 8).release());
    std::vector<Inference> many;
    for (int i = 0; i < 4; i++) many.push_back(model.start("Hello", 8));
}

int main(int argc, char** argv)
{
    CHECK(argc == 2 && Context::device_count() >= 1);
    Context context(0);
    Model model = context.load(std::string(argv[1]));
    std::error_code code;
    CHECK(model.vram_bytes() > 0 && context.process_vram_usage() >= model.vram_bytes());
    CHECK(model.check_vram_residency(code) && !code && context.check_device_health(code) && !code);
    const std::string text = answer(model, 16);
    CHECK(!text.empty() && answer(model, 16) == text);
    errors(context, model);
    moves(model);
    context.reset();
    CHECK(answer(model, 16) == text); // a model outlives its context
    model.reset();
    CHECK(model.vram_bytes() == 0);
    return 0;
}
