// What llama.cpp computes for some tokens: the logits after each of them, as float32 in the order of the tokens.
//
// usage: logits MODEL.gguf OUT TOKEN...
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

int main(int argc, char ** argv) {
    if (argc < 4) {
        std::fprintf(stderr, "usage: logits MODEL.gguf OUT TOKEN...\n");
        return 2;
    }
    std::vector<llama_token> tokens;
    for (int i = 3; i < argc; i++) {
        tokens.push_back(std::atoi(argv[i]));
    }
    llama_log_set(
        [](ggml_log_level level, const char * text, void *) {
            if (level >= GGML_LOG_LEVEL_WARN && level != GGML_LOG_LEVEL_CONT) {
                std::fputs(text, stderr);
            }
        },
        nullptr);
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == nullptr) {
        std::fprintf(stderr, "%s: llama.cpp cannot load it\n", argv[1]);
        return 1;
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = 512;
    params.n_threads = params.n_threads_batch = 1;
    params.type_k = params.type_v = GGML_TYPE_F32;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
    llama_context * context = llama_init_from_model(model, params);
    if (context == nullptr) {
        std::fprintf(stderr, "llama.cpp cannot make a context\n");
        return 1;
    }
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::FILE * out = std::fopen(argv[2], "wb");
    if (out == nullptr) {
        std::perror(argv[2]);
        return 1;
    }
    // One by one, since a batch gives the logits of its last token only.
    for (llama_token token : tokens) {
        if (llama_decode(context, llama_batch_get_one(&token, 1)) != 0) {
            std::fprintf(stderr, "llama_decode failed\n");
            return 1;
        }
        std::fwrite(llama_get_logits_ith(context, -1), sizeof(float), vocabulary, out);
    }
    std::fclose(out);
    llama_free(context);
    llama_model_free(model);
    return 0;
}
