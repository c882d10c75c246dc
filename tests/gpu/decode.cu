// Decode attention on a card: against doubles on the host, the same bits for a row whatever other rows there are and whichever
// kernel takes it, and speeds at the sizes of real models. Exit code 1 if anything is wrong.
//
//   nvcc -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a tests/gpu/decode.cu kernels/attend_decode.cu
//   decode [check] [time]
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>

#include "../../kernels/attend.cuh"
#include "bench.hpp"

extern "C" __global__ void attend_decode_d64(const Attend p);
extern "C" __global__ void attend_decode_d128(const Attend p);
extern "C" __global__ void attend_decode_d64_few(const Attend p);
extern "C" __global__ void attend_decode_d64_splits(const Attend p);
extern "C" __global__ void attend_decode_d128_few(const Attend p);
extern "C" __global__ void attend_decode(const Attend p);
extern "C" __global__ void attend_decode_d256(const Attend p);

static int failures = 0;

struct Heads {
    int q, kv, dim, window;
    bool sinks, normed, layer_norm;
    int pairs;  // that rotate; below 0: adjacent ones
};

struct Way {
    const char* name;
    void (*kernel)(Attend);
    size_t shared;
    bool near = false;  // up to 8 splits are a cluster
};

// As kernels/attend_decode.cu says: rounds of keys, then of values.
static size_t round_bytes(int dim, int slots) { return (size_t)slots * 2 * (dim > 128 ? 64 : 128) * (dim == 64 || dim == 128 ? dim * 2 : (dim / 8 | 1) * 16); }

// Code of older cards knows no clusters.
static bool knows_clusters(const Way& way) {
    cudaFuncAttributes attributes;
    CHECK(cudaFuncGetAttributes(&attributes, way.kernel));
    return attributes.ptxVersion >= 90;
}

static std::vector<Way> ways(const Heads& h) {
    std::vector<Way> all;
    if (h.dim == 64)
        all = {{"d64", attend_decode_d64, round_bytes(64, 1)}, {"few", attend_decode_d64_few, round_bytes(64, 2)},
               {"splits", attend_decode_d64_splits, round_bytes(64, 2)}, {"near", attend_decode_d64_splits, round_bytes(64, 2), true}};
    if (h.dim == 128)
        all = {{"d128", attend_decode_d128, round_bytes(128, 1)}, {"few", attend_decode_d128_few, round_bytes(128, 2)},
               {"near", attend_decode_d128_few, round_bytes(128, 2), true}};
    if (h.dim <= 128 && h.dim != 64 && h.dim != 128) all = {{"any", attend_decode, round_bytes(h.dim, 1)}};
    if (h.dim > 128) all = {{"d256", attend_decode_d256, round_bytes(h.dim, 1)}};
    return all;
}

// Rows of a batch, each a sequence of its own, and the cache of their tokens in some layers.
struct Batch {
    Heads h;
    std::vector<int> positions;
    int layers, pages_each, splits;
    std::vector<float> q, k, v, sinks, q_weight, k_weight, frequencies;
    std::vector<__half> kv;
    std::vector<uint32_t> tables;
    std::unique_ptr<Buffer<float>> device_q, device_k, device_v, device_sinks, device_q_weight, device_k_weight, device_frequencies, partial, out;
    std::unique_ptr<Buffer<__half>> device_kv;
    std::unique_ptr<Buffer<uint32_t>> device_tables, counters;
    std::unique_ptr<Buffer<int>> device_slot, device_position;

    size_t page_elements() const { return (size_t)layers * 2 * h.kv * PAGE_TOKENS * h.dim; }

