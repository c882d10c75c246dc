// Rounds of decode attention: ROUND tokens' keys and values in shared memory, their scores, and the weighted values, on tensor cores.
//
// Tokens are the rows of the scores' product and up to GROUP query heads its columns, so that a warp needs one product for each
// 16 elements of its 16 tokens. The weights go through shared memory, and each warp adds 16 elements of all tokens' values: no
// warp has a part of a sum that another has to add. All addresses are worked out once, before the kernel waits.
#pragma once
#include "attend_split.cuh"

constexpr int DECODE_WARPS = 8;

template <int LIMIT, int ROUND>
struct __align__(32) Ready {
    static constexpr int TILES = ROUND / TILE, GROUPS = ROUND / 32;
    float tops[2][GROUP][2][GROUPS];           // of tiles, even ones and then odd ones
    __half queries[GROUP][LIMIT + 8];
    __half weights[2][GROUP][ROUND + 16];
    __half own[2][LIMIT];                      // the row's key and value, where their places are taken until the last round
    uint4 zeros;
};

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// Keys and values of a round: rows of 16-byte pieces, in an order that keeps the eight rows that are read together off each other's
// banks. DIM: the elements of a head, or 0 where the launch says.
template <int DIM>
struct Rows {
    int dim;
    __device__ __forceinline__ explicit Rows(int d) : dim(DIM ? DIM : d) {}
    __device__ __forceinline__ int pieces() const { return dim / 8; }
    __device__ __forceinline__ int row_bytes() const { return DIM ? DIM * 2 : (dim / 8 | 1) * 16; }
    __device__ __forceinline__ static int key_turn(int token) { return DIM ? token & 7 : 0; }
    __device__ __forceinline__ static int value_turn(int token) { return DIM ? (token & 1) | (token >> 2 & 6) : 0; }
};

__device__ __forceinline__ void copy_piece(uint32_t to, const __half* from, uint32_t bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

// Asks for a tile's keys or values or both: those that the cache has and the row sees; zeros in the others' place, and the row's own
// is left alone. A lane takes rows r and r + 8. `keys` and `values`: the round's, in shared memory.
template <int DIM, bool KEYS, bool VALUES>
__device__ __forceinline__ void ask_tile(const Attend& p, const Place& at, int token0, uint32_t keys, uint32_t values, int tile) {
    const Rows<DIM> rows(p.kv.dim);
    const int lane = fresh(threadIdx.x % 32), dim = rows.dim, values_after = p.kv.heads * PAGE_TOKENS * dim;
    KvView kv = p.kv;
    kv.layer = fresh(kv.layer);
    const __half* page = (const __half*)kv.base;
    if (token0 < at.position) page = kv_page(kv, at.slot, token0, 0, at.kv_head) + token0 % PAGE_TOKENS * dim;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = lane / 4 + 8 * h, token = token0 + row, in_round = tile * TILE + row;
        if (token == at.position) continue;
        const bool there = token >= at.from && token < at.position;
        const uint32_t bytes = there ? 16 : 0;
        const __half* from = page + (there ? row * dim + lane % 4 * 8 : 0);
        const uint32_t key = keys + in_round * rows.row_bytes(), value = values + in_round * rows.row_bytes();
#pragma unroll
        for (int i = 0; i < (DIM ? DIM / 32 : 8); i++) {
            const int piece = lane % 4 + 4 * i;
            if (!DIM && piece >= rows.pieces()) break;
            if (KEYS) copy_piece(key + ((piece ^ rows.key_turn(row)) << 4), from + 32 * i, bytes);
            if (VALUES) copy_piece(value + ((piece ^ rows.value_turn(in_round)) << 4), from + values_after + 32 * i, bytes);
        }
    }
}

