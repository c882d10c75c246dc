// What a block of decode attention works on, and how the splits of a row become one.
#pragma once
#include "attend.cuh"
#include "product_async.cuh"

constexpr int MIN_SPLIT_LOG = 8, MAX_SPLITS = 32;
constexpr int GROUP = 8;      // query heads of a block
constexpr int PART_TAIL = 4;  // floats of a part after its elements: m, l, and two to keep 16 bytes together
constexpr int TILE = 16;      // tokens of one product
constexpr int FEW_SPLITS = 8;  // of a row, which merge by one thread for each of its elements

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
        const int tokens = position + 1 - base();
        int log = MIN_SPLIT_LOG;
        while (MAX_SPLITS << log < tokens) log++;
        n_splits = ((tokens - 1) >> log) + 1;
        start = base() + (split << log), stop = min(start + (1 << log), position + 1);
        heads = min(GROUP, all - first), head0 = kv_head * all + first;
        counter = (uint32_t)(row * groups + group);
    }

    __device__ __forceinline__ bool there() const { return slot >= 0 && split < n_splits; }
    // The first split's first token.
    __device__ __forceinline__ int base() const { return from / TILE * TILE; }
    // Whether the row's splits merge through each other's shared memory, as blocks of one cluster of FEW_SPLITS or all there are.
    __device__ __forceinline__ bool clustered() const {
#if BULK_COPY
        return n_splits > 1 && n_splits <= FEW_SPLITS && cluster_blocks() > 1;
#else
        return false;
#endif
    }
    __device__ __forceinline__ bool last() const { return split + 1 == n_splits; }
};

// A value that the compiler takes for a new one: what follows from it is worked out here, not anew at each use nor before.
__device__ __forceinline__ int fresh(int x) {
    asm volatile("" : "+r"(x));
    return x;
}

__device__ __forceinline__ uint4 piece_at(uint32_t at) {
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}

__device__ __forceinline__ void put_piece(uint32_t at, uint4 v) {
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

__device__ __forceinline__ void put_half(uint32_t at, float x) {
    asm volatile("st.shared.b16 [%0], %1;" ::"r"(at), "h"(__half_as_ushort(__float2half_rn(x))) : "memory");
}

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

// Whether this block's part is the last of its row and heads to be there; the others are then seen.
__device__ __forceinline__ bool finished_last(const Attend& p, const Place& at) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* counter = p.finished + at.counter;
        last = atomicAdd(counter, 1) == (uint32_t)at.n_splits - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

// Up to FEW_SPLITS parts of a row's heads, in order: a thread for two elements, first of THREADS or of some blocks of them. `load`
// gives two floats of a head's part. The same sums wherever the parts are.
template <class Load>
__device__ __forceinline__ void merge_few(const Attend& p, const Place& at, int thread, int threads, Load load) {
    const int dim = p.kv.dim;
#pragma unroll 1
    for (int i = thread; i < at.heads * dim / 2; i += threads) {
        const int h = i / (dim / 2), d = i % (dim / 2) * 2;
        float2 ml[FEW_SPLITS], v[FEW_SPLITS], o = make_float2(0.0f, 0.0f);
        float m = -INFINITY, l = 0.0f;
#pragma unroll
        for (int s = 0; s < FEW_SPLITS; s++) {
            ml[s] = make_float2(-INFINITY, 0.0f), v[s] = make_float2(0.0f, 0.0f);
            if (s < at.n_splits) ml[s] = load(s, h, dim), v[s] = load(s, h, d);
        }
#pragma unroll
        for (int s = 0; s < FEW_SPLITS; s++) m = fmaxf(m, ml[s].x);
#pragma unroll
        for (int s = 0; s < FEW_SPLITS; s++) {
            const float weight = power_of_2(ml[s].x - m);
            l = fmaf(weight, ml[s].y, l), o.x = fmaf(weight, v[s].x, o.x), o.y = fmaf(weight, v[s].y, o.y);
        }
        const float factor = factor_of(p, at.head0 + h, make_float2(m, l));
        put_mixed(p.mixed, at.row, (at.head0 + h) * dim + d, p.q_stride, o.x * factor, o.y * factor);
    }
    __syncwarp();
}

// All parts of a row's heads, by the block that finished last.
template <int THREADS>
__device__ __forceinline__ void merge_parts(const Attend& p, const Place& at, const float* mine, float (*weights)[MAX_SPLITS]) {
    const int dim = p.kv.dim, stride = dim + PART_TAIL, head_floats = p.splits * stride;
    if (at.n_splits <= FEW_SPLITS)
        return merge_few(p, at, threadIdx.x, THREADS, [&](int s, int h, int d) { return __ldcg((const float2*)(mine + (size_t)h * head_floats + s * stride + d)); });
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

#if BULK_COPY
__device__ __forceinline__ float2 load_of_block(uint32_t at, int block) {
    float2 v;
    uint32_t there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(block));
    asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(there) : "memory");
    return v;
}

// All parts of a row's heads, each at `part` in the shared memory of its split's block: [head][dim + PART_TAIL]. Each block has its
// share of the elements.
template <int THREADS>
__device__ __forceinline__ void merge_cluster(const Attend& p, const Place& at, uint32_t part) {
    const int stride = p.kv.dim + PART_TAIL;
    __syncwarp();
    cluster_sync();
    const int thread = (threadIdx.x / 32 * at.n_splits + at.split) * 32 + threadIdx.x % 32;
    merge_few(p, at, thread, THREADS * at.n_splits, [&](int s, int h, int d) { return load_of_block(part + 4 * (h * stride + d), s); });
    // No block goes while another reads what it has: see leave_cluster.
    asm volatile("barrier.cluster.arrive.aligned;" ::: "memory");
}

__device__ __forceinline__ void leave_cluster() {
    __syncwarp();
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}
#endif