    Batch(const Heads& h, const std::vector<int>& positions, int layers = 1, bool random = true) : h(h), positions(positions), layers(layers) {
        std::mt19937 rng(h.q * 7 + h.dim + positions.size());
        std::normal_distribution<float> normal;
        const int n = positions.size(), most = *std::max_element(positions.begin(), positions.end());
        const auto fill = [&](std::vector<float>& x, size_t count, float by) {
            x.resize(count);
            for (auto& e : x) e = normal(rng) * by;
        };
        fill(q, (size_t)n * h.q * h.dim, 2), fill(k, (size_t)n * h.kv * h.dim, 1), fill(v, (size_t)n * h.kv * h.dim, 1);
        if (h.sinks) fill(sinks, h.q, 1);
        if (h.normed) fill(q_weight, h.dim, 1), fill(k_weight, h.dim, 1);
        for (int i = 0; i < std::abs(h.pairs); ++i) frequencies.push_back(std::pow(1e4f, -1.0f * i / std::abs(h.pairs)));
        pages_each = most / PAGE_TOKENS + 1;
        splits = 1;
        while (splits * 256 < most + 1 && splits < 32) splits *= 2;
        std::vector<uint32_t> pages(n * pages_each);
        for (size_t i = 0; i < pages.size(); ++i) pages[i] = i;
        std::shuffle(pages.begin(), pages.end(), rng);
        for (int i = 0; i < n; ++i) {
            tables.push_back(pages_each);
            tables.insert(tables.end(), pages.begin() + i * pages_each, pages.begin() + (i + 1) * pages_each);
        }
        const size_t count = pages.size() * page_elements();
        std::vector<int> slots(n);
        for (int i = 0; i < n; ++i) slots[i] = i;
        device_kv.reset(new Buffer<__half>(count));
        if (random) {
            // What was never written may be no number.
            kv.assign(count, __float2half(NAN));
            for (int i = 0; i < n; ++i)
                for (int t = 0; t < positions[i]; ++t)
                    for (int which = 0; which < 2; ++which)
                        for (int head = 0; head < h.kv; ++head)
                            for (int d = 0; d < h.dim; ++d) kv[cache_at(i, which, head, t) + d] = __float2half(normal(rng));
            CHECK(cudaMemcpy(device_kv->data, kv.data(), count * 2, cudaMemcpyHostToDevice));
        } else {
            device_kv->fill(0x11);
        }
        device_q.reset(new Buffer<float>(q)), device_k.reset(new Buffer<float>(k)), device_v.reset(new Buffer<float>(v)), out.reset(new Buffer<float>(q.size()));
        if (h.sinks) device_sinks.reset(new Buffer<float>(sinks));
        if (h.normed) device_q_weight.reset(new Buffer<float>(q_weight)), device_k_weight.reset(new Buffer<float>(k_weight));
        if (h.pairs) device_frequencies.reset(new Buffer<float>(frequencies));
        partial.reset(new Buffer<float>((size_t)n * h.q * splits * (h.dim + 4))), counters.reset(new Buffer<uint32_t>(n * h.q)), counters->fill(0);
        device_tables.reset(new Buffer<uint32_t>(tables)), device_slot.reset(new Buffer<int>(slots)), device_position.reset(new Buffer<int>(positions));
    }

    size_t cache_at(int row, int which, int head, int t, int layer = 0) const {
        return tables[row * (pages_each + 1) + 1 + t / 32] * page_elements() + (((size_t)(layer * 2 + which) * h.kv + head) * PAGE_TOKENS + t % 32) * h.dim;
    }

    // Rows first .. first + n.
    void attend(const Way& way, int first, int n, int layer, cudaStream_t stream, bool dependent) const {
        Attend p = {};
        p.q = device_q->data + (size_t)first * h.q * h.dim, p.k = device_k->data + (size_t)first * h.kv * h.dim, p.v = device_v->data + (size_t)first * h.kv * h.dim;
        p.slot = device_slot->data + first, p.position = device_position->data + first, p.partial = partial->data, p.finished = counters->data;
        p.mixed.plain = out->data + (size_t)first * h.q * h.dim;
        if (h.sinks) p.sinks = device_sinks->data;
        if (h.normed) p.q_norm = {device_q_weight->data, nullptr, 1e-5f, h.layer_norm}, p.k_norm = {device_k_weight->data, nullptr, 1e-5f, h.layer_norm};
        if (h.pairs) p.rope = {device_frequencies->data, 1.0f, std::abs(h.pairs), h.pairs < 0};
        p.kv = {(uint8_t*)device_kv->data, page_elements() * 2, device_tables->data, pages_each + 1, 0, 1, layer, h.kv, h.dim, 0};
        p.scale = 1 / std::sqrt((float)h.dim), p.window = h.window, p.q_heads = h.q, p.q_stride = h.q * h.dim, p.kv_stride = h.kv * h.dim, p.splits = splits;
        launch(way.kernel, dim3(splits, h.kv * ((h.q / h.kv + 7) / 8), n), 256, way.shared, p, dependent, stream,
               way.near && knows_clusters(way) && splits > 1 && splits <= 8 ? splits : 0);
    }

