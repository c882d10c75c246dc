// A prompt's attention on a card: against doubles on the host, the same bits however a prompt is cut, and speeds at the sizes of
// real models. Exit code 1 if anything is wrong.
//
//   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a tests/gpu/attend.cu kernels/attend_prefill.cu
//   attend [check] [time]
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>

#include "../../kernels/attend.cuh"
#include "bench.hpp"

extern "C" __global__ void attend_prefill_d64(const Attend p);
extern "C" __global__ void attend_prefill_d128(const Attend p);
extern "C" __global__ void attend_prefill_d64_hopper(const Attend p);
extern "C" __global__ void attend_prefill_d128_hopper(const Attend p);

static int failures = 0;

// One prompt of a layer: queries of its last rows, and the keys and values of all.
struct Prompt {
    int heads, kv_heads, dim, tokens, window;
    std::vector<float> q, sinks;
    std::vector<__half> kv;  // [pages][k, v][kv heads][32][dim]
    std::vector<uint32_t> table;
    std::unique_ptr<Buffer<float>> device_q, device_sinks, out;
    std::unique_ptr<Buffer<__half>> device_kv;
    std::unique_ptr<Buffer<uint32_t>> device_table;

    Prompt(int heads, int kv_heads, int dim, int tokens, int window, bool with_sinks) : heads(heads), kv_heads(kv_heads), dim(dim), tokens(tokens), window(window) {
        std::mt19937 rng(heads * 7 + dim + tokens);
        std::normal_distribution<float> normal;
        const int pages = (tokens + 31) / 32;
        q.resize((size_t)tokens * heads * dim), kv.resize((size_t)pages * 2 * kv_heads * 32 * dim);
        for (auto& v : q) v = normal(rng) * 2;
        for (auto& v : kv) v = __float2half(normal(rng));
        table = {(uint32_t)pages};
        for (int i = 0; i < pages; ++i) table.push_back(pages - 1 - i);
        device_q.reset(new Buffer<float>(q)), device_kv.reset(new Buffer<__half>(kv)), device_table.reset(new Buffer<uint32_t>(table));
        out.reset(new Buffer<float>(q.size()));
        if (with_sinks) {
            for (int h = 0; h < heads; ++h) sinks.push_back(normal(rng));
            device_sinks.reset(new Buffer<float>(sinks));
        }
    }

    // Rows of `from` .. tokens in the order of the prompt.
    Attend arguments(int from) const {
        Attend p = {};
        p.q = device_q->data + (size_t)from * heads * dim, p.mixed.plain = out->data + (size_t)from * heads * dim;
        p.sinks = sinks.empty() ? nullptr : device_sinks->data;
        p.kv.base = (uint8_t*)device_kv->data, p.kv.page_bytes = (size_t)2 * kv_heads * 32 * dim * 2, p.kv.tables = device_table->data;
        p.kv.table_offset = 1, p.kv.heads = kv_heads, p.kv.dim = dim;
        p.scale = 1 / std::sqrt((float)dim), p.window = window, p.q_heads = heads, p.q_stride = heads * dim;
        return p;
    }

    float key(int which, int head, int t, int d) const { return __half2float(kv[((((size_t)table[1 + t / 32] * 2 + which) * kv_heads + head) * 32 + t % 32) * dim + d]); }

    std::vector<double> row(int t, int head) const {
        const int first = window && t >= window ? t - window + 1 : 0, kv_head = head / (heads / kv_heads);
        std::vector<double> s, o(dim, 0.0);
        double top = sinks.empty() ? -1e300 : sinks[head], all = 0;
        for (int k = first; k <= t; ++k) {
            double dot = 0;
            for (int d = 0; d < dim; ++d) dot += (double)q[((size_t)t * heads + head) * dim + d] * key(0, kv_head, k, d);
            s.push_back(dot / std::sqrt((double)dim)), top = std::max(top, s.back());
        }
        if (!sinks.empty()) all = std::exp(sinks[head] - top);
        for (size_t i = 0; i < s.size(); ++i) {
            const double w = std::exp(s[i] - top);
            all += w;
            for (int d = 0; d < dim; ++d) o[d] += w * key(1, kv_head, first + (int)i, d);
        }
        for (auto& v : o) v /= all;
        return o;
    }
};

struct Way {
    const char* name;
    void (*kernel)(Attend);
    size_t shared;
};

// The kernels for this card: those for Hopper are empty elsewhere.
static std::vector<Way> ways(int dim) {
    cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    const bool hopper = properties.major == 9;
    if (dim <= 64 && !hopper) return {{"mma", attend_prefill_d64, 8 * 64 * 72}};
    if (!hopper) return {{"mma", attend_prefill_d128, 8 * 64 * 136}};
    if (dim <= 64) return {{"mma", attend_prefill_d64, 8 * 64 * 72}, {"hopper", attend_prefill_d64_hopper, 1024 + 768 * 64}};
    return {{"mma", attend_prefill_d128, 8 * 64 * 136}, {"hopper", attend_prefill_d128_hopper, 1024 + 768 * 128}};
}