__device__ __forceinline__ void asked() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int N>
__device__ __forceinline__ void wait_for_all_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Where a lane finds and puts what a round needs, in shared memory.
template <int DIM, int LIMIT, int ROUND>
struct Addresses {
    static constexpr int ELEMENT_TILES = (LIMIT + DECODE_WARPS * 16 - 1) / (DECODE_WARPS * 16);  // of a warp
    static constexpr int TOPS = sizeof(Ready<LIMIT, ROUND>::tops) / 2, WEIGHTS = sizeof(Ready<LIMIT, ROUND>::weights) / 2;  // of a buffer
    uint32_t queries, keys, put_weights, put_top, weights, tops, zeros;
    uint32_t values[ELEMENT_TILES];  // 0: beyond the last element

    __device__ __forceinline__ Addresses(const Ready<LIMIT, ROUND>& ready, uint32_t keys0, uint32_t values0, int dim_, int warp, int lane) {
        const Rows<DIM> rows(dim_);
        const int g = lane / 4, t = lane % 4, row = lane % 16;
        queries = shared_address(&ready.queries[lane % 8][lane / 8 * 8]);
        keys = keys0 + (warp * TILE + row) * rows.row_bytes() + ((lane / 16 ^ rows.key_turn(row)) << 4);
        put_weights = shared_address(&ready.weights[0][2 * t][warp % Ready<LIMIT, ROUND>::TILES * TILE + g]);
        put_top = shared_address(&ready.tops[0][2 * t + g % 2][warp % 2][warp % Ready<LIMIT, ROUND>::TILES / 2]);
        weights = shared_address(&ready.weights[0][g][8 * t]);
        tops = shared_address(ready.tops[0][g][t / 2]);
        zeros = shared_address(&ready.zeros);
        const int r = lane % 8, first = 8 * (r / 2) + r % 2 + lane / 16 * 2;
#pragma unroll
        for (int i = 0; i < ELEMENT_TILES; i++) {
            const int piece = 2 * (warp + i * DECODE_WARPS) + lane / 8 % 2;
            values[i] = values0 + first * rows.row_bytes() + ((piece ^ rows.value_turn(first)) << 4);
            if (!DIM && piece >= rows.pieces()) values[i] = 0;
            values[i] = fresh(values[i]);
        }
        queries = fresh(queries), keys = fresh(keys), put_weights = fresh(put_weights), put_top = fresh(put_top), weights = fresh(weights), tops = fresh(tops);
    }
};

// The scores of a tile's tokens become weights, relative to the tile's highest. `visible`: of tokens g and g + 8.
template <int DIM, int LIMIT, int ROUND>
__device__ __forceinline__ void score(const Addresses<DIM, LIMIT, ROUND>& at, uint32_t slot, int buffer, bool any, const bool (&visible)[2], int dim, int lane) {
    float s[2][4] = {}, top[2] = {-INFINITY, -INFINITY};
    if (any) {
        const int steps = (dim + 31) / 32, pieces = dim / 8, high = lane / 16;
        const uint32_t k = at.keys + slot;
#pragma unroll
        for (int j = 0; j < (DIM ? DIM / 32 : LIMIT / 32); j++) {
            if (!DIM && j >= steps) break;
            uint32_t b[4], a[2][4];
            load_matrices(b, at.queries + j * 64);
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int piece = 4 * j + 2 * e;
                load_matrices(a[e], DIM ? (k ^ (piece % 8 << 4)) + (piece / 8 << 7) : piece + high < pieces ? k + (piece << 4) : at.zeros);
            }
            mma(s[0], a[0], b[0], b[1]);
            mma(s[1], a[1], b[2], b[3]);
        }
#pragma unroll
        for (int e = 0; e < 4; e++) s[0][e] = visible[e / 2] ? s[0][e] + s[1][e] : -INFINITY;
        top[0] = fmaxf(s[0][0], s[0][2]), top[1] = fmaxf(s[0][1], s[0][3]);
#pragma unroll
        for (int o = 4; o < 32; o *= 2) {
            top[0] = fmaxf(top[0], __shfl_xor_sync(~0u, top[0], o));
            top[1] = fmaxf(top[1], __shfl_xor_sync(~0u, top[1], o));
        }
        // No infinity less another: the lowest finite base leaves nothing of tokens that are not seen.
#pragma unroll
        for (int e = 0; e < 4; e++) s[0][e] = power_of_2(s[0][e] - fmaxf(top[e % 2], -1e38f));
    }
    const uint32_t to = at.put_weights + buffer * at.WEIGHTS;
