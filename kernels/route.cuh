// The router's choice among experts, by one warp.
#pragma once
#include "common.cuh"

constexpr int MAX_EXPERTS = 1024;

// The `used` best of `logits`, best first, and their weights: a softmax over them. Of equal logits the lower expert wins. In `left`
// [experts], shared, NaN marks one that is taken.
__device__ __forceinline__ void choose(const float* logits, float* left, int experts, int used, int* chosen, float* weights) {
    const int lane = threadIdx.x % 32;
    for (int e = lane; e < experts; e += 32) {
        float v = __ldcg(logits + e);
        left[e] = v == v ? v : -INFINITY;
    }
    __syncwarp();
    float first = 0.0f, sum = 0.0f;
    for (int j = 0; j < used; j++) {
        float best = -INFINITY;
        int id = MAX_EXPERTS;
        for (int e = lane; e < experts; e += 32)
            if (left[e] == left[e] && (id == MAX_EXPERTS || left[e] > best)) best = left[e], id = e;
        for (int o = 16; o > 0; o >>= 1) {
            float other = __shfl_xor_sync(0xffffffffu, best, o);
            int other_id = __shfl_xor_sync(0xffffffffu, id, o);
            if (other > best || (other == best && other_id < id)) best = other, id = other_id;
        }
        if (j == 0) first = best;
        float e = expf(best - first);
        sum += e;
        if (lane == 0) {
            chosen[j] = id;
            weights[j] = e;
            left[id] = NAN;
        }
        __syncwarp();
    }
    if (lane == 0)
        for (int j = 0; j < used; j++) weights[j] /= sum;
}
