// Activations as the products want them: an optional norm of f32 rows, then f16 records or panels, or f32.
//
//   prepare     launch: block 512; grid tokens; no dynamic shared memory.
//
// One block makes one row, always in the same order, so a row does not depend on its neighbours. With `places` a row is written
// `copies` times, to the rows places[token * copies + i]: that is how experts get theirs side by side.
#include "norm_row.cuh"
#include "product_async.cuh"
#include "product_layout.cuh"

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

constexpr int THREADS = NORM_THREADS;
constexpr int KEPT = 4;  // pieces that a thread keeps in registers; of longer rows it reads the rest again

// The sum over the block, the same in every thread and every launch.
__device__ float block_sum(float x, float* shared) {
    x = norm_warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    return norm_sum(shared, THREADS / 32);
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
        *reinterpret_cast<uint4*>(out + x_record_at(place, col, args.out_stride)) = piece_f16(p);
        return;
    }
#pragma unroll
    for (int i = 0; i < PIECE; i += 2)
        *reinterpret_cast<uint32_t*>(out + x_panel_at(place, col + i, args.out_stride)) = pair_of_floats(p.x[i], p.x[i + 1]);
}

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
        each_piece(kept, x, args, [&](int, uint32_t, const Piece& p) { sum = add_values(sum, p); });
        m.mean = mean_of(block_sum(sum, shared), args.cols);
    }
    float squares = 0.0f;
    each_piece(kept, x, args, [&](int, uint32_t col, const Piece& p) { squares = add_squares(squares, p, m.mean, col, args.cols); });
    m.factor = rsqrtf(mean_of(block_sum(squares, shared), args.cols) + args.eps);
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
            p = apply_norm(p, m, kept_at < KEPT ? weight[kept_at] : load_piece(args.weight, col, args.cols), args.bias, col, args.cols);
        }
#pragma unroll
        for (int i = 0; i < PIECE; ++i) p.x[i] *= args.scale;
        for (uint32_t i = 0; i < args.copies; ++i)
            store_piece(args, args.places ? args.places[token * args.copies + i] : (int)token, col, p);
    });
}
