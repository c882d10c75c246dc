// Matrix products straight from the file's layout, for every type: slow, short, and the check on the fast ones.
//
// One warp makes one output for eight rows of activations, of F32 for two: those are a router's, and few. Lane l sums inputs 8 l .. 8 l + 8 of every 256, then the warp adds
// up: the order hangs on the matrix alone, so a row's result does not know its neighbours.
#pragma once
#include "common.cuh"
#include "raw_blocks.cuh"

struct Product {
    const uint8_t* weight;
    uint64_t row_bytes;
    const float* x;      // [x rows, x_stride]
    float* y;            // [y rows, y_stride]
    const float* bias;   // [rows], or of all experts; or null
    const int* experts;  // with experts: the expert of each y row, below 0 for none
    uint64_t expert_bytes;
    int cols;
    int rows;            // outputs
    int n;               // rows of y
    int x_stride;
    int y_stride;
    int x_divide;        // with experts: y row j reads x row j / x_divide
    int bias_stride;     // with experts: floats between their biases
    int add;             // y += instead of y =
};

template <int T, int R>
__device__ __forceinline__ void product_rows(const Product& p, const uint8_t* row, const float* const x[R], float acc[R]) {
    constexpr int AHEAD = R <= 2 ? 4 : 1;
    int lane = threadIdx.x % 32;
#pragma unroll AHEAD
    for (int k = lane * 8; k < p.cols; k += 256) {
        float w[8];
        decode8<T>(row, k, w);
#pragma unroll
        for (int r = 0; r < R; r++) {
            const float4* from = (const float4*)(x[r] + k);
            float4 a = from[0], b = from[1];
            float s = acc[r];
            s = fmaf(w[0], a.x, s);
            s = fmaf(w[1], a.y, s);
            s = fmaf(w[2], a.z, s);
            s = fmaf(w[3], a.w, s);
            s = fmaf(w[4], b.x, s);
            s = fmaf(w[5], b.y, s);
            s = fmaf(w[6], b.z, s);
            acc[r] = fmaf(w[7], b.w, s);
        }
    }
}

__device__ __forceinline__ void store_product(const Product& p, int row, int j, float sum, int expert) {
    if (p.bias) sum += p.bias[(size_t)expert * p.bias_stride + row];
    float* to = p.y + (size_t)j * p.y_stride + row;
    *to = p.add ? *to + sum : sum;
}

// grid (ceil(rows / 4), ceil(n / R)), block 128
template <int T, int R>
__device__ __forceinline__ void product_dense(const Product& p) {
    pdl_begin();
    int row = blockIdx.x * 4 + threadIdx.x / 32, first = blockIdx.y * R;
    if (row >= p.rows) return;
    const float* x[R];
    float acc[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        x[r] = p.x + (size_t)min(first + r, p.n - 1) * p.x_stride;
        acc[r] = 0.0f;
    }
    product_rows<T, R>(p, p.weight + (size_t)row * p.row_bytes, x, acc);
#pragma unroll
    for (int r = 0; r < R; r++) {
        float sum = warp_sum(acc[r]);
        if (threadIdx.x % 32 == 0 && first + r < p.n) store_product(p, row, first + r, sum, 0);
    }
}

// grid (ceil(rows / 4), n), block 128
template <int T>
__device__ __forceinline__ void product_of_experts(const Product& p) {
    pdl_begin();
    int row = blockIdx.x * 4 + threadIdx.x / 32, j = blockIdx.y;
    if (row >= p.rows) return;
    int expert = p.experts[j];
    if (expert < 0) return;
    const float* x[1] = {p.x + (size_t)(j / p.x_divide) * p.x_stride};
    float acc[1] = {0.0f};
    product_rows<T, 1>(p, p.weight + expert * p.expert_bytes + (size_t)row * p.row_bytes, x, acc);
    float sum = warp_sum(acc[0]);
    if (threadIdx.x % 32 == 0) store_product(p, row, j, sum, expert);
}

#define PRODUCTS(name, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(128) product_##name(const Product p) { product_dense<T, T == F32 ? 2 : 8>(p); }      \
    extern "C" __global__ void __launch_bounds__(128) product_experts_##name(const Product p) { product_of_experts<T>(p); }
