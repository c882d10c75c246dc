// The check of the matrix products on a card: every type on odd shapes against doubles on the host, the same bits for any number
// of rows, and speeds at the sizes of real models. One table; exit code 1 if anything is wrong.
//
//   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a tests/gpu/products.cu tests/gpu/timings.cu kernels/{repack,prepare,product_*}.cu
//   products [check] [tiny [TYPE..] [fused]] [time] [many] [prompt] [profile] [prefill]
#include <memory>
#include <string>

#include "rows.hpp"

void time_decode();
void time_many();
void profile_many();
void time_prefill();
void time_prompt();

static int failures = 0;

static void expect(bool ok, const char* what, const std::string& where, double figure) {
    if (!ok) ++failures, std::printf("FAIL %s %s: %g\n", where.c_str(), what, figure);
}

static Buffer<uint8_t>* prepared(const Buffer<float>& x, int tokens, int cols, int stride, uint32_t format) {
    const size_t bytes = format == 2 ? (size_t)records_of(cols) * stride * 512 : (size_t)steps_of(cols) * stride * 128 + 128 * 128;
    auto* out = new Buffer<uint8_t>(bytes);
    out->fill(0xff);
    launch(prepare, dim3(tokens), 512, 0, PrepareArgs{x.data, nullptr, nullptr, out->data, nullptr, (uint32_t)cols, (uint32_t)cols, (uint32_t)stride, 1, 0, format, 0, 1});
    return out;
}

struct Case {
    uint32_t type;
    int rows, cols;
    std::string name() const { return std::string(type_of(type).name) + " " + std::to_string(rows) + "x" + std::to_string(cols); }
};

struct Matrix {
    std::vector<double> weights;
    Buffer<uint8_t> records;
    ProductMatrix m;
    Matrix(const Case& c, uint32_t seed, int experts = 1)
        : records((size_t)experts * tiles_of(c.rows / experts) * tile_bytes(kind_of(c.type), c.cols)),
          m(describe(kind_of(c.type), c.rows, c.cols)) {
        const Type& t = type_of(c.type);
        const auto raw = random_blocks(t, (size_t)c.rows * c.cols / t.cols, seed);
        weights = dequantise_all(t, raw);
        Buffer<uint8_t> source(raw);
        records.fill(0xff);
        for (int e = 0; e < experts; ++e)
            repack_to(source.data + raw.size() / experts * e, records.data + records.count / experts * e, c.type, c.rows / experts, c.cols);
        CHECK(cudaDeviceSynchronize());
        m.weights = records.data;
    }
    std::vector<double> times(const std::vector<float>& x, int tokens, int cols) const {
        const int rows = m.rows;
        std::vector<double> y((size_t)tokens * rows);
        for (int t = 0; t < tokens; ++t)
            for (int r = 0; r < rows; ++r) {
                double sum = 0;
                for (int k = 0; k < cols; ++k) sum += weights[(size_t)r * cols + k] * x[(size_t)t * cols + k];
                y[(size_t)t * rows + r] = sum;
            }
        return y;
    }
};

static ProductArgs arguments(int cols, int tokens, const uint8_t* x, int stride) {
    ProductArgs a = {};
    a.x = x, a.matrices = 1, a.cols = cols, a.tokens = tokens, a.x_stride = stride, a.out_scale = 1, a.store_scale = 1;
    return a;
}

// Whether the code for this card has the kernel: without, it is there but does nothing, and declares no shared memory.
static bool has_code(void (*kernel)(ProductArgs)) {
    cudaFuncAttributes attributes;
    CHECK(cudaFuncGetAttributes(&attributes, kernel));
    return attributes.sharedSizeBytes > 0;
}

static bool has_prefill() { return has_code(product_prefill); }
static bool has_clusters() { return has_code(product_split); }

