// Attention of single rows, split over the length of the cache.
//
// A block takes one split of one KV head for one row, with up to G query heads of the group together, so keys and values are
// read once. Its four warps take whole pages in turn. The last block of a row and head to finish merges the splits in order.
#include "attend.cuh"

constexpr int WARPS = 4;

// The state of an online softmax for G heads; lane l holds elements 2 l + 64 j and the one after.
template <int G, int NJ>
struct State {
    float m[G], l[G];
    float2 o[G][NJ];
};

template <int G>
__device__ __forceinline__ void scores(const Attend& p, const float* q, const __half* k_row, float s[G]) {
    int dim = p.kv.dim;
#pragma unroll
    for (int g = 0; g < G; g++) s[g] = 0.0f;
#pragma unroll 4
    for (int d = 0; d < dim; d += 8) {
        uint4 raw = *(const uint4*)(k_row + d);
        const __half2* h = (const __half2*)&raw;
        float2 k0 = __half22float2(h[0]), k1 = __half22float2(h[1]), k2 = __half22float2(h[2]), k3 = __half22float2(h[3]);
#pragma unroll
        for (int g = 0; g < G; g++) {
            const float4* from = (const float4*)(q + g * dim + d);
            float4 a = from[0], b = from[1];
            float t = s[g];
            t = fmaf(k0.x, a.x, t);
            t = fmaf(k0.y, a.y, t);
            t = fmaf(k1.x, a.z, t);
            t = fmaf(k1.y, a.w, t);
            t = fmaf(k2.x, b.x, t);
            t = fmaf(k2.y, b.y, t);
            t = fmaf(k3.x, b.z, t);
            s[g] = fmaf(k3.y, b.w, t);
        }
    }
}

// Takes tokens low .. high of one page into the state.
template <int G, int NJ>
__device__ __forceinline__ void take_page(const Attend& p, const float* q, State<G, NJ>& st, const __half* k, const __half* v,
                                          int low, int high) {
    int lane = threadIdx.x % 32, dim = p.kv.dim;
    bool seen = lane >= low && lane < high;
    float s[G];
    scores<G>(p, q, k + (seen ? lane : low) * dim, s);
#pragma unroll
    for (int g = 0; g < G; g++) {
        float x = seen ? s[g] : -INFINITY;
        float m = fmaxf(st.m[g], warp_max(x));
        float correct = exp2f(st.m[g] - m);
        s[g] = exp2f(x - m);
        st.l[g] = fmaf(st.l[g], correct, warp_sum(s[g]));
        st.m[g] = m;
#pragma unroll
        for (int j = 0; j < NJ; j++) st.o[g][j].x *= correct, st.o[g][j].y *= correct;
    }
#pragma unroll 4
    for (int t = low; t < high; t++) {
        float2 value[NJ];
#pragma unroll
        for (int j = 0; j < NJ; j++) {
            int d = 2 * lane + 64 * j;
            value[j] = d < dim ? __half22float2(*(const __half2*)(v + t * dim + d)) : make_float2(0.0f, 0.0f);
        }
#pragma unroll
        for (int g = 0; g < G; g++) {
            float w = __shfl_sync(0xffffffffu, s[g], t);
#pragma unroll
            for (int j = 0; j < NJ; j++) {
                st.o[g][j].x = fmaf(w, value[j].x, st.o[g][j].x);
                st.o[g][j].y = fmaf(w, value[j].y, st.o[g][j].y);
            }
        }
    }
}

__device__ __forceinline__ void finish(const Attend& p, int row, int head, int d, float m, float l, float o) {
    if (p.sinks) {
        float sink = p.sinks[head] * 1.4426950408889634f, top = fmaxf(m, sink);
        o *= exp2f(m - top);
        l = fmaf(l, exp2f(m - top), exp2f(sink - top));
    }
    p.mixed[(size_t)row * p.q_stride + head * p.kv.dim + d] = o / l;
}

// Merges parts of stride `stride` floats, each m, l, o[dim], in order.
__device__ __forceinline__ void merge(const float* parts, size_t stride, int n, int d, float& m, float& l, float& o) {
    m = -INFINITY;
    for (int i = 0; i < n; i++) m = fmaxf(m, __ldcg(parts + i * stride));
    l = o = 0.0f;
    for (int i = 0; i < n; i++) {
        const float* part = parts + i * stride;
        float weight = m == -INFINITY ? 0.0f : exp2f(__ldcg(part) - m);
        l = fmaf(weight, __ldcg(part + 1), l);
        o = fmaf(weight, __ldcg(part + 2 + d), o);
    }
}

