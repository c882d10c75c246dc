// Norm and rotation of one head in shared memory, by one warp.
//
// The angle is position * frequency in float, as the reference implementations compute it.
#pragma once
#include "common.cuh"

struct Rope {
    const float* inv_freq;  // [pairs], or null without a rope
    float magnitude;
    int pairs;     // half of the elements that rotate
    int adjacent;  // 1: (0, 1), (2, 3), ..; 0: (0, pairs), (1, pairs + 1), ..
};

__device__ __forceinline__ void norm_head(float* x, int dim, const Norm& norm) {
    int lane = threadIdx.x % 32;
    float mean = 0.0f;
    if (norm.layer) {
        float sum = 0.0f;
        for (int i = lane; i < dim; i += 32) sum += x[i];
        mean = warp_sum(sum) / (float)dim;
    }
    float square = 0.0f;
    for (int i = lane; i < dim; i += 32) square = fmaf(x[i] - mean, x[i] - mean, square);
    float scale = 1.0f / sqrtf(warp_sum(square) / (float)dim + norm.eps);
    for (int i = lane; i < dim; i += 32) {
        float v = (x[i] - mean) * scale * norm.weight[i];
        x[i] = norm.bias ? v + norm.bias[i] : v;
    }
    __syncwarp();
}

// Cosine and sine of pair i at `position`.
__device__ __forceinline__ float2 turn_of(const Rope& rope, int i, int position) {
    float sine, cosine;
    sincosf((float)position * rope.inv_freq[i], &sine, &cosine);
    return make_float2(cosine * rope.magnitude, sine * rope.magnitude);
}

// Turns pair i of x.
__device__ __forceinline__ void turn(float* x, const Rope& rope, int i, float2 by) {
    int a = rope.adjacent ? 2 * i : i, b = rope.adjacent ? 2 * i + 1 : i + rope.pairs;
    float u = x[a], w = x[b];
    x[a] = u * by.x - w * by.y;
    x[b] = u * by.y + w * by.x;
}

// x = from, normed (weight null: not) and rotated. `turns` [pairs]: see turn_of; null: they are worked out here.
__device__ __forceinline__ void take_head(float* x, const float* from, int dim, const Norm& norm, const Rope& rope, int position,
                                          const float2* turns) {
    int lane = threadIdx.x % 32;
    for (int i = lane; i < dim; i += 32) x[i] = from[i];
    __syncwarp();
    if (norm.weight) norm_head(x, dim, norm);
    if (!rope.inv_freq) return;
    for (int i = lane; i < rope.pairs; i += 32) turn(x, rope, i, turns ? turns[i] : turn_of(rope, i, position));
    __syncwarp();
}
