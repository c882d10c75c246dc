// Attention of single rows on tensor cores, split over the length of the cache; with the rotation of q and k and the append to
// the cache before it.
//
// A block takes one split of one KV head for one row, with up to 16 query heads of the group together as the rows of a product,
// so keys and values are read once. A warp takes chunks of TOKENS tokens in turn, which bulk copies bring to its own part of
// shared memory: a chunk's keys are one piece of a page, and so are its values. Elements and tokens are taken in an order that
// makes 16 bytes fragments as they come. The last block of a row and head to finish merges the splits in order. A split's size
// follows from the row's position alone.
//
// What the cache held before this step was there before the graph began, so it is fetched before the kernel waits for the
// product, and the turn of the position is worked out; the token's own key and value are put into their chunk. Few registers and
// small blocks let the kernels before and after be there at the same time.
#include "attend.cuh"
#include "product_async.cuh"

constexpr int WARPS = 4;
constexpr int MIN_SPLIT = 256, MAX_SPLITS = 32;
constexpr int PART_TAIL = 4;  // floats of a part after its elements: m, l, and two to keep 16 bytes together

__device__ __forceinline__ int split_tokens(int position) {
    int tokens = MIN_SPLIT;
    while (tokens * MAX_SPLITS <= position) tokens *= 2;
    return tokens;
}

// What a block works on.
struct Place {
    int row, slot, position, from, kv_head, head0, heads, split, split_size, n_splits;
};

// Asks for the tokens of the chunk at t0 that the cache has, up to `end`: keys at `to`, then values. False where there are none.
template <int TOKENS>
__device__ __forceinline__ bool ask(const Attend& p, const Place& at, int t0, int end, uint8_t* to, uint64_t* full) {
    const int tokens = min(TOKENS, end - t0), bytes = tokens * p.kv.dim * 2, lane = threadIdx.x % 32;
    if (tokens <= 0 || t0 + TOKENS <= at.from) return false;
    const __half* keys = kv_page(p.kv, at.slot, t0, 0, at.kv_head) + t0 % PAGE_TOKENS * p.kv.dim;
    const __half* values = kv_page(p.kv, at.slot, t0, 1, at.kv_head) + t0 % PAGE_TOKENS * p.kv.dim;
    if (elected()) {
        fill_begin(full, 2 * bytes, lane);
        fill_copy<false>(to, keys, bytes, full, lane);
        fill_copy<false>(to + TOKENS * p.kv.dim * 2, values, bytes, full, lane);
        fill_end(full);
    }
    return true;
}

// Puts the row's own key and value into the chunk that holds them.
template <int D, int TOKENS>
__device__ __forceinline__ void add_own(const Attend& p, uint8_t* chunk, int own, const __half* key, const __half* value) {
    if (own < 0 || own >= TOKENS) return;
    const int pieces = p.kv.dim / 8;
    for (int i = threadIdx.x % 32; i < 2 * pieces; i += 32) {
        const bool is_v = i >= pieces;
        const int piece = is_v ? i - pieces : i;
        ((uint4*)chunk)[((is_v ? TOKENS : 0) + own) * pieces + piece] = ((const uint4*)(is_v ? value : key))[piece];
    }
    __syncwarp();
}

// The online softmax of a warp: rows g and g + 8 of the group, elements 64 j + 16 t + {0 .. 16} as o[j][i][0], [1] for i, i + 8.
template <int D>
struct State {
    float m[2], l[2];
    float o[D / 64][8][4];
};

__device__ __forceinline__ const uint32_t& word(const uint4& v, int i) { return ((const uint32_t*)&v)[i]; }

