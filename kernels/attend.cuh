// Attention's common parts.
#pragma once
#include "product_layout.cuh"
#include "rope.cuh"

// Where attention's output goes.
struct Mixed {
    float* plain;     // [n, width], or null
    __half* packed;   // records or panels of product_layout.cuh, or null
    int stride;       // of packed
    int panels;
};

struct Attend {
    const float* q;       // [n, q_stride]; decode: as the product made it
    const float* k;       // decode: [n, kv_stride], as the product made it
    const float* v;
    const int* slot;      // [n]; below 0: a row that is not there
    const int* position;  // [n]
    const int4* tiles;    // prefill: first row, rows, slot, position of the first row
    const float* sinks;   // [q heads], or null
    float* partial;       // decode: [n, q heads, splits, dim + 4]
    uint32_t* finished;   // decode: [n, blockIdx.y], zero before and after
    Mixed mixed;
    Norm q_norm;          // decode
    Norm k_norm;
    Rope rope;
    KvView kv;
    float scale;
    int window;  // 0: none
    int q_heads;
    int q_stride;
    int kv_stride;
    int splits;  // decode: gridDim.x
};

constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ int first_visible(const Attend& p, int position) {
    return p.window > 0 && position >= p.window ? position - p.window + 1 : 0;
}

// Where element `col` of a row is.
__device__ __forceinline__ size_t mixed_at(const Mixed& to, int row, int col, int width) {
    if (!to.packed) return (size_t)row * width + col;
    return to.panels ? x_panel_at(row, col, to.stride) : x_record_at(row, col, to.stride);
}

// Two elements beside each other, the first one's column even.
__device__ __forceinline__ void put_mixed_at(const Mixed& to, size_t at, float x, float y) {
    if (to.packed)
        *(__half2*)(to.packed + at) = __floats2half2_rn(x, y);
    else
        *(float2*)(to.plain + at) = make_float2(x, y);
}

__device__ __forceinline__ void put_mixed(const Mixed& to, int row, int col, int width, float x, float y) {
    put_mixed_at(to, mixed_at(to, row, col, width), x, y);
}

__device__ __forceinline__ void mma(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack(float x, float y) {
    __half2 h = __floats2half2_rn(x, y);
    return *(uint32_t*)&h;
}

// One tile's scores s, of rows g and g + 8 with the highest `top` that each lane has seen, become the weights w of a product, with
// their sums; m is the highest so far, and `correct` what all before has to be multiplied by.
template <int N>
__device__ __forceinline__ void weigh_scores(float (&s)[N][4], float (&top)[2], float (&m)[2], float (&correct)[2], float (&sum)[2], uint32_t (&w)[N / 2][4]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 1));
        top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 2));
        float base = top[h] == -INFINITY ? 0.0f : top[h];
        correct[h] = exp2f(m[h] - base);
        m[h] = top[h];
        top[h] = base;
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] = exp2f(s[n][i] - top[i / 2]);
            sum[i / 2] += s[n][i];
        }
        w[n / 2][n % 2 * 2] = pack(s[n][0], s[n][1]);
        w[n / 2][n % 2 * 2 + 1] = pack(s[n][2], s[n][3]);
    }
}
