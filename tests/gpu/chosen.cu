// The experts of a decode step at the size of gpt-oss-20b, with made-up weights: the product's kernels in the order in which
// src/device/cuda queues them, in a graph. Checks that all ways make the same bits, and says what each kernel costs: the time less that
// without it.
//
//   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a tests/gpu/chosen.cu kernels/{prepare,experts,ffn,route_*,product_row,product_many_*,product_experts}.cu
//   chosen [check] [parts] [ROWS ..]
#include <memory>
#include <string>

#include "bench.hpp"

struct RouteRow {
    const float *hidden, *norm_weight, *norm_bias, *router, *bias;
    float* logits;
    int* chosen;
    float* weights;
    uint32_t* finished;
    uint32_t norm;
    float eps;
    int cols, experts, used;
};

struct RouteRows {
    const float *hidden, *norm_weight, *norm_bias, *router, *bias;
    float* normed;
    __half* rows;
    float* logits;
    int* chosen;
    float* weights;
    uint32_t norm;
    float eps;
    int cols, experts, used, row_stride;
};

struct Group {
    const int* chosen;
    int* places;
    ProductItem* items;
    uint32_t* item_count;
    const int* slot;
    int n, used, experts, align, most, spare;
};

struct Combine {
    const float *outputs, *weights;
    const int* places;
    float* y;
    int used, width, add;
};

struct Choices {
    const int *chosen, *slot;
    uint32_t count, used, experts, most;
};

struct ExpertsArgs {
    ProductArgs product;
    Choices choices;
    uint32_t x_divide, x_buffers, chosen_before, share;
};

struct RouteCluster {
    const float *hidden, *norm_weight, *norm_bias, *router, *bias;
    __half* rows;
    int* chosen;
    float* weights;
    uint32_t norm;
    float eps;
    int cols, experts, used, row_stride, n, each;
};

extern "C" __global__ void route_row(const __grid_constant__ RouteRow p);
extern "C" __global__ void route_rows(const __grid_constant__ RouteRows p);
extern "C" __global__ void route_cluster(const __grid_constant__ RouteCluster p);
extern "C" __global__ void group_experts(const Group p);
extern "C" __global__ void combine(const Combine p);
extern "C" __global__ void product_experts_8(const __grid_constant__ ExpertsArgs args);
extern "C" __global__ void product_experts_8_pair(const __grid_constant__ ExpertsArgs args);
extern "C" __global__ void product_experts_16(const __grid_constant__ ExpertsArgs args);
extern "C" __global__ void product_experts_16_pair(const __grid_constant__ ExpertsArgs args);

namespace {

constexpr int LAYERS = 4, COLS = 2880, EXPERTS = 32, USED = 4, ROWS = 64, PLACES = ROWS * USED + 8 * EXPERTS + 128, X_STRIDE = 2880;

__device__ uint32_t mixed(size_t i, uint32_t seed) {
    uint32_t x = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 13) ^ seed * 0x9e3779b9u;
    x ^= x >> 15, x *= 0x85ebca6bu, x ^= x >> 13;
    return x;
}

__global__ void scramble(uint32_t* p, size_t n, uint32_t seed) {
    for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull) p[i] = mixed(i, seed);
}

// Numbers between -scale and scale.
__global__ void numbers(float* p, size_t n, float scale, uint32_t seed) {
    for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull) p[i] = ((int)(mixed(i, seed) % 2001) - 1000) * 1e-3f * scale;
}

// Scales of 2^-8 to 2^-5 for MXFP4's records. Grid (records, tiles).
__global__ void mend_scales(uint8_t* p, ProductMatrix m, uint32_t records) {
    const uint32_t r = blockIdx.x, tile = blockIdx.y;
    const uint32_t bytes = r + 1 == records ? m.last_piece_bytes : m.piece_bytes, tiles = m.tiles;
    const size_t at = (size_t)(tile / 8 * 8) * m.tile_bytes + (size_t)r * min(8u, tiles - tile / 8 * 8) * m.piece_bytes + tile % 8 * bytes;
    p[at + threadIdx.x] = 21 + mixed(at + threadIdx.x, 77) % 4;
}

struct Cut {
    int teams, blocks, stages, buffers, share;
};

struct Way {
    bool fused = false;  // product_experts
    int most = 8;
    Cut pair = {2, 2, 3, 1, 1}, down = {2, 2, 3, 1, 1};
    int clusters = 1;  // rows of a cluster of route_cluster; 0: the kernels before
};

