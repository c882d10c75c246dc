// Speeds of the matrix products at the sizes of real models. Calls go through a graph, each started while the one before runs, over
// enough copies of the weights that none is found in the cache.
#include <memory>
#include <string>

#include "bench.hpp"

namespace {

struct Shape {
    const char* model;
    uint32_t type;
    int rows, cols;
    bool pair;
};

const Shape SHAPES[] = {{"8B qkv q4_k", 12, 6144, 4096, false},     {"1B qkv q4_k", 12, 3072, 2048, false},     {"0.5B qkv q5_0", 6, 1152, 896, false},
                        {"20B qkv q8_0", 8, 5120, 2880, false},     {"1B o q4_k", 12, 2048, 2048, false},       {"1B head q6_k", 14, 128256, 2048, false},
                        {"8B o q4_k", 12, 4096, 4096, false},       {"8B gate+up q4_k", 12, 14336, 4096, true}, {"8B down q6_k", 14, 4096, 14336, false},
                        {"8B down q4_k", 12, 4096, 14336, false},   {"8B head q6_k", 14, 128256, 4096, false},  {"8B o q8_0", 8, 4096, 4096, false},
                        {"8B gate+up q8_0", 8, 14336, 4096, true},  {"8B down q8_0", 8, 4096, 14336, false},    {"1B gate+up q4_k", 12, 8192, 2048, true},
                        {"1B down q6_k", 14, 2048, 8192, false},    {"1B gate+up f16", 1, 8192, 2048, true},    {"1B down f16", 1, 2048, 8192, false},
                        {"0.5B o q5_0", 6, 896, 896, false},        {"0.5B gate+up q5_0", 6, 4864, 896, true},  {"0.5B down q6_k", 14, 896, 4864, false},
                        {"0.5B head q8_0", 8, 151936, 896, false},  {"135M gate+up q4_0", 2, 1536, 576, true},  {"20B expert pair mxfp4", 39, 2880, 2880, true},
                        {"20B expert down mxfp4", 39, 2880, 2880, false}};

__global__ void scramble(uint32_t* p, size_t n) {
    for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull) {
        uint32_t x = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 13);
        x ^= x >> 15, x *= 0x85ebca6bu, x ^= x >> 13;
        p[i] = x & 0x37ff37ffu;
    }
}

struct Setup {
    size_t bytes;  // of one call's weights
    int copies;
    std::unique_ptr<Buffer<uint8_t>> weights, x;
    std::unique_ptr<Buffer<float>> y;
    ProductArgs args = {};

    Setup(const Shape& s, int tokens) {
        const uint32_t kind = kind_of(s.type);
        const size_t one = (size_t)tiles_of(s.rows) * tile_bytes(kind, s.cols);
        bytes = one * (s.pair ? 2 : 1);
        copies = (int)std::min<size_t>(64, std::max<size_t>(2, (300u << 20) / bytes));
        weights.reset(new Buffer<uint8_t>(bytes * copies));
        scramble<<<1024, 256>>>((uint32_t*)weights->data, bytes * copies / 4);
        const size_t stride = (tokens + 7) / 8 * 8;
        x.reset(new Buffer<uint8_t>((size_t)records_of(s.cols) * 4 * stride * 128));
        scramble<<<1024, 256>>>((uint32_t*)x->data, x->count / 4);
        y.reset(new Buffer<float>((size_t)tokens * s.rows));
        args.matrix[0] = describe(kind, s.rows, s.cols);
        args.matrix[0].out = y->data, args.matrix[0].out_stride = s.rows;
        args.matrix[1] = args.matrix[0];
        args.x = x->data, args.matrices = s.pair ? 2 : 1, args.cols = s.cols, args.tokens = tokens, args.x_stride = stride;
        args.act = s.pair ? ACT_SILU : ACT_NONE, args.out_scale = args.store_scale = 1;
        CHECK(cudaDeviceSynchronize());
    }

    ProductArgs copy(int i) const {
        ProductArgs a = args;
        a.matrix[0].weights = weights->data + bytes * (i % copies);
        a.matrix[1].weights = a.matrix[0].weights + bytes / 2;
        return a;
    }

