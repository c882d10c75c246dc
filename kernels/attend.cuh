// Attention's common parts.
#pragma once
#include "common.cuh"

struct Attend {
    const float* q;       // [n, q_stride]
    float* mixed;         // [n, q_stride]
    const int* slot;      // [n]; below 0: a row that is not there
    const int* position;  // [n]
    const int4* tiles;    // prefill: first row, rows, slot, position of the first row
    const float* sinks;   // [q heads], or null
    float* partial;       // decode: [n, q heads, splits, dim + 2]
    uint32_t* finished;   // decode: [n, blockIdx.y], zero before and after
    KvView kv;
    float scale;
    int window;  // 0: none
    int q_heads;
    int q_stride;
    int splits;  // decode: gridDim.x
};

// Tokens of one split, aligned to multiples of it: a constant, so that the order of a sum depends on the position alone.
constexpr int SPLIT_TOKENS = 256;

__device__ __forceinline__ int first_visible(const Attend& p, int position) {
    return p.window > 0 && position >= p.window ? position - p.window + 1 : 0;
}
