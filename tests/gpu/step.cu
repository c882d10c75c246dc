// A decode step of one to 64 sequences at the sizes of real models, with made-up weights: the product's kernels in the order in which
// src/device/cuda queues them, in a graph. Checks that all ways to make products give the same bits, and with `parts` says what each
// kind of kernel costs: the step's time less that of the step without it. With `cuts` it tries other cuts of each product of few rows.
//
//   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a tests/gpu/step.cu \
//       kernels/{prepare,product_small,product_row,product_row_kinds,product_rows,product_panels,product_many_*,attend_decode,sample}.cu
//   step [parts] [cuts] [rows=N] [model ..]
#include <functional>
#include <memory>
#include <string>

#include "../../kernels/attend.cuh"
#include "rows.hpp"

struct DrawSpec {
    int slot, output;
    float temperature;
    uint32_t seed_low, seed_high, position;
};

struct Sample {
    const float* logits;
    const DrawSpec* draws;
    const uint32_t* never;
    uint64_t* best;
    uint32_t *finished, *drawn, *outputs;
    int n_vocab, parts;
};

extern "C" __global__ void attend_decode_d64(const Attend p);
extern "C" __global__ void attend_decode_d128(const Attend p);
extern "C" __global__ void attend_decode_d64_few(const Attend p);
extern "C" __global__ void attend_decode_d64_splits(const Attend p);
extern "C" __global__ void attend_decode_d128_few(const Attend p);
extern "C" __global__ void sample(const Sample p);

namespace {

constexpr uint32_t Q4_0 = 2, Q5_0 = 6, Q8_0 = 8, Q4_K = 12, Q6_K = 14, F16 = 1;

struct Shape {
    const char* name;
    int layers, embd, ffn, heads, kv_heads, dim, vocab;
    uint32_t type, more, head;  // more: the type of v and down in half of the layers
};

const Shape SHAPES[] = {
    {"smollm2", 30, 576, 1536, 9, 3, 64, 49152, Q4_0, Q4_0, Q4_0},      {"0.5b", 24, 896, 4864, 14, 2, 64, 151936, Q5_0, Q8_0, Q8_0},
    {"1b", 16, 2048, 8192, 32, 8, 64, 128256, Q4_K, Q6_K, Q6_K},        {"1b-f16", 16, 2048, 8192, 32, 8, 64, 128256, F16, F16, F16},
    {"8b", 32, 4096, 14336, 32, 8, 128, 128256, Q4_K, Q6_K, Q6_K},      {"8b-q8", 32, 4096, 14336, 32, 8, 128, 128256, Q8_0, Q8_0, Q8_0},
    {"7b", 28, 3584, 18944, 28, 4, 128, 152064, Q4_K, Q6_K, Q6_K},
};

__global__ void scramble(uint32_t* p, size_t n) {
    for (size_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += gridDim.x * 256ull) {
        uint32_t x = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 13);
        x ^= x >> 15, x *= 0x85ebca6bu, x ^= x >> 13;
        p[i] = x & 0x27ff27ffu;
    }
}

enum Part { QKV, O, PAIR, DOWN, HEAD };

// A block's ring as src/device/cuda/row.rs sizes it.
int ring_kb(int cols, bool f16) { return cols > 8192 ? 72 : cols > 4096 ? 48 : cols >= 3072 || f16 ? 72 : 20; }