// All paths and counts of rows of one matrix.
static void check_rows(const Case& c) {
    const int most = 200;
    Matrix matrix(c, c.rows * 7 + c.cols);
    const auto x = random_x(most, c.cols, 5);
    const auto want = matrix.times(x, most, c.cols);
    Buffer<float> xs(x), y((size_t)most * c.rows);
    std::vector<uint32_t> first;
    double worst = 0;
    const struct { int tokens; Path path; } runs[] = {{64, Path::batch}, {1, Path::small}, {2, Path::wide}, {5, Path::small}, {7, Path::wide}, {8, Path::wide},
                                                       {8, Path::batch}, {9, Path::batch}, {33, Path::batch}, {130, Path::batch},
                                                       {13, Path::small}, {20, Path::wide}, {1, Path::split}, {16, Path::split}, {33, Path::split_wide}, {64, Path::split}, {130, Path::split_wide}};
    for (const auto& r : runs) {
        if (r.path >= Path::split && !has_clusters()) continue;
        std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, r.tokens, c.cols, r.tokens + 3, 2));
        y.fill(0xff);
        ProductArgs a = arguments(c.cols, r.tokens, px->data, r.tokens + 3);
        a.matrix[0] = matrix.m, a.matrix[0].out = y.data, a.matrix[0].out_stride = c.rows;
        run(plan_for(a, r.path, 0));
        auto got = y.get();
        got.resize((size_t)r.tokens * c.rows);
        const double error = relative(got, std::vector<double>(want.begin(), want.begin() + got.size()));
        worst = std::max(worst, error);
        expect(error < 1e-3, ("error of " + std::to_string(r.tokens) + " rows").c_str(), c.name(), error);
        const auto b = bits(got);
        if (first.empty()) first = b;
        const size_t same = std::min(first.size(), b.size());
        size_t differ = 0;
        for (size_t i = 0; i < same; ++i) differ += first[i] != b[i];
        expect(differ == 0, ("elements unlike those of 64 rows, " + std::to_string(r.tokens) + " rows").c_str(), c.name(), (double)differ);
    }
    const auto expect_same = [&](int tokens, const std::string& what) {
        const auto b = bits(y.get());
        size_t differ = 0;
        for (int i = 0; i < tokens * c.rows; ++i) differ += first[i] != b[i];
        expect(differ == 0, ("elements unlike those of 64 rows, " + what + " " + std::to_string(tokens)).c_str(), c.name(), (double)differ);
    };
    const auto over = [&](int tokens, const uint8_t* x, int stride) {
        y.fill(0xff);
        ProductArgs a = arguments(c.cols, tokens, x, stride);
        a.matrix[0] = matrix.m, a.matrix[0].out = y.data, a.matrix[0].out_stride = c.rows;
        return a;
    };
    for (int way = 0; way < 6; ++way) {
        if (!has_clusters()) break;  // product_row is empty there too
        std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, 1, c.cols, 8, 2));
        RowArgs r = {};
        r.product = over(1, px->data, 8);
        if (way % 2) r.hidden = xs.data;
        run_row(r, 64 << 10, 1, false, 0, way < 4, way < 2 ? 3 : 1 << 30);
        expect_same(1, "one row in way " + std::to_string(way) + ",");
    }
    const struct { int tokens, teams; bool resident; } rows[] = {{1, 1, false}, {2, 2, true}, {5, 4, false}, {8, 2, false}, {7, 1, true}, {8, 4, true}};
    for (const auto& r : rows) {
        if (!has_clusters()) break;
        std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, r.tokens, c.cols, r.tokens + 1, 2));
        RowsArgs a = {};
        a.product = over(r.tokens, px->data, r.tokens + 1);
        expect(run_rows(a, 180 << 10, r.resident ? 128 << 10 : 0, r.teams, false, 0, r.tokens == 1 ? 132 : 3), "no room", c.name(), r.tokens);
        expect_same(r.tokens, "rows");
    }
    const struct { int tokens, teams, blocks; } panels[] = {{9, 1, 132}, {16, 4, 3}, {32, 2, 5}, {21, 4, 3}, {64, 1, 3}, {47, 2, 132}};
    for (const auto& r : panels) {
        const int stride = (r.tokens + 7) / 8 * 8;
        std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, r.tokens, c.cols, stride, 3));
        if (!has_clusters() || !run_panels(over(r.tokens, px->data, stride), 218 << 10, r.teams, 1, false, 0, r.blocks)) continue;
        expect_same(r.tokens, "panels");
    }
    double prefill = 0;
    // Another instruction, the same bits.
    const struct { int tokens, n, cluster; bool wide; } many[] = {{64, 64, 1, true}, {64, 64, 8, false}, {9, 16, 1, true}, {16, 16, 8, true}, {33, 64, 4, false},
                                                                  {24, 32, 8, false}, {32, 32, 1, true}, {130, 64, 2, false}, {1, 16, 1, false}, {70, 16, 4, true}};
    for (const auto& r : many) {
        if (!has_prefill()) break;
        const int stride = (r.tokens + 7) / 8 * 8;
        std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, r.tokens, c.cols, stride, 3));
        ProductArgs a = over(r.tokens, px->data, stride);
        const Plan plan = plan_many(a, r.wide, 0, r.n, r.cluster, 1);
        expect(plan.kernel || r.cluster == 2, "no room", c.name(), r.n);
        if (!plan.kernel) continue;
        run(plan);
        auto got = y.get();
        got.resize((size_t)r.tokens * c.rows);
        const double error = relative(got, std::vector<double>(want.begin(), want.begin() + got.size()));
        worst = std::max(worst, error);
        const std::string what = std::to_string(r.tokens) + " rows, many " + std::to_string(r.n) + " " + std::to_string(r.cluster);
        expect(error < 1e-3, ("error of " + what).c_str(), c.name(), error);
        const auto b = bits(got);
        size_t differ = 0;
        for (size_t i = 0; i < std::min(first.size(), b.size()); ++i) differ += first[i] != b[i];
        expect(differ == 0, ("elements unlike those of 64 rows, " + what).c_str(), c.name(), (double)differ);
    }
    if (has_prefill()) {
        std::vector<uint32_t> all;
        for (int tokens : {200, 1, 128, 150}) {
            std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, tokens, c.cols, (tokens + 7) / 8 * 8, 3));
            ProductArgs a = over(tokens, px->data, (tokens + 7) / 8 * 8);
            run(plan_for(a, tokens == 150 ? Path::prefill_wide : Path::prefill, 0));
            auto got = y.get();
            got.resize((size_t)tokens * c.rows);
            const double error = relative(got, std::vector<double>(want.begin(), want.begin() + got.size()));
            prefill = std::max(prefill, error);
            expect(error < 1e-3, ("prefill error of " + std::to_string(tokens) + " rows").c_str(), c.name(), error);
            const auto b = bits(got);
            if (all.empty()) all = b;
            size_t differ = 0;
            for (size_t i = 0; i < b.size(); ++i) differ += all[i] != b[i];
            expect(differ == 0, ("prefill elements unlike those of 200 rows, " + std::to_string(tokens)).c_str(), c.name(), (double)differ);
        }
        const struct { int tokens, n; } few[] = {{200, 64}, {1, 16}, {64, 64}, {13, 16}, {16, 16}, {33, 32}, {150, 32}, {128, 16}, {97, 32}, {97, 64}};
        for (const auto& r : few) {
            const int stride = (r.tokens + 7) / 8 * 8;
            std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, r.tokens, c.cols, stride, 3));
            ProductArgs a = over(r.tokens, px->data, stride);
            run(plan_few(a, 0, r.n, 1));
            const auto got = y.get();
            size_t differ = 0;
            for (size_t i = 0; i < (size_t)r.tokens * c.rows; ++i) differ += std::memcmp(&got[i], &all[i], 4) != 0;
            expect(differ == 0, ("prefill elements unlike those of 200 rows, few " + std::to_string(r.n)).c_str(), c.name(), (double)differ);
        }
    }
    std::printf("%-18s error %.2e  prefill %.2e\n", c.name().c_str(), worst, prefill);
}

