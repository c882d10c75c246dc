// worker_orcd.hpp: libworker_orcd for C++17, header only.
//
// Context, Model and Inference own one handle each and can be moved, not copied. They may be destroyed
// in any order: what a model needs of its context outlives the context. Every call comes in two forms:
// one that throws worker_orcd::Error, and a noexcept one that fills in a std::error_code.
//
//     worker_orcd::Context context(0);
//     worker_orcd::Model model = context.load("model.gguf");
//     worker_orcd::Inference inference = model.start("Once upon a time", 100);
//     for (const worker_orcd::Piece& piece : inference.pieces()) std::cout << piece.text;

#ifndef WORKER_ORCD_HPP
#define WORKER_ORCD_HPP

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "worker_orcd.h"
#include "worker_orcd_ext.h"

namespace worker_orcd {

// The numbers of CudaErrorCode, named here so that the header also serves hosts that leave that enum out.
constexpr int invalid_parameter = 5;
constexpr int out_of_memory = 2;

// The category of the library's codes: ec.message() is what cuda_error_message says.
class Category : public std::error_category {
public:
    const char* name() const noexcept override { return "worker_orcd"; }
    std::string message(int code) const override { return cuda_error_message(code); }
};

inline const std::error_category& category() noexcept
{
    static const Category instance;
    return instance;
}

inline std::error_code make_code(int code) noexcept { return {code, category()}; }

// The reason, in words, of the last error that a call of this thread gave.
inline std::string last_reason()
{
    std::string reason(worker_orcd_last_error(nullptr, 0) + 1, '\0');
    std::size_t length = worker_orcd_last_error(&reason[0], reason.size());
    reason.resize(length < reason.size() ? length : reason.size() - 1);
    return reason;
}

// What the throwing calls throw: the code, and the reason in words.
class Error : public std::runtime_error {
public:
    Error(int code, const std::string& reason)
        : std::runtime_error(std::string(cuda_error_message(code)) + (reason.empty() ? "" : ": ") + reason),
          code_(code),
          reason_(reason)
    {
    }
    explicit Error(int code) : Error(code, last_reason()) {}

    int code() const noexcept { return code_; }
    const std::string& reason() const noexcept { return reason_; }

private:
    int code_;
    std::string reason_;
};

// A handle and the function that closes it.
template <typename T, void (*close)(T*)> class Handle {
public:
    Handle() noexcept = default;
    explicit Handle(T* raw) noexcept : raw_(raw) {}
    Handle(Handle&& other) noexcept : raw_(std::exchange(other.raw_, nullptr)) {}
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

    T* get() const noexcept { return raw_; }
    explicit operator bool() const noexcept { return raw_ != nullptr; }

    // Closes it now. Closing twice does nothing, and leaves the last error's reason alone.
    void reset() noexcept
    {
        if (raw_ != nullptr) close(std::exchange(raw_, nullptr));
    }

    // Gives the handle to the caller, who closes it.
    T* release() noexcept { return std::exchange(raw_, nullptr); }

private:
    T* raw_ = nullptr;
};

// One piece of an answer: whole UTF-8, never empty; the index counts 0, 1, 2, …
struct Piece {
    std::string text;
    int index = 0;
};

class Inference;

// The pieces of an answer, as a range to go through once. Ends with the answer; an error throws.
class Pieces {
public:
    struct End {};
    class Iterator {
    public:
        using iterator_category = std::input_iterator_tag;
        using value_type = Piece;
        using difference_type = std::ptrdiff_t;
        using pointer = const Piece*;
        using reference = const Piece&;

        explicit Iterator(Inference& inference) : inference_(&inference) { ++*this; }
        inline Iterator& operator++();
        const Piece& operator*() const noexcept { return piece_; }
        const Piece* operator->() const noexcept { return &piece_; }
        bool operator!=(End) const noexcept { return inference_ != nullptr; }
        bool operator==(End) const noexcept { return inference_ == nullptr; }

    private:
        Inference* inference_;
        Piece piece_;
    };

    explicit Pieces(Inference& inference) noexcept : inference_(&inference) {}
    Iterator begin() const { return Iterator(*inference_); }
    End end() const noexcept { return {}; }

private:
    Inference* inference_;
};

// An answer in the making. Destroying it cancels it.
class Inference : public Handle<InferenceResult, cuda_inference_free> {
public:
    using Handle::Handle;