    // A head, normed and rotated.
    std::vector<double> turned(const float* from, const std::vector<float>& weight, int position) const {
        std::vector<double> x(from, from + h.dim);
        if (h.normed) {
            double mean = 0, square = 0;
            for (double e : x) mean += e / h.dim;
            if (!h.layer_norm) mean = 0;
            for (double e : x) square += (e - mean) * (e - mean);
            for (int d = 0; d < h.dim; ++d) x[d] = (x[d] - mean) / std::sqrt(square / h.dim + 1e-5) * weight[d];
        }
        for (int i = 0; i < std::abs(h.pairs); ++i) {
            const int a = h.pairs < 0 ? 2 * i : i, b = h.pairs < 0 ? 2 * i + 1 : i + h.pairs;
            const double angle = (float)position * frequencies[i], u = x[a], w = x[b];
            x[a] = u * std::cos(angle) - w * std::sin(angle), x[b] = u * std::sin(angle) + w * std::cos(angle);
        }
        return x;
    }

    std::vector<double> want(int row, int head) const {
        const int position = positions[row], first = h.window && position >= h.window ? position - h.window + 1 : 0, kv_head = head / (h.q / h.kv);
        const auto x = turned(&q[((size_t)row * h.q + head) * h.dim], q_weight, position);
        const float *own_k = &k[((size_t)row * h.kv + kv_head) * h.dim], *own_v = &v[((size_t)row * h.kv + kv_head) * h.dim];
        const auto own = turned(own_k, k_weight, position);
        std::vector<double> s, o(h.dim, 0.0);
        double top = h.sinks ? sinks[head] : -1e300, all = 0;
        for (int t = first; t <= position; ++t) {
            double dot = 0;
            for (int d = 0; d < h.dim; ++d) dot += x[d] * (t == position ? own[d] : (double)__half2float(kv[cache_at(row, 0, kv_head, t) + d]));
            s.push_back(dot / std::sqrt((double)h.dim)), top = std::max(top, s.back());
        }
        if (h.sinks) all = std::exp(sinks[head] - top);
        for (size_t i = 0; i < s.size(); ++i) {
            const double w = std::exp(s[i] - top);
            const int t = first + i;
            all += w;
            for (int d = 0; d < h.dim; ++d) o[d] += w * (t == position ? own_v[d] : (double)__half2float(kv[cache_at(row, 1, kv_head, t) + d]));
        }
        for (auto& e : o) e /= all;
        return o;
    }
};

// The row's own key and value in the cache.
static double appended_error(const Batch& b) {
    const auto cache = b.device_kv->get();
    double error = 0, norm = 0;
    for (int row = 0; row < (int)b.positions.size(); ++row)
        for (int head = 0; head < b.h.kv; ++head) {
            const size_t from = ((size_t)row * b.h.kv + head) * b.h.dim;
            const auto key = b.turned(&b.k[from], b.k_weight, b.positions[row]);
            for (int d = 0; d < b.h.dim; ++d)
                for (int which = 0; which < 2; ++which) {
                    const double want = which ? b.v[from + d] : key[d], e = __half2float(cache[b.cache_at(row, which, head, b.positions[row]) + d]) - want;
                    error += e * e, norm += want * want;
                }
        }
    return std::isfinite(error) ? std::sqrt(error / norm) : 1e9;
}

static void check(const Heads& h, const std::vector<int>& positions) {
    const Batch b(h, positions);
    const int n = positions.size();
    std::vector<float> first;
    std::printf("%d heads over %d of %d, window %d, %s%s%d pairs:", h.q, h.kv, h.dim, h.window, h.sinks ? "sinks, " : "", h.normed ? "norms, " : "", h.pairs);
    for (const Way& way : ways(h)) {
        for (int each : {n, 1, 2}) {
            b.out->fill(0xff);
            CHECK(cudaMemcpy(b.device_kv->data, b.kv.data(), b.kv.size() * 2, cudaMemcpyHostToDevice));
            for (int from = 0; from < n; from += each) {
                b.attend(way, from, std::min(each, n - from), 0, 0, false);
                CHECK(cudaDeviceSynchronize());
            }
            const auto got = b.out->get();
            double error = 0, norm = 0;
            for (int row = 0; row < n; ++row)
                for (int head = 0; head < h.q; ++head) {
                    const auto want = b.want(row, head);
                    for (int d = 0; d < h.dim; ++d) {
                        const double e = got[((size_t)row * h.q + head) * h.dim + d] - want[d];
                        error += e * e, norm += want[d] * want[d];
                    }
                }
            error = std::isfinite(error) ? std::sqrt(error / norm) : 1e9;
            const double appended = appended_error(b);
            if (each == n) std::printf("  %s %.1e, appended %.1e", way.name, error, appended);
            if (error > 2e-3 || appended > 1e-3) ++failures, std::printf(" FAIL error %g, appended %g\n", error, appended);
            if (first.empty()) first = got;
            size_t differ = 0;
            for (size_t i = 0; i < got.size(); ++i) differ += std::memcmp(&got[i], &first[i], 4) != 0;
            if (differ) ++failures, std::printf(" FAIL %zu elements unlike\n", differ);
        }
    }
    std::printf("\n"), std::fflush(stdout);
}