    // The same as experts of `s.rows` rows each, for items of `most` rows at the most.
    ProductArgs experts(int i, const Shape& s, const Buffer<ProductItem>& items, int most) const {
        ProductArgs a = copy(i);
        for (int m = 0; m < 2; ++m) {
            const uint8_t* from = a.matrix[m].weights;
            a.matrix[m] = describe(a.matrix[m].kind, s.rows, s.cols);
            a.matrix[m].weights = from, a.matrix[m].expert_bytes = (uint64_t)tiles_of(s.rows) * a.matrix[m].tile_bytes;
            a.matrix[m].out = y->data, a.matrix[m].out_stride = s.rows;
        }
        a.items = items.data, a.tokens = most;
        return a;
    }

    double time(Path path, int stages, int calls, bool dependent) const {
        return time_graph(calls, [&](int i, cudaStream_t stream) { run(plan_for(copy(i), path, 0, stages), dependent, stream); });
    }
};

}  // namespace

void time_decode() {
    std::printf("\nDecode: microseconds a call and GB/s of weights, best of the stages tried (which)\n");
    for (const Shape& s : SHAPES)
        for (int tokens : {1, 16, 32, 64}) {
            const Setup setup(s, tokens);
            const int calls = (int)std::max<size_t>(setup.copies, std::min<size_t>(64, (1u << 30) / setup.bytes));
            std::string line;
            for (Path path : {Path::small, Path::wide, Path::batch, Path::split, Path::split_wide}) {
                if (tokens > 16 && path <= Path::wide) continue;
                if (tokens <= 8 && path >= Path::batch) continue;
                if (s.pair && (path == Path::wide || path == Path::split_wide)) continue;
                double best = 1e30, apart = 0;
                int which = 0;
                for (int stages : {2, 3, 4}) {
                    ProductArgs a = setup.copy(0);
                    const Plan p = plan_for(a, path, 0, 2);
                    if (p.shared / 2 * stages > 205 * 1024) continue;
                    const double us = setup.time(path, stages, calls, true);
                    if (us < best) best = us, which = stages, apart = setup.time(path, stages, calls, false);
                }
                char text[160];
                std::snprintf(text, sizeof text, "  %s %8.2f us %5.0f GB/s (%d; apart %.2f)",
                              path == Path::small ? "small" : path == Path::wide ? "wide " : path == Path::batch ? "batch" : path == Path::split ? "split" : "split wide", best, setup.bytes / best / 1e3, which, apart);
                line += text;
            }
            std::printf("%-22s %3d %s\n", s.model, tokens, line.c_str());
            std::fflush(stdout);
        }
}

