// What the GPU checks share: device buffers, a repacked matrix, launches with programmatic dependence, timing by graph replay.
#pragma once
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cuda_runtime.h>
#include <functional>

#include "../../kernels/product_layout.cuh"
#include "reference.hpp"

#define CHECK(call)                                                                              \
    do {                                                                                         \
        const cudaError_t error = (call);                                                        \
        if (error != cudaSuccess) {                                                              \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error)); \
            std::exit(1);                                                                        \
        }                                                                                        \
    } while (0)

struct RepackArgs {
    const uint8_t* source;
    uint8_t* target;
    unsigned long long row_bytes;
    uint32_t type, rows, cols;
};

struct PrepareArgs {
    const float* in;
    const float* weight;
    const float* bias;
    void* out;
    const int* places;
    uint32_t cols, in_stride, out_stride, copies, norm, format;
    float eps, scale;
};

struct RowArgs {
    ProductArgs product;
    const float *hidden, *norm_weight, *norm_bias;
    const int* chosen;
    uint32_t norm;
    float eps;
    uint32_t x_per_expert, quiet;
};

struct RowsArgs {
    ProductArgs product;
    uint32_t resident, pad;
};

extern "C" __global__ void repack(const __grid_constant__ RepackArgs args);
extern "C" __global__ void prepare(const __grid_constant__ PrepareArgs args);
extern "C" __global__ void product_small(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_small_wide(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_small_pair(const __grid_constant__ ProductArgs args);
#define ROW_KERNELS(ending)                                                           \
    extern "C" __global__ void product_row##ending(const __grid_constant__ RowArgs args); \
    extern "C" __global__ void product_row_pair##ending(const __grid_constant__ RowArgs args);
ROW_KERNELS()
ROW_KERNELS(_q4_0)
ROW_KERNELS(_q4_0_ahead)
ROW_KERNELS(_q8_0)
ROW_KERNELS(_q8_0_ahead)
ROW_KERNELS(_q5_0_q8_0)
ROW_KERNELS(_q5_0_q8_0_ahead)
ROW_KERNELS(_q4_k_q6_k)
ROW_KERNELS(_q4_k_q6_k_ahead)
extern "C" __global__ void product_batch(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_batch_pair(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_split(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_split_wide(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_split_pair(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_many_16(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_many_16_wide(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_many_16_pair(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_many_32(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_many_32_wide(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_many_32_pair(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_many_64(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_many_64_wide(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_many_64_pair(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_prefill_16(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_prefill_16_pair(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_prefill_32(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_prefill_32_pair(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_prefill_64(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_prefill_64_pair(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_prefill(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_prefill_wide(const __grid_constant__ ProductArgs args);
extern "C" __global__ void product_prefill_pair(const __grid_constant__ ProductArgs args);

template <class T>
struct Buffer {
    T* data = nullptr;
    size_t count;
    explicit Buffer(size_t n) : count(n) { CHECK(cudaMalloc(&data, std::max<size_t>(n * sizeof(T), 16))); }
    explicit Buffer(const std::vector<T>& v) : Buffer(v.size()) { CHECK(cudaMemcpy(data, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)); }
    Buffer(const Buffer&) = delete;
    ~Buffer() { cudaFree(data); }
    void fill(int byte) { CHECK(cudaMemset(data, byte, count * sizeof(T))); }
    std::vector<T> get() const {
        std::vector<T> v(count);
        CHECK(cudaDeviceSynchronize());
        CHECK(cudaMemcpy(v.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
        return v;
    }
};

inline const Type& type_of(uint32_t number) {
    for (const Type& t : TYPES)
        if (t.number == number) return t;
    std::abort();
}

inline uint32_t kind_of(uint32_t type) {
    switch (type) {
        case 1: case 30: return KIND_F16;
        case 2: return KIND_Q4_0;
        case 3: return KIND_Q4_1;
        case 6: return KIND_Q5_0;
        case 7: return KIND_Q5_1;
        case 8: return KIND_Q8_0;
        case 10: return KIND_Q2_K;
        case 11: return KIND_Q3_K;
        case 12: return KIND_Q4_K;
        case 13: return KIND_Q5_K;
        case 14: return KIND_Q6_K;
        case 20: case 23: return KIND_IQ4;
        default: return KIND_MXFP4;
    }
}

inline int multiprocessors() {
    static int n = 0;
    if (!n) CHECK(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, 0));
    return n;
}

// The fields of a matrix that follow from its kind and shape.
inline ProductMatrix describe(uint32_t kind, int rows, int cols) {
    ProductMatrix m = {};
    m.kind = kind, m.rows = rows;
    m.piece_bytes = kind == KIND_F16 ? 2048 : planes(kind).record();
    m.tile_bytes = tile_bytes(kind, cols);
    m.last_piece_bytes = m.tile_bytes - (pieces_of(kind, cols) - 1) * m.piece_bytes;
    m.tiles = tiles_of(rows);
    return m;
}

template <class A>
void launch(void (*kernel)(A), dim3 grid, int block, size_t shared, const A& args, bool dependent = false, cudaStream_t stream = 0, int cluster = 0) {
    CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = dependent;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = cluster, attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = dim3(block), config.dynamicSmemBytes = shared, config.stream = stream;
    config.attrs = attributes, config.numAttrs = cluster ? 2 : 1;
    CHECK(cudaLaunchKernelEx(&config, kernel, args));
}

// Raw rows on the device to records on the device.
inline void repack_to(const uint8_t* raw, uint8_t* out, uint32_t type, int rows, int cols) {
    const Type& t = type_of(type);
    launch(repack, dim3((tiles_of(rows) * records_of(cols) + 3) / 4), 128, 0,
           RepackArgs{raw, out, (unsigned long long)(cols / t.cols) * t.bytes, type, (uint32_t)rows, (uint32_t)cols});
}

// The kernel for so many rows of activations, with everything that the launch contract asks for.
struct Plan {
    void (*kernel)(ProductArgs);
    dim3 grid;
    int block;
    size_t shared;
    ProductArgs args;
    int cluster;
};

enum class Path { small, wide, batch, split, split_wide, prefill, prefill_wide, many, many_wide };

inline Plan plan_for(ProductArgs args, Path path, int items, int stages = 0) {
    const bool pair = args.act >= ACT_SILU && args.act <= ACT_CLAMPED;
    const bool prefill = path == Path::prefill || path == Path::prefill_wide;
    const int per_unit = path == Path::small || (path == Path::wide && pair) ? 1 : path == Path::wide ? 2 : path == Path::batch && pair ? 4
                         : (path == Path::prefill_wide || path == Path::split_wide) && !pair ? 16 : 8;
    uint32_t units = 0;
    bool f16 = false;
    args.slot_bytes = 0;
    for (uint32_t i = 0; i < args.matrices; ++i) {
        ProductMatrix& m = args.matrix[i];
        m.first_unit = pair ? 0 : units;
        if (!pair || i == 0) units += (m.tiles + per_unit - 1) / per_unit;
        const uint32_t bytes = m.kind != KIND_F16 || prefill ? m.piece_bytes : path == Path::batch ? 8192 : 0;
        args.slot_bytes = std::max(args.slot_bytes, bytes), f16 |= m.kind == KIND_F16;
    }
    args.units = units;
    Plan p = {};
    const int tiles = pair || path == Path::wide || path == Path::split_wide || path == Path::prefill_wide ? 2 : 1;
    const int rows = std::min<int>((args.tokens + 7) / 8 * 8, 64);
    if (path == Path::small || path == Path::wide) {
        const size_t stage = 8 * ((size_t)tiles * args.slot_bytes + 512 * std::min<int>(args.tokens, 8));
        args.stages = stages ? stages : std::max<int>(2, std::min<int>(4, 100 * 1024 / stage));
        p.kernel = pair ? product_small_pair : path == Path::wide ? product_small_wide : product_small;
        p.block = 256, p.shared = args.stages * stage;
        CHECK(cudaFuncSetAttribute(p.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)p.shared));
        int blocks = 0;
        CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, p.kernel, p.block, p.shared));
        p.grid = dim3(std::min<int>(units, std::max(1, blocks) * multiprocessors()), items ? items : (args.tokens + 7) / 8);
    } else if (path == Path::batch) {
        const size_t stage = 8 * (size_t)args.slot_bytes + 512 * rows;
        args.stages = stages ? stages : std::max<int>(2, std::min<int>(4, 200 * 1024 / stage));
        p.kernel = pair ? product_batch_pair : product_batch;
        p.block = 256, p.shared = std::max<size_t>(args.stages * stage, 16384);
        p.grid = dim3(units, items ? items : (args.tokens + 63) / 64);
    } else if (!prefill) {
        const size_t stage = 8 * tiles * (size_t)args.slot_bytes + 512 * rows;
        args.stages = stages ? stages : std::max<int>(2, std::min<int>(4, (tiles == 1 ? 110 : 220) * 1024 / stage));
        p.kernel = pair ? product_split_pair : path == Path::split_wide ? product_split_wide : product_split;
        p.block = 256, p.shared = std::max<size_t>(args.stages * stage, tiles * 32768);
        p.grid = dim3(8 * units, items ? items : (args.tokens + 63) / 64);
    } else {
        args.weight_stages = f16 ? 4 : 2;
        const size_t weights = args.weight_stages * 8 * tiles * (size_t)args.slot_bytes;
        args.stages = stages ? stages : std::min<int>(8, (226 * 1024 - weights - 1024) / 16384);
        p.kernel = pair ? product_prefill_pair : path == Path::prefill_wide ? product_prefill_wide : product_prefill;
        p.block = 384, p.shared = 1024 + std::max<size_t>(args.stages * 16384 + weights, tiles * 81920);
        p.grid = dim3(items ? items : (args.tokens + 127) / 128, units);
    }
    p.args = args;
    return p;
}

// The kernels of product_row.cuh for kinds A and B: row, pair, row ahead, pair ahead.
struct RowKernels {
    uint32_t a, b;
    void (*kernels[4])(RowArgs);
};

inline const RowKernels& row_kernels(const ProductArgs& a, bool own) {
    static const RowKernels any = {0, 0, {product_row, product_row_pair, product_row, product_row_pair}}, all[] = {
        {KIND_Q4_0, KIND_Q4_0, {product_row_q4_0, product_row_pair_q4_0, product_row_q4_0_ahead, product_row_pair_q4_0_ahead}},
        {KIND_Q8_0, KIND_Q8_0, {product_row_q8_0, product_row_pair_q8_0, product_row_q8_0_ahead, product_row_pair_q8_0_ahead}},
        {KIND_Q5_0, KIND_Q8_0, {product_row_q5_0_q8_0, product_row_pair_q5_0_q8_0, product_row_q5_0_q8_0_ahead, product_row_pair_q5_0_q8_0_ahead}},
        {KIND_Q4_K, KIND_Q6_K, {product_row_q4_k_q6_k, product_row_pair_q4_k_q6_k, product_row_q4_k_q6_k_ahead, product_row_pair_q4_k_q6_k_ahead}}};
    for (const RowKernels& k : all) {
        bool fits = own;
        for (uint32_t i = 0; i < a.matrices; ++i) fits &= a.matrix[i].kind == k.a || a.matrix[i].kind == k.b;
        if (fits) return k;
    }
    return any;
}

// product_row.cuh: a ring of `ring` bytes a block, up to `blocks` blocks of 8 warps a multiprocessor, as src/device/cuda/row.rs
// launches it; without `own` by the kernels for any kinds, and with no more blocks than `most`.
inline void run_row(RowArgs r, int ring, int blocks, bool dependent, cudaStream_t stream, bool own = true, int most = 1 << 30) {
    ProductArgs& a = r.product;
    const bool pair = a.act >= ACT_SILU && a.act <= ACT_CLAMPED;
    uint32_t units = 0;
    a.slot_bytes = 0;
    for (uint32_t i = 0; i < a.matrices; ++i) {
        a.matrix[i].first_unit = pair ? 0 : units;
        if (!pair || i == 0) units += a.matrix[i].tiles;
        a.slot_bytes = std::max(a.slot_bytes, a.matrix[i].piece_bytes);
    }
    const int parts = std::min(8, records_of(a.cols)), warps = pair && parts <= 3 && r.hidden ? 2 * parts : parts, stage = warps * a.slot_bytes;
    a.units = units, a.stages = std::max(2, std::min(16, ring / stage));
    r.quiet = std::max(1, (20 << 10) / (int)a.slot_bytes);
    const int together = blocks * 8 / warps, grid = std::min({(int)units, multiprocessors() * together, most});
    const bool dense = warps == 8 || (int)units > multiprocessors();
    const size_t shared = std::max<size_t>(steps_of(a.cols) * 128 + a.stages * stage, dense ? 227 * 1024 / (together + 1) + 1024 : 0);
    launch(row_kernels(a, own).kernels[pair + 2 * ((int)units == grid)], dim3(grid), 32 * (warps + 2), shared, r, dependent, stream);
}

// product_many of `n` rows a block, the parts of the columns in clusters of so many blocks; a ring for `blocks` of them a multiprocessor; kernel null where there is no room.
inline Plan plan_many(ProductArgs args, bool wide, int items, int n, int cluster, int blocks) {
    typedef void (*Kernel)(ProductArgs);
    static const Kernel kernels[3][3] = {{product_many_16, product_many_16_wide, product_many_16_pair},
                                         {product_many_32, product_many_32_wide, product_many_32_pair},
                                         {product_many_64, product_many_64_wide, product_many_64_pair}};
    const bool pair = args.act >= ACT_SILU && args.act <= ACT_CLAMPED;
    const int tiles = pair || wide ? 2 : 1, per_unit = wide && !pair ? 16 : 8;
    uint32_t units = 0;
    bool f16 = true;
    args.slot_bytes = 0;
    for (uint32_t i = 0; i < args.matrices; ++i) {
        ProductMatrix& m = args.matrix[i];
        m.first_unit = pair ? 0 : units;
        if (!pair || i == 0) units += (m.tiles + per_unit - 1) / per_unit;
        args.slot_bytes = std::max(args.slot_bytes, m.piece_bytes), f16 &= m.kind == KIND_F16;
    }
    args.units = units;
    const bool beside = tiles == 1 ? n == 64 : n == 16;
    const int sums = 8 * tiles * n * 64, apart = cluster == 1 ? (beside ? sums : 0) : (8 / cluster - 1) * sums;
    const int room = (blocks == 1 ? 226 : 113) * 1024 - 2048 - apart;
    const int x_steps = n == 64 ? 2 : 4, x_stage = n * 128 * x_steps, weights = 8 * tiles * (int)args.slot_bytes;
    // No more than a block has to do.
    const int steps = (steps_of(args.cols) + cluster - 1) / cluster + 4, pieces = f16 ? steps : (steps + 3) / 4;
    const int most = std::min(f16 ? 8 : 4, std::max(2, pieces));
    args.weight_stages = std::min(most, (room - 3 * x_stage) / weights);
    if ((int)args.weight_stages < 2) args.weight_stages = (room - 2 * x_stage) / weights;
    args.stages = std::min(std::min(8, std::max(2, steps / x_steps)), (room - (int)args.weight_stages * weights) / x_stage);
    Plan p = {};
    if ((int)args.stages < 2 || (int)args.weight_stages < 2) return p;
    p.kernel = kernels[n / 32][pair ? 2 : wide ? 1 : 0], p.block = 384, p.cluster = cluster;
    p.shared = 1024 + std::max((int)args.stages * x_stage + (int)args.weight_stages * weights, sums) + apart;
    p.grid = dim3(cluster * units, items ? items : (args.tokens + n - 1) / n), p.args = args;
    return p;
}

// product_prefill_16, _32 or _64, `blocks` of them a multiprocessor.
inline Plan plan_few(ProductArgs args, int items, int n, int blocks) {
    typedef void (*Kernel)(ProductArgs);
    static const Kernel kernels[3][2] = {{product_prefill_16, product_prefill_16_pair}, {product_prefill_32, product_prefill_32_pair}, {product_prefill_64, product_prefill_64_pair}};
    const bool pair = args.act >= ACT_SILU && args.act <= ACT_CLAMPED;
    const int tiles = pair ? 2 : 1;
    uint32_t units = 0;
    bool f16 = false;
    args.slot_bytes = 0;
    for (uint32_t i = 0; i < args.matrices; ++i) {
        ProductMatrix& m = args.matrix[i];
        m.first_unit = pair ? 0 : units;
        if (!pair || i == 0) units += (m.tiles + 7) / 8;
        args.slot_bytes = std::max(args.slot_bytes, m.piece_bytes), f16 |= m.kind == KIND_F16;
    }
    args.units = units;
    const int sums = tiles * n * 640, weights = 8 * tiles * (int)args.slot_bytes, room = (blocks == 1 ? 224 : 111) * 1024 - 1024;
    const int least = f16 ? 4 : 2;
    args.weight_stages = least;
    while (args.weight_stages < (f16 ? 8u : 4u) && room - (int)(args.weight_stages + 1) * weights >= 8 * n * 128) ++args.weight_stages;
    args.stages = std::min(8, (room - (int)args.weight_stages * weights) / (n * 128));
    Plan p = {};
    p.kernel = kernels[n / 32][pair], p.block = 384;
    p.shared = std::max(1024 + std::max((int)args.stages * n * 128 + (int)args.weight_stages * weights, sums), blocks == 1 ? 116 * 1024 : 0);
    p.grid = dim3(units, items ? items : (args.tokens + n - 1) / n), p.args = args;
    if ((int)args.stages < 2) p.shared = 1 << 20;  // no room
    return p;
}

inline void run(const Plan& p, bool dependent = false, cudaStream_t stream = 0) {
    launch(p.kernel, p.grid, p.block, p.shared, p.args, dependent, stream, p.cluster);
}

// Microseconds of one call of `body(i)`, as the median over replays of a graph of `count` calls.
inline double time_graph(int count, const std::function<void(int, cudaStream_t)>& body) {
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < count; ++i) body(i, stream);
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t a, b;
    CHECK(cudaEventCreate(&a));
    CHECK(cudaEventCreate(&b));
    std::vector<float> times;
    for (int i = 0; i < 9; ++i) {
        CHECK(cudaEventRecord(a, stream));
        CHECK(cudaGraphLaunch(exec, stream));
        CHECK(cudaEventRecord(b, stream));
        CHECK(cudaStreamSynchronize(stream));
        float ms;
        CHECK(cudaEventElapsedTime(&ms, a, b));
        if (i >= 2) times.push_back(ms);
    }
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaEventDestroy(a));
    CHECK(cudaEventDestroy(b));
    CHECK(cudaStreamDestroy(stream));
    std::sort(times.begin(), times.end());
    return times[times.size() / 2] * 1000.0 / count;
}
