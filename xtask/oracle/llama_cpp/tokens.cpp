// How llama.cpp splits texts: the tokens of each in a line, as numbers with blanks between.
//
// usage: tokens MODEL.gguf < TEXTS, where every text ends with a zero byte
#include <cstdio>
#include <string>
#include <vector>

#include "llama.h"

int main(int argc, char ** argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: tokens MODEL.gguf < TEXTS\n");
        return 2;
    }
    llama_log_set(
        [](ggml_log_level level, const char * text, void *) {
            if (level >= GGML_LOG_LEVEL_WARN && level != GGML_LOG_LEVEL_CONT) {
                std::fputs(text, stderr);
            }
        },
        nullptr);
    llama_backend_init();
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_model * model = llama_model_load_from_file(argv[1], params);
    if (model == nullptr) {
        std::fprintf(stderr, "%s: llama.cpp cannot load it\n", argv[1]);
        return 1;
    }
    const llama_vocab * vocabulary = llama_model_get_vocab(model);
    std::string text;
    for (int c; (c = std::getchar()) != EOF;) {
        if (c != 0) {
            text.push_back(char(c));
            continue;
        }
        std::vector<llama_token> tokens(text.size() + 16);
        const int count = llama_tokenize(vocabulary, text.data(), int(text.size()), tokens.data(),
                                         int(tokens.size()), /* add_special */ true, /* parse_special */ true);
        if (count < 0) {
            std::fprintf(stderr, "llama_tokenize failed\n");
            return 1;
        }
        for (int i = 0; i < count; i++) {
            std::printf(i == 0 ? "%d" : " %d", tokens[i]);
        }
        std::printf("\n");
        text.clear();
    }
    llama_model_free(model);
    return 0;
}