size_t shared_bytes(const Cut& cut, int most) {
    return (size_t)cut.buffers * most * (steps_of(COLS) * 128 + 16) + 4 * cut.teams * cut.stages * planes(KIND_MXFP4).record() + 3072 * cut.teams * (most > 8 ? 2 : 1);
}

struct Layer {
    ProductMatrix gate, up, down;
    float *norm, *router, *router_bias;
};

struct Model {
    std::vector<std::unique_ptr<Buffer<uint8_t>>> memory;
    std::vector<Layer> layers;
    float *hidden, *start, *normed, *logits, *weights, *outputs;
    int *chosen, *places, *slot;
    uint32_t* counters;
    ProductItem* items;
    uint8_t *input, *ffn;
    __half *rows, *acts;

    template <class T>
    T* take(size_t count) {
        memory.emplace_back(new Buffer<uint8_t>((count * sizeof(T) + 255) / 256 * 256));
        memory.back()->fill(0);
        return (T*)memory.back()->data;
    }

    float* floats(size_t count, float scale, uint32_t seed) {
        float* p = take<float>(count);
        numbers<<<256, 256>>>(p, count, scale, seed);
        return p;
    }

    ProductMatrix experts(uint32_t seed) {
        ProductMatrix m = describe(KIND_MXFP4, COLS, COLS);
        m.expert_bytes = (unsigned long long)m.tiles * m.tile_bytes;
        uint8_t* p = take<uint8_t>(m.expert_bytes * EXPERTS);
        scramble<<<1024, 256>>>((uint32_t*)p, m.expert_bytes * EXPERTS / 4, seed);
        for (int e = 0; e < EXPERTS; ++e) mend_scales<<<dim3(records_of(COLS), m.tiles), 128>>>(p + e * m.expert_bytes, m, records_of(COLS));
        m.weights = p, m.bias = floats((size_t)EXPERTS * COLS, 0.1f, seed + 1);
        return m;
    }

    Model() {
        for (int i = 0; i < LAYERS; ++i)
            layers.push_back({experts(10 * i + 1), experts(10 * i + 3), experts(10 * i + 5), floats(COLS, 1.0f, 10 * i + 7), floats(EXPERTS * COLS, 0.05f, 10 * i + 8), floats(EXPERTS, 0.1f, 10 * i + 9)});
        hidden = take<float>(ROWS * COLS), start = floats(ROWS * COLS, 2.0f, 999), normed = take<float>(ROWS * COLS), logits = take<float>(ROWS * EXPERTS);
        weights = take<float>(ROWS * USED), outputs = take<float>((size_t)PLACES * COLS);
        chosen = take<int>(ROWS * USED), places = take<int>(ROWS * USED), slot = take<int>(ROWS), counters = take<uint32_t>(64);
        items = take<ProductItem>(EXPERTS + ROWS * USED);
        input = take<uint8_t>((size_t)records_of(COLS) * PLACES * 512), ffn = take<uint8_t>((size_t)records_of(COLS) * PLACES * 512);
        rows = take<__half>(ROWS * X_STRIDE), acts = take<__half>(ROWS * USED * X_STRIDE);
        CHECK(cudaDeviceSynchronize());
    }

    void reset() { CHECK(cudaMemcpy(hidden, start, ROWS * COLS * 4, cudaMemcpyDeviceToDevice)); }

    ProductArgs arguments(const Layer& l, bool pair) const {
        ProductArgs a = {};
        a.matrices = pair ? 2 : 1, a.cols = COLS, a.act = pair ? ACT_CLAMPED : ACT_NONE, a.alpha = 1.702f, a.limit = 7.0f, a.out_scale = a.store_scale = 1;
        a.matrix[0] = pair ? l.gate : l.down, a.matrix[1] = l.up;
        return a;
    }

    void fused(const Layer& l, int n, const Way& w, bool pair, cudaStream_t stream) {
        const Cut& cut = pair ? w.pair : w.down;
        ExpertsArgs e = {};
        e.product = arguments(l, pair);
        ProductArgs& p = e.product;
        p.tokens = w.most, p.x = (const uint8_t*)(pair ? rows : acts), p.x_stride = X_STRIDE, p.store = pair ? 4 : STORE_F32;
        p.matrix[0].out = pair ? (void*)acts : outputs, p.matrix[0].out_stride = pair ? X_STRIDE : COLS;
        p.slot_bytes = p.matrix[0].piece_bytes, p.stages = cut.stages;
        e.choices = {chosen, n > 1 ? slot : nullptr, (uint32_t)n * USED, USED, EXPERTS, (uint32_t)w.most};
        e.x_divide = pair ? USED : 1, e.x_buffers = cut.buffers, e.share = cut.share, e.chosen_before = !pair;
        auto kernel = w.most <= 8 ? (pair ? product_experts_8_pair : product_experts_8) : (pair ? product_experts_16_pair : product_experts_16);
        launch(kernel, dim3(multiprocessors() * cut.blocks), 32 * (4 * cut.teams + 2), shared_bytes(cut, w.most), e, true, stream);
    }

