// Activations as the products want them: an optional norm of f32 rows, then f16 records or panels, or f32.
//
//   prepare     launch: block 256; grid tokens; no dynamic shared memory.
//
// One block makes one row, always in the same order, so a row does not depend on its neighbours. With `places` a row is written
// `copies` times, to the rows places[token * copies + i]: that is how experts get theirs side by side.
#include "product_async.cuh"
#include "product_layout.cuh"

enum PrepareNorm : uint32_t { NORM_NONE = 0, NORM_RMS = 1, NORM_LAYER = 2 };
enum PrepareFormat : uint32_t { FORMAT_F32 = 0, FORMAT_RECORDS = 2, FORMAT_PANELS = 3 };

struct PrepareArgs {
    const float* in;        // [tokens, in_stride]
    const float* weight;    // [cols]; with a norm
    const float* bias;      // [cols] or null
    void* out;
    const int* places;      // or null
    uint32_t cols, in_stride;
    uint32_t out_stride;    // f32: elements; else row_stride
    uint32_t copies;        // 1 without places
    uint32_t norm, format;
    float eps;
    float scale;            // a power of two; the product's out_scale is its inverse
};

namespace {

constexpr int THREADS = 256;

// The sum over the block, the same in every thread and every launch.
__device__ float block_sum(float x, float* shared) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < THREADS / 32; ++i) sum += shared[i];
    return sum;
}

struct Row {
    const PrepareArgs& args;
    const float* x;
    float mean, factor;

    __device__ float at(uint32_t col) const {
        if (col >= args.cols) return 0.0f;
        float y = x[col];
        if (args.norm != NORM_NONE) y = (y - mean) * factor * args.weight[col];
        if (args.norm != NORM_NONE && args.bias) y += args.bias[col];
        return y * args.scale;
    }

    __device__ uint32_t pair_at(uint32_t col) const {
        const __half2 h = __floats2half2_rn(at(col), at(col + 1));
        return *reinterpret_cast<const uint32_t*>(&h);
    }
};

__device__ Row measure(const PrepareArgs& args, const float* x, float* shared) {
    Row row = {args, x, 0.0f, 1.0f};
    if (args.norm == NORM_NONE) return row;
    if (args.norm == NORM_LAYER) {
        float sum = 0.0f;
        for (uint32_t c = threadIdx.x; c < args.cols; c += THREADS) sum += x[c];
        row.mean = block_sum(sum, shared) / args.cols;
    }
    float squares = 0.0f;
    for (uint32_t c = threadIdx.x; c < args.cols; c += THREADS) squares += (x[c] - row.mean) * (x[c] - row.mean);
    row.factor = rsqrtf(block_sum(squares, shared) / args.cols + args.eps);
    return row;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) prepare(const __grid_constant__ PrepareArgs args) {
    __shared__ float shared[THREADS / 32];
    dependents_may_start();
    wait_for_predecessor();
    const uint32_t token = blockIdx.x;
    const Row row = measure(args, args.in + (size_t)token * args.in_stride, shared);
    if (args.format == FORMAT_F32) {
        float* out = (float*)args.out + (size_t)token * args.out_stride;
        for (uint32_t c = threadIdx.x; c < args.cols; c += THREADS) out[c] = row.at(c);
        return;
    }
    __half* out = (__half*)args.out;
    const uint32_t pieces = steps_of(args.cols) * 8;
    for (uint32_t piece = threadIdx.x; piece < pieces; piece += THREADS) {
        uint4 v;
        const uint32_t col = piece * 8, step = piece / 8 * 64, chunk = piece % 8;
        if (args.format == FORMAT_RECORDS) {
            v = make_uint4(row.pair_at(col), row.pair_at(col + 2), row.pair_at(col + 4), row.pair_at(col + 6));
        } else {
            const uint32_t c = step + 4 * (chunk / 2) + 2 * (chunk % 2);
            v = make_uint4(row.pair_at(c), row.pair_at(c + 16), row.pair_at(c + 32), row.pair_at(c + 48));
        }
        for (uint32_t i = 0; i < args.copies; ++i) {
            const int place = args.places ? args.places[token * args.copies + i] : (int)token;
            const size_t at = args.format == FORMAT_RECORDS ? x_record_at(place, col, args.out_stride)
                                                            : x_panel_at(place, step + 4 * (chunk / 2) + 2 * (chunk % 2), args.out_stride);
            *reinterpret_cast<uint4*>(out + at) = v;
        }
    }
}
