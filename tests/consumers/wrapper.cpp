// The C++ face, used in every way it can be: throwing and noexcept calls, moves, the range, errors.
// The model is named on the command line; nothing is printed if all is well.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
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
using worker_orcd::Facts;
using worker_orcd::Finish;
using worker_orcd::Inference;
using worker_orcd::KvType;
using worker_orcd::LoadOptions;
using worker_orcd::Model;
using worker_orcd::Piece;
using worker_orcd::StartOptions;
using worker_orcd::Statistics;
using worker_orcd::Token;

static_assert(!std::is_copy_constructible<Context>::value && std::is_nothrow_move_constructible<Context>::value, "");
static_assert(!std::is_copy_assignable<Model>::value && std::is_nothrow_move_assignable<Model>::value, "");
static_assert(!std::is_copy_constructible<Inference>::value && sizeof(Inference) == sizeof(void*), "");
static_assert(noexcept(std::declval<Model&>().start("", 1, 0.0f, 0, std::declval<std::error_code&>())), "");

static_assert(noexcept(std::declval<Model&>().start("", StartOptions(), std::declval<std::error_code&>())), "");
static_assert(noexcept(std::declval<Context&>().load("", LoadOptions(), std::declval<std::error_code&>())), "");
static_assert(noexcept(std::declval<Model&>().tokenize("", true, true, std::declval<std::error_code&>())), "");
static_assert(noexcept(std::declval<Model&>().facts(std::declval<std::error_code&>())), "");
static_assert(noexcept(std::declval<Inference&>().statistics(std::declval<std::error_code&>())), "");
static_assert(noexcept(std::declval<Inference&>().cancel(std::declval<std::error_code&>())), "");

static std::string text_of(Inference& inference)
{
    std::string text;
    for (const Piece& piece : inference.pieces()) text += piece.text;
    return text;
}

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

static void options(Model& model)
{
    StartOptions plain;
    plain.max_tokens = 16;
    plain.temperature = 1.0f;
    plain.seed = 7;
    Inference inference = model.start("Hello, world", plain);
    CHECK(inference.statistics().finish == Finish::none);
    const std::string text = text_of(inference);
    CHECK(text == answer(model, 16));
    Statistics s = inference.statistics();
    CHECK((s.finish == Finish::length && s.tokens == 16) || (s.finish == Finish::end_token && s.tokens < 16));
    CHECK(s.prompt_tokens > 0 && s.reused_tokens <= s.prompt_tokens);
    CHECK(s.until_first.count() > 0 && s.until_last >= s.until_first);
    CHECK(inference.tokens().size() == s.tokens && std::isnan(inference.tokens()[0].logprob));

    StartOptions all = plain;
    all.top_k = 20;
    all.top_p = 0.9f;
    all.min_p = 0.01f;
    all.repetition_penalty = 1.2f;
    all.frequency_penalty = 0.5f;
    all.presence_penalty = 0.5f;
    all.logprobs = true;
    inference = model.start("Hello, world", all);
    const std::string other = text_of(inference);
    const std::vector<Token> tokens = inference.tokens();
    CHECK(!tokens.empty() && inference.tokens(tokens.size() - 1).size() == 1);
    for (const Token& token : tokens) CHECK(token.logprob <= 0.0f);

    StartOptions stopped = plain;
    stopped.stops = {"this does not come", text.substr(0, text.size() / 2)};
    while ((static_cast<unsigned char>(text[stopped.stops[1].size()]) & 0xc0) == 0x80) stopped.stops[1].pop_back();
    inference = model.start("Hello, world", stopped);
    CHECK(text_of(inference).empty() && inference.statistics().finish == Finish::stop_string);
    stopped.stops[0] = std::string("a\0b", 3);
    CHECK(error_of([&] { model.start("Hello", stopped); }).code() == 5);
    std::error_code code;
    CHECK(!model.start("Hello", stopped, code) && code.value() == 5);
}

