/// @file
/// libworker_orcd for C++17, header only.
///
/// Context, Model and Inference own one handle each and can be moved, not copied. They may be destroyed
/// in any order: what a model needs of its context outlives the context. Calls come in two forms: one that
/// throws worker_orcd::Error, and a noexcept one that fills in a std::error_code.
///
///     worker_orcd::Context context(0);
///     worker_orcd::Model model = context.load("model.gguf");
///     worker_orcd::Inference inference = model.start("Once upon a time", 100);
///     for (const worker_orcd::Piece& piece : inference.pieces()) std::cout << piece.text;

#ifndef WORKER_ORCD_HPP
#define WORKER_ORCD_HPP

#include <cstring>
#include <iterator>

#include "worker_orcd_base.hpp"

namespace worker_orcd {

class Inference;

/// The pieces of an answer, as a range to go through once. Ends with the answer; an error throws.
class Pieces {
public:
    /// @cond
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
    /// @endcond

    Iterator begin() const { return Iterator(*inference_); } ///< waits for the first piece
    End end() const noexcept { return {}; }                  ///< where the answer ends

private:
    Inference* inference_;
};

/// An answer in the making. Destroying it cancels it.
class Inference : public Handle<InferenceResult, cuda_inference_free> {
public:
    using Handle::Handle;

    /// Into the caller's buffer: true with a piece, false without an error at the end. A buffer that is
    /// too small gives invalid_parameter and loses nothing.
    bool next(char* buffer, int size, int& index, std::error_code& error) noexcept
    {
        int code = 0;
        bool more = cuda_inference_next_token(get(), buffer, size, &index, &code);
        error = make_code(code);
        return more;
    }

    /// Into a string, which grows as the piece needs.
    bool next(Piece& piece, std::error_code& error) noexcept
    {
        return detail::caught(error, [&] {
            std::size_t size = piece.text.capacity() < 255 ? 255 : piece.text.capacity();
            for (; size <= longest; size *= 4) {
                piece.text.resize(size);
                bool more = next(&piece.text[0], static_cast<int>(size), piece.index, error);
                if (more) piece.text.resize(std::char_traits<char>::length(piece.text.c_str()));
                else if (error.value() == invalid_parameter && size * 4 <= longest) continue;
                else piece.text.clear();
                return more;
            }
            return false;
        });
    }

    /// The same; throws.
    bool next(Piece& piece) { return detail::checked([&](auto& error) { return next(piece, error); }); }

    Pieces pieces() noexcept { return Pieces(*this); } ///< the rest of the answer

    /// What it has come to so far. Never waits.
    Statistics statistics(std::error_code& error) const noexcept
    {
        worker_orcd_statistics raw = {};
        int code = 0;
        raw.size = sizeof raw;
        worker_orcd_get_statistics(get(), &raw, &code);
        error = make_code(code);
        return detail::statistics(raw);
    }

    /// The same; throws.
    Statistics statistics() const { return detail::checked([&](auto& error) { return statistics(error); }); }

    /// The tokens from the one numbered `first` on, as far as their text was pulled or is held back.
    std::vector<Token> tokens(std::size_t first, std::error_code& error) const noexcept
    {
        return detail::caught(error, [&] {
            int code = 0;
            std::vector<std::uint32_t> ids(worker_orcd_tokens(get(), first, nullptr, nullptr, 0, &code));
            std::vector<float> logprobs(ids.size());
            // There may be more by now; those are for the next time.
            worker_orcd_tokens(get(), first, ids.data(), logprobs.data(), ids.size(), &code);
            error = make_code(code);
            std::vector<Token> all(code == 0 ? ids.size() : 0);
            for (std::size_t i = 0; i < all.size(); i++) all[i] = {ids[i], logprobs[i]};
            return all;
        });
    }

    /// The same; throws.
    std::vector<Token> tokens(std::size_t first = 0) const
    {
        return detail::checked([&](std::error_code& error) { return tokens(first, error); });
    }

    /// Ends the answer where it is, from any thread: next() then says that it has ended.
    bool cancel(std::error_code& error) noexcept
    {
        int code = 0;
        bool done = worker_orcd_cancel(get(), &code);
        error = make_code(code);
        return done;
    }