namespace {

struct Variant {
    bool wide;
    int cluster, blocks;
};

std::string time_variants(const Shape& s, int tokens, const std::function<double(const Variant&)>& time) {
    std::string line;
    double best = 1e30;
    for (const Variant v : {Variant{false, 8, 2}, {false, 4, 2}, {false, 2, 2}, {false, 1, 2}, {true, 8, 1}, {true, 4, 1}, {true, 2, 1}, {true, 1, 1}, {true, 8, 2}, {true, 1, 2}}) {
        if (s.pair && !v.wide) continue;
        if (tokens > 16 && v.wide && v.blocks == 2) continue;
        const double us = time(v);
        if (us == 0) continue;
        best = std::min(best, us);
        char text[80];
        std::snprintf(text, sizeof text, "  %s%dx%d %.1f", v.wide ? "w" : "", v.cluster, v.blocks, us);
        line += text;
    }
    char text[80];
    std::snprintf(text, sizeof text, "%8.2f us |", best);
    return text + line;
}

// 32 experts with 2 to 14 rows each.
void time_experts(const Shape& s) {
    const int experts = 32, rows = 256;
    Setup setup({s.model, s.type, s.rows * experts, s.cols, s.pair}, rows + 8 * experts);
    std::vector<ProductItem> items;
    int at = 0, all = 0;
    for (int e = 0; e < experts; ++e) {
        const int count = 2 + e * 5 % 13;
        items.push_back({e, at, at, count}), at += (count + 7) / 8 * 8, all += count;
    }
    std::vector<ProductItem> eights;
    for (const auto& i : items)
        for (int from = 0; from < i.count; from += 8) eights.push_back({i.expert, i.x_row + from, i.out_row + from, std::min(8, i.count - from)});
    Buffer<ProductItem> device_items(items), device_eights(eights);
    auto args = [&](int i, const Buffer<ProductItem>& of, int most) { return setup.experts(i, s, of, most); };
    std::printf("%-22s %d rows in %d, %.0f MB  ", s.model, all, experts, setup.bytes / 1e6);
    for (Path path : {Path::small, Path::split}) {
        const auto& of = path == Path::small ? device_eights : device_items;
        std::printf(" %s %.1f", path == Path::small ? "small" : "split", time_graph(4, [&](int i, cudaStream_t stream) {
                        run(plan_for(args(i, of, path == Path::small ? 8 : 64), path, (int)of.count), true, stream);
                    }));
    }
    for (int n : {16, 32, 64})
        std::printf("\n    n %d %s", n, time_variants(s, n, [&](const Variant& v) {
                        const Plan p = plan_many(args(0, device_items, n), v.wide, (int)items.size(), n, v.cluster, v.blocks);
                        if (!p.kernel) return 0.0;
                        return time_graph(4, [&](int i, cudaStream_t stream) {
                            run(plan_many(args(i, device_items, n), v.wide, (int)items.size(), n, v.cluster, v.blocks), true, stream);
                        });
                    }).c_str());
    std::printf("\n");
    std::fflush(stdout);
}

}  // namespace

void time_many() {
    std::printf("\nMany rows: microseconds a call; wide, cluster x blocks a multiprocessor\n");
    for (const Shape& s : SHAPES)
        for (int tokens : {16, 32, 64}) {
            const Setup setup(s, tokens);
            const int calls = (int)std::max<size_t>(setup.copies, std::min<size_t>(64, (1u << 30) / setup.bytes));
            const std::string line = time_variants(s, tokens, [&](const Variant& v) {
                const Plan p = plan_many(setup.copy(0), v.wide, 0, tokens, v.cluster, v.blocks);
                if (!p.kernel) return 0.0;
                return time_graph(calls, [&](int i, cudaStream_t stream) { run(plan_many(setup.copy(i), v.wide, 0, tokens, v.cluster, v.blocks), true, stream); });
            });
            std::printf("%-22s %3d %s\n", s.model, tokens, line.c_str());
            std::fflush(stdout);
        }
    for (const Shape& s : SHAPES)
        if (s.type == 39) time_experts(s);
}

// A launch each of what a step of 64 rows is made of, for a profiler.
void profile_many() {
    for (const Shape& s : SHAPES) {
        if (s.type != 12 && s.rows < 100000) continue;
        const Setup setup(s, 64);
        const bool large = s.rows > 100000;
        for (int i = 0; i < 2; ++i) run(plan_many(setup.copy(i), large, 0, 64, s.pair || large ? 1 : 8, s.pair || large ? 1 : 2));
        CHECK(cudaDeviceSynchronize());
    }
}

void time_prefill() {
    std::printf("\nPrefill: microseconds a call and TFLOP/s\n");
    for (const Shape& s : SHAPES) {
        if (s.rows > 100000) continue;
        std::string line;
        for (int tokens : {64, 128, 512, 2048}) {
            const Setup setup(s, tokens);
            const double flops = 2.0 * s.rows * s.cols * tokens * (s.pair ? 2 : 1);
            for (Path path : {Path::prefill, Path::prefill_wide, Path::batch}) {
                if (path == Path::batch && tokens != 512) continue;
                if (path == Path::prefill_wide && (s.pair || tokens < 512)) continue;
                const double us = setup.time(path, 0, 8, true);
                char text[80];
                std::snprintf(text, sizeof text, "  %s%d: %.1f us %.0f", path == Path::batch ? "mma " : path == Path::prefill_wide ? "wide " : "", tokens, us, flops / us / 1e6);
                line += text;
            }
        }
        std::printf("%-22s %s\n", s.model, line.c_str());
        std::fflush(stdout);
    }
}

