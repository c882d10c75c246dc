/// @file
/// What worker_orcd.hpp is built on: errors, options, what calls give, and the handle. Include worker_orcd.hpp, which
/// includes this.

#ifndef WORKER_ORCD_BASE_HPP
#define WORKER_ORCD_BASE_HPP

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "worker_orcd.h"
#include "worker_orcd_ext.h"

/// libworker_orcd for C++17, header only.
namespace worker_orcd {

/// @name Numbers of CudaErrorCode, named here so that the header also serves hosts that leave that enum out.
/// @{
constexpr int out_of_memory = 2;     ///< CUDA_ERROR_OUT_OF_MEMORY
constexpr int load_failed = 3;       ///< CUDA_ERROR_MODEL_LOAD_FAILED
constexpr int invalid_parameter = 5; ///< CUDA_ERROR_INVALID_PARAMETER
/// @}

/// The category of the library's codes: ec.message() is what cuda_error_message says.
class Category : public std::error_category {
public:
    /// "worker_orcd".
    const char* name() const noexcept override { return "worker_orcd"; }
    /// The code in words.
    std::string message(int code) const override { return cuda_error_message(code); }
};

/// The one Category.
inline const std::error_category& category() noexcept
{
    static const Category instance;
    return instance;
}

/// One of the library's codes as a std::error_code.
inline std::error_code make_code(int code) noexcept { return {code, category()}; }

/// The library's version, such as "0.1.0".
inline const char* version() noexcept { return worker_orcd_version(); }

/// The reason, in words, of the last error that a call of this thread gave.
inline std::string last_reason()
{
    std::string reason(worker_orcd_last_error(nullptr, 0) + 1, '\0');
    std::size_t length = worker_orcd_last_error(&reason[0], reason.size());
    reason.resize(length < reason.size() ? length : reason.size() - 1);
    return reason;
}

/// What the throwing calls throw: the code, and the reason in words.
class Error : public std::runtime_error {
public:
    /// A code, and its reason in words.
    Error(int code, const std::string& reason)
        : std::runtime_error(std::string(cuda_error_message(code)) + (reason.empty() ? "" : ": ") + reason),
          code_(code),
          reason_(reason)
    {
    }
    /// A code that a call of this thread just gave.
    explicit Error(int code) : Error(code, last_reason()) {}