    /// The same; throws.
    void cancel() { detail::checked([&](auto& error) { return cancel(error); }); }

private:
    static constexpr std::size_t longest = 1 << 20;
};

/// @cond
inline Pieces::Iterator& Pieces::Iterator::operator++()
{
    if (!inference_->next(piece_)) inference_ = nullptr;
    return *this;
}
/// @endcond

/// A model on a device. May be used by many threads at once.
class Model : public Handle<CudaModel, cuda_unload_model> {
public:
    using Handle::Handle;

    /// An answer of 1 to 2048 tokens.
    Inference start(const char* prompt, int max_tokens, float temperature, std::uint64_t seed,
                    std::error_code& error) noexcept
    {
        int code = 0;
        Inference inference(cuda_inference_start(get(), prompt, max_tokens, temperature, seed, &code));
        error = make_code(code);
        return inference;
    }

    /// The same; throws.
    Inference start(const std::string& prompt, int max_tokens, float temperature = 0.0f, std::uint64_t seed = 0)
    {
        detail::whole(prompt, "the prompt");
        return detail::checked([&](std::error_code& error) {
            return start(prompt.c_str(), max_tokens, temperature, seed, error);
        });
    }

    /// An answer with options.
    Inference start(const char* prompt, const StartOptions& options, std::error_code& error) noexcept
    {
        return begin(prompt, nullptr, 0, options, error);
    }

    /// The same; throws.
    Inference start(const std::string& prompt, const StartOptions& options)
    {
        detail::whole(prompt, "the prompt");
        return detail::checked([&](std::error_code& error) { return start(prompt.c_str(), options, error); });
    }

    /// The same after tokens instead of a text; nothing is added to them.
    Inference start_tokens(const std::vector<std::uint32_t>& ids, const StartOptions& options, std::error_code& error) noexcept
    {
        return begin(nullptr, ids.data(), ids.size(), options, error);
    }

    /// The same; throws.
    Inference start_tokens(const std::vector<std::uint32_t>& ids, const StartOptions& options)
    {
        return detail::checked([&](std::error_code& error) { return start_tokens(ids, options, error); });
    }

    /// The tokens of a text. `special`: with those that the file wants around a prompt. `control`: the text of control tokens
    /// becomes those tokens.
    std::vector<std::uint32_t> tokenize(const char* text, bool special, bool control, std::error_code& error) const noexcept
    {
        return detail::caught(error, [&] {
            int code = 0;
            // No text has more tokens than bytes, but for those around it; if one does, it is asked for again.
            std::vector<std::uint32_t> ids(text == nullptr ? 0 : std::strlen(text) + 4);
            std::size_t count = ids.size() + 1;
            while (count > ids.size() && code == 0) {
                ids.resize(count);
                count = worker_orcd_tokenize(get(), text, special, control, ids.data(), ids.size(), &code);
            }
            ids.resize(count);
            error = make_code(code);
            return ids;
        });
    }

    /// The same; throws.
    std::vector<std::uint32_t> tokenize(const std::string& text, bool special = true, bool control = true) const
    {
        detail::whole(text, "the text");
        return detail::checked([&](std::error_code& error) { return tokenize(text.c_str(), special, control, error); });
    }

    /// The bytes that tokens stand for, which need not be whole UTF-8.
    std::string detokenize(const std::vector<std::uint32_t>& ids, std::error_code& error) const noexcept
    {
        return detail::caught(error, [&] {
            int code = 0;
            std::string text(worker_orcd_detokenize(get(), ids.data(), ids.size(), nullptr, 0, &code) + 1, '\0');
            text.resize(worker_orcd_detokenize(get(), ids.data(), ids.size(), &text[0], text.size(), &code));
            error = make_code(code);
            return text;
        });
    }

    /// The same; throws.
    std::string detokenize(const std::vector<std::uint32_t>& ids) const
    {
        return detail::checked([&](std::error_code& error) { return detokenize(ids, error); });
    }

    /// What the file says of the model.
    Facts facts(std::error_code& error) const noexcept
    {
        return detail::caught(error, [&] {
            worker_orcd_model_facts raw = {};
            int code = 0;
            raw.size = sizeof raw;
            worker_orcd_get_model_facts(get(), &raw, &code);
            error = make_code(code);
            return code == 0 ? detail::facts(raw) : Facts();
        });
    }

