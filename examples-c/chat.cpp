// chat: a conversation on the terminal.
//
//     chat MODEL [chatml|llama3]
//
// The library takes plain text and knows no conversations; this program shows what a host does about
// that. It keeps the history, writes it in the format the model was trained on, and starts one answer
// a turn. The control tokens of the format are written as text: the library turns them into tokens. Without
// a format, the file's chat template tells which. A conversation that outgrows the context loses its oldest turns.
// Commands: /new forgets the history, /quit ends (as does end of input). Ctrl-C ends the answer under way.

#include <csignal>
#include <iostream>
#include <string>
#include <unistd.h>
#include <vector>

#include "worker_orcd.hpp"

namespace {

volatile std::sig_atomic_t interrupted = 0;

struct Turn {
    std::string role;
    std::string text;
};

// A format is what stands around the parts of a turn.
struct Format {
    std::string name, start, role_end, turn_end;
};

const Format formats[] = {
    {"chatml", "<|im_start|>", "\n", "<|im_end|>\n"},
    {"llama3", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"},
};

const Format* find_format(const std::string& name)
{
    for (const Format& format : formats)
        if (format.name == name) return &format;
    return nullptr;
}

// The format whose words the file's chat template has; ChatML if none.
const Format& format_of(const worker_orcd::Model& model)
{
    const std::string chat_template = model.chat_template();
    for (const Format& format : formats)
        if (chat_template.find(format.start) != std::string::npos) return format;
    return formats[0];
}

// The whole conversation as one prompt, ending where the assistant is to speak.
std::string write_prompt(const Format& format, const std::vector<Turn>& history)
{
    std::string prompt;
    for (const Turn& turn : history) prompt += format.start + turn.role + format.role_end + turn.text + format.turn_end;
    return prompt + format.start + "assistant" + format.role_end;
}

// The same, after the oldest question and answer were forgotten as often as it takes for an answer to have room.
std::string write_fitting_prompt(const worker_orcd::Model& model, const Format& format, std::vector<Turn>& history)
{
    const std::uint64_t context = model.facts().context, room = context / 4;
    std::string prompt = write_prompt(format, history);
    while (history.size() > 3 && model.tokenize(prompt).size() + room > context) {
        history.erase(history.begin() + 1, history.begin() + 3);
        prompt = write_prompt(format, history);
    }
    return prompt;
}

// Streams one answer to the terminal and returns it.
std::string answer(worker_orcd::Model& model, const std::string& prompt, std::uint64_t seed)
{
    worker_orcd::StartOptions options;
    options.max_tokens = 512;
    options.temperature = 0.7f;
    options.top_p = 0.95f;
    options.seed = seed;
    std::string text;
    interrupted = 0;
    worker_orcd::Inference inference = model.start(prompt, options);
    for (const worker_orcd::Piece& piece : inference.pieces()) {
        std::cout << piece.text << std::flush;
        text += piece.text;
        if (interrupted) inference.cancel();
    }
    std::cout << '\n';
    const worker_orcd::Statistics s = inference.statistics();
    if (s.finish == worker_orcd::Finish::length) std::cerr << "(cut at " << s.tokens << " tokens)\n";
    return text;
}

void converse(worker_orcd::Model& model, const Format& format)
{
    const std::vector<Turn> beginning = {{"system", "You are a helpful assistant."}};
    const bool person = isatty(STDIN_FILENO) != 0;
    std::vector<Turn> history = beginning;
    std::string line;
    std::uint64_t turn = 0;
    while (std::cerr << (person ? "> " : ""), std::getline(std::cin, line)) {
        if (line == "/quit") return;
        if (line == "/new") {
            history = beginning;
            continue;
        }
        if (line.empty()) continue;
        history.push_back({"user", line});
        try {
            history.push_back({"assistant", answer(model, write_fitting_prompt(model, format, history), turn++)});
        } catch (const worker_orcd::Error& error) {
            // Most likely the question is longer than the context: say so, and drop it.
            std::cerr << error.what() << " (/new starts over)\n";
            history.pop_back();
        }
    }
}

worker_orcd::Model load(worker_orcd::Context& context, const std::string& path)
{
    worker_orcd::LoadOptions options;
    const bool person = isatty(STDERR_FILENO) != 0;
    if (person) {
        options.progress = [shown = std::uint64_t{101}](std::uint64_t done, std::uint64_t all) mutable {
            const std::uint64_t percent = all > 0 ? 100 * done / all : 100;
            if (percent != shown) std::cerr << '\r' << percent << " % " << std::flush;
            shown = percent;
            return true;
        };
    }
    std::cerr << "loading " << path << " ...\n";
    worker_orcd::Model model = context.load(path, options);
    if (person) std::cerr << '\r';
    return model;
}

} // namespace

int main(int argc, char** argv)
{
    const Format* format = argc > 2 ? find_format(argv[2]) : nullptr;
    if (argc < 2 || (argc > 2 && format == nullptr)) {
        std::cerr << "usage: chat MODEL [chatml|llama3]\n";
        return 64;
    }
    std::signal(SIGINT, [](int) { interrupted = 1; });
    try {
        worker_orcd::Context context(0);
        worker_orcd::Model model = load(context, argv[1]);
        converse(model, format != nullptr ? *format : format_of(model));
    } catch (const worker_orcd::Error& error) {
        std::cerr << error.what() << '\n';
        return error.code();
    }
    return 0;
}