// As src/device/cuda/many.rs cuts a product of `n` rows.
Plan many_of(const ProductArgs& a, int n) {
    const bool pair = a.act >= ACT_SILU && a.act <= ACT_CLAMPED;
    int tiles = 0, mp = multiprocessors();
    for (uint32_t i = 0; i < (pair ? 1 : a.matrices); ++i) tiles += a.matrix[i].tiles;
    const int narrow = (tiles + 7) / 8;
    std::vector<std::pair<bool, int>> cuts;
    const auto split = [&](bool wide, int most, std::vector<int> clusters) {
        const int units = (tiles + (wide && !pair ? 15 : 7)) / (wide && !pair ? 16 : 8);
        for (int c : clusters)
            if (units * c <= most) cuts.push_back({wide, c});
    };
    const auto whole = [&](bool wide_first) {
        if (pair || wide_first) cuts.push_back({true, 1});
        if (!pair) cuts.push_back({false, 1});
        if (!pair && !wide_first) cuts.push_back({true, 1});
    };
    if (narrow > 3 * mp)
        whole(pair || n > 16);
    else if (pair)
        split(true, mp, {8, 4, 2}), whole(true);
    else {
        if (n > 16 && 2 * narrow >= mp * 7 / 16)
            split(true, mp, {4, 2}), split(false, mp * 5 / 2, {8});
        else
            split(false, n == 16 ? mp * 3 / 2 : 2 * mp, {8, 4, 2});
        split(true, 2 * mp, {8}), whole(true);
    }
    for (const auto& c : cuts) {
        const Plan p = plan_many(a, c.first, 0, n, c.second, c.first ? 1 : 2);
        if (p.kernel) return p;
    }
    return plan_many(a, true, 0, n, 1, 1);
}

struct Way {
    bool row = false;            // product_row in place of prepare and product_small
    bool panels = false;  // product_panels where rows can be kept
    // product_rows for these parts.
    struct Rows {
        bool on = false;
        int kb = 190, resident_kb = 128, teams = 4;
    } rows[5];
};

struct Step {
    const Shape& s;
    int position, n;
    std::vector<std::unique_ptr<Buffer<uint8_t>>> memory;
    struct Linear {
        ProductMatrix m;
        int cols;
    };
    struct Layer {
        Linear q, k, v, o, gate, up, down;
        const float *norm[2];
    };
    std::vector<Layer> layers;
    Linear head;
    const float* head_norm;
    float *hidden, *q, *k, *v, *logits, *partial;
    uint8_t *input, *ffn, *kv;
    uint32_t *tables, *counters, *outputs, *never;
    int table_stride;
    int* row;
    float* frequencies;
    DrawSpec* draw;
    size_t weight_bytes = 0;

    template <class T>
    T* take(size_t count, bool random = false) {
        memory.emplace_back(new Buffer<uint8_t>((count * sizeof(T) + 255) / 256 * 256));
        Buffer<uint8_t>& b = *memory.back();
        if (random)
            scramble<<<1024, 256>>>((uint32_t*)b.data, b.count / 4);
        else
            b.fill(0);
        return (T*)b.data;
    }

    Linear linear(uint32_t type, int rows, int cols) {
        if (type == Q4_K && cols % 256) type = Q5_0;
        if (type == Q6_K && cols % 256) type = Q8_0;
        Linear l = {describe(kind_of(type), rows, cols), cols};
        const size_t bytes = (size_t)l.m.tiles * l.m.tile_bytes;
        l.m.weights = take<uint8_t>(bytes, true);
        weight_bytes += bytes;
        return l;
    }

    const float* norm_weight() {
        std::vector<float> w(s.embd);
        for (int i = 0; i < s.embd; ++i) w[i] = (i * 7919 % 13 - 6) * 1e-3f;
        float* p = take<float>(s.embd);
        CHECK(cudaMemcpy(p, w.data(), w.size() * 4, cudaMemcpyHostToDevice));
        return p;
    }

