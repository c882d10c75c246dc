// Attention of single rows on tensor cores, split over the length of the cache; with the rotation of q and k and the append to
// the cache before it.
//
// A block takes one split of one KV head for one row, with up to 16 query heads of the group together as the rows of a product,
// so keys and values are read once. A warp takes chunks of TOKENS tokens in turn, straight from the cache into registers: 16
// bytes a load, elements and tokens in an order that makes them fragments as they come. The last block of a row and head to
// finish merges the splits in order. A split's size follows from the row's position alone.
//
// What the cache held before this step was there before the graph began, so it is fetched before the kernel waits for the
// product, and the turn of the position is worked out; the token's own key and value are taken from shared memory.
#include "attend.cuh"

constexpr int WARPS = 8;
constexpr int MIN_SPLIT = 256, MAX_SPLITS = 32;

__device__ __forceinline__ int split_tokens(int position) {
    int tokens = MIN_SPLIT;
    while (tokens * MAX_SPLITS <= position) tokens *= 2;
    return tokens;
}

// Keys and values of TOKENS tokens, as one lane holds them.
template <int D, int TOKENS>
struct Chunk {
    uint4 k[TOKENS / 8][D / 32];       // token 8 i + lane / 4, elements 32 j + 8 (lane % 4) ..
    uint4 v[TOKENS / 16][D / 64][4];   // token 16 i + 2 (lane % 4) + {0, 1, 8, 9}, elements 64 j + 8 (lane / 4) ..
};

// What a block works on.
struct Place {
    int row, slot, position, from, kv_head, head0, heads, split, split_size, n_splits;
};

// Tokens from .. end of the chunk at t0; zeros for the others.
template <int D, int TOKENS>
__device__ __forceinline__ void load(const Attend& p, const Place& at, int t0, int end, Chunk<D, TOKENS>& c) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, dim = p.kv.dim;
    if (t0 >= end || t0 + TOKENS <= at.from) {
        t0 = end = 0;  // nothing to fetch, but every register gets its zero
    }
    const __half *keys = nullptr, *values = nullptr;
    if (end > 0) {
        keys = kv_page(p.kv, at.slot, t0, 0, at.kv_head) + t0 % PAGE_TOKENS * dim;
        values = kv_page(p.kv, at.slot, t0, 1, at.kv_head) + t0 % PAGE_TOKENS * dim;
    }
    uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < TOKENS / 8; i++)
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            int token = 8 * i + g, d = 32 * j + 8 * t;
            bool there = t0 + token >= at.from && t0 + token < end && d < dim;
            c.k[i][j] = there ? *(const uint4*)(keys + token * dim + d) : zero;
        }
#pragma unroll
    for (int i = 0; i < TOKENS / 16; i++)
#pragma unroll
        for (int j = 0; j < D / 64; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int token = 16 * i + 2 * t + e % 2 + e / 2 * 8, d = 64 * j + 8 * g;
                bool there = t0 + token >= at.from && t0 + token < end && d < dim;
                c.v[i][j][e] = there ? *(const uint4*)(values + token * dim + d) : zero;
            }
}

// Puts the row's own token into the chunk that holds it.
template <int D, int TOKENS>
__device__ __forceinline__ void add_own(Chunk<D, TOKENS>& c, int own, const __half* key, const __half* value) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    if (own < 0 || own >= TOKENS) return;
#pragma unroll
    for (int i = 0; i < TOKENS / 8; i++)
#pragma unroll
        for (int j = 0; j < D / 32; j++)
            if (own == 8 * i + g) c.k[i][j] = *(const uint4*)(key + 32 * j + 8 * t);
#pragma unroll
    for (int i = 0; i < TOKENS / 16; i++)
#pragma unroll
        for (int j = 0; j < D / 64; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (own == 16 * i + 2 * t + e % 2 + e / 2 * 8) c.v[i][j][e] = *(const uint4*)(value + 64 * j + 8 * g);
}