// Rotated queries as A fragments for elements 32 j .. 32 j + 31: the same order of elements as the keys.
template <int D>
__device__ __forceinline__ void load_q(const __half* queries, int j, uint32_t q[2][4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint4 low = *(const uint4*)(queries + g * (D + 8) + 32 * j + 8 * t);
    const uint4 high = *(const uint4*)(queries + (g + 8) * (D + 8) + 32 * j + 8 * t);
    q[0][0] = low.x, q[0][2] = low.y, q[1][0] = low.z, q[1][2] = low.w;
    q[0][1] = high.x, q[0][3] = high.y, q[1][1] = high.z, q[1][3] = high.w;
}

template <int D, int TOKENS>
__device__ __forceinline__ void take(const Place& at, const __half* queries, int t0, const __half* chunk, int dim, State<D>& st) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    float s[TOKENS / 8][4] = {};
#pragma unroll
    for (int j = 0; j < D / 32; j++) {
        const int d = 32 * j + 8 * t;
        uint32_t q[2][4];
        load_q<D>(queries, j, q);
#pragma unroll
        for (int i = 0; i < TOKENS / 8; i++) {
            const uint4 k = d < dim ? *(const uint4*)(chunk + (8 * i + g) * dim + d) : zero;
            mma(s[i], q[0], k.x, k.y);
            mma(s[i], q[1], k.z, k.w);
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
    // Tokens that are not there have no weight, but what lies in their place may be no number.
    const __half* values = chunk + TOKENS * dim;
    const int low = at.from - t0, high = at.position - t0;
#pragma unroll
    for (int n = 0; n < TOKENS / 16; n++)
#pragma unroll
        for (int j = 0; j < D / 64; j++) {
            uint4 v[4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int token = 16 * n + 2 * t + e % 2 + e / 2 * 8, d = 64 * j + 8 * g;
                v[e] = token >= low && token <= high && d < dim ? *(const uint4*)(values + token * dim + d) : zero;
            }
#pragma unroll
            for (int i = 0; i < 8; i++) {
                uint32_t how = i % 2 ? 0x7632 : 0x5410;
                mma(st.o[j][i], w[n], __byte_perm(word(v[0], i / 2), word(v[1], i / 2), how),
                    __byte_perm(word(v[2], i / 2), word(v[3], i / 2), how));
            }
        }
}

// One part of a row: o[dim], m, l.
template <int D>
__device__ __forceinline__ void store_part(const Place& at, int dim, State<D>& st, float* parts) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        st.l[h] += __shfl_xor_sync(0xffffffffu, st.l[h], 1);
        st.l[h] += __shfl_xor_sync(0xffffffffu, st.l[h], 2);
        if (g + 8 * h >= at.heads) continue;
        float* part = parts + (g + 8 * h) * (dim + PART_TAIL);
        if (t == 0) part[dim] = st.m[h], part[dim + 1] = st.l[h];
#pragma unroll
        for (int j = 0; j < D / 64; j++)
#pragma unroll
            for (int i = 0; i < 16; i += 4) {
                int d = 64 * j + 16 * t + i;
                if (d < dim)
                    *(float4*)(part + d) = make_float4(st.o[j][i % 8][2 * h + i / 8], st.o[j][i % 8 + 1][2 * h + i / 8],
                                                       st.o[j][i % 8 + 2][2 * h + i / 8], st.o[j][i % 8 + 3][2 * h + i / 8]);
            }
    }
}

// Elements d .. d + 3 of a head, merged: of `n` parts, `stride` floats apart, each with its weight, in order.
__device__ __forceinline__ float4 merge(const float* parts, size_t stride, int n, int d, const float* weights) {
    float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
    for (int i = 0; i < n; i++) {
        const float4 v = *(const float4*)(parts + i * stride + d);
        o.x = fmaf(weights[i], v.x, o.x);
        o.y = fmaf(weights[i], v.y, o.y);
        o.z = fmaf(weights[i], v.z, o.z);
        o.w = fmaf(weights[i], v.w, o.w);
    }
    return o;
}

// The weights of up to 32 parts of a head, and its m and l, by one warp.
__device__ __forceinline__ float2 weigh(const float* parts, size_t stride, int n, int dim, float* weights) {
    const int lane = threadIdx.x % 32;
    const float2 own = lane < n ? *(const float2*)(parts + lane * stride + dim) : make_float2(-INFINITY, 0.0f);
    const float m = warp_max(own.x), weight = own.x == -INFINITY ? 0.0f : exp2f(own.x - m);
    weights[lane] = weight;
    return make_float2(m, warp_sum(weight * own.y));
}

// What a head's sum is multiplied by: with m and l, and the sink that takes its share.
__device__ __forceinline__ float factor_of(const Attend& p, int head, float2 ml) {
    if (!p.sinks) return 1.0f / ml.y;
    float sink = p.sinks[head] * LOG2_E, top = fmaxf(ml.x, sink), own = exp2f(ml.x - top);
    return own / fmaf(ml.y, own, exp2f(sink - top));
}

__device__ __forceinline__ void finish(const Attend& p, int row, int head, int d, float4 o, float factor) {
    put_mixed(p.mixed, row, head * p.kv.dim + d, p.q_stride, o.x * factor, o.y * factor);
    put_mixed(p.mixed, row, head * p.kv.dim + d + 2, p.q_stride, o.z * factor, o.w * factor);
}