// grid (splits, kv heads * ceil(group / G), n), block 128, shared: G * dim + 4 * G * (dim + 2) floats
template <int G, int NJ>
__device__ __forceinline__ void attend_row(const Attend& p) {
    extern __shared__ float4 shared4[];
    __shared__ bool last;
    float* q = (float*)shared4;
    pdl_begin();
    int row = blockIdx.z, dim = p.kv.dim, group = p.q_heads / p.kv.heads, chunks = (group + G - 1) / G;
    int kv_head = blockIdx.y / chunks, first = blockIdx.y % chunks * G, heads = min(G, group - first);
    int slot = p.slot[row], position = p.position[row];
    if (slot < 0) return;
    int from = first_visible(p, position), split = from / SPLIT_TOKENS + blockIdx.x;
    int n_splits = position / SPLIT_TOKENS - from / SPLIT_TOKENS + 1;
    if ((int)blockIdx.x >= n_splits) return;
    int head0 = kv_head * group + first;
    for (int i = threadIdx.x; i < G * dim; i += WARPS * 32)
        q[i] = i < heads * dim ? p.q[(size_t)row * p.q_stride + head0 * dim + i] * (p.scale * 1.4426950408889634f) : 0.0f;
    __syncthreads();

    State<G, NJ> st;
#pragma unroll
    for (int g = 0; g < G; g++) {
        st.m[g] = -INFINITY;
        st.l[g] = 0.0f;
#pragma unroll
        for (int j = 0; j < NJ; j++) st.o[g][j] = make_float2(0.0f, 0.0f);
    }
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int page = warp; page < SPLIT_TOKENS / PAGE_TOKENS; page += WARPS) {
        int t0 = split * SPLIT_TOKENS + page * PAGE_TOKENS;
        int low = max(from - t0, 0), high = min(position + 1 - t0, PAGE_TOKENS);
        if (low >= high) continue;
        take_page<G, NJ>(p, q, st, kv_page(p.kv, slot, t0, 0, kv_head), kv_page(p.kv, slot, t0, 1, kv_head), low, high);
    }

    float* parts = q + G * dim;
    int part_floats = dim + 2;
#pragma unroll
    for (int g = 0; g < G; g++) {
        float* part = parts + (warp * G + g) * part_floats;
        if (lane == 0) part[0] = st.m[g], part[1] = st.l[g];
#pragma unroll
        for (int j = 0; j < NJ; j++) {
            int d = 2 * lane + 64 * j;
            if (d < dim) part[2 + d] = st.o[g][j].x, part[3 + d] = st.o[g][j].y;
        }
    }
    __syncthreads();
    size_t head_floats = (size_t)p.splits * part_floats;
    float* mine = p.partial + ((size_t)row * p.q_heads + head0) * head_floats;
    for (int i = threadIdx.x; i < heads * dim; i += WARPS * 32) {
        int g = i / dim, d = i % dim;
        float m = -INFINITY, l = 0.0f, o = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) m = fmaxf(m, parts[(w * G + g) * part_floats]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float* part = parts + (w * G + g) * part_floats;
            float weight = exp2f(part[0] - m);
            l = fmaf(weight, part[1], l);
            o = fmaf(weight, part[2 + d], o);
        }
        if (n_splits == 1) {
            finish(p, row, head0 + g, d, m, l, o);
        } else {
            float* to = mine + g * head_floats + blockIdx.x * part_floats;
            if (d == 0) to[0] = m, to[1] = l;
            to[2 + d] = o;
        }
    }
    if (n_splits == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* counter = p.finished + (size_t)row * gridDim.y + blockIdx.y;
        last = atomicAdd(counter, 1) == (uint32_t)n_splits - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    for (int i = threadIdx.x; i < heads * dim; i += WARPS * 32) {
        float m, l, o;
        merge(mine + (i / dim) * head_floats, part_floats, n_splits, i % dim, m, l, o);
        finish(p, row, head0 + i / dim, i % dim, m, l, o);
    }
}

#define ATTEND(G, NJ) \
    extern "C" __global__ void __launch_bounds__(WARPS * 32) attend_decode_g##G##_j##NJ(const Attend p) { attend_row<G, NJ>(p); }
ATTEND(1, 1)
ATTEND(2, 1)
ATTEND(4, 1)
ATTEND(8, 1)
ATTEND(1, 2)
ATTEND(2, 2)
ATTEND(4, 2)
ATTEND(8, 2)
ATTEND(1, 4)
ATTEND(2, 4)
ATTEND(4, 4)
ATTEND(8, 4)