    /// One of CudaErrorCode.
    int code() const noexcept { return code_; }
    /// The reason in words; may be empty.
    const std::string& reason() const noexcept { return reason_; }

private:
    int code_;
    std::string reason_;
};

/// How grave a message is.
enum class LogLevel {
    off = WORKER_ORCD_LOG_OFF,     ///< nothing at all
    error = WORKER_ORCD_LOG_ERROR, ///< what fails
    warn = WORKER_ORCD_LOG_WARN,   ///< what may be wrong
    info = WORKER_ORCD_LOG_INFO,   ///< what is done: loads, devices
    debug = WORKER_ORCD_LOG_DEBUG, ///< how it is done, step by step
};

/// Called from any thread with the pointer given to set_log, a LogLevel and the message; must not throw.
using LogFunction = void (*)(void*, int, const char*);

/// Has the library's messages sent to `function`; with nullptr to nobody again.
inline bool set_log(LogFunction function, void* user, LogLevel level, std::error_code& error) noexcept
{
    int code = 0;
    bool done = worker_orcd_set_log(function, user, static_cast<int>(level), &code);
    error = make_code(code);
    return done;
}

/// The same; throws.
inline void set_log(LogFunction function, void* user = nullptr, LogLevel level = LogLevel::info)
{
    std::error_code error;
    if (!set_log(function, user, level, error)) throw Error(error.value());
}

/// Why an answer ended; none while it has not.
enum class Finish {
    none = WORKER_ORCD_FINISH_NONE,               ///< it has not, or not all before its end was pulled
    end_token = WORKER_ORCD_FINISH_END_TOKEN,     ///< the model ended it
    stop_string = WORKER_ORCD_FINISH_STOP_STRING, ///< it came to one of StartOptions::stops
    length = WORKER_ORCD_FINISH_LENGTH,           ///< it has max_tokens
    context = WORKER_ORCD_FINISH_CONTEXT,         ///< the context is full
    cancelled = WORKER_ORCD_FINISH_CANCELLED,     ///< Inference::cancel()
    failed = WORKER_ORCD_FINISH_FAILED,           ///< Inference::next() gave an error
};

/// How keys and values of an answer are stored.
enum class KvType {
    standard = WORKER_ORCD_KV_DEFAULT, ///< as the device does by itself
    f16 = WORKER_ORCD_KV_F16,          ///< 16 bits
    f32 = WORKER_ORCD_KV_F32,          ///< 32 bits; on the CPU alone
};

/// How an answer goes on from its prompt. What is left as it is here is as without it; worker_orcd_start_options says more.
struct StartOptions {
    /// 0: as many as the context holds.
    std::uint32_t max_tokens = 0;
    /// 0 always takes the likeliest token.
    float temperature = 0.0f;
    std::uint64_t seed = 0;          ///< of the random numbers
    std::uint32_t top_k = 0;         ///< only the k likeliest tokens
    float top_p = 0.0f;              ///< only the likeliest tokens that together have this probability
    float min_p = 0.0f;              ///< only tokens with at least this share of the likeliest one's probability
    float repetition_penalty = 0.0f; ///< divides the logits of tokens that prompt or answer have
    float frequency_penalty = 0.0f;  ///< taken from a token's logit for each time that the answer has it
    float presence_penalty = 0.0f;   ///< taken from a token's logit if the answer has it
    /// Keep the log-probability of each token, for Inference::tokens().
    bool logprobs = false;
    /// Strings that end the answer and are no part of it.
    std::vector<std::string> stops = {};
};

/// How a model is loaded. What is left as it is here is as without it; worker_orcd_load_options says more.
struct LoadOptions {
    /// Called on the thread that loads, with bytes done and bytes in all; false ends the load with load_failed. What it throws
    /// ends the load too, and comes out of Context::load(), but for its noexcept form.
    std::function<bool(std::uint64_t, std::uint64_t)> progress = nullptr;
    /// Lowers the tokens of an answer and its prompt; 0: as many as the file names.
    std::uint32_t context = 0;
    /// Lowers the number of answers that are computed at once; 0: as many as the device suits.
    std::uint32_t sequences = 0;
    /// How keys and values are stored.
    KvType kv_type = KvType::standard;
};

/// What an answer has come to so far.
struct Statistics {
    /// Tokens of the prompt, special ones included.
    std::uint64_t prompt_tokens = 0;
    /// Of these, tokens that did not have to be computed, since another prompt began alike.
    std::uint64_t reused_tokens = 0;
    /// Tokens of the answer.
    std::uint64_t tokens = 0;
    /// From the start to the first token; 0 before it.
    std::chrono::nanoseconds until_first{0};
    /// From the start to the last token so far; 0 before the first.
    std::chrono::nanoseconds until_last{0};
    /// Why it ended.
    Finish finish = Finish::none;
};

/// A token of an answer; the log-probability is NaN unless the options asked for it.
struct Token {
    std::uint32_t id = 0; ///< its number in the vocabulary
    float logprob = 0.0f; ///< by the model itself, before options and temperature
};

/// What a file says of its model.
struct Facts {
    /// The architecture, such as "llama".
    std::string family;
    /// The mixture of types, such as "Q4_K_M".
    std::string quantisation;
    /// Numbers in all tensors.
    std::uint64_t parameters = 0;
    /// Tokens that an answer and its prompt may have together.
    std::uint64_t context = 0;
    /// Tokens that the tokenizer knows.
    std::uint64_t vocabulary = 0;
    /// The token that begins a text, where the file names one.
    std::optional<std::uint32_t> bos;
    /// The token that ends a text, where the file names one.
    std::optional<std::uint32_t> eos;
};

/// One piece of an answer.
struct Piece {
    std::string text; ///< whole UTF-8, never empty
    int index = 0;    ///< 0, 1, 2, ...
};

/// What the classes share; no part of the interface.
namespace detail {
/// @cond

/// Runs a noexcept form and throws what its code says.
template <typename Call> auto checked(Call call)
{
    std::error_code error;
    auto value = call(error);
    if (error) throw Error(error.value());
    return value;
}

/// Runs what may fail for want of memory, and makes a code of that.
template <typename Call> auto caught(std::error_code& error, Call call) noexcept -> decltype(call())
{
    try {
        return call();
    } catch (...) {
        error = make_code(out_of_memory);
        return {};
    }
}

/// C would not see past a NUL.
inline const std::string& whole(const std::string& text, const char* what)
{
    if (text.find('\0') != std::string::npos) throw Error(invalid_parameter, std::string(what) + " holds a NUL byte");
    return text;
}

/// The options as C has them; `stops` keeps the pointers.
inline worker_orcd_start_options raw(const StartOptions& from, std::vector<const char*>& stops)
{
    worker_orcd_start_options to = {};
    // The library refuses NULL, as it should refuse what C would not see whole.
    for (const std::string& stop : from.stops)
        stops.push_back(stop.find('\0') == std::string::npos ? stop.c_str() : nullptr);
    to.size = sizeof to;
    to.seed = from.seed;
    to.stops = stops.data();
    to.stop_count = stops.size();
    to.max_tokens = from.max_tokens;
    to.temperature = from.temperature;
    to.top_k = from.top_k;
    to.top_p = from.top_p;
    to.min_p = from.min_p;
    to.repetition_penalty = from.repetition_penalty;
    to.frequency_penalty = from.frequency_penalty;
    to.presence_penalty = from.presence_penalty;
    to.logprobs = from.logprobs ? 1 : 0;
    return to;
}

inline Facts facts(const worker_orcd_model_facts& raw)
{
    const auto token = [](std::int64_t id) {
        return id < 0 ? std::nullopt : std::optional<std::uint32_t>(static_cast<std::uint32_t>(id));
    };
    Facts facts;
    facts.family = raw.family;
    facts.quantisation = raw.quantisation;
    facts.parameters = raw.parameters;
    facts.context = raw.context;
    facts.vocabulary = raw.vocabulary;
    facts.bos = token(raw.bos);
    facts.eos = token(raw.eos);
    return facts;
}

inline Statistics statistics(const worker_orcd_statistics& raw) noexcept
{
    Statistics s;
    s.prompt_tokens = raw.prompt_tokens;
    s.reused_tokens = raw.reused_tokens;
    s.tokens = raw.tokens;
    s.until_first = std::chrono::nanoseconds(raw.first_token_ns);
    s.until_last = std::chrono::nanoseconds(raw.last_token_ns);
    s.finish = static_cast<Finish>(raw.finish);
    return s;
}

/// A progress function, and what it threw.
struct Progress {
    const std::function<bool(std::uint64_t, std::uint64_t)>& call;
    std::exception_ptr thrown;