static void tokens(Model& model)
{
    const std::string prompt = "Hello, na\xc3\xafve world";
    const std::vector<std::uint32_t> ids = model.tokenize(prompt), bare = model.tokenize(prompt, false, false);
    CHECK(!bare.empty() && bare.size() <= ids.size() && model.detokenize(bare) == prompt);
    CHECK(model.tokenize("", false, false).empty() && model.detokenize({}).empty());
    StartOptions options;
    options.max_tokens = 8;
    Inference by_ids = model.start_tokens(ids, options), by_text = model.start(prompt, options);
    CHECK(by_ids.statistics().prompt_tokens == ids.size() && text_of(by_ids) == text_of(by_text));
    CHECK(error_of([&] { model.start_tokens({}, options); }).code() == 5);
    CHECK(error_of([&] { model.start_tokens({0xffffffffu}, options); }).code() == 5);
    CHECK(error_of([&] { model.detokenize({0xffffffffu}); }).code() == 5);
    CHECK(error_of([&] { model.tokenize("\xff"); }).code() == 5);
    std::error_code code;
    CHECK(model.tokenize(nullptr, true, true, code).empty() && code.value() == 5);
    CHECK(model.tokenize("Hello", true, true, code) == model.tokenize("Hello") && !code);
}

static void cancels(Model& model)
{
    StartOptions options;
    options.temperature = 1.0f;
    Inference inference = model.start("Hello", options);
    Piece piece;
    CHECK(inference.next(piece));
    std::thread canceller([&] { inference.cancel(); });
    text_of(inference);
    canceller.join();
    const Finish finish = inference.statistics().finish;
    CHECK(finish == Finish::cancelled || finish == Finish::end_token || finish == Finish::context);
    std::error_code code;
    CHECK(inference.cancel(code) && !code && !inference.next(piece));
    inference.reset();
    CHECK(!inference.cancel(code) && code.value() == 5);
    inference.statistics(code);
    CHECK(code.value() == 5 && inference.tokens(0, code).empty() && code.value() == 5);
}

static void count_message(void* user, int, const char*) { ++*static_cast<int*>(user); }

static void loads(Context& context, const std::string& path)
{
    LoadOptions options;
    std::uint64_t calls = 0;
    int messages = 0;
    options.context = 100;
    options.sequences = 2;
    options.kv_type = KvType::f16;
    options.progress = [&](std::uint64_t done, std::uint64_t all) {
        calls++;
        return done <= all;
    };
    worker_orcd::set_log(count_message, &messages);
    Model model = context.load(path, options);
    worker_orcd::set_log(nullptr);
    CHECK(calls > 0 && messages > 0);
    const Facts facts = model.facts();
    CHECK(facts.family == "llama" && facts.quantisation == "F32" && facts.context == 100);
    CHECK(facts.vocabulary > 0 && facts.parameters > 0 && facts.eos.has_value() && *facts.eos < facts.vocabulary);
    CHECK(model.chat_template().size() < 100000 && answer(model, 16).size() > 0);
    options.progress = [](std::uint64_t, std::uint64_t) { return false; };
    CHECK(error_of([&] { context.load(path, options); }).code() == worker_orcd::load_failed);
    options.progress = [](std::uint64_t, std::uint64_t) -> bool { throw std::logic_error("from inside"); };
    bool thrown = false;
    try {
        context.load(path, options);
    } catch (const std::logic_error&) {
        thrown = true;
    }
    CHECK(thrown);
    std::error_code code;
    CHECK(!context.load(path.c_str(), options, code) && code.value() == worker_orcd::load_failed);
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
    options(model);
    tokens(model);
    cancels(model);
    loads(context, argv[1]);
    CHECK(std::string(worker_orcd::version()) == WORKER_ORCD_VERSION);
    context.reset();
    CHECK(answer(model, 16) == text); // a model outlives its context
    model.reset();
    CHECK(model.vram_bytes() == 0);
    return 0;
}
