// Activations as the products want them: an optional norm of f32 rows, then f16 records or panels, or f32.
//
//   prepare     launch: block 512; grid tokens; no dynamic shared memory.
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

constexpr int THREADS = 512;
constexpr int PIECE = 8;   // columns that a thread writes at a time: 16 bytes of f16
constexpr int KEPT = 4;    // pieces that a thread keeps in registers; of longer rows it reads the rest again

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

struct Piece {
    float x[PIECE];
};

// Columns col .. col + 8 of a row, zeros past its end. Rows are whole pairs of float4 where their length allows it.
__device__ __forceinline__ Piece load_piece(const float* x, uint32_t col, uint32_t cols) {
    Piece p;
    if (col + PIECE <= cols && cols % 4 == 0) {
        const float4 a = *reinterpret_cast<const float4*>(x + col), b = *reinterpret_cast<const float4*>(x + col + 4);
        p = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    } else {
#pragma unroll
        for (int i = 0; i < PIECE; ++i) p.x[i] = col + i < cols ? x[col + i] : 0.0f;
    }
    return p;
}

__device__ __forceinline__ uint32_t pair_of_floats(float x, float y) {
    const __half2 h = __floats2half2_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&h);
}

// Where the piece at `col` of row `place` goes.
__device__ __forceinline__ void store_piece(const PrepareArgs& args, int place, uint32_t col, const Piece& p) {
    if (args.format == FORMAT_F32) {
        float* out = (float*)args.out + (size_t)place * args.out_stride;
        for (int i = 0; i < PIECE; ++i)
            if (col + i < args.cols) out[col + i] = p.x[i];
        return;
    }
    __half* out = (__half*)args.out;
    if (args.format == FORMAT_RECORDS) {
        *reinterpret_cast<uint4*>(out + x_record_at(place, col, args.out_stride)) =
            make_uint4(pair_of_floats(p.x[0], p.x[1]), pair_of_floats(p.x[2], p.x[3]), pair_of_floats(p.x[4], p.x[5]), pair_of_floats(p.x[6], p.x[7]));
        return;
    }
#pragma unroll
    for (int i = 0; i < PIECE; i += 2)
        *reinterpret_cast<uint32_t*>(out + x_panel_at(place, col + i, args.out_stride)) = pair_of_floats(p.x[i], p.x[i + 1]);
}

struct Moments {
    float mean, factor;
};

template <class F>
__device__ __forceinline__ void each_piece(const Piece* kept, const float* x, const PrepareArgs& args, F&& f) {
    const uint32_t pieces = steps_of(args.cols) * (STEP_COLS / PIECE);
#pragma unroll
    for (int i = 0; i < KEPT; ++i) {
        const uint32_t piece = threadIdx.x + i * THREADS;
        if (piece < pieces) f(i, piece * PIECE, kept[i]);
    }
    for (uint32_t piece = threadIdx.x + KEPT * THREADS; piece < pieces; piece += THREADS)
        f(KEPT, piece * PIECE, load_piece(x, piece * PIECE, args.cols));
}

__device__ Moments measure(const PrepareArgs& args, const Piece* kept, const float* x, float* shared) {
    Moments m = {0.0f, 1.0f};
    if (args.norm == NORM_NONE) return m;
    if (args.norm == NORM_LAYER) {
        float sum = 0.0f;
        each_piece(kept, x, args, [&](int, uint32_t, const Piece& p) {
#pragma unroll
            for (int i = 0; i < PIECE; ++i) sum += p.x[i];
        });
        m.mean = block_sum(sum, shared) / args.cols;
    }
    float squares = 0.0f;
    each_piece(kept, x, args, [&](int, uint32_t col, const Piece& p) {
#pragma unroll
        for (int i = 0; i < PIECE; ++i)
            if (col + i < args.cols) squares = fmaf(p.x[i] - m.mean, p.x[i] - m.mean, squares);
    });
    m.factor = rsqrtf(block_sum(squares, shared) / args.cols + args.eps);
    return m;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(THREADS) prepare(const __grid_constant__ PrepareArgs args) {
    __shared__ float shared[THREADS / 32];
    dependents_may_start();
    const uint32_t token = blockIdx.x, pieces = steps_of(args.cols) * (STEP_COLS / PIECE);
    // The norm's weights are there from the start: they come while the kernel before still runs.
    Piece weight[KEPT];
#pragma unroll
    for (int i = 0; i < KEPT; ++i) {
        const uint32_t piece = threadIdx.x + i * THREADS;
        if (args.norm != NORM_NONE && piece < pieces) weight[i] = load_piece(args.weight, piece * PIECE, args.cols);
    }
    wait_for_predecessor();
    const float* x = args.in + (size_t)token * args.in_stride;
    Piece kept[KEPT];
#pragma unroll
    for (int i = 0; i < KEPT; ++i) {
        const uint32_t piece = threadIdx.x + i * THREADS;
        if (piece < pieces) kept[i] = load_piece(x, piece * PIECE, args.cols);
    }
    const Moments m = measure(args, kept, x, shared);
    each_piece(kept, x, args, [&](int kept_at, uint32_t col, Piece p) {
        if (args.norm != NORM_NONE) {
            const Piece w = kept_at < KEPT ? weight[kept_at] : load_piece(args.weight, col, args.cols);
#pragma unroll
            for (int i = 0; i < PIECE; ++i) p.x[i] = col + i < args.cols ? (p.x[i] - m.mean) * m.factor * w.x[i] : 0.0f;
            if (args.bias)
                for (int i = 0; i < PIECE; ++i)
                    if (col + i < args.cols) p.x[i] += args.bias[col + i];
        }
#pragma unroll
        for (int i = 0; i < PIECE; ++i) p.x[i] *= args.scale;
        for (uint32_t i = 0; i < args.copies; ++i)
            store_piece(args, args.places ? args.places[token * args.copies + i] : (int)token, col, p);
    });
}