namespace {

// 32 experts whose rows are `rows` in all, none with more than `most` in one item.
struct ExpertRows {
    std::vector<ProductItem> items;
    ExpertRows(int rows, int most) {
        const int each = rows / 32;
        for (int e = 0, at = 0; e < 32; ++e) {
            const int count = std::max(1, each / 2 + each * (e * 5 % 13) / 12);
            for (int from = 0; from < count; from += most) items.push_back({e, at + from, at + from, std::min(most, count - from)});
            at += (count + 7) / 8 * 8;
        }
    }
};

void time_prompt_experts(const Shape& s, int rows) {
    Setup setup({s.model, s.type, s.rows * 32, s.cols, s.pair}, rows * 2 + 512);
    std::printf("%-22s %4d rows over 32 experts ", s.model, rows);
    for (int n : {16, 32, 64, 128}) {
        const ExpertRows of(rows, n);
        Buffer<ProductItem> items(of.items);
        auto args = [&](int i) { return setup.experts(i, s, items, n); };
        if (n == 128) {
            std::printf("  | prefill %.1f", time_graph(4, [&](int i, cudaStream_t stream) { run(plan_for(args(i), Path::prefill, (int)items.count), true, stream); }));
            if (!s.pair) std::printf(" wide %.1f", time_graph(4, [&](int i, cudaStream_t stream) { run(plan_for(args(i), Path::prefill_wide, (int)items.count), true, stream); }));
            continue;
        }
        std::printf("  | %d:", n);
        for (int blocks : {1, 2}) {
            if ((s.pair && blocks == 2) || plan_few(args(0), (int)items.count, n, blocks).shared > 227 * 1024) continue;
            std::printf(" %.1f", time_graph(4, [&](int i, cudaStream_t stream) { run(plan_few(args(i), (int)items.count, n, blocks), true, stream); }));
        }
    }
    std::printf("\n");
    std::fflush(stdout);
}

const Shape PROMPT_SHAPES[] = {{"8B qkv q4_k", 12, 6144, 4096, false}, {"1B qkv q4_k", 12, 3072, 2048, false}, {"1B o q4_k", 12, 2048, 2048, false},
                               {"0.5B qkv q5_0", 6, 1152, 896, false}, {"20B qkv q8_0", 8, 5120, 2880, false}, {"20B o q8_0", 8, 2880, 4096, false}};

}  // namespace

// Few rows of a prompt: microseconds a call by rows a block, for one and two blocks a multiprocessor; besides, what serves many rows.
void time_prompt() {
    std::printf("\nA prompt's few rows: microseconds a call\n");
    std::vector<Shape> shapes(std::begin(SHAPES), std::end(SHAPES));
    shapes.insert(shapes.end(), std::begin(PROMPT_SHAPES), std::end(PROMPT_SHAPES));
    for (const Shape& s : shapes) {
        if (s.rows > 100000 || s.type == 39) continue;
        for (int tokens : {64, 128, 256}) {
            const Setup setup(s, tokens);
            std::printf("%-22s %3d  prefill %6.1f", s.model, tokens, setup.time(Path::prefill, 0, 8, true));
            if (!s.pair && tokens > 128) std::printf(" wide %.1f", setup.time(Path::prefill_wide, 0, 8, true));
            for (int n : {16, 32, 64}) {
                if (n > tokens || tokens / n > 8) continue;
                std::printf("  | %d:", n);
                for (int blocks : {1, 2}) {
                    if (s.pair && blocks == 2) continue;
                    const Plan p = plan_few(setup.copy(0), 0, n, blocks);
                    if (p.shared > 227 * 1024) continue;
                    std::printf(" %.1f", time_graph(8, [&](int i, cudaStream_t stream) { run(plan_few(setup.copy(i), 0, n, blocks), true, stream); }));
                }
            }
            std::printf("\n");
            std::fflush(stdout);
        }
    }
    for (const Shape& s : SHAPES)
        if (s.type == 39)
            for (int rows : {256, 512, 1024, 2048}) time_prompt_experts(s, rows);
}
