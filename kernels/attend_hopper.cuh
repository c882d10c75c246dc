// Attention of a prompt's rows by a warpgroup: wgmma, sm_90a alone.
#pragma once
#include "attend_prompt.cuh"

#if WGMMA
constexpr int KEYS = 64, STAGES = 3, PANEL_BYTES = KEYS * 128;

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// d += w v for 16 keys: w from registers; the values' rows are keys, so their tile is read across.
__device__ __forceinline__ void wgmma_values(float (&d)[32], const uint32_t (&a)[4], uint64_t descriptor) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
        : WGMMA_D8(0), WGMMA_D8(8), WGMMA_D8(16), WGMMA_D8(24)
        : WGMMA_A);
}

// What a thread needs to fetch tiles of keys and values, in panels as wgmma reads them: D / 64 of keys, then as many of values.
template <int D>
struct Fetch {
    static constexpr int CHUNKS_A_ROW = D / 8, ROWS = 128 / CHUNKS_A_ROW, PAGES = KEYS / PAGE_TOKENS;
    const uint32_t* table;
    const uint8_t* base;  // this thread's first chunk of a page's keys
    uint64_t page_bytes;
    uint32_t ring;        // pages, where they are used in turn; else 0
    int end, first, stride, values;
    uint32_t to;          // this thread's first chunk of a tile
    bool inside;
    uint32_t pages[PAGES];  // of the next tile, asked for long before they are used

    __device__ __forceinline__ Fetch(const Attend& p, const int4& tile, int kv_head, const uint8_t* tiles) {
        const KvView& kv = p.kv;
        const uint32_t* tables = kv.tables + (size_t)tile.z * kv.table_stride;
        const int chunk = threadIdx.x % CHUNKS_A_ROW;
        first = threadIdx.x / CHUNKS_A_ROW, end = tile.w + tile.y, inside = chunk * 8 < kv.dim;
        table = tables + kv.table_offset, ring = kv.ring ? tables[kv.group] : 0, page_bytes = kv.page_bytes;
        stride = ROWS * kv.dim * 2, values = kv.heads * PAGE_TOKENS * kv.dim * 2;
        base = kv.base + ((size_t)(kv.layer * 2 * kv.heads + kv_head) * PAGE_TOKENS + first) * kv.dim * 2 + chunk * 16;
        to = shared_address(tiles) + chunk / 8 * PANEL_BYTES + first * 128 + ((chunk ^ first) & 7) * 16;
    }

    // Asks where the tile from t0 on is.
    __device__ __forceinline__ void look_up(int t0) {
#pragma unroll
        for (int j = 0; j < PAGES; ++j) {
            uint32_t index = t0 / PAGE_TOKENS + j;
            if ((int)index * PAGE_TOKENS >= end) continue;
            if (ring) index %= ring;
            pages[j] = table[index];
        }
    }

    // Starts to fetch that tile to place `at`; zero from `end` on and past the dimension.
    __device__ __forceinline__ void start(int t0, int at) const {
        const uint32_t place = to + at * (2 * (D / 64) * PANEL_BYTES);
#pragma unroll
        for (int j = 0; j < (t0 < end ? PAGES : 0); ++j) {
            const uint8_t* page = base + (t0 + j * PAGE_TOKENS < end ? pages[j] : 0) * page_bytes;
#pragma unroll
            for (int i = 0; i < PAGE_TOKENS / ROWS; ++i) {
                const bool there = inside && t0 + j * PAGE_TOKENS + i * ROWS + first < end;
                const uint8_t* from = page + (there ? i * stride : 0);
                // A chunk's place depends on the row's last three bits, which a step of 8 rows leaves as they are.
                const uint32_t to_row = place + (j * PAGE_TOKENS + i * ROWS) * 128;
                copy16_at(to_row, from, there);
                copy16_at(to_row + D / 64 * PANEL_BYTES, there ? from + values : from, there);
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
};

// The rows' weights of one tile of keys: scores become weights, relative to the highest so far. Returns whether the sums so far have to
// be multiplied by `correct`.
__device__ __forceinline__ bool weigh(float (&s)[32], float (&m)[2], float (&l)[2], float (&correct)[2], uint32_t (&w)[4][4]) {
    float top[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float most[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) most[i] = fmaxf(fmaxf(s[8 * i + 2 * h], s[8 * i + 2 * h + 1]), fmaxf(s[8 * i + 2 * h + 4], s[8 * i + 2 * h + 5]));
        top[h] = fmaxf(fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3])), m[h]);
        top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 1));
        top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 2));
        const float base = top[h] == -INFINITY ? 0.0f : top[h];
        correct[h] = exp2_fast(m[h] - base);
        m[h] = top[h], top[h] = base;
    }
    float sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < 32; ++j) {
        s[j] = exp2_fast(s[j] - top[j / 2 % 2]);
        sum[j / 2 % 2] += s[j];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) l[h] = fmaf(l[h], correct[h], sum[h]);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) w[n][i] = pack(s[8 * n + 2 * i], s[8 * n + 2 * i + 1]);
    return __any_sync(0xffffffffu, correct[0] != 1.0f || correct[1] != 1.0f);
}

