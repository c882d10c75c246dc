// The queries of decode attention and the row's own key: norms, rotation, and the way to shared memory in f16.
//
// A warp makes a head ready. What it needs besides the head itself is found while the head's elements are on their way.
#pragma once
#include "attend_split.cuh"

// The elements of a lane's pairs: those that rotate together, and then the others by twos. EXACT: there are just LIMIT.
template <int LIMIT, bool EXACT>
struct Pairs {
    static constexpr int COUNT = (LIMIT + 63) / 64;
    uint32_t elements[COUNT];

    __device__ __forceinline__ Pairs(const Rope& rope, int dim, int lane) {
#pragma unroll
        for (int e = 0; e < COUNT; e++) {
            const int i = lane + 32 * e;
            const bool apart = rope.inv_freq && i < rope.pairs && !rope.adjacent;
            const int first = apart ? i : 2 * i, second = apart ? i + rope.pairs : 2 * i + 1;
            elements[e] = 2 * i < dim ? first | second << 16 : ~0u;
        }
    }
    __device__ __forceinline__ bool there(int e) const { return EXACT || elements[e] != ~0u; }
    __device__ __forceinline__ int first(int e) const { return elements[e] & 0xffff; }
    __device__ __forceinline__ int second(int e) const { return elements[e] >> 16; }
};

template <int LIMIT, bool EXACT>
struct Head {
    using P = Pairs<LIMIT, EXACT>;
    float2 x[P::COUNT];

    __device__ __forceinline__ void load(const float* from, const P& pairs) {
#pragma unroll
        for (int e = 0; e < P::COUNT; e++) x[e] = pairs.there(e) ? make_float2(__ldcg(from + pairs.first(e)), __ldcg(from + pairs.second(e))) : make_float2(0.0f, 0.0f);
    }

    __device__ __forceinline__ void normalize(const Norm& norm, int dim, const P& pairs) {
        const float share = 1.0f / (float)dim;
        float mean = 0.0f, square = 0.0f;
        if (norm.layer) {
#pragma unroll
            for (int e = 0; e < P::COUNT; e++) mean += x[e].x + x[e].y;
            mean = warp_sum(mean) * share;
        }
#pragma unroll
        for (int e = 0; e < P::COUNT; e++)
            if (pairs.there(e)) square = fmaf(x[e].x - mean, x[e].x - mean, fmaf(x[e].y - mean, x[e].y - mean, square));
        const float scale = rsqrtf(warp_sum(square) * share + norm.eps);
#pragma unroll
        for (int e = 0; e < P::COUNT; e++) {
            if (!pairs.there(e)) continue;
            const int i = pairs.first(e), j = pairs.second(e);
            x[e].x = (x[e].x - mean) * scale * norm.weight[i] + (norm.bias ? norm.bias[i] : 0.0f);
            x[e].y = (x[e].y - mean) * scale * norm.weight[j] + (norm.bias ? norm.bias[j] : 0.0f);
        }
    }

    // Rotated by `turns` (see turn_of; the first `rotates` pairs), times `scale`, to shared memory. `turn`: of the pieces there.
    __device__ __forceinline__ void store(const P& pairs, const float2* turns, int rotates, float scale, uint32_t to, int turn) const {
#pragma unroll
        for (int e = 0; e < P::COUNT; e++) {
            if (!pairs.there(e)) continue;
            const int pair = threadIdx.x % 32 + 32 * e;
            const float2 by = pair < rotates ? turns[pair] : make_float2(1.0f, 0.0f);
            put_half(to + 2 * (pairs.first(e) ^ turn << 3), (x[e].x * by.x - x[e].y * by.y) * scale);
            put_half(to + 2 * (pairs.second(e) ^ turn << 3), (x[e].x * by.y + x[e].y * by.x) * scale);
        }
    }
};

// Called, not inlined: most models have no such norms, and the code of all others stays together.
template <int LIMIT, bool EXACT>
__device__ __noinline__ Head<LIMIT, EXACT> normalized(Head<LIMIT, EXACT> head, Norm norm, int dim, Pairs<LIMIT, EXACT> pairs) {
    head.normalize(norm, dim, pairs);
    return head;
}
