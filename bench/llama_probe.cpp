// llama.cpp asked through its own C API, for vs_llamacpp.py and the tests: logits, tokens, time to a first token.
// Knows llama.h of the release it is compiled against; knows nothing of ossia.
//
//   llama_probe tokenize MODEL < text                        ids, without special tokens
//   llama_probe logits MODEL OUT THREADS ID...               float32 [ids, vocabulary] into OUT; cache in float32
//   llama_probe first MODEL none|mmap REPACK THREADS ID...   "loaded", then "token N"; waits for the end of stdin

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <iostream>
#include <string>
#include <vector>

#include "llama.h"

[[noreturn]] static void fail(const char * what) {
    fprintf(stderr, "llama_probe: %s\n", what);
    exit(1);
}

static llama_model * load(const char * path, llama_load_mode mode, bool repack, bool vocab_only) {
    llama_model_params params = llama_model_default_params();
    params.load_mode       = mode;
    params.use_extra_bufts = repack;
    params.vocab_only      = vocab_only;
    llama_model * model = llama_model_load_from_file(path, params);
    if (!model) fail("the model cannot be loaded");
    return model;
}

static llama_context * context(llama_model * model, int tokens, int threads, bool exact) {
    llama_context_params params = llama_context_default_params();
    params.n_ctx           = tokens + 64;
    params.n_batch         = tokens;
    params.n_ubatch        = exact ? tokens : 512;
    params.n_threads       = threads;
    params.n_threads_batch = threads;
    params.flash_attn_type = exact ? LLAMA_FLASH_ATTN_TYPE_DISABLED : LLAMA_FLASH_ATTN_TYPE_ENABLED;
    if (exact) params.type_k = params.type_v = GGML_TYPE_F32;
    llama_context * ctx = llama_init_from_model(model, params);
    if (!ctx) fail("no context");
    return ctx;
}

static std::vector<llama_token> numbers(int argc, char ** argv, int from) {
    std::vector<llama_token> ids;
    for (int n = from; n < argc; n++) ids.push_back(atoi(argv[n]));
    if (ids.empty()) fail("no tokens");
    return ids;
}

static void decode(llama_context * ctx, std::vector<llama_token> & ids, bool all) {
    llama_batch batch = llama_batch_init(ids.size(), 0, 1);
    batch.n_tokens = ids.size();
    for (size_t n = 0; n < ids.size(); n++) {
        batch.token[n]     = ids[n];
        batch.pos[n]       = n;
        batch.n_seq_id[n]  = 1;
        batch.seq_id[n][0] = 0;
        batch.logits[n]    = all || n + 1 == ids.size();
    }
    if (llama_decode(ctx, batch)) fail("llama_decode");
    llama_batch_free(batch);
}

int main(int argc, char ** argv) {
    if (argc < 3) fail("usage: see the top of the source");
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
    }, nullptr);
    llama_backend_init();
    std::string task = argv[1];
    if (task == "tokenize") {
        llama_model * model = load(argv[2], LLAMA_LOAD_MODE_MMAP, false, true);
        std::string text((std::istreambuf_iterator<char>(std::cin)), {});
        std::vector<llama_token> ids(text.size() + 8);
        int count = llama_tokenize(llama_model_get_vocab(model), text.data(), text.size(), ids.data(), ids.size(), false, false);
        for (int n = 0; n < count; n++) printf("%d\n", ids[n]);
    } else if (task == "logits" && argc > 5) {
        std::vector<llama_token> ids = numbers(argc, argv, 5);
        llama_model * model = load(argv[2], LLAMA_LOAD_MODE_MMAP, true, false);
        llama_context * ctx = context(model, ids.size(), atoi(argv[4]), true);
        decode(ctx, ids, true);
        size_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
        FILE * out = fopen(argv[3], "wb");
        if (!out) fail("the output cannot be written");
        for (size_t n = 0; n < ids.size(); n++) fwrite(llama_get_logits_ith(ctx, n), sizeof(float), vocabulary, out);
        fclose(out);
    } else if (task == "first" && argc > 6) {
        std::vector<llama_token> ids = numbers(argc, argv, 6);
        llama_load_mode mode = strcmp(argv[3], "none") ? LLAMA_LOAD_MODE_MMAP : LLAMA_LOAD_MODE_NONE;
        llama_model * model = load(argv[2], mode, atoi(argv[4]), false);
        printf("loaded\n");
        fflush(stdout);
        llama_context * ctx = context(model, ids.size(), atoi(argv[5]), false);
        decode(ctx, ids, false);
        size_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model)), best = 0;
        const float * logits = llama_get_logits_ith(ctx, -1);
        for (size_t n = 1; n < vocabulary; n++) if (logits[n] > logits[best]) best = n;
        printf("token %zu\n", best);
        fflush(stdout);
        while (getchar() != EOF) {}
    } else {
        fail("usage: see the top of the source");
    }
    return 0;
}
