// The router's choice among experts, by one warp.
#pragma once
#include "common.cuh"

constexpr int MAX_EXPERTS = 1024;

// A number above zero, in the order of floats; NaN is as minus infinity, and both zeros are one.
__device__ __forceinline__ uint32_t rank_of(float x) {
    const uint32_t bits = __float_as_uint(x == x ? x + 0.0f : -INFINITY);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float of_rank(uint32_t rank) { return __uint_as_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank); }

// The `used` best of the logits, best first, and their weights: a softmax over them. Of equal logits the lower expert wins. In `left`
// [experts], shared, zero marks one that is taken. Lane j has the j-th of each 32.
template <class F>
__device__ __forceinline__ void choose(F&& logit, uint32_t* left, int experts, int used, int* chosen, float* weights) {
    const int lane = threadIdx.x % 32;
    for (int e = lane; e < experts; e += 32) left[e] = rank_of(logit(e));
    __syncwarp();
    float first = 0.0f, sum = 0.0f, mine = 0.0f;
    for (int j = 0; j < used; j++) {
        uint32_t best = 0, id = MAX_EXPERTS;
        for (int e = lane; e < experts; e += 32)
            if (left[e] > best) best = left[e], id = e;
        const uint32_t all = __reduce_max_sync(0xffffffffu, best);
        id = __reduce_min_sync(0xffffffffu, best == all ? id : MAX_EXPERTS);
        best = all;
        if (j == 0) first = of_rank(best);
        const float e = expf(of_rank(best) - first);
        sum += e;
        if (lane == j % 32) {
            chosen[j] = id;
            left[id] = 0;
            if (j < 32)
                mine = e;
            else
                weights[j] = e;
        }
        __syncwarp();
    }
    if (lane < used) weights[lane] = mine / sum;
    for (int j = 32 + lane; j < used; j += 32) weights[j] /= sum;
}