    /// The same; throws.
    Facts facts() const { return detail::checked([&](auto& error) { return facts(error); }); }

    /// The text of the file's chat template; empty if there is none.
    std::string chat_template(std::error_code& error) const noexcept
    {
        return detail::caught(error, [&] {
            int code = 0;
            std::string text(worker_orcd_chat_template(get(), nullptr, 0, &code) + 1, '\0');
            text.resize(worker_orcd_chat_template(get(), &text[0], text.size(), &code));
            error = make_code(code);
            return text;
        });
    }

    /// The same; throws.
    std::string chat_template() const { return detail::checked([&](auto& error) { return chat_template(error); }); }

    /// Bytes held on the device now; 0 for a closed model.
    std::uint64_t vram_bytes() const noexcept { return cuda_model_get_vram_usage(get()); }

    /// Whether every weight is in the device's memory.
    bool check_vram_residency(std::error_code& error) const noexcept
    {
        int code = 0;
        bool resident = cuda_check_vram_residency(get(), &code);
        error = make_code(code);
        return resident;
    }

private:
    Inference begin(const char* prompt, const std::uint32_t* ids, std::size_t count, const StartOptions& options,
                    std::error_code& error) noexcept
    {
        return detail::caught(error, [&] {
            int code = 0;
            std::vector<const char*> stops;
            worker_orcd_start_options raw = detail::raw(options, stops);
            raw.prompt_ids = ids;
            raw.prompt_id_count = count;
            Inference inference(worker_orcd_start(get(), prompt, &raw, &code));
            error = make_code(code);
            return inference;
        });
    }
};

/// A device that is open.
class Context : public Handle<CudaContext, cuda_destroy> {
public:
    using Handle::Handle;

    /// Opens a device; throws.
    explicit Context(int device)
    {
        *this = detail::checked([&](std::error_code& error) { return open(device, error); });
    }

    /// Opens a device.
    static Context open(int device, std::error_code& error) noexcept
    {
        int code = 0;
        Context context(cuda_init(device, &code));
        error = make_code(code);
        return context;
    }

    static int device_count() noexcept { return cuda_get_device_count(); } ///< 0 without a driver

    /// Puts the model of a GGUF file on the device.
    Model load(const char* path, std::error_code& error) noexcept { return load(path, LoadOptions(), error); }
    /// The same; throws.
    Model load(const std::string& path) { return load(path, LoadOptions()); }

    /// The same with options.
    Model load(const char* path, const LoadOptions& options, std::error_code& error) noexcept
    {
        detail::Progress progress = {options.progress, nullptr};
        return load(path, options, progress, error);
    }

    /// The same with options; throws.
    Model load(const std::string& path, const LoadOptions& options)
    {
        detail::whole(path, "the path");
        detail::Progress progress = {options.progress, nullptr};
        std::error_code error;
        Model model = load(path.c_str(), options, progress, error);
        if (progress.thrown) std::rethrow_exception(progress.thrown);
        if (error) throw Error(error.value());
        return model;
    }

    /// Bytes that this process holds on the device through the library.
    std::uint64_t process_vram_usage() const noexcept { return cuda_get_process_vram_usage(get()); }

    /// Whether the device still works.
    bool check_device_health(std::error_code& error) const noexcept
    {
        int code = 0;
        bool healthy = cuda_check_device_health(get(), &code);
        error = make_code(code);
        return healthy;
    }

private:
    Model load(const char* path, const LoadOptions& options, detail::Progress& progress, std::error_code& error) noexcept
    {
        worker_orcd_load_options raw = {};
        int code = 0;
        raw.size = sizeof raw;
        raw.progress = options.progress ? detail::Progress::tell : nullptr;
        raw.user = &progress;
        raw.context = options.context;
        raw.sequences = options.sequences;
        raw.kv_type = static_cast<std::int32_t>(options.kv_type);
        Model model(worker_orcd_load(get(), path, &raw, nullptr, &code));
        error = make_code(code);
        return model;
    }
};

} // namespace worker_orcd

#endif // WORKER_ORCD_HPP