// The online softmax of a warp: rows g and g + 8 of the group, elements 64 j + 16 t + {0 .. 16} as o[j][i][0], [1] for i, i + 8.
template <int D>
struct State {
    float m[2], l[2];
    float o[D / 64][8][4];
};

__device__ __forceinline__ const uint32_t& word(const uint4& v, int i) { return ((const uint32_t*)&v)[i]; }

template <int D, int TOKENS>
__device__ __forceinline__ void take(const Place& at, const uint32_t q[D / 32][2][4], int t0, const Chunk<D, TOKENS>& c, State<D>& st) {
    int t = threadIdx.x % 4;
    float s[TOKENS / 8][4];
#pragma unroll
    for (int i = 0; i < TOKENS / 8; i++) {
        s[i][0] = s[i][1] = s[i][2] = s[i][3] = 0.0f;
#pragma unroll
        for (int j = 0; j < D / 32; j++) {
            mma(s[i], q[j][0], c.k[i][j].x, c.k[i][j].y);
            mma(s[i], q[j][1], c.k[i][j].z, c.k[i][j].w);
        }
    }
    float top[2] = {st.m[0], st.m[1]};
#pragma unroll
    for (int i = 0; i < TOKENS / 8; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int token = t0 + 8 * i + 2 * t + e % 2;
            if (token < at.from || token > at.position) s[i][e] = -INFINITY;
            top[e / 2] = fmaxf(top[e / 2], s[i][e]);
        }
    float correct[2], sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 1));
        top[h] = fmaxf(top[h], __shfl_xor_sync(0xffffffffu, top[h], 2));
        float base = top[h] == -INFINITY ? 0.0f : top[h];
        correct[h] = exp2f(st.m[h] - base);
        st.m[h] = top[h];
        top[h] = base;
    }
    uint32_t w[TOKENS / 16][4];
#pragma unroll
    for (int i = 0; i < TOKENS / 8; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            s[i][e] = exp2f(s[i][e] - top[e / 2]);
            sum[e / 2] += s[i][e];
        }
        w[i / 2][i % 2 * 2] = pack(s[i][0], s[i][1]);
        w[i / 2][i % 2 * 2 + 1] = pack(s[i][2], s[i][3]);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) st.l[h] = fmaf(st.l[h], correct[h], sum[h]);
#pragma unroll
    for (int j = 0; j < D / 64; j++)
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) st.o[j][i][e] *= correct[e / 2];
#pragma unroll
    for (int n = 0; n < TOKENS / 16; n++)
#pragma unroll
        for (int j = 0; j < D / 64; j++)
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const uint4* v = c.v[n][j];
                uint32_t how = i % 2 ? 0x7632 : 0x5410;
                mma(st.o[j][i], w[n], __byte_perm(word(v[0], i / 2), word(v[1], i / 2), how),
                    __byte_perm(word(v[2], i / 2), word(v[3], i / 2), how));
            }
}

// One part of a row: m, l, o[dim].
template <int D>
__device__ __forceinline__ void store_part(const Place& at, int dim, State<D>& st, float* parts) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        st.l[h] += __shfl_xor_sync(0xffffffffu, st.l[h], 1);
        st.l[h] += __shfl_xor_sync(0xffffffffu, st.l[h], 2);
        if (g + 8 * h >= at.heads) continue;
        float* part = parts + (g + 8 * h) * (dim + 2);
        if (t == 0) part[0] = st.m[h], part[1] = st.l[h];
#pragma unroll
        for (int j = 0; j < D / 64; j++)
#pragma unroll
            for (int i = 0; i < 16; i++) {
                int d = 64 * j + 16 * t + i;
                if (d < dim) part[2 + d] = st.o[j][i % 8][2 * h + i / 8];
            }
    }
}