    Step(const Shape& shape, int position, int n) : s(shape), position(position), n(n) {
        const int qw = s.heads * s.dim, kw = s.kv_heads * s.dim;
        for (int i = 0; i < s.layers; ++i) {
            const bool more = i < s.layers / 8 || i >= 7 * s.layers / 8 || (i - s.layers / 8) % 3 == 2;
            const uint32_t t = s.type, m = more ? s.more : s.type;
            layers.push_back({linear(t, qw, s.embd), linear(t, kw, s.embd), linear(m, kw, s.embd), linear(t, s.embd, qw), linear(t, s.ffn, s.embd),
                              linear(t, s.ffn, s.embd), linear(m, s.embd, s.ffn), {norm_weight(), norm_weight()}});
        }
        head = linear(s.head, s.vocab, s.embd), head_norm = norm_weight();
        hidden = take<float>(n * s.embd), q = take<float>(n * qw), k = take<float>(n * kw), v = take<float>(n * kw), logits = take<float>((size_t)n * s.vocab);
        partial = take<float>((size_t)n * s.heads * 32 * (s.dim + 4));
        const int stride = (n + 7) / 8 * 8;
        input = take<uint8_t>((size_t)records_of(std::max(s.embd, qw)) * stride * 512 + 16384), ffn = take<uint8_t>((size_t)records_of(s.ffn) * stride * 512 + 16384);
        const int pages = position / PAGE_TOKENS + 1;
        kv = take<uint8_t>((size_t)n * pages * page_bytes(), true);
        table_stride = pages + 1;
        std::vector<uint32_t> table(n * table_stride);
        for (int r = 0; r < n; ++r) {
            table[r * table_stride] = pages;
            for (int i = 0; i < pages; ++i) table[r * table_stride + i + 1] = r * pages + i;
        }
        tables = take<uint32_t>(table.size());
        CHECK(cudaMemcpy(tables, table.data(), table.size() * 4, cudaMemcpyHostToDevice));
        counters = take<uint32_t>(1024 * n), never = take<uint32_t>(s.vocab / 32 + 1), outputs = take<uint32_t>(192 + 2 * 64 * n), row = take<int>(128);
        std::vector<int> r(128, position);
        for (int i = 0; i < 64; ++i) r[i] = i;
        CHECK(cudaMemcpy(row, r.data(), 512, cudaMemcpyHostToDevice));
        std::vector<float> f(s.dim / 2);
        for (int i = 0; i < s.dim / 2; ++i) f[i] = std::pow(1e4f, -2.0f * i / s.dim);
        frequencies = take<float>(f.size());
        CHECK(cudaMemcpy(frequencies, f.data(), f.size() * 4, cudaMemcpyHostToDevice));
        draw = take<DrawSpec>(n);
        std::vector<DrawSpec> draws(n);
        for (int i = 0; i < n; ++i) draws[i] = {i, i, 0.0f, 0, 0, 0};
        CHECK(cudaMemcpy(draw, draws.data(), n * sizeof(DrawSpec), cudaMemcpyHostToDevice));
        CHECK(cudaDeviceSynchronize());
    }

    size_t page_bytes() const { return (size_t)s.layers * 2 * s.kv_heads * PAGE_TOKENS * s.dim * 2; }

    void reset() {
        std::vector<float> h(n * s.embd);
        for (int i = 0; i < n * s.embd; ++i) h[i] = ((i * 104729 + 11) % 1009 - 504) * 0.003f;
        CHECK(cudaMemcpy(hidden, h.data(), h.size() * 4, cudaMemcpyHostToDevice));
    }

    struct Input {
        const uint8_t* records;  // or null: the residual, normed
        const float* norm;
    };

    void product(const Way& way, std::vector<Linear*> linears, std::vector<void*> outs, Input in, uint32_t store, Part part, cudaStream_t stream) {
        const bool pair = part == PAIR;
        ProductArgs a = {};
        a.matrices = linears.size(), a.cols = linears[0]->cols, a.tokens = n, a.x_stride = (n + 7) / 8 * 8, a.act = pair ? ACT_SILU : ACT_NONE, a.store = store;
        a.out_scale = a.store_scale = 1, a.x = in.records ? in.records : input;
        for (size_t i = 0; i < linears.size(); ++i) a.matrix[i] = linears[i]->m, a.matrix[i].out = outs[i], a.matrix[i].out_stride = store == STORE_RECORDS ? a.x_stride : linears[i]->m.rows;
        if (n > 8) {
            if (!in.records)
                launch(prepare, dim3(n), 512, 0, PrepareArgs{hidden, in.norm, nullptr, input, nullptr, a.cols, a.cols, a.x_stride, 1, 1, 3, 1e-5f, 1}, true, stream);
            if (store == STORE_RECORDS) a.store = STORE_PANELS;
            if (way.panels && run_panels(a, 218 << 10, 4, 2, true, stream)) return;
            return run(many_of(a, n), true, stream);
        }
        if (!way.row) {
            const Way::Rows& w = way.rows[part];
            if (!in.records) launch(prepare, dim3(n), 512, 0, PrepareArgs{hidden, in.norm, nullptr, input, nullptr, a.cols, a.cols, 8, 1, 1, 2, 1e-5f, 1}, true, stream);
            if (w.on) {
                RowsArgs r = {};
                r.product = a;
                if (run_rows(r, w.kb << 10, w.resident_kb << 10, w.teams, true, stream)) return;
            }
            Plan p = plan_for(a, n > 1 && !pair && a.matrix[0].tiles >= 4096 ? Path::wide : Path::small, 0);
            return run(p, true, stream);
        }
        RowArgs r = {};
        r.product = a;
        if (!in.records) r.hidden = hidden, r.norm_weight = in.norm, r.norm = 1, r.eps = 1e-5f;
        run_row(r, ring_kb(a.cols, linears[0]->m.kind == KIND_F16) << 10, 2, true, stream);
    }