#pragma unroll
    for (int e = 0; e < 4; e++) put_half(to + 2 * (e % 2 * (ROUND + 16) + e / 2 * 8), s[0][e]);
    if (lane < 8) asm volatile("st.shared.f32 [%0], %1;" ::"r"(at.put_top + buffer * at.TOPS), "f"(lane < 4 ? top[0] : top[1]) : "memory");
}

// The sums of up to GROUP heads: rows g and g + 8 of 16 elements, columns 2t and 2t + 1; m of head g.
template <int N>
struct State {
    float m = -INFINITY, l[2][4] = {}, o[N][2][4] = {};

    // `by`: of head g.
    __device__ __forceinline__ void correct(float by) {
        const int t = threadIdx.x % 4;
        const float first = __shfl_sync(~0u, by, 8 * t), second = __shfl_sync(~0u, by, 8 * t + 4);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            l[e / 4][e % 4] *= e % 2 ? second : first;
#pragma unroll
            for (int n = 0; n < N; n++) o[n][e / 4][e % 4] *= e % 2 ? second : first;
        }
    }
};

template <int N>
__device__ __forceinline__ void load_floats(float (&x)[N], uint32_t at) {
    if constexpr (N == 4)
        asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3]) : "r"(at) : "memory");
    else
        asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(x[0]), "=f"(x[1]) : "r"(at) : "memory");
}

// Adds a round's values. Of 32 tokens, lane t has the weights of 8 t .. 8 t + 7. Tokens that are not there have no weight, and zeros
// for values.
template <int DIM, int LIMIT, int ROUND, class S>
__device__ __forceinline__ void add_values(const Addresses<DIM, LIMIT, ROUND>& at, uint32_t slot, int buffer, bool first_round, int dim, S& st) {
    constexpr int GROUPS = ROUND / 32;
    const Rows<DIM> rows(dim);
    float tops[GROUPS], others[GROUPS], top = st.m;
    uint32_t w[GROUPS][4];
    load_floats(tops, at.tops + buffer * at.TOPS);
    load_floats(others, (at.tops ^ GROUPS * 4) + buffer * at.TOPS);
#pragma unroll
    for (int n = 0; n < GROUPS; n++)
        asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(w[n][0]), "=r"(w[n][1]), "=r"(w[n][2]), "=r"(w[n][3]) : "r"(at.weights + buffer * at.WEIGHTS + 64 * n) : "memory");
#pragma unroll
    for (int n = 0; n < GROUPS; n++) top = fmaxf(top, fmaxf(tops[n], others[n]));
    if (__builtin_expect(!first_round, 0)) st.correct(power_of_2(st.m - top));
    st.m = top;
    const uint32_t ones[4] = {0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00};
#pragma unroll
    for (int n = 0; n < GROUPS; n++) {
        const __half2 factor = __float2half2_rn(power_of_2(tops[n] - top));
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const __half2 v = __hmul2(*(__half2*)&w[n][e], factor);
            w[n][e] = *(const uint32_t*)&v;
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
#pragma unroll
            for (int i = 0; i < at.ELEMENT_TILES; i++) {
                if (!DIM && i > 0 && dim <= DECODE_WARPS * 16) continue;
                uint32_t a[4];
                load_transposed(a, DIM || at.values[i] ? at.values[i] + slot + (32 * n + 4 * h) * rows.row_bytes() : at.zeros);
                mma(st.o[i][h], a, w[n][2 * h], w[n][2 * h + 1]);
            }
            mma(st.l[h], ones, w[n][2 * h], w[n][2 * h + 1]);
        }
    }
}