    // As src/device/cuda/row.rs has it.
    void row(const Layer& l, bool pair, cudaStream_t stream) {
        RowArgs r = {};
        ProductArgs& a = r.product = arguments(l, pair);
        a.tokens = 1, a.x_stride = 8, a.x = ffn, a.store = pair ? STORE_RECORDS : STORE_F32, a.matrix[0].out = pair ? (void*)ffn : outputs, a.matrix[0].out_stride = pair ? 8 : COLS;
        a.units = a.matrix[0].tiles, a.slot_bytes = a.matrix[0].piece_bytes, a.stages = 2;
        r.quiet = (20 << 10) / a.slot_bytes;
        if (pair) r.hidden = hidden, r.norm_weight = l.norm, r.norm = 1, r.eps = 1e-5f;
        r.chosen = chosen, r.x_per_expert = !pair;
        launch(pair ? product_row_pair : product_row, dim3((2 * multiprocessors() + USED - 1) / USED, USED), 320, steps_of(COLS) * 128 + a.stages * 8 * a.slot_bytes, r, true, stream);
    }

    void many(const Layer& l, int n, bool pair, cudaStream_t stream) {
        ProductArgs a = arguments(l, pair);
        a.tokens = std::min(n, 16), a.x_stride = PLACES, a.x = pair ? input : ffn, a.store = pair ? STORE_PANELS : STORE_F32;
        a.matrix[0].out = pair ? (void*)ffn : outputs, a.matrix[0].out_stride = pair ? PLACES : COLS, a.matrix[1].out = a.matrix[0].out, a.matrix[1].out_stride = a.matrix[0].out_stride;
        a.items = items, a.item_count = counters + 1;
        run(plan_many(a, pair, std::min(n * USED, EXPERTS + n * USED / 16), 16, 1, 2), true, stream);
    }

    void queue(int n, const Way& w, const std::string& without, cudaStream_t stream) {
        for (const Layer& l : layers) {
            if (without != "route" && w.fused && w.clusters)
                launch(route_cluster, dim3(EXPERTS / 4, (n + w.clusters - 1) / w.clusters), 256, 5 * COLS * 4,
                       RouteCluster{hidden, l.norm, nullptr, l.router, l.router_bias, rows, chosen, weights, 1, 1e-5f, COLS, EXPERTS, USED, X_STRIDE, n, w.clusters}, true, stream, EXPERTS / 4);
            else if (without != "route" && n == 1 && !w.fused)
                launch(route_row, dim3(EXPERTS / 4), 128, 5 * COLS * 4, RouteRow{hidden, l.norm, nullptr, l.router, l.router_bias, logits, chosen, weights, counters, 1, 1e-5f, COLS, EXPERTS, USED}, true, stream);
            else if (without != "route")
                launch(route_rows, dim3(n), 512, COLS * 4, RouteRows{hidden, l.norm, nullptr, l.router, l.router_bias, normed, w.fused ? rows : nullptr, logits, chosen, weights, 1, 1e-5f, COLS, EXPERTS, USED, X_STRIDE}, true, stream);
            if (n > 1 && !w.fused) {
                if (without != "group") launch(group_experts, dim3(1), 1024, 0, Group{chosen, places, items, counters + 1, slot, n, USED, EXPERTS, 8, std::min(n, 16), n * USED + 8 * EXPERTS}, true, stream);
                if (without != "prepare") launch(prepare, dim3(n), 512, 0, PrepareArgs{normed, nullptr, nullptr, input, places, COLS, COLS, PLACES, USED, 0, 3, 0, 1}, true, stream);
            }
            for (bool pair : {true, false}) {
                if (without == (pair ? "pair" : "down")) continue;
                if (w.fused)
                    fused(l, n, w, pair, stream);
                else if (n == 1)
                    row(l, pair, stream);
                else
                    many(l, n, pair, stream);
            }
            if (without != "combine") launch(combine, dim3((COLS + 255) / 256, n), 256, 0, Combine{outputs, weights, n > 1 && !w.fused ? places : nullptr, hidden, USED, COLS, 1}, true, stream);
        }
    }