    void attend(int layer, cudaStream_t stream) {
        Attend p = {};
        p.q = q, p.k = k, p.v = v, p.slot = row, p.position = row + 64, p.partial = partial, p.finished = counters;
        p.mixed.packed = (__half*)input, p.mixed.stride = (n + 7) / 8 * 8, p.mixed.panels = n > 8;
        p.kv = {kv, page_bytes(), tables, table_stride, 0, 1, layer, s.kv_heads, s.dim, 0};
        p.rope = {frequencies, 1.0f, s.dim / 2, 0};
        p.scale = 0.1f, p.q_heads = s.heads, p.q_stride = s.heads * s.dim, p.kv_stride = s.kv_heads * s.dim;
        int splits = 1;
        while (splits * 256 < position + 1 && splits < 32) splits *= 2;
        p.splits = splits;
        // As src/device/cuda/attend.rs chooses.
        const bool few = splits * s.kv_heads * n <= multiprocessors();
        const size_t round = (size_t)2 * 128 * 2 * s.dim;
        void (*const kernel)(Attend) = s.dim == 128 ? few ? attend_decode_d128_few : attend_decode_d128
                                       : few        ? splits > 1 ? attend_decode_d64_splits : attend_decode_d64_few
                                                    : attend_decode_d64;
        launch(kernel, dim3(splits, s.kv_heads, n), 256, few ? 2 * round : round, p, true, stream, few && splits > 1 && splits <= 8 ? splits : 0);
    }

    // `without` names one kind of kernel to leave out.
    void queue(const Way& w, const std::string& without, cudaStream_t stream) {
        for (int i = 0; i < s.layers; ++i) {
            Layer& l = layers[i];
            if (without != "qkv") product(w, {&l.q, &l.k, &l.v}, {q, k, v}, {nullptr, l.norm[0]}, STORE_F32, QKV, stream);
            if (without != "attend") attend(i, stream);
            if (without != "o") product(w, {&l.o}, {hidden}, {input, nullptr}, STORE_ADD, O, stream);
            if (without != "pair") product(w, {&l.gate, &l.up}, {ffn, ffn}, {nullptr, l.norm[1]}, STORE_RECORDS, PAIR, stream);
            if (without != "down") product(w, {&l.down}, {hidden}, {ffn, nullptr}, STORE_ADD, DOWN, stream);
        }
        if (without != "head") product(w, {&head}, {logits}, {nullptr, head_norm}, STORE_F32, HEAD, stream);
        if (without != "sample") {
            uint32_t* o = outputs;
            launch(sample, dim3(64, n), 256, 0, Sample{logits, draw, never, (uint64_t*)(o + 192), o, o + 64, o + 128, s.vocab, 64}, true, stream);
        }
    }

    double time(const Way& w, const std::string& without = "") {
        reset();
        return time_graph(1, [&](int, cudaStream_t stream) { queue(w, without, stream); });
    }

    std::vector<float> result(const Way& w) {
        reset();
        CHECK(cudaMemset(logits, 0xff, (size_t)n * s.vocab * 4));
        CHECK(cudaDeviceSynchronize());
        cudaStream_t stream;
        CHECK(cudaStreamCreate(&stream));
        // Each goes on from what the one before left.
        for (int i = 0; i < 3; ++i) queue(w, "", stream);
        CHECK(cudaStreamSynchronize(stream));
        CHECK(cudaStreamDestroy(stream));
        return read();
    }

