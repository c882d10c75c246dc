// What a block of decode attention works on, and how the splits of a row become one.
#pragma once
#include "attend.cuh"

constexpr int MIN_SPLIT_LOG = 8, MAX_SPLITS = 32;
constexpr int GROUP = 8;      // query heads of a block
constexpr int PART_TAIL = 4;  // floats of a part after its elements: m, l, and two to keep 16 bytes together
constexpr int TILE = 16;      // tokens of one product

struct Place {
    int row, slot, position, from, start, stop, kv_head, head0, heads, split, n_splits;
    uint32_t counter;  // of the splits that are finished

    // `group` of `groups`: GROUP query heads of a KV head, or what it has. Splits begin at the tile of the first visible token, and
    // grow once there would be too many: they follow from the position alone.
    __device__ __forceinline__ Place(const Attend& p, int row, int group, int groups, int split) : row(row), split(split) {
        const int all = p.q_heads / p.kv.heads;
        int first = 0;
        kv_head = group;
        if (all > GROUP) {
            const int per_head = (all + GROUP - 1) / GROUP;
            first = group % per_head * GROUP, kv_head = group / per_head;
        }
        slot = p.slot[row], position = p.position[row];
        from = first_visible(p, position);
        const int base = from / TILE * TILE, tokens = position + 1 - base;
        int log = MIN_SPLIT_LOG;
        while (MAX_SPLITS << log < tokens) log++;
        n_splits = ((tokens - 1) >> log) + 1;
        start = base + (split << log), stop = min(start + (1 << log), position + 1);
        heads = min(GROUP, all - first), head0 = kv_head * all + first;
        counter = (uint32_t)(row * groups + group);
    }

    __device__ __forceinline__ bool there() const { return slot >= 0 && split < n_splits; }
    __device__ __forceinline__ bool last() const { return split + 1 == n_splits; }
};

// 2^x, 0 for -infinity.
__device__ __forceinline__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ float one_over(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// What a head's sum is multiplied by: with m and l, and the sink that takes its share.
__device__ __forceinline__ float factor_of(const Attend& p, int head, float2 ml) {
    if (!p.sinks) return one_over(ml.y);
    const float sink = p.sinks[head] * LOG2_E, top = fmaxf(ml.x, sink), own = power_of_2(ml.x - top);
    return own * one_over(fmaf(ml.y, own, power_of_2(sink - top)));
}

// The weights of up to 32 parts of a head, already multiplied by what its sum is, by one warp.
__device__ __forceinline__ void weigh_parts(const Attend& p, int head, const float* parts, int stride, int n, float* weights) {
    const int lane = threadIdx.x % 32;
    const float2 own = lane < n ? __ldcg((const float2*)(parts + (size_t)lane * stride + p.kv.dim)) : make_float2(-INFINITY, 0.0f);
    const float m = warp_max(own.x), weight = power_of_2(own.x - m);
    const float l = warp_sum(weight * own.y);
    weights[lane] = weight * factor_of(p, head, make_float2(m, l));
}

// All parts of a row's heads, in order, by the block that finished last.
template <int THREADS>
__device__ __forceinline__ void merge_parts(const Attend& p, const Place& at, const float* mine, float (&weights)[GROUP][MAX_SPLITS]) {
    const int dim = p.kv.dim, stride = dim + PART_TAIL, head_floats = p.splits * stride;
    for (int h = threadIdx.x / 32; h < at.heads; h += THREADS / 32) weigh_parts(p, at.head0 + h, mine + (size_t)h * head_floats, stride, at.n_splits, weights[h]);
    __syncthreads();
    for (int i = threadIdx.x; i < at.heads * dim / 2; i += THREADS) {
        const int h = i / (dim / 2), d = i % (dim / 2) * 2;
        const float* parts = mine + (size_t)h * head_floats + d;
        float2 o = make_float2(0.0f, 0.0f);
        for (int s0 = 0; s0 < at.n_splits; s0 += 16) {
            float2 v[16];
#pragma unroll
            for (int s = 0; s < 16; s++)
                if (s0 + s < at.n_splits) v[s] = __ldcg((const float2*)(parts + (size_t)(s0 + s) * stride));
#pragma unroll
            for (int s = 0; s < 16; s++)
                if (s0 + s < at.n_splits) o.x = fmaf(weights[h][s0 + s], v[s].x, o.x), o.y = fmaf(weights[h][s0 + s], v[s].y, o.y);
        }
        put_mixed(p.mixed, at.row, (at.head0 + h) * dim + d, p.q_stride, o.x, o.y);
    }
}