// What a warp makes ready: a query head, or the row's own key or value.
struct Task {
    const float* from;
    const Norm* norm;
    __half* to;
    float scale;
    bool turns;
};

// The elements of pair i: those that rotate together, and then the others by twos.
__device__ __forceinline__ int2 pair_of_elements(const Rope& rope, int i) {
    return rope.inv_freq && i < rope.pairs && !rope.adjacent ? make_int2(i, i + rope.pairs) : make_int2(2 * i, 2 * i + 1);
}

// A head with a norm of its own, by way of shared memory.
template <int D>
__device__ __forceinline__ void take_normed(const Attend& p, const Task& task, int position, const float2* turns, float* x) {
    take_head(x, task.from, p.kv.dim, *task.norm, p.rope, position, turns);
    for (int i = threadIdx.x % 32; i < p.kv.dim; i += 32) task.to[i] = __float2half_rn(x[i] * task.scale);
    __syncwarp();
}

// Rotates this block's queries, and in the last split the row's key, which goes to the cache with the value. A warp asks for
// what two tasks need before it begins with the first.
template <int D>
__device__ __forceinline__ void rotate(const Attend& p, const Place& at, const float2* turns, float* x, __half* queries, __half* own) {
    constexpr int PAIRS = D / 64;  // of a lane
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = p.kv.dim, extra = at.split + 1 == at.n_splits ? 2 : 0;
    const auto task_of = [&](int i) {
        const size_t kv = (size_t)at.row * p.kv_stride + at.kv_head * dim;
        if (i < extra) return Task{(i == 0 ? p.k : p.v) + kv, &p.k_norm, own + i * D, 1.0f, i == 0};
        const int head = i - extra;
        return Task{p.q + (size_t)at.row * p.q_stride + (at.head0 + head) * dim, &p.q_norm, queries + head * (D + 8), p.scale * LOG2_E, true};
    };
#pragma unroll 1
    for (int i0 = warp; i0 < at.heads + extra; i0 += 2 * WARPS) {
        float2 value[2][PAIRS];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            if (i0 + j * WARPS >= at.heads + extra) continue;
            const Task task = task_of(i0 + j * WARPS);
#pragma unroll
            for (int e = 0; e < PAIRS; e++) {
                const int2 at_pair = pair_of_elements(p.rope, lane + 32 * e);
                if (2 * (lane + 32 * e) < dim) value[j][e] = make_float2(__ldcg(task.from + at_pair.x), __ldcg(task.from + at_pair.y));
            }
        }
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const int i = i0 + j * WARPS;
            if (i >= at.heads + extra) continue;
            const Task task = task_of(i);
            if (task.turns && task.norm->weight) {
                take_normed<D>(p, task, at.position, turns, x);
            } else {
#pragma unroll
                for (int e = 0; e < PAIRS; e++) {
                    const int pair = lane + 32 * e;
                    const int2 at_pair = pair_of_elements(p.rope, pair);
                    if (2 * pair >= dim) continue;
                    const float2 by = task.turns && p.rope.inv_freq && pair < p.rope.pairs ? turns[pair] : make_float2(1.0f, 0.0f);
                    const float2 v = value[j][e];
                    task.to[at_pair.x] = __float2half_rn((v.x * by.x - v.y * by.y) * task.scale);
                    task.to[at_pair.y] = __float2half_rn((v.x * by.y + v.y * by.x) * task.scale);
                }
            }
            for (int d = dim + lane; d < D; d += 32) task.to[d] = __half(0.0f);
            __syncwarp();
            if (i < extra) {
                __half* cache = kv_page(p.kv, at.slot, at.position, i, at.kv_head) + at.position % PAGE_TOKENS * dim;
                for (int d = lane; d < dim / 8; d += 32) ((uint4*)cache)[d] = ((const uint4*)task.to)[d];
            }
        }
    }
}

