// Attention of a prompt's rows, on tensor cores.
//
// A block takes 64 rows of one segment for one query head, a warp 16 of them; keys and values pass through shared memory in
// tiles that start at multiples of TILE. A row's result hangs on its own position only: a tile that a row does not see
// changes nothing in it, to the bit, so neither the other rows of a block nor the cut into chunks shows.
#include "attend.cuh"

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

// Keys or values of tokens t0 .. t0 + TILE into [TILE][D + 8]; zero from `end` on and past the dimension.
template <int D, int TILE>
__device__ __forceinline__ void load_tile(const Attend& p, __half* to, int slot, int t0, int end, int which, int kv_head) {
    int dim = p.kv.dim;
    for (int i = threadIdx.x; i < TILE * (D / 8); i += 128) {
        int t = i / (D / 8), d = i % (D / 8) * 8;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (t0 + t < end && d < dim) {
            const __half* page = kv_page(p.kv, slot, t0 + t, which, kv_head);
            v = *(const uint4*)(page + (t0 + t) % PAGE_TOKENS * dim + d);
        }
        *(uint4*)(to + t * (D + 8) + d) = v;
    }
}

template <int D, int TILE>
__device__ __forceinline__ void attend_tile(const Attend& p) {
    __shared__ __align__(16) __half keys[TILE * (D + 8)];
    __shared__ __align__(16) __half values[TILE * (D + 8)];
    pdl_begin();
    int4 tile = p.tiles[blockIdx.x];
    int head = blockIdx.y, kv_head = head / (p.q_heads / p.kv.heads), dim = p.kv.dim;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = warp * 16 + lane / 4;
    uint32_t q[D / 16][4];
    load_q<D>(p, tile, head, row, q);
    float o[D / 8][4];
#pragma unroll
    for (int i = 0; i < D / 8; i++) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0.0f;
    float m[2] = {-INFINITY, -INFINITY}, l[2] = {0.0f, 0.0f};
    int position[2] = {tile.w + row, tile.w + row + 8};
    int from[2] = {first_visible(p, position[0]), first_visible(p, position[1])};
    int end = tile.w + tile.y;

    for (int t0 = first_visible(p, tile.w) / TILE * TILE; t0 < end; t0 += TILE) {
        __syncthreads();
        load_tile<D, TILE>(p, keys, tile.z, t0, end, 0, kv_head);
        load_tile<D, TILE>(p, values, tile.z, t0, end, 1, kv_head);
        __syncthreads();
        float s[TILE / 8][4];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll
        for (int i = 0; i < D / 16; i++)
#pragma unroll
            for (int n = 0; n < TILE / 16; n++) {
                uint32_t b[4];
                int t = n * 16 + lane % 8 + lane / 16 * 8, d = i * 16 + lane / 8 % 2 * 8;
                ldmatrix4(b, keys + t * (D + 8) + d);
                mma(s[2 * n], q[i], b[0], b[1]);
                mma(s[2 * n + 1], q[i], b[2], b[3]);
            }
        float top[2] = {m[0], m[1]};
#pragma unroll
        for (int n = 0; n < TILE / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int t = t0 + n * 8 + lane % 4 * 2 + i % 2, h = i / 2;
                if (t < from[h] || t > position[h]) s[n][i] = -INFINITY;
                top[h] = fmaxf(top[h], s[n][i]);
            }
        float correct[2], sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int h = 0; h < 2; h++) {
            top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 1));
            top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 2));
            float base = top[h] == -INFINITY ? 0.0f : top[h];
            correct[h] = exp2f(m[h] - base);
            m[h] = top[h];
            top[h] = base;
        }
        uint32_t w[TILE / 16][4];
#pragma unroll
        for (int n = 0; n < TILE / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[n][i] = exp2f(s[n][i] - top[i / 2]);
                sum[i / 2] += s[n][i];
            }
            w[n / 2][n % 2 * 2] = pack(s[n][0], s[n][1]);
            w[n / 2][n % 2 * 2 + 1] = pack(s[n][2], s[n][3]);
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
            sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
            l[h] = fmaf(l[h], correct[h], sum[h]);
        }
#pragma unroll
        for (int i = 0; i < D / 8; i++) {
            o[i][0] *= correct[0];
            o[i][1] *= correct[0];
            o[i][2] *= correct[1];
            o[i][3] *= correct[1];
        }
#pragma unroll
        for (int n = 0; n < TILE / 16; n++)
#pragma unroll
            for (int i = 0; i < D / 16; i++) {
                uint32_t b[4];
                int t = n * 16 + lane % 16, d = i * 16 + lane / 16 * 8;
                ldmatrix4_trans(b, values + t * (D + 8) + d);
                mma(o[2 * i], w[n], b[0], b[1]);
                mma(o[2 * i + 1], w[n], b[2], b[3]);
            }
    }
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

// grid (tiles, q heads), block 128
#define ATTEND(D, TILE) \
    extern "C" __global__ void __launch_bounds__(128) attend_prefill_d##D(const Attend p) { attend_tile<D, TILE>(p); }
ATTEND(32, 64)
ATTEND(64, 64)
ATTEND(96, 64)
ATTEND(128, 64)
ATTEND(256, 32)
