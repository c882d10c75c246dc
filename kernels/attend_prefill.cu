// Attention of a prompt's rows, on tensor cores.
//
// A block takes 64 rows of one segment for one query head, a warp 16 of them; keys and values pass through shared memory in
// tiles that start at multiples of TILE. A row's result hangs on its own position only: a tile that a row does not see
// changes nothing in it, to the bit, so neither the other rows of a block nor the cut into chunks shows.
//
//   attend_prefill_dD          a warp multiplies by itself (mma)
//   attend_prefill_dD_hopper   the warpgroup does (wgmma, sm_90a alone; elsewhere the kernels do nothing)
#include "attend_hopper.cuh"

template <int D, int TILE>
__device__ __forceinline__ void attend_tile(const Attend& p) {
    extern __shared__ uint4 shared16[];
    __half* tiles = (__half*)shared16;
    pdl_begin();
    int4 tile = p.tiles[blockIdx.x];
    int head = blockIdx.y, kv_head = head / (p.q_heads / p.kv.heads);
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

    constexpr int TILE_HALFS = 2 * TILE * (D + 8);
    int start = first_visible(p, tile.w) / TILE * TILE;
    fetch_tile<D, TILE>(p, tiles, tile.z, start, end, kv_head);
    for (int t0 = start, at = 0; t0 < end; t0 += TILE, at ^= 1) {
        const __half *keys = tiles + at * TILE_HALFS, *values = keys + TILE * (D + 8);
        // The next tile is on its way while this one is used.
        if (t0 + TILE < end) {
            fetch_tile<D, TILE>(p, tiles + (at ^ 1) * TILE_HALFS, tile.z, t0 + TILE, end, kv_head);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
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
        uint32_t w[TILE / 16][4];
        weigh_scores(s, top, m, correct, sum, w);
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
        __syncthreads();
    }
    store_rows<D>(p, tile, head, row, m, l, o);
}

// grid (tiles, q heads), block 128, shared: two tiles of keys and values, 8 * TILE * (D + 8) bytes
#define ATTEND(D, TILE) \
    extern "C" __global__ void __launch_bounds__(128) attend_prefill_d##D(const Attend p) { attend_tile<D, TILE>(p); }
ATTEND(32, 64)
ATTEND(64, 64)
ATTEND(96, 64)
ATTEND(128, 64)
ATTEND(256, 32)

// grid (tiles, q heads), block 128, shared: 1024 and three tiles of keys and values, 3 * 256 * D bytes
#define ATTEND_HOPPER(D) \
    extern "C" __global__ void __launch_bounds__(128, 256 / D) attend_prefill_d##D##_hopper(const Attend p) { ATTEND_HOPPER_BODY(D); }
ATTEND_HOPPER(64)
ATTEND_HOPPER(128)
