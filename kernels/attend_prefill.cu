// Attention of a prompt's rows, on tensor cores.
//
// A block takes 64 rows of one segment for one query head, a warp 16 of them; keys and values pass through shared memory in
// tiles that start at multiples of TILE. A row's result hangs on its own position only: a tile that a row does not see
// changes nothing in it, to the bit, so neither the other rows of a block nor the cut into chunks shows.
//
//   attend_prefill_dD          a warp multiplies by itself (mma)
//   attend_prefill_dD_hopper   the warpgroup does (wgmma, sm_90a alone; elsewhere the kernels do nothing)
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

// grid (tiles, q heads), block 128, shared: 1024 and three tiles of keys and values, 3 * 256 * D bytes
#define ATTEND_HOPPER(D) \
    extern "C" __global__ void __launch_bounds__(128, 256 / D) attend_prefill_d##D##_hopper(const Attend p) { ATTEND_HOPPER_BODY(D); }
ATTEND_HOPPER(64)
ATTEND_HOPPER(128)
