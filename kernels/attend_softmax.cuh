// The online softmax of one row's heads over chunks of keys and values, on tensor cores, and the merge of its parts.
#pragma once
#include <type_traits>

#include "attend.cuh"

constexpr int ATTEND_WARPS = 4;  // that take chunks of tokens in turn
constexpr int MIN_SPLIT = 256, MAX_SPLITS = 32;
constexpr int PART_TAIL = 4;  // floats of a part after its elements: m, l, and two to keep 16 bytes together

__device__ __forceinline__ int split_tokens(int position) {
    int tokens = MIN_SPLIT;
    while (tokens * MAX_SPLITS <= position) tokens *= 2;
    return tokens;
}

// What a block works on.
struct Place {
    int row, slot, position, from, kv_head, head0, heads, split, split_size, first_split, n_splits;
    uint32_t counter;  // of the splits that are finished

    // `group` of `groups`: 16 query heads of a KV head, or what it has.
    __device__ __forceinline__ Place(const Attend& p, int row, int group, int groups, int split) : row(row), split(split) {
        const int all = p.q_heads / p.kv.heads, per_head = (all + 15) / 16, first = group % per_head * 16;
        slot = p.slot[row], position = p.position[row];
        from = first_visible(p, position), split_size = split_tokens(position);
        first_split = from / split_size, n_splits = position / split_size - first_split + 1;
        kv_head = group / per_head;
        heads = min(16, all - first), head0 = kv_head * all + first;
        counter = (uint32_t)(row * groups + group);
    }

    __device__ __forceinline__ bool there() const { return slot >= 0 && split < n_splits; }
};

// The online softmax of a warp: rows g and g + 8 of the group, elements from + 64 j + 16 t + {0 .. I} as o[j][i][0], and those 8
// further as o[j][i][1], [2] and [3] for row g + 8. V: so many elements of each head are this warp's; V / 64 blocks of 64, or half
// of every eight of one block. Others have the rest, and form the same weights for themselves.
template <int V>
struct State {
    static constexpr int BLOCKS = V < 64 ? 1 : V / 64, I = V < 64 ? 4 : 8;
    int from;
    float m[2], l[2];
    float o[BLOCKS][I][4];

    __device__ __forceinline__ explicit State(int share) : from(V < 64 ? share / 2 * 64 + share % 2 * 4 : share * V), m{-INFINITY, -INFINITY}, l{}, o{} {}
};

template <class Words>
__device__ __forceinline__ const uint32_t& word(const Words& v, int i) {
    return ((const uint32_t*)&v)[i];
}

// Rotated queries as A fragments for elements 32 j .. 32 j + 31: the same order of elements as the keys.
template <int D>
__device__ __forceinline__ void load_q(const __half* queries, int j, uint32_t q[2][4]) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const uint4 low = *(const uint4*)(queries + g * (D + 8) + 32 * j + 8 * t);
    const uint4 high = *(const uint4*)(queries + (g + 8) * (D + 8) + 32 * j + 8 * t);
    q[0][0] = low.x, q[0][2] = low.y, q[1][0] = low.z, q[1][2] = low.w;
    q[0][1] = high.x, q[0][3] = high.y, q[1][1] = high.z, q[1][3] = high.w;
}

template <int D, int TOKENS, int V>
__device__ __forceinline__ void take(const Place& at, const __half* queries, int t0, const __half* chunk, int dim, State<V>& st) {
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
    uint32_t w[TOKENS / 16][4];
    weigh_scores(s, top, st.m, correct, sum, w);
#pragma unroll
    for (int h = 0; h < 2; h++) st.l[h] = fmaf(st.l[h], correct[h], sum[h]);
#pragma unroll
    for (int j = 0; j < State<V>::BLOCKS; j++)
#pragma unroll
        for (int i = 0; i < State<V>::I; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) st.o[j][i][e] *= correct[e / 2];
    // Tokens that are not there have no weight, but what lies in their place may be no number.
    const __half* values = chunk + TOKENS * dim;
    using Values = typename std::conditional<V < 64, uint2, uint4>::type;
    const int low = at.from - t0, high = at.position - t0;
#pragma unroll
    for (int n = 0; n < TOKENS / 16; n++)
#pragma unroll
        for (int j = 0; j < State<V>::BLOCKS; j++) {
            Values v[4];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int token = 16 * n + 2 * t + e % 2 + e / 2 * 8, d = st.from + 64 * j + 8 * g;
                v[e] = token >= low && token <= high && d < dim ? *(const Values*)(values + token * dim + d) : Values{};
            }
#pragma unroll
            for (int i = 0; i < State<V>::I; i++) {
                uint32_t how = i % 2 ? 0x7632 : 0x5410;
                mma(st.o[j][i], w[n], __byte_perm(word(v[0], i / 2), word(v[1], i / 2), how),
                    __byte_perm(word(v[2], i / 2), word(v[3], i / 2), how));
            }
        }
}

// One part of a row: o[dim], m, l.
template <int V>
__device__ __forceinline__ void store_part(const Place& at, int dim, State<V>& st, float* parts) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        st.l[h] += __shfl_xor_sync(0xffffffffu, st.l[h], 1);
        st.l[h] += __shfl_xor_sync(0xffffffffu, st.l[h], 2);
        if (g + 8 * h >= at.heads) continue;
        float* part = parts + (g + 8 * h) * (dim + PART_TAIL);
        if (t == 0 && st.from == 0) part[dim] = st.m[h], part[dim + 1] = st.l[h];
#pragma unroll
        for (int j = 0; j < State<V>::BLOCKS; j++)
#pragma unroll
            for (int i = 0; i < 16; i += i % 8 + 4 < State<V>::I ? 4 : 12 - State<V>::I) {
                const int d = st.from + 64 * j + 16 * t + i, e = 2 * h + i / 8;
                if (d < dim) *(float4*)(part + d) = make_float4(st.o[j][i % 8][e], st.o[j][i % 8 + 1][e], st.o[j][i % 8 + 2][e], st.o[j][i % 8 + 3][e]);
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