    std::vector<float> read() const {
        const size_t vocab = (size_t)n * s.vocab, embd = (size_t)n * s.embd;
        std::vector<float> all(vocab + embd);
        CHECK(cudaMemcpy(all.data(), logits, vocab * 4, cudaMemcpyDeviceToHost));
        CHECK(cudaMemcpy(all.data() + vocab, hidden, embd * 4, cudaMemcpyDeviceToHost));
        return all;
    }
};

void parts(Step& step, const Way& w) {
    const double full = step.time(w);
    std::printf("   parts:");
    for (const char* part : {"qkv", "attend", "o", "pair", "down"}) std::printf(" %s %.2f", part, (full - step.time(w, part)) / step.s.layers);
    for (const char* part : {"head", "sample"}) std::printf(" %s %.2f", part, full - step.time(w, part));
    std::printf("\n");
}

void report(const char* name, Step& step, const Way& w, const std::vector<float>& want, bool with_parts) {
    const double us = step.time(w);
    std::printf("  %-34s %8.1f us %6.0f tok/s, %.2f us a layer over bytes at 3 TB/s", name, us, step.n * 1e6 / us, (us - step.weight_bytes / 3e6) / step.s.layers);
    const auto got = step.result(w);
    size_t unlike = 0, nan = 0;
    for (size_t i = 0; i < got.size(); ++i) unlike += std::memcmp(&got[i], &want[i], 4) != 0, nan += !std::isfinite(got[i]);
    std::printf(unlike || nan ? "  UNLIKE %zu of %zu, not finite %zu" : "  same bits", unlike, got.size(), nan);
    std::printf("\n");
    if (with_parts) parts(step, w);
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
    std::vector<std::string> names;
    bool with_parts = false, cuts = false;
    std::vector<int> positions = {100, 4096};
    int n = 1;
    for (int i = 1; i < argc; ++i) {
        const std::string a = argv[i];
        if (a == "parts")
            with_parts = true;
        else if (a == "cuts")
            cuts = true;
        else if (a.rfind("rows=", 0) == 0)
            n = std::atoi(a.c_str() + 5), positions = {100, 224};
        else
            names.push_back(a);
    }
    for (const Shape& s : SHAPES) {
        if (!names.empty() && std::find(names.begin(), names.end(), s.name) == names.end()) continue;
        for (int position : positions) {
            Step step(s, position, n);
            std::printf("%s at %d, %d rows: %.0f MB\n", s.name, position, n, step.weight_bytes / 1e6);
            Way before;
            const auto want = step.result(before);
            report(n > 8 ? "product_many" : "prepare + product_small", step, before, want, with_parts);
            if (n > 8) {
                Way panels;
                panels.panels = true;
                report("product_panels", step, panels, want, with_parts);
                continue;
            }
            if (n == 1) {
                Way row;
                row.row = true;
                report("row", step, row, want, with_parts);
                continue;
            }
            Way all;
            for (auto& r : all.rows) r.on = true;
            all.rows[PAIR].kb = 140;
            report("rows", step, all, want, with_parts);
            if (position != 100 || !cuts) continue;
            const char* kinds[5] = {"qkv", "o", "pair", "down", "head"};
            const auto with = [&](int part, const char* what, const std::function<void(Way::Rows&)>& change) {
                Way w = all;
                change(w.rows[part]);
                report((std::string("  ") + kinds[part] + " " + what).c_str(), step, w, want, false);
            };
            for (int part = 0; part < 5; ++part) {
                with(part, "small", [](Way::Rows& r) { r.on = false; });
                with(part, "1 team", [](Way::Rows& r) { r.teams = 1; });
                for (int kb : {100, 120, 140, 160, 200})
                    with(part, (std::to_string(kb) + " KB").c_str(), [=](Way::Rows& r) { r.kb = kb; });
                if (part != PAIR) with(part, "x in rings", [](Way::Rows& r) { r.resident_kb = 0; });
            }
        }
    }
    return 0;
}
