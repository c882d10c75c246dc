// How a block of product_row.cuh gets its row of activations: from records, or as the norm of an f32 row, which each block makes for
// itself, bit for bit as prepare.cu does.
#pragma once
#include "norm_row.cuh"
#include "product_async.cuh"
#include "product_layout.cuh"

struct RowArgs {
    ProductArgs product;       // x: records, row 0 or that of the expert; tokens 1
    const float* hidden;       // [cols], a multiple of 8: the row as f32, with `norm` to be applied; null: product.x
    const float* norm_weight;  // [cols]
    const float* norm_bias;    // [cols] or null
    const int* chosen;         // the expert of each blockIdx.y; null: expert 0
    uint32_t norm;             // RowNorm
    float eps;
    uint32_t x_per_expert;     // with experts: each has its own row of x
    uint32_t quiet;            // pieces under way to a block at the most, until the row is there
};

namespace {

constexpr int HELPERS = 2;  // warps beside those that multiply

// The warps that multiply wait for each other.
__device__ __forceinline__ void consumers_meet(int warps) { asm volatile("bar.sync 1, %0;" ::"r"(32 * warps) : "memory"); }

// The row as f16 in shared memory, from records: a warp brings what it needs itself.
__device__ __forceinline__ void take_records(const RowArgs& a, int row, int first, int last, uint8_t* x) {
    const int end = min(32 * last, steps_of(a.product.cols) * 8), odd = row & 1;
    for (int piece = 32 * first + threadIdx.x % 32; piece < end; piece += 32) {
        const uint8_t* from = a.product.x + ((size_t)(piece / 32) * a.product.x_stride + row) * 512;
        *reinterpret_cast<uint4*>(x + piece * 16) = __ldcg(reinterpret_cast<const uint4*>(from + ((piece % 32) ^ odd) * 16));
    }
    __syncwarp();
}

// The same from an f32 row of whole pieces, normed. As there is a warp for every record up to the eighth, each stands for up to
// two of the warps of norm_row.cuh, and keeps their first pieces in registers.
//
// Few instructions: a kernel runs through them once, and those that are no longer in the multiprocessor's cache come from afar, past
// all the weights on their way.
struct NormedRow {
    const RowArgs& a;
    uint32_t pieces;
    int warp, lane, warps, n_warps;
    Piece weight[2], kept[2];

    __device__ NormedRow(const RowArgs& args) : a(args) {
        pieces = a.product.cols / PIECE;
        warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32 - HELPERS;
        n_warps = min(NORM_THREADS / 32, (int)(pieces + 31) / 32);
    }

    __device__ uint32_t piece_of(int j) const { return (warp + j * warps) * 32 + lane; }
    __device__ bool keeps(int j) const { return piece_of(j) < min(pieces, (uint32_t)NORM_THREADS); }
    // Whether warps stand for two.
    __device__ bool twice() const { return n_warps > warps; }

    __device__ void fetch(const float* row, Piece to[2]) {
        if (keeps(0)) to[0] = load_whole(row, piece_of(0) * PIECE);
        if (twice() && keeps(1)) to[1] = load_whole(row, piece_of(1) * PIECE);
    }

    // f(sum so far, piece) over the pieces of each thread, then the sum over all; `scratch` held zeros.
    template <class F>
    __device__ float total(float* scratch, F&& f) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            if (j == 1 && !twice()) break;
            float sum = 0.0f;
            if (keeps(j)) {
                sum = f(sum, kept[j]);
#pragma unroll 1
                for (uint32_t piece = piece_of(j) + NORM_THREADS; piece < pieces; piece += NORM_THREADS) sum = f(sum, load_whole(a.hidden, piece * PIECE));
            }
            sum = norm_warp_sum(sum);
            if (lane == 0 && warp + j * warps < n_warps) scratch[warp + j * warps] = sum;
        }
        consumers_meet(warps);
        const float4* four = reinterpret_cast<const float4*>(scratch);
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < NORM_THREADS / 128; ++i) {
            if (4 * i >= n_warps) break;
            const float4 v = four[i];
            sum = __fadd_rn(__fadd_rn(__fadd_rn(__fadd_rn(sum, v.x), v.y), v.z), v.w);
        }
        return sum;
    }

    // Asks for the norm's weights, to have them near when the row comes.
    __device__ void near() const {
        if (a.norm != NORM_NONE)
            for (uint32_t line = threadIdx.x; line < a.product.cols / 32; line += 32 * warps) asm volatile("prefetch.global.L1 [%0];" ::"l"(a.norm_weight + line * 32));
    }

    __device__ Piece weight_at(uint32_t piece) const {
        const float4* at = reinterpret_cast<const float4*>(a.norm_weight + piece * PIECE);
        const float4 x = __ldg(at), y = __ldg(at + 1);
        return {x.x, x.y, x.z, x.w, y.x, y.y, y.z, y.w};
    }

    __device__ void store(uint8_t* x, Piece p, const Piece& w, Moments m, uint32_t piece) {
        if (a.norm == NORM_RMS)
            p = apply_factor(p, m.factor, w);
        else if (a.norm == NORM_LAYER)
            p = apply_norm(p, m, w, nullptr, 0, PIECE);
        if (a.norm_bias) p = add_piece(p, load_whole(a.norm_bias, piece * PIECE));
        *reinterpret_cast<uint4*>(x + piece * 16) = piece_f16(p);
    }

    template <bool NEAR>
    __device__ void take(uint8_t* x, float* scratch) {
        const uint32_t cols = a.product.cols;
        fetch(a.hidden, kept);
        Moments m = {0.0f, 1.0f};
        if (a.norm == NORM_LAYER) {
            m.mean = mean_of(total(scratch, [](float sum, const Piece& p) { return add_values(sum, p); }), cols);
            consumers_meet(warps);
        }
        if (a.norm != NORM_NONE)
            m.factor = rsqrtf(mean_of(total(scratch, [&](float sum, const Piece& p) { return add_squares(sum, p, m.mean, 0, PIECE); }), cols) + a.eps);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            if (j == 1 && !twice()) break;
            if (!keeps(j)) continue;
            if (NEAR && a.norm != NORM_NONE) weight[j] = weight_at(piece_of(j));
            store(x, kept[j], weight[j], m, piece_of(j));
        }
        // What was not kept.
#pragma unroll 1
        for (uint32_t piece = NORM_THREADS + threadIdx.x; piece < pieces; piece += 32 * warps)
            store(x, load_whole(a.hidden, piece * PIECE), a.norm != NORM_NONE ? weight_at(piece) : Piece(), m, piece);
        // Steps are whole: zeros past the row's end.
        if (threadIdx.x < steps_of(cols) * (STEP_COLS / PIECE) - pieces) *reinterpret_cast<uint4*>(x + (pieces + threadIdx.x) * 16) = make_uint4(0, 0, 0, 0);
        consumers_meet(warps);
    }
};

}  // namespace