static Buffer<int4>* tiles_of_rows(int from, int to) {
    std::vector<int4> tiles;
    for (int at = from; at < to; at += 64) tiles.push_back(make_int4(at - from, std::min(64, to - at), 0, at));
    return new Buffer<int4>(tiles);
}

static void attend_rows(const Prompt& prompt, const Way& way, int from, int to, const Buffer<int4>& tiles, cudaStream_t stream, bool dependent) {
    Attend p = prompt.arguments(from);
    p.tiles = tiles.data;
    launch(way.kernel, dim3((to - from + 63) / 64, prompt.heads), 128, way.shared, p, dependent, stream);
}

static void check(const Prompt& prompt) {
    std::vector<float> hopper;
    for (const Way& way : ways(prompt.dim)) {
        for (int cut : {prompt.tokens, 100, 64, 17}) {
            prompt.out->fill(0xff);
            for (int from = 0; from < prompt.tokens; from += cut) {
                const int to = std::min(prompt.tokens, from + cut);
                std::unique_ptr<Buffer<int4>> tiles(tiles_of_rows(from, to));
                attend_rows(prompt, way, from, to, *tiles, 0, false);
                CHECK(cudaDeviceSynchronize());
            }
            const auto got = prompt.out->get();
            double error = 0, norm = 0;
            for (int t : {0, 1, 31, 63, 64, 100, prompt.tokens - 1})
                for (int head = 0; head < prompt.heads; ++head) {
                    const auto want = prompt.row(t, head);
                    for (int d = 0; d < prompt.dim; ++d) {
                        const double e = got[((size_t)t * prompt.heads + head) * prompt.dim + d] - want[d];
                        error += e * e, norm += want[d] * want[d];
                    }
                }
            error = std::isfinite(error) ? std::sqrt(error / norm) : 1e9;
            if (cut == prompt.tokens) std::printf("%d heads over %d of %d, %d tokens, window %d, %s: error %.2e\n", prompt.heads, prompt.kv_heads, prompt.dim, prompt.tokens, prompt.window, way.name, error);
            if (error > 1e-3) ++failures, std::printf("FAIL error %g\n", error);
            if (!std::strcmp(way.name, "mma")) continue;
            if (hopper.empty()) hopper = got;
            size_t differ = 0;
            for (size_t i = 0; i < got.size(); ++i) differ += std::memcmp(&got[i], &hopper[i], 4) != 0;
            if (differ) ++failures, std::printf("FAIL %zu elements unlike, cut %d\n", differ, cut);
        }
    }
}

static void time_attention() {
    std::printf("microseconds a call, by rows at the end of so many tokens\n");
    const struct { const char* model; int heads, kv_heads, dim, window; } shapes[] = {{"0.5b", 14, 2, 64, 0}, {"1b", 32, 8, 64, 0}, {"8b", 32, 8, 128, 0}, {"20b", 64, 8, 64, 0}, {"20b window", 64, 8, 64, 128}};
    for (const auto& s : shapes)
        for (int tokens : {256, 2048, 4096}) {
            const Prompt prompt(s.heads, s.kv_heads, s.dim, tokens, s.window, false);
            for (int rows : {64, 128, 256, 1024}) {
                if (rows > tokens) continue;
                std::unique_ptr<Buffer<int4>> tiles(tiles_of_rows(tokens - rows, tokens));
                std::printf("%-10s %4d at the end of %4d ", s.model, rows, tokens);
                for (const Way& way : ways(s.dim)) {
                    const double us = time_graph(8, [&](int, cudaStream_t stream) { attend_rows(prompt, way, tokens - rows, tokens, *tiles, stream, true); });
                    std::printf("  %s %.1f", way.name, us);
                    if (rows == 1024 && !s.window) std::printf(" (%.0f TFLOP/s)", 4e-6 * s.heads * s.dim * rows * (tokens - rows / 2.0) / us);
                }
                std::printf("\n");
                std::fflush(stdout);
            }
        }
}

int main(int argc, char** argv) {
    auto wanted = [&](const char* what) {
        for (int i = 1; i < argc; ++i)
            if (!std::strcmp(argv[i], what)) return true;
        return argc < 2;
    };
    if (wanted("check")) {
        check(Prompt(4, 2, 64, 333, 0, false)), check(Prompt(14, 2, 64, 200, 0, false)), check(Prompt(8, 1, 64, 300, 128, true));
        check(Prompt(4, 1, 128, 333, 0, false)), check(Prompt(2, 2, 80, 150, 0, true)), check(Prompt(3, 1, 32, 140, 20, false));
        std::printf("%d failures\n", failures);
    }
    if (wanted("time")) time_attention();
    return failures != 0;
}