// grid (splits, kv heads * ceil(group / 16), n), block 128; shared: 4 times what a chunk or a part of min(group, 16) heads of dim + 4
// floats takes, the larger, up to a multiple of 128 bytes
template <int D, int TOKENS>
__device__ __forceinline__ void attend_row(const Attend& p) {
    extern __shared__ __align__(128) uint8_t chunks[];
    __shared__ __align__(16) __half queries[16 * (D + 8)];
    __shared__ __align__(16) __half own[2 * D];
    __shared__ float heads[WARPS][D];
    __shared__ float2 turns[D / 2];
    __shared__ float weights[16][32];
    __shared__ uint64_t full[WARPS];
    __shared__ bool last;
    const int group = p.q_heads / p.kv.heads, per_head = (group + 15) / 16, dim = p.kv.dim, part_floats = dim + PART_TAIL;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    if (lane == 0) fill_barrier_init(&full[warp]);
    barrier_init_done();
    __syncwarp();
    pdl_start();
    Place at;
    at.row = blockIdx.z, at.slot = p.slot[at.row], at.position = p.position[at.row];
    at.from = first_visible(p, at.position), at.split_size = split_tokens(at.position);
    int first_split = at.from / at.split_size;
    at.n_splits = at.position / at.split_size - first_split + 1, at.split = blockIdx.x;
    at.kv_head = blockIdx.y / per_head;
    int first = blockIdx.y % per_head * 16;
    at.heads = min(16, group - first), at.head0 = at.kv_head * group + first;
    if (at.slot < 0 || at.split >= at.n_splits) return pdl_wait();

    const int chunk_bytes = (max(4 * TOKENS * dim, 4 * at.heads * part_floats) + 127) / 128 * 128;
    const int start = (first_split + at.split) * at.split_size, stop = min(start + at.split_size, at.position + 1), end = min(stop, at.position);
    uint8_t* chunk = chunks + warp * chunk_bytes;
    int t0 = start + warp * TOKENS;
    bool asked = ask<TOKENS>(p, at, t0, end, chunk, &full[warp]);
    if (p.rope.inv_freq && (int)threadIdx.x < p.rope.pairs) turns[threadIdx.x] = turn_of(p.rope, threadIdx.x, at.position);
    for (int i = threadIdx.x; i < (16 - at.heads) * (D + 8) / 8; i += WARPS * 32) ((uint4*)(queries + at.heads * (D + 8)))[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    pdl_wait();
    rotate<D>(p, at, turns, heads[warp], queries, own);
    __syncthreads();
    State<D> st;
    st.m[0] = st.m[1] = -INFINITY;
    st.l[0] = st.l[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < D / 64 * 32; i++) (&st.o[0][0][0])[i] = 0.0f;
    uint32_t parity = 0;
#pragma unroll 1
    while (t0 < stop) {
        if (asked) barrier_wait(&full[warp], parity), parity ^= 1;
        if (asked || t0 + TOKENS > at.position) {
            add_own<D, TOKENS>(p, chunk, at.position - t0, own, own + D);
            take<D, TOKENS>(at, queries, t0, (const __half*)chunk, dim, st);
        }
        __syncwarp();
        t0 += WARPS * TOKENS;
        asked = t0 < stop && ask<TOKENS>(p, at, t0, end, chunk, &full[warp]);
    }

    store_part(at, dim, st, (float*)chunk);
    __syncthreads();
    const int stride = chunk_bytes / 4;
    const size_t head_floats = (size_t)p.splits * part_floats;
    float* mine = p.partial + ((size_t)at.row * p.q_heads + at.head0) * head_floats;
#pragma unroll 1
    for (int h = warp; h < at.heads; h += WARPS) {
        const float* parts = (const float*)chunks + h * part_floats;
        const float2 ml = weigh(parts, stride, WARPS, dim, weights[h]);
        __syncwarp();
        const float factor = at.n_splits == 1 ? factor_of(p, at.head0 + h, ml) : 1.0f;
        float* to = mine + h * head_floats + at.split * part_floats;
        for (int d = 4 * lane; d < dim; d += 128) {
            const float4 o = merge(parts, stride, WARPS, d, weights[h]);
            if (at.n_splits == 1)
                finish(p, at.row, at.head0 + h, d, o, factor);
            else
                *(float4*)(to + d) = o;
        }
        if (at.n_splits > 1 && lane == 0) *(float2*)(to + dim) = ml;
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
#pragma unroll 1
    for (int h = warp; h < at.heads; h += WARPS) {
        const float* parts = mine + h * head_floats;
        const float factor = factor_of(p, at.head0 + h, weigh(parts, part_floats, at.n_splits, dim, weights[h]));
        __syncwarp();
        for (int d = 4 * lane; d < dim; d += 128) finish(p, at.row, at.head0 + h, d, merge(parts, part_floats, at.n_splits, d, weights[h]), factor);
    }
}

#define ATTEND(D, TOKENS, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS) attend_decode_d##D(const __grid_constant__ Attend p) { attend_row<D, TOKENS>(p); }
ATTEND(64, 32, 4)
ATTEND(128, 32, 4)
ATTEND(256, 16, 2)
