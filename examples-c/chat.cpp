// chat: a conversation on the terminal.
//
//     chat MODEL [chatml|llama3]
//
// The library takes plain text and knows no conversations; this program shows what a host does about
// that. It keeps the history, writes it in the format the model was trained on, and starts one answer
// a turn. The control tokens of the format are written as text: the library turns them into tokens.
// Commands: /new forgets the history, /quit ends (as does end of input).

#include <iostream>
#include <string>
#include <unistd.h>
#include <vector>

#include "worker_orcd.hpp"

namespace {

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

// The whole conversation as one prompt, ending where the assistant is to speak.
std::string write_prompt(const Format& format, const std::vector<Turn>& history)
{
    std::string prompt;
    for (const Turn& turn : history) prompt += format.start + turn.role + format.role_end + turn.text + format.turn_end;
    return prompt + format.start + "assistant" + format.role_end;
}

// Streams one answer to the terminal and returns it.
std::string answer(worker_orcd::Model& model, const std::string& prompt, std::uint64_t seed)
{
    std::string text;
    worker_orcd::Inference inference = model.start(prompt, 512, 0.7f, seed);
    for (const worker_orcd::Piece& piece : inference.pieces()) {
        std::cout << piece.text << std::flush;
        text += piece.text;
    }
    std::cout << '\n';
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
            history.push_back({"assistant", answer(model, write_prompt(format, history), turn++)});
        } catch (const worker_orcd::Error& error) {
            // Most likely the conversation no longer fits the context: say so, and drop the question.
            std::cerr << error.what() << " (/new starts over)\n";
            history.pop_back();
        }
    }
}

} // namespace

int main(int argc, char** argv)
{
    const Format* format = find_format(argc > 2 ? argv[2] : "chatml");
    if (argc < 2 || format == nullptr) {
        std::cerr << "usage: chat MODEL [chatml|llama3]\n";
        return 64;
    }
    try {
        worker_orcd::Context context(0);
        std::cerr << "loading " << argv[1] << " ...\n";
        worker_orcd::Model model = context.load(argv[1]);
        converse(model, *format);
    } catch (const worker_orcd::Error& error) {
        std::cerr << error.what() << '\n';
        return error.code();
    }
    return 0;
}