    static bool tell(void* user, std::uint64_t done, std::uint64_t all) noexcept
    {
        Progress& self = *static_cast<Progress*>(user);
        try {
            return self.call(done, all);
        } catch (...) {
            self.thrown = std::current_exception();
            return false;
        }
    }
};

/// @endcond
} // namespace detail

/// A handle and the function that closes it.
template <typename T, void (*close)(T*)> class Handle {
public:
    /// No handle.
    Handle() noexcept = default;
    /// One that is closed from here.
    explicit Handle(T* raw) noexcept : raw_(raw) {}
    /// Takes it over.
    Handle(Handle&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
    /// Closes its own and takes the other over.
    Handle& operator=(Handle&& other) noexcept
    {
        if (this != &other) {
            reset();
            raw_ = std::exchange(other.raw_, nullptr);
        }
        return *this;
    }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
    ~Handle() { reset(); }

    /// What the C functions take; nullptr if it is closed.
    T* get() const noexcept { return raw_; }
    /// Whether it is open.
    explicit operator bool() const noexcept { return raw_ != nullptr; }

    /// Closes it now. Closing twice does nothing, and leaves the last error's reason alone.
    void reset() noexcept
    {
        if (raw_ != nullptr) close(std::exchange(raw_, nullptr));
    }

    /// Gives the handle to the caller, who closes it.
    T* release() noexcept { return std::exchange(raw_, nullptr); }

private:
    T* raw_ = nullptr;
};

} // namespace worker_orcd

#endif // WORKER_ORCD_BASE_HPP
