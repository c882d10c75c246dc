// A row and its norm, in the order of sums and roundings that prepare.cu and product_row.cu have in common: the same bits.
//
// The sums go as if NORM_THREADS threads took pieces of 8 columns in turn, whatever threads there are.
#pragma once
#include <cuda_fp16.h>
#include <stdint.h>

enum RowNorm : uint32_t { NORM_NONE = 0, NORM_RMS = 1, NORM_LAYER = 2 };

constexpr int NORM_THREADS = 512;
constexpr int PIECE = 8;  // columns that a thread takes at a time: 16 bytes of f16

struct Piece {
    float x[PIECE];
};

struct Moments {
    float mean, factor;
};

// Columns col .. col + 8 of a row, zeros past its end. Read past the first cache, which may hold what the row was before.
__device__ __forceinline__ Piece load_piece(const float* x, uint32_t col, uint32_t cols) {
    Piece p;
    if (col + PIECE <= cols && cols % 4 == 0) {
        const float4 a = __ldcg(reinterpret_cast<const float4*>(x + col)), b = __ldcg(reinterpret_cast<const float4*>(x + col + 4));
        p = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    } else {
#pragma unroll
        for (int i = 0; i < PIECE; ++i) p.x[i] = col + i < cols ? __ldcg(x + col + i) : 0.0f;
    }
    return p;
}

// The same where a row is whole pieces, and the piece is one of them.
__device__ __forceinline__ Piece load_whole(const float* x, uint32_t col) {
    const float4 a = __ldcg(reinterpret_cast<const float4*>(x + col)), b = __ldcg(reinterpret_cast<const float4*>(x + col + 4));
    return {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
}

__device__ __forceinline__ float mean_of(float sum, uint32_t cols) { return sum * __fdividef(1.0f, (float)cols); }

__device__ __forceinline__ float add_values(float sum, const Piece& p) {
#pragma unroll
    for (int i = 0; i < PIECE; ++i) sum = __fadd_rn(sum, p.x[i]);
    return sum;
}

__device__ __forceinline__ float add_squares(float sum, const Piece& p, float mean, uint32_t col, uint32_t cols) {
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        const float v = __fsub_rn(p.x[i], mean);
        if (col + i < cols) sum = fmaf(v, v, sum);
    }
    return sum;
}

__device__ __forceinline__ Piece apply_norm(const Piece& p, Moments m, const Piece& weight, const float* bias, uint32_t col, uint32_t cols) {
    Piece y;
#pragma unroll
    for (int i = 0; i < PIECE; ++i) {
        y.x[i] = col + i < cols ? __fmul_rn(__fmul_rn(__fsub_rn(p.x[i], m.mean), m.factor), weight.x[i]) : 0.0f;
        if (bias && col + i < cols) y.x[i] = __fadd_rn(y.x[i], bias[col + i]);
    }
    return y;
}

// The same where the mean is 0 and there is no bias.
__device__ __forceinline__ Piece apply_factor(const Piece& p, float factor, const Piece& weight) {
    Piece y;
#pragma unroll
    for (int i = 0; i < PIECE; ++i) y.x[i] = __fmul_rn(__fmul_rn(p.x[i], factor), weight.x[i]);
    return y;
}

__device__ __forceinline__ Piece add_piece(const Piece& p, const Piece& q) {
    Piece y;
#pragma unroll
    for (int i = 0; i < PIECE; ++i) y.x[i] = __fadd_rn(p.x[i], q.x[i]);
    return y;
}

__device__ __forceinline__ uint32_t pair_of_floats(float x, float y) {
    const __half2 h = __floats2half2_rn(x, y);
    return *reinterpret_cast<const uint32_t*>(&h);
}

__device__ __forceinline__ uint4 piece_f16(const Piece& p) {
    return make_uint4(pair_of_floats(p.x[0], p.x[1]), pair_of_floats(p.x[2], p.x[3]), pair_of_floats(p.x[4], p.x[5]), pair_of_floats(p.x[6], p.x[7]));
}

// The sum over a warp of NORM_THREADS' threads.
__device__ __forceinline__ float norm_warp_sum(float x) {
#pragma unroll
    for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
    return x;
}

// The sum of what those warps had.
__device__ __forceinline__ float norm_sum(const float* warps, int n) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < NORM_THREADS / 32; ++i) sum += i < n ? warps[i] : 0.0f;
    return sum;
}
