// What the ways of attending to a prompt share: queries as fragments, copies to shared memory, and what becomes of a row's sums.
#pragma once
#include "attend.cuh"
#include "product_wgmma.cuh"

__device__ __forceinline__ void ldmatrix4(uint32_t r[4], const __half* p) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

__device__ __forceinline__ void ldmatrix4_trans(uint32_t r[4], const __half* p) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

// Rows r and r + 8 of the warp's 16 x D queries, scaled, as the A operand. Zero past the dimension and past the tile.
template <int D>
__device__ __forceinline__ void load_q(const Attend& p, const int4& tile, int head, int row, uint32_t q[D / 16][4]) {
    int dim = p.kv.dim, lane = threadIdx.x % 32;
    float scale = p.scale * LOG2_E;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int part = 0; part < 4; part++) {
            int r = row + part % 2 * 8, d = i * 16 + part / 2 * 8 + lane % 4 * 2;
            float2 v = make_float2(0.0f, 0.0f);
            if (r < tile.y && d < dim) v = *(const float2*)(p.q + (size_t)(tile.x + r) * p.q_stride + head * dim + d);
            q[i][part] = pack(v.x * scale, v.y * scale);
        }
}

// 16 bytes to shared memory, without waiting; zeros where there are none.
__device__ __forceinline__ void copy16_at(uint32_t to, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

__device__ __forceinline__ void copy16(__half* to, const __half* from, bool there) {
    copy16_at((uint32_t)__cvta_generic_to_shared(to), from, there);
}

// Starts to fetch keys and values of tokens t0 .. t0 + TILE into [2][TILE][D + 8]; zero from `end` on and past the dimension.
template <int D, int TILE>
__device__ __forceinline__ void fetch_tile(const Attend& p, __half* to, int slot, int t0, int end, int kv_head) {
    int dim = p.kv.dim;
    const __half* pages[2][TILE / PAGE_TOKENS];
#pragma unroll
    for (int j = 0; j < TILE / PAGE_TOKENS; j++)
#pragma unroll
        for (int which = 0; which < 2; which++)
            pages[which][j] = t0 + j * PAGE_TOKENS < end ? kv_page(p.kv, slot, t0 + j * PAGE_TOKENS, which, kv_head) : (const __half*)p.kv.base;
#pragma unroll
    for (int which = 0; which < 2; which++)
#pragma unroll
        for (int j = 0; j < TILE / PAGE_TOKENS; j++)
            for (int i = threadIdx.x; i < PAGE_TOKENS * (D / 8); i += 128) {
                int t = i / (D / 8), d = i % (D / 8) * 8;
                bool there = t0 + j * PAGE_TOKENS + t < end && d < dim;
                copy16(to + (which * TILE + j * PAGE_TOKENS + t) * (D + 8) + d, pages[which][j] + (there ? t * dim + d : 0), there);
            }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Stores the warp's rows `row` and `row` + 8 of the tile: the weighted sums o over all weights l, of which m is the highest logarithm.
template <int D>
__device__ __forceinline__ void store_rows(const Attend& p, const int4& tile, int head, int row, const float m[2], const float l[2], const float (&o)[D / 8][4]) {
    int dim = p.kv.dim, lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (row + h * 8 >= tile.y) continue;
        float factor = 1.0f / l[h];
        if (p.sinks) {
            float sink = p.sinks[head] * LOG2_E, top = fmaxf(m[h], sink);
            float own = exp2f(m[h] - top);
            factor = own / fmaf(l[h], own, exp2f(sink - top));
        }
#pragma unroll
        for (int i = 0; i < D / 8; i++) {
            int d = i * 8 + lane % 4 * 2;
            if (d < dim)
                put_mixed(p.mixed, tile.x + row + h * 8, head * dim + d, p.q_stride, o[i][2 * h] * factor, o[i][2 * h + 1] * factor);
        }
    }
}