// Three matrices of three types in one launch, with bias and added to what is there; a pair with its activation, as f32 and f16.
static void check_fusions() {
    const int cols = 768, tokens = 70;
    const Case cases[3] = {{12, 100, cols}, {8, 33, cols}, {14, 48, cols}};
    const auto x = random_x(tokens, cols, 9);
    Buffer<float> xs(x);
    for (int count : {1, 3, 64, 70}) {
        const Path path = count == 1 ? Path::small : count <= 8 ? Path::wide : Path::batch;
        std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, count, cols, count, 2));
        ProductArgs a = arguments(cols, count, px->data, count);
        a.matrices = 3, a.store = STORE_ADD;
        std::vector<std::unique_ptr<Matrix>> m;
        std::vector<std::unique_ptr<Buffer<float>>> out, bias;
        for (int i = 0; i < 3; ++i) {
            m.emplace_back(new Matrix(cases[i], i + 1));
            out.emplace_back(new Buffer<float>(std::vector<float>((size_t)count * cases[i].rows, 1.0f)));
            bias.emplace_back(new Buffer<float>(std::vector<float>(cases[i].rows, 0.5f)));
            a.matrix[i] = m[i]->m, a.matrix[i].out = out[i]->data, a.matrix[i].out_stride = cases[i].rows, a.matrix[i].bias = bias[i]->data;
        }
        run(plan_for(a, count == 70 && has_clusters() ? Path::split : path, 0));
        for (int i = 0; i < 3; ++i) {
            auto want = m[i]->times(x, count, cols);
            for (auto& v : want) v += 1.5;
            const double error = relative(out[i]->get(), want);
            expect(error < 1e-3, "three matrices", cases[i].name(), error);
        }
    }
    const Case one = {12, 200, cols};
    Matrix gate(one, 3), up(one, 4);
    for (uint32_t act : {ACT_SILU, ACT_GELU, ACT_CLAMPED})
        for (int count : {1, 8, 13, 33, 70})
            for (int prefill = 0; prefill < (has_prefill() ? 2 : 1); ++prefill) {
                const int stride = (count + 7) / 8 * 8;
                std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, count, cols, stride, prefill ? 3 : 2));
                Buffer<float> y((size_t)count * one.rows);
                Buffer<__half> h((size_t)256 * (stride + 128));
                h.fill(0xff);
                ProductArgs a = arguments(cols, count, px->data, stride);
                a.matrices = 2, a.act = act, a.alpha = 1.702f, a.limit = 7.0f, a.store_scale = 0.0625f;
                a.matrix[0] = gate.m, a.matrix[1] = up.m, a.matrix[0].out = y.data, a.matrix[0].out_stride = one.rows;
                const Path path = prefill ? Path::prefill : count <= 16 ? Path::small : count == 33 && has_clusters() ? Path::split : Path::batch;
                run(plan_for(a, path, 0));
                const auto got = y.get();
                a.store = prefill ? STORE_PANELS : STORE_RECORDS, a.matrix[0].out = h.data, a.matrix[0].out_stride = stride;
                run(plan_for(a, path, 0));
                const auto halves = h.get();
                const auto g = gate.times(x, count, cols), u = up.times(x, count, cols);
                std::vector<double> want(g.size());
                size_t unlike = 0;
                for (size_t i = 0; i < g.size(); ++i) {
                    const double gc = act == ACT_CLAMPED ? std::min(g[i], 7.0) : g[i], uc = std::max(-7.0, std::min(7.0, u[i]));
                    want[i] = act == ACT_SILU   ? g[i] / (1 + std::exp(-g[i])) * u[i]
                              : act == ACT_GELU ? 0.5 * g[i] * (1 + std::tanh(0.7978845608 * (g[i] + 0.044715 * g[i] * g[i] * g[i]))) * u[i]
                                                : gc / (1 + std::exp(-1.702 * gc)) * (uc + 1);
                    const int token = i / one.rows, row = i % one.rows;
                    const size_t at = prefill ? x_panel_at(token, row, stride) : x_record_at(token, row, stride);
                    unlike += __half2float(halves[at]) != __half2float(__float2half_rn(got[i] * 0.0625f));
                }
                for (int token = 0; token < count; ++token)
                    for (int row = one.rows; row < 256; ++row)
                        unlike += __half2float(halves[prefill ? x_panel_at(token, row, stride) : x_record_at(token, row, stride)]) != 0;
                const std::string where = "pair " + std::to_string(act) + ", rows " + std::to_string(count) + (prefill ? " prefill" : "");
                expect(relative(got, want) < 1.5e-3, "error", where, relative(got, want));
                expect(unlike == 0, "f16 elements unlike f32", where, (double)unlike);
            }
    if (has_prefill())
        for (int n : {16, 32, 64})
            for (int cluster : {1, 4, 8}) {
                const int count = n - 3;
                std::unique_ptr<Buffer<uint8_t>> records(prepared(xs, count, cols, count, 2)), panels(prepared(xs, count, cols, (count + 7) / 8 * 8, 3));
                Buffer<float> y((size_t)count * one.rows);
                ProductArgs a = arguments(cols, count, records->data, count);
                a.matrices = 2, a.act = ACT_SILU;
                a.matrix[0] = gate.m, a.matrix[1] = up.m, a.matrix[0].out = y.data, a.matrix[0].out_stride = one.rows;
                run(plan_for(a, Path::batch, 0));
                const auto want = y.get();
                y.fill(0xff);
                a.x = panels->data, a.x_stride = (count + 7) / 8 * 8;
                const Plan plan = plan_many(a, false, 0, n, cluster, 1);
                expect(plan.kernel, "no room", "pair", n);
                run(plan);
                const auto got = y.get();
                expect(bits(got) == bits(want), "pair unlike batch", "many " + std::to_string(n) + " " + std::to_string(cluster), relative(got, std::vector<double>(want.begin(), want.end())));
            }
    if (has_prefill())
        for (int n : {16, 32, 64})
            for (int count : {1, 70}) {
                std::unique_ptr<Buffer<uint8_t>> panels(prepared(xs, count, cols, 72, 3));
                Buffer<float> y((size_t)count * one.rows);
                ProductArgs a = arguments(cols, count, panels->data, 72);
                a.matrices = 2, a.act = ACT_SILU;
                a.matrix[0] = gate.m, a.matrix[1] = up.m, a.matrix[0].out = y.data, a.matrix[0].out_stride = one.rows;
                run(plan_for(a, Path::prefill, 0));
                const auto want = y.get();
                y.fill(0xff);
                run(plan_few(a, 0, n, 1));
                const auto got = y.get();
                expect(bits(got) == bits(want), "pair unlike prefill", "few " + std::to_string(n), relative(got, std::vector<double>(want.begin(), want.end())));
            }
    std::printf("fusions checked\n");
}