// Elements d and d + 1 of `n` parts, `stride` floats apart, merged in order: m, l, o.
__device__ __forceinline__ float4 merge(const float* parts, size_t stride, int n, int d) {
    float m = -INFINITY, l = 0.0f;
    float2 o = make_float2(0.0f, 0.0f);
#pragma unroll 8
    for (int i = 0; i < n; i++) m = fmaxf(m, parts[i * stride]);
#pragma unroll 8
    for (int i = 0; i < n; i++) {
        const float* part = parts + i * stride;
        float2 v = *(const float2*)(part + 2 + d);
        float weight = part[0] == -INFINITY ? 0.0f : exp2f(part[0] - m);
        l = fmaf(weight, part[1], l);
        o.x = fmaf(weight, v.x, o.x);
        o.y = fmaf(weight, v.y, o.y);
    }
    return make_float4(m, l, o.x, o.y);
}

__device__ __forceinline__ void finish(const Attend& p, int row, int head, int d, float4 part) {
    float m = part.x, factor = 1.0f / part.y;
    if (p.sinks) {
        float sink = p.sinks[head] * LOG2_E, top = fmaxf(m, sink), own = exp2f(m - top);
        factor = own / fmaf(part.y, own, exp2f(sink - top));
    }
    put_mixed(p.mixed, row, head * p.kv.dim + d, p.q_stride, part.z * factor, part.w * factor);
}

// Rotated queries as A fragments: the same order of elements as the keys.
template <int D>
__device__ __forceinline__ void load_q(const __half* queries, uint32_t q[D / 32][2][4]) {
    int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int j = 0; j < D / 32; j++) {
        uint4 low = *(const uint4*)(queries + g * (D + 8) + 32 * j + 8 * t);
        uint4 high = *(const uint4*)(queries + (g + 8) * (D + 8) + 32 * j + 8 * t);
        q[j][0][0] = low.x, q[j][0][2] = low.y, q[j][1][0] = low.z, q[j][1][2] = low.w;
        q[j][0][1] = high.x, q[j][0][3] = high.y, q[j][1][1] = high.z, q[j][1][3] = high.w;
    }
}

// Rotates this block's queries, and in the last split the row's key, which goes to the cache with the value.
template <int D>
__device__ __forceinline__ void rotate(const Attend& p, const Place& at, const float2* turns, float* x, __half* queries, __half* own) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = p.kv.dim;
    float scale = p.scale * LOG2_E;
    for (int h = warp; h < 16; h += WARPS) {
        __half* to = queries + h * (D + 8);
        if (h < at.heads) take_head(x, p.q + (size_t)at.row * p.q_stride + (at.head0 + h) * dim, dim, p.q_norm, p.rope, at.position, turns);
        for (int i = lane; i < D; i += 32) to[i] = h < at.heads && i < dim ? __float2half_rn(x[i] * scale) : __half(0.0f);
        __syncwarp();
    }
    if (at.split + 1 < at.n_splits || warp < WARPS - 2) return;
    bool is_v = warp == WARPS - 1;
    const float* from = (is_v ? p.v : p.k) + (size_t)at.row * p.kv_stride + at.kv_head * dim;
    if (!is_v) take_head(x, from, dim, p.k_norm, p.rope, at.position, turns);
    __half* cache = kv_page(p.kv, at.slot, at.position, is_v, at.kv_head) + at.position % PAGE_TOKENS * dim;
    for (int i = lane; i < D; i += 32) {
        __half h = i < dim ? __float2half_rn(is_v ? from[i] : x[i]) : __half(0.0f);
        own[is_v * D + i] = h;
        if (i < dim) cache[i] = h;
    }
}

