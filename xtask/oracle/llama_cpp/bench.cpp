// Measures llama.cpp as `llm-tool bench` measures this project, and prints the same line of JSON.
//
// usage: bench MODEL.gguf PROMPT_TOKENS GENERATED_TOKENS THREADS
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llama.h"

using Clock = std::chrono::steady_clock;

static double since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Feeds tokens; returns the most likely next one.
static llama_token step(llama_context * context, llama_token * tokens, int count, int vocabulary) {
    if (llama_decode(context, llama_batch_get_one(tokens, count)) != 0) {
        std::fprintf(stderr, "llama_decode failed\n");
        std::exit(1);
    }
    const float * logits = llama_get_logits_ith(context, -1);
    return llama_token(std::max_element(logits, logits + vocabulary) - logits);
}

int main(int argc, char ** argv) {
    if (argc != 5) {
        std::fprintf(stderr, "usage: bench MODEL.gguf PROMPT_TOKENS GENERATED_TOKENS THREADS\n");
        return 2;
    }
    const int prompt_tokens = std::atoi(argv[2]), generated = std::atoi(argv[3]), threads = std::atoi(argv[4]);

    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    const auto start = Clock::now();
    llama_backend_init();
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == nullptr) {
        std::fprintf(stderr, "%s: llama.cpp cannot load it\n", argv[1]);
        return 1;
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = prompt_tokens + generated + 1;
    params.n_batch = params.n_ubatch = std::max(prompt_tokens, 512);
    params.n_threads = params.n_threads_batch = threads;
    llama_context * context = llama_init_from_model(model, params);
    if (context == nullptr) {
        std::fprintf(stderr, "llama.cpp cannot make a context\n");
        return 1;
    }
    const double load = since(start);

    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::vector<llama_token> prompt(prompt_tokens);
    for (int i = 0; i < prompt_tokens; i++) {
        prompt[i] = (100 + i * 7919) % vocabulary;
    }

    // The first pass after loading is what a person waits for; the second is measured for speed.
    const auto asked = Clock::now();
    step(context, prompt.data(), prompt_tokens, vocabulary);
    const double first = since(asked);
    llama_memory_clear(llama_get_memory(context), true);

    const auto prefill = Clock::now();
    llama_token token = step(context, prompt.data(), prompt_tokens, vocabulary);
    const double prefill_time = since(prefill);
    const auto decode = Clock::now();
    for (int i = 0; i < generated; i++) {
        token = step(context, &token, 1, vocabulary);
    }
    const double decode_time = since(decode);

    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
    const long long peak = usage.ru_maxrss;
#else
    const long long peak = usage.ru_maxrss * 1024LL;
#endif
    std::printf("{\"prefill_tok_s\": %.2f, \"decode_tok_s\": %.2f, \"peak_bytes\": %lld, \"ttft_s\": %.4f, \"load_s\": %.4f}\n",
                prompt_tokens / prefill_time, generated / decode_time, peak, first, load);
    llama_free(context);
    llama_model_free(model);
    return 0;
}