// Changes nothing, for `none` is 0, but the assembler cannot know. Without it ptxas 13.0 gives the registers of an A that stays the same in
// a loop to others after the first turn.
template <int N>
__device__ __forceinline__ void hold(uint32_t (&a)[N][4], uint32_t none) {
#pragma unroll
    for (int i = 0; i < 4 * N; ++i) asm volatile("or.b32 %0, %0, %1;" : "+r"(a[i / 4][i % 4]) : "r"(none));
}

// A tile's values are multiplied while the next tile's keys wait for it. A tile's place is filled again when all warps
// have begun the tile after the next.
template <int D>
__device__ __forceinline__ void attend_tile_hopper(const Attend& p) {
    extern __shared__ uint4 shared16[];
    uint8_t* tiles = (uint8_t*)shared16 + (1024 - (shared_address(shared16) & 1023)) % 1024;
    pdl_begin();
    const int4 tile = p.tiles[blockIdx.x];
    const int head = blockIdx.y, kv_head = head / (p.q_heads / p.kv.heads);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = warp * 16 + lane / 4;
    constexpr int TILE_BYTES = 2 * (D / 64) * PANEL_BYTES;
    const int end = tile.w + tile.y, start = first_visible(p, tile.w) / KEYS * KEYS;
    Fetch<D> fetch(p, tile, kv_head, tiles);
    fetch.look_up(start);
    fetch.start(start, 0);
    fetch.look_up(start + KEYS);
    uint32_t q[D / 16][4], w[KEYS / 16][4];
    const uint32_t none = (uint32_t)p.kv.dim >> 31;
    load_q<D>(p, tile, head, row, q);
    float o[D / 64][32] = {}, m[2] = {-INFINITY, -INFINITY}, l[2] = {0.0f, 0.0f}, correct[2];
    const int position[2] = {tile.w + row, tile.w + row + 8};
    const int from[2] = {first_visible(p, position[0]), first_visible(p, position[1])};
    // All of the warp's rows see the keys from `all_from` to `all_to`.
    const int all_to = tile.w + warp * 16, all_from = first_visible(p, tile.w + warp * 16 + 15);

    int at = 0;
    for (int t0 = start; t0 < end; t0 += KEYS) {
        const uint8_t *keys = tiles + at * TILE_BYTES, *values = keys + TILE_BYTES / 2;
        at = at + 1 == STAGES ? 0 : at + 1;
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        float s[32] = {};
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < D / 16; ++i) wgmma<64>(s, q[i], wgmma_descriptor(keys + i / 4 * PANEL_BYTES) + 2 * (i % 4));
        wgmma_commit();
        fetch.start(t0 + KEYS, at);
        fetch.look_up(t0 + 2 * KEYS);
        wgmma_wait<0>();
        wgmma_settle<64>(s);
        hold(q, none);
#pragma unroll
        for (int i = 0; i < D / 64; ++i) wgmma_settle<64>(o[i]);
        if (t0 + KEYS - 1 > all_to || t0 < all_from) {
#pragma unroll
            for (int j = 0; j < 32; ++j) {
                const int t = t0 + j / 4 * 8 + lane % 4 * 2 + j % 2, h = j / 2 % 2;
                if (t < from[h] || t > position[h]) s[j] = -INFINITY;
            }
        }
        if (weigh(s, m, l, correct, w)) {
#pragma unroll
            for (int i = 0; i < D / 64; ++i)
#pragma unroll
                for (int j = 0; j < 32; ++j) o[i][j] *= correct[j / 2 % 2];
        }
        wgmma_fence();
#pragma unroll
        for (int n = 0; n < KEYS / 16; ++n)
#pragma unroll
            for (int i = 0; i < D / 64; ++i) wgmma_values(o[i], w[n], wgmma_descriptor(values + i * PANEL_BYTES + n * 2048));
        wgmma_commit();
    }
    wgmma_wait<0>();
    float sums[D / 8][4];
#pragma unroll
    for (int i = 0; i < D / 64; ++i) {
        wgmma_settle<64>(o[i]);
#pragma unroll
        for (int j = 0; j < 32; ++j) sums[i * 8 + j / 4][j % 4] = o[i][j];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        l[h] += __shfl_xor_sync(0xffffffffu, l[h], 1);
        l[h] += __shfl_xor_sync(0xffffffffu, l[h], 2);
    }
    store_rows<D>(p, tile, head, row, m, l, sums);
}
#define ATTEND_HOPPER_BODY(D) attend_tile_hopper<D>(p)
#else
#define ATTEND_HOPPER_BODY(D)
#endif