    double time(int n, const Way& w, const std::string& without = "") {
        reset();
        // What a kernel that is left out would have written is there.
        queue(n, w, "", 0);
        return time_graph(1, [&](int, cudaStream_t stream) { queue(n, w, without, stream); }) / LAYERS;
    }

    std::vector<float> result(int n, const Way& w) {
        reset();
        for (int i = 0; i < 2; ++i) queue(n, w, "", 0);
        CHECK(cudaDeviceSynchronize());
        std::vector<float> all((size_t)n * COLS);
        CHECK(cudaMemcpy(all.data(), hidden, all.size() * 4, cudaMemcpyDeviceToHost));
        return all;
    }

    int used_experts(int n) {
        std::vector<int> c(n * USED);
        CHECK(cudaDeviceSynchronize());
        CHECK(cudaMemcpy(c.data(), chosen, c.size() * 4, cudaMemcpyDeviceToHost));
        std::sort(c.begin(), c.end());
        return std::unique(c.begin(), c.end()) - c.begin();
    }
};

std::string name(const Way& w) {
    if (!w.fused) return "row or many";
    char text[120];
    std::snprintf(text, sizeof text, "experts %2d: pair %dx%d, %d stages, %d of x, %d share; down %dx%d, %d, %d, %d; %d a cluster", w.most, w.pair.teams, w.pair.blocks, w.pair.stages, w.pair.buffers, w.pair.share, w.down.teams, w.down.blocks, w.down.stages, w.down.buffers, w.down.share, w.clusters);
    return text;
}

int failures = 0;

void check(Model& model, int n, const Way& w, const std::vector<float>& want) {
    const auto got = model.result(n, w);
    size_t unlike = 0, nan = 0;
    for (size_t i = 0; i < (size_t)n * COLS; ++i) unlike += std::memcmp(&got[i], &want[i], 4) != 0, nan += !std::isfinite(got[i]);
    if (unlike || nan) ++failures, std::printf("FAIL %d rows, %s: %zu unlike, %zu not finite\n", n, name(w).c_str(), unlike, nan);
}

}  // namespace

int main(int argc, char** argv) {
    bool parts = false, time = true;
    std::vector<int> counts;
    for (int i = 1; i < argc; ++i) {
        if (!std::strcmp(argv[i], "parts")) parts = true;
        else if (!std::strcmp(argv[i], "check")) time = false;
        else counts.push_back(std::atoi(argv[i]));
    }
    if (counts.empty()) counts = {1, 2, 8, 16, 32, 64};
    cudaFuncAttributes attributes;
    CHECK(cudaFuncGetAttributes(&attributes, product_many_16));
    if (attributes.sharedSizeBytes == 0) return std::printf("skipped: the code for this card has none of these kernels\n"), 0;
    Model model;
    for (int n : counts) {
        std::vector<Way> ways = {{false}};
        const int few = std::min(n, 8), each = n > 32 ? 2 : 1;
        for (int most : {few, 16}) {
            if (most == 16 && n <= 8) continue;
            for (int teams : {2, 3, 4})
                for (int share : {1, 2, 4})
                    for (int buffers : {1, 2})
                        for (int stages : {3, 4, 6}) {
                            const Cut cut = {teams, teams == 2 ? 2 : 1, stages, buffers, share};
                            const size_t bytes = (shared_bytes(cut, most) + 8 * 1024) * cut.blocks;
                            if (teams % share || bytes > 227 * 1024 || (n > 4 && (bytes < 150 * 1024 || stages > 4)) || (n < 8 && share > 1)) continue;
                            ways.push_back({true, most, cut, cut, each});
                        }
        }
        const auto want = model.result(n, ways[0]);
        std::printf("%d rows, %d experts in the last layer\n", n, model.used_experts(n));
        for (const Way& w : ways) {
            check(model, n, w, want);
            if (!time) continue;
            const double us = model.time(n, w);
            std::printf("  %-90s %7.2f us", name(w).c_str(), us);
            if (parts)
                for (const char* part : {"route", "group", "prepare", "pair", "down", "combine"})
                    if (!w.fused || (std::strcmp(part, "group") && std::strcmp(part, "prepare"))) std::printf("  %s %.2f", part, us - model.time(n, w, part));
            std::printf("\n");
            std::fflush(stdout);
        }
    }
    std::printf("%d failures\n", failures);
    return failures != 0;
}