// grid (splits, kv heads * ceil(group / 16), n), block 256, shared: 8 * min(group, 16) * (dim + 2) floats
template <int D, int TOKENS>
__device__ __forceinline__ void attend_row(const Attend& p) {
    extern __shared__ float4 shared4[];
    __shared__ __align__(16) __half queries[16 * (D + 8)];
    __shared__ __align__(16) __half own[2 * D];
    __shared__ float heads[WARPS][D];
    __shared__ float2 turns[D / 2];
    __shared__ bool last;
    pdl_start();
    int group = p.q_heads / p.kv.heads, chunks = (group + 15) / 16, dim = p.kv.dim, warp = threadIdx.x / 32;
    Place at;
    at.row = blockIdx.z, at.slot = p.slot[at.row], at.position = p.position[at.row];
    at.from = first_visible(p, at.position), at.split_size = split_tokens(at.position);
    int first_split = at.from / at.split_size;
    at.n_splits = at.position / at.split_size - first_split + 1, at.split = blockIdx.x;
    at.kv_head = blockIdx.y / chunks;
    int first = blockIdx.y % chunks * 16;
    at.heads = min(16, group - first), at.head0 = at.kv_head * group + first;
    if (at.slot < 0 || at.split >= at.n_splits) return pdl_wait();

    int start = (first_split + at.split) * at.split_size, end = min(start + at.split_size, at.position);
    int t0 = start + warp * TOKENS;
    Chunk<D, TOKENS> c;
    load<D, TOKENS>(p, at, t0, end, c);
    if (p.rope.inv_freq && (int)threadIdx.x < p.rope.pairs) turns[threadIdx.x] = turn_of(p.rope, threadIdx.x, at.position);
    __syncthreads();
    pdl_wait();
    rotate<D>(p, at, turns, heads[warp], queries, own);
    __syncthreads();
    uint32_t q[D / 32][2][4];
    load_q<D>(queries, q);
    State<D> st;
    st.m[0] = st.m[1] = -INFINITY;
    st.l[0] = st.l[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < D / 64 * 32; i++) (&st.o[0][0][0])[i] = 0.0f;
    while (t0 <= at.position && t0 < start + at.split_size) {
        add_own<D, TOKENS>(c, at.position - t0, own, own + D);
        take<D, TOKENS>(at, q, t0, c, st);
        t0 += WARPS * TOKENS;
        if (t0 <= at.position && t0 < start + at.split_size) load<D, TOKENS>(p, at, t0, end, c);
    }

    float* parts = (float*)shared4;
    int part_floats = dim + 2;
    store_part<D>(at, dim, st, parts + warp * at.heads * part_floats);
    __syncthreads();
    size_t head_floats = (size_t)p.splits * part_floats;
    float* mine = p.partial + ((size_t)at.row * p.q_heads + at.head0) * head_floats;
    for (int i = threadIdx.x; i < at.heads * dim / 2; i += WARPS * 32) {
        int g = i / (dim / 2), d = i % (dim / 2) * 2;
        float4 part = merge(parts + g * part_floats, at.heads * part_floats, WARPS, d);
        if (at.n_splits == 1) {
            finish(p, at.row, at.head0 + g, d, part);
        } else {
            float* to = mine + g * head_floats + at.split * part_floats;
            if (d == 0) to[0] = part.x, to[1] = part.y;
            *(float2*)(to + 2 + d) = make_float2(part.z, part.w);
        }
    }
    if (at.n_splits == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* counter = p.finished + (size_t)at.row * gridDim.y + blockIdx.y;
        last = atomicAdd(counter, 1) == (uint32_t)at.n_splits - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int i = threadIdx.x; i < at.heads * dim / 2; i += WARPS * 32) {
        int g = i / (dim / 2), d = i % (dim / 2) * 2;
        finish(p, at.row, at.head0 + g, d, merge(mine + g * head_floats, part_floats, at.n_splits, d));
    }
}

#define ATTEND(D, TOKENS) \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) attend_decode_d##D(const Attend p) { attend_row<D, TOKENS>(p); }
ATTEND(64, 32)
ATTEND(128, 32)
ATTEND(256, 16)