// Stands for the product before: it is there early, takes a while, and writes.
struct Before {
    float* x;
    int n;
    long long ns;
};

// Stands for the product before: it is there early, takes a while, and writes.
__global__ void __launch_bounds__(320) product_before(const Before p) {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
    long long from, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(from));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - from < p.ns);
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < p.n; i += gridDim.x * blockDim.x) p.x[i] = p.x[i];
}

static void time_attention() {
    std::printf("microseconds a call behind a kernel of 3 us, rows x tokens\n");
    const struct { const char* model; Heads h; } shapes[] = {{"smollm2", {9, 3, 64, 0, false, false, false, 32}}, {"0.5b", {14, 2, 64, 0, false, false, false, 32}}, {"1b", {32, 8, 64, 0, false, false, false, 32}},
                                                             {"8b", {32, 8, 128, 0, false, false, false, 64}}, {"7b", {28, 4, 128, 0, false, false, false, 64}}, {"20b", {64, 8, 64, 0, true, false, false, 32}},
                                                             {"20b window", {64, 8, 64, 128, true, false, false, 32}}};
    for (const auto& s : shapes)
        for (int n : {1, 8, 32, 64})
            for (int tokens : {100, 200, 1000, 4096, 16384}) {
                if ((size_t)n * tokens > (n > 1 ? 64 * 1000 : 16384)) continue;
                std::vector<int> positions(n);
                for (int i = 0; i < n; ++i) positions[i] = n == 1 ? tokens : tokens / 2 + (i * 7919 % 97) * tokens / 97;
                const Batch b(s.h, positions, 8, false);
                std::printf("%-10s %2d x %5d", s.model, n, tokens);
                const auto chain = [&](const Way* way) {
                    return time_graph(32, [&](int i, cudaStream_t stream) {
                        launch(product_before, dim3(132), 320, 90 * 1024, Before{b.device_q->data, (int)b.q.size(), 3000}, true, stream);
                        if (way) b.attend(*way, 0, n, i % 8, stream, true);
                    });
                };
                const double alone = chain(nullptr);
                for (const Way& way : ways(s.h)) std::printf("  %s %.2f", way.name, chain(&way) - alone);
                std::printf("\n"), std::fflush(stdout);
            }
}

int main(int argc, char** argv) {
    auto wanted = [&](const char* what) {
        for (int i = 1; i < argc; ++i)
            if (!std::strcmp(argv[i], what)) return true;
        return argc < 2;
    };
    if (wanted("check")) {
        const std::vector<int> ragged = {0, 1, 15, 16, 31, 100, 127, 128, 200, 255, 256, 300, 511, 513, 1000};
        check({9, 3, 64, 0, false, false, false, 32}, ragged), check({14, 2, 64, 0, false, true, false, 32}, ragged), check({8, 1, 64, 128, true, false, false, -32}, ragged);
        check({8, 2, 128, 0, false, false, false, 64}, ragged), check({7, 1, 128, 20, true, true, false, 64}, ragged), check({16, 1, 128, 0, false, true, true, 32}, ragged);
        check({4, 2, 80, 0, true, true, false, 10}, ragged), check({6, 2, 96, 50, false, false, false, -48}, ragged), check({12, 1, 32, 0, false, false, false, 16}, ragged);
        check({4, 2, 256, 0, false, true, false, 128}, ragged), check({20, 2, 192, 40, true, false, false, 0}, ragged), check({2, 2, 8, 0, false, false, false, 4}, ragged);
        check({4, 2, 128, 0, false, false, false, 64}, {4095, 4096, 5000}), check({3, 1, 64, 0, false, false, false, 32}, {8190, 8191, 8192, 9000, 70}), check({4, 1, 64, 4000, true, false, false, 32}, {8190, 4200});
        std::printf("%d failures\n", failures);
    }
    if (wanted("time")) time_attention();
    return failures != 0;
}