// Experts: a stack of four, rows gathered by expert, against the dense product of each.
static void check_experts() {
    const Case stack = {39, 4 * 96, 2880};
    const int rows = 96, tokens = 40;
    Matrix m(stack, 21, 4);
    const auto x = random_x(tokens, stack.cols, 22);
    Buffer<float> xs(x);
    const auto all = m.times(x, tokens, stack.cols);
    const std::vector<ProductItem> items = {{2, 0, 0, 7}, {0, 8, 8, 1}, {3, 9, 9, 5}, {1, 16, 16, 8}};
    const std::vector<uint32_t> count = {3};
    Buffer<ProductItem> device_items(items);
    Buffer<uint32_t> device_count(count);
    for (int path = 0; path < (has_clusters() ? 5 : 3); ++path) {
        std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, tokens, stack.cols, tokens, 2));
        Buffer<float> y((size_t)tokens * rows);
        y.fill(0);
        ProductArgs a = arguments(stack.cols, 8, px->data, tokens);
        a.matrix[0] = describe(KIND_MXFP4, rows, stack.cols);
        a.matrix[0].weights = m.records.data, a.matrix[0].expert_bytes = (uint64_t)tiles_of(rows) * a.matrix[0].tile_bytes;
        a.matrix[0].out = y.data, a.matrix[0].out_stride = rows;
        a.items = device_items.data, a.item_count = device_count.data;
        run(plan_for(a, (Path)path, (int)items.size()));
        const auto got = y.get();
        std::vector<double> want(got.size());
        for (int i = 0; i < 3; ++i)
            for (int t = items[i].x_row; t < items[i].x_row + items[i].count; ++t)
                for (int r = 0; r < rows; ++r) want[(size_t)t * rows + r] = all[(size_t)t * stack.rows + items[i].expert * rows + r];
        expect(relative(got, want) < 1e-3, "experts", "path " + std::to_string(path), relative(got, want));
    }
    if (has_prefill()) {  // items start at multiples of 8
        const std::vector<ProductItem> wide = {{2, 0, 0, 7}, {0, 8, 8, 1}, {3, 16, 16, 24}};
        Buffer<ProductItem> device_wide(wide);
        std::unique_ptr<Buffer<uint8_t>> px(prepared(xs, tokens, stack.cols, tokens, 3));
        Buffer<float> y((size_t)tokens * rows);
        y.fill(0);
        ProductArgs a = arguments(stack.cols, 128, px->data, tokens);
        a.matrix[0] = describe(KIND_MXFP4, rows, stack.cols);
        a.matrix[0].weights = m.records.data, a.matrix[0].expert_bytes = (uint64_t)tiles_of(rows) * a.matrix[0].tile_bytes;
        a.matrix[0].out = y.data, a.matrix[0].out_stride = rows, a.items = device_wide.data;
        run(plan_for(a, Path::prefill, 3));
        const auto got = y.get();
        std::vector<double> want(got.size());
        for (const auto& i : wide)
            for (int t = i.x_row; t < i.x_row + i.count; ++t)
                for (int r = 0; r < rows; ++r) want[(size_t)t * rows + r] = all[(size_t)t * stack.rows + i.expert * rows + r];
        expect(relative(got, want) < 1e-3, "experts", "prefill", relative(got, want));
        for (int n : {32, 64}) {
            y.fill(0);
            a.tokens = n;
            run(plan_few(a, 3, n, 1));
            expect(bits(y.get()) == bits(got), "experts unlike prefill", "few " + std::to_string(n), 1);
        }
    }
    std::printf("experts checked\n");
}