    // Into the caller's buffer: true with a piece, false without an error at the end. A buffer that is
    // too small gives invalid_parameter and loses nothing.
    bool next(char* buffer, int size, int& index, std::error_code& error) noexcept
    {
        int code = 0;
        bool more = cuda_inference_next_token(get(), buffer, size, &index, &code);
        error = make_code(code);
        return more;
    }

    // Into a string, which grows as the piece needs.
    bool next(Piece& piece, std::error_code& error) noexcept
    {
        try {
            std::size_t size = piece.text.capacity() < 255 ? 255 : piece.text.capacity();
            for (; size <= longest; size *= 4) {
                piece.text.resize(size);
                bool more = next(&piece.text[0], static_cast<int>(size), piece.index, error);
                if (more) piece.text.resize(std::char_traits<char>::length(piece.text.c_str()));
                else if (error.value() == invalid_parameter && size * 4 <= longest) continue;
                else piece.text.clear();
                return more;
            }
        } catch (const std::bad_alloc&) {
            error = make_code(out_of_memory);
        }
        return false;
    }

    bool next(Piece& piece)
    {
        std::error_code error;
        bool more = next(piece, error);
        if (error) throw Error(error.value());
        return more;
    }

    Pieces pieces() noexcept { return Pieces(*this); }

private:
    static constexpr std::size_t longest = 1 << 20;
};

inline Pieces::Iterator& Pieces::Iterator::operator++()
{
    if (!inference_->next(piece_)) inference_ = nullptr;
    return *this;
}

// A model on a device. May be used by many threads at once.
class Model : public Handle<CudaModel, cuda_unload_model> {
public:
    using Handle::Handle;

    Inference start(const char* prompt, int max_tokens, float temperature, std::uint64_t seed,
                    std::error_code& error) noexcept
    {
        int code = 0;
        Inference inference(cuda_inference_start(get(), prompt, max_tokens, temperature, seed, &code));
        error = make_code(code);
        return inference;
    }

    Inference start(const std::string& prompt, int max_tokens, float temperature = 0.0f, std::uint64_t seed = 0)
    {
        if (prompt.find('\0') != std::string::npos) throw Error(invalid_parameter, "the prompt holds a NUL byte");
        std::error_code error;
        Inference inference = start(prompt.c_str(), max_tokens, temperature, seed, error);
        if (error) throw Error(error.value());
        return inference;
    }

    // Bytes held on the device now; 0 for a closed model.
    std::uint64_t vram_bytes() const noexcept { return cuda_model_get_vram_usage(get()); }

    bool check_vram_residency(std::error_code& error) const noexcept
    {
        int code = 0;
        bool resident = cuda_check_vram_residency(get(), &code);
        error = make_code(code);
        return resident;
    }
};

// A device that is open.
class Context : public Handle<CudaContext, cuda_destroy> {
public:
    using Handle::Handle;

    explicit Context(int device)
    {
        std::error_code error;
        *this = open(device, error);
        if (error) throw Error(error.value());
    }

    static Context open(int device, std::error_code& error) noexcept
    {
        int code = 0;
        Context context(cuda_init(device, &code));
        error = make_code(code);
        return context;
    }

    static int device_count() noexcept { return cuda_get_device_count(); }

    Model load(const char* path, std::error_code& error) noexcept
    {
        int code = 0;
        std::uint64_t bytes = 0;
        Model model(cuda_load_model(get(), path, &bytes, &code));
        error = make_code(code);
        return model;
    }

    Model load(const std::string& path)
    {
        if (path.find('\0') != std::string::npos) throw Error(invalid_parameter, "the path holds a NUL byte");
        std::error_code error;
        Model model = load(path.c_str(), error);
        if (error) throw Error(error.value());
        return model;
    }

    std::uint64_t process_vram_usage() const noexcept { return cuda_get_process_vram_usage(get()); }

    bool check_device_health(std::error_code& error) const noexcept
    {
        int code = 0;
        bool healthy = cuda_check_device_health(get(), &code);
        error = make_code(code);
        return healthy;
    }
};

} // namespace worker_orcd

#endif // WORKER_ORCD_HPP