int main(int argc, char** argv) {
    const bool all = argc < 2;
    auto wanted = [&](const char* what) {
        for (int i = 1; i < argc; ++i)
            if (!std::strcmp(argv[i], what)) return true;
        return all;
    };
    cudaDeviceProp properties;
    CHECK(cudaGetDeviceProperties(&properties, 0));
    std::printf("%s, %d multiprocessors\n", properties.name, properties.multiProcessorCount);
    if (wanted("check")) {
        for (const Type& t : TYPES)
            if (t.cols == 256)
                for (auto s : {std::pair{17, 256}, {300, 768}, {33, 2816}}) check_rows({t.number, s.first, s.second});
            else
                for (auto s : {std::pair{1, 32}, {17, 96}, {300, 896}, {33, 2880}}) check_rows({t.number, s.first, s.second});
        check_rows({1, 20, 40});
        check_rows({30, 144, 1000});
    }
    const bool few = argc > 2;  // for the tools of compute-sanitizer, which take their time
    if (wanted("tiny"))
        for (const Type& t : TYPES)
            if (!few || wanted(t.name)) check_rows({t.number, 17, t.cols == 256 ? 512 : 608});
    if (wanted("check") || (few ? wanted("fused") : wanted("tiny"))) {
        check_fusions();
        check_experts();
        std::printf("%d failures\n", failures);
    }
    if (wanted("time")) time_decode();
    if (wanted("many") && has_prefill()) time_many();
    if (argc > 1 && wanted("profile") && has_prefill()) profile_many();
    if (wanted("prompt") && has_prefill()) time_prompt();
    if (wanted("prefill") && has_prefill()) time_prefill();
    return failures != 0;
}
