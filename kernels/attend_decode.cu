// Attention of single rows on tensor cores, split over the length of the cache; with the rotation of q and k and the append to
// the cache before it.
//
// A block takes one split of one KV head for one row, with up to 16 query heads of the group together as the rows of a product,
// so keys and values are read once. ATTEND_WARPS warps take chunks of TOKENS tokens in turn, which bulk copies bring to their own
// part of shared memory: a chunk's keys are one piece of a page, and so are its values. Where there are twice so many, warps w and
// w + 4 share a chunk: each forms all its weights, and has half of the values' elements. Elements and tokens are taken in an order
// that makes 16 bytes fragments as they come. The last block of a row and head to finish merges the splits in order. A split's size
// follows from the row's position alone.
//
// What the cache held before this step was there before the graph began, so it is fetched before the kernel waits for the
// product, and the turn of the position is worked out; the token's own key and value are put into their chunk. Few registers and
// small blocks let the kernels before and after be there at the same time.
#include "attend_softmax.cuh"
#include "product_async.cuh"

// The warps that share a chunk wait for each other, by barrier `id` of the block.
template <int WARPS>
__device__ __forceinline__ void chunk_meet(int id) {
    if (WARPS == ATTEND_WARPS)
        __syncwarp();
    else
        asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(32 * WARPS / ATTEND_WARPS) : "memory");
}

// Asks for the tokens of the chunk at t0 that the cache has, up to `end`: keys at `to`, then values. False where there are none. `mine`: this warp does it, not
// the one that it shares the chunk with.
template <int TOKENS>
__device__ __forceinline__ bool ask(const Attend& p, const Place& at, int t0, int end, uint8_t* to, uint64_t* full, bool mine) {
    const int tokens = min(TOKENS, end - t0), bytes = tokens * p.kv.dim * 2, lane = threadIdx.x % 32;
    if (tokens <= 0 || t0 + TOKENS <= at.from) return false;
    const __half* keys = kv_page(p.kv, at.slot, t0, 0, at.kv_head) + t0 % PAGE_TOKENS * p.kv.dim;
    const __half* values = kv_page(p.kv, at.slot, t0, 1, at.kv_head) + t0 % PAGE_TOKENS * p.kv.dim;
    if (mine && elected()) {
        fill_begin(full, 2 * bytes, lane);
        fill_copy<false>(to, keys, bytes, full, lane);
        fill_copy<false>(to + TOKENS * p.kv.dim * 2, values, bytes, full, lane);
        fill_end(full);
    }
    return true;
}

// Puts the row's own key and value into the chunk that holds them.
template <int TOKENS>
__device__ __forceinline__ void add_own(const Attend& p, uint8_t* chunk, int own, const __half* key, const __half* value) {
    const int pieces = p.kv.dim / 8;
    for (int i = threadIdx.x % 32; i < 2 * pieces; i += 32) {
        const bool is_v = i >= pieces;
        const int piece = is_v ? i - pieces : i;
        ((uint4*)chunk)[((is_v ? TOKENS : 0) + own) * pieces + piece] = ((const uint4*)(is_v ? value : key))[piece];
    }
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
template <int D, int WARPS>
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

// grid (splits, kv heads * ceil(group / 16), n), block 32 * WARPS; shared: 4 times what a chunk or a part of min(group, 16) heads of
// dim + 4 floats takes, the larger, up to a multiple of 128 bytes
template <int D, int TOKENS, int WARPS>
__device__ __forceinline__ void attend_row(const Attend& p) {
    constexpr int V = D * ATTEND_WARPS / WARPS;
    extern __shared__ __align__(128) uint8_t chunks[];
    __shared__ __align__(16) __half queries[16 * (D + 8)];
    __shared__ __align__(16) __half own[2 * D];
    __shared__ float heads[WARPS][D];
    __shared__ float2 turns[D / 2];
    __shared__ float weights[16][32];
    __shared__ uint64_t full[ATTEND_WARPS];
    __shared__ bool last;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, turn = warp % ATTEND_WARPS;
    if (lane == 0 && warp == turn) fill_barrier_init(&full[turn]);
    barrier_init_done();
    __syncwarp();
    pdl_start();
    const Place at(p, blockIdx.z, blockIdx.y, gridDim.y, blockIdx.x);
    if (!at.there()) return pdl_wait();
    const int dim = p.kv.dim, part_floats = dim + PART_TAIL;
    const int chunk_bytes = (max(4 * TOKENS * dim, 4 * at.heads * part_floats) + 127) / 128 * 128;
    const int start = (at.first_split + at.split) * at.split_size, stop = min(start + at.split_size, at.position + 1), end = min(stop, at.position);
    const int share = warp / ATTEND_WARPS;
    uint8_t* chunk = chunks + turn * chunk_bytes;
    int t0 = start + turn * TOKENS;
    bool asked = ask<TOKENS>(p, at, t0, end, chunk, &full[turn], share == 0);
    if (p.rope.inv_freq && (int)threadIdx.x < p.rope.pairs) turns[threadIdx.x] = turn_of(p.rope, threadIdx.x, at.position);
    for (int i = threadIdx.x; i < (16 - at.heads) * (D + 8) / 8; i += WARPS * 32) ((uint4*)(queries + at.heads * (D + 8)))[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    pdl_wait();
    rotate<D, WARPS>(p, at, turns, heads[warp], queries, own);
    __syncthreads();
    State<V> st(share);
    uint32_t parity = 0;
#pragma unroll 1
    while (t0 < stop) {
        if (asked) barrier_wait(&full[turn], parity), parity ^= 1;
        if (asked || t0 + TOKENS > at.position) {
            const int there = at.position - t0;
            if (there >= 0 && there < TOKENS) {
                if (share == 0) add_own<TOKENS>(p, chunk, there, own, own + D);
                chunk_meet<WARPS>(1 + turn);
            }
            take<D, TOKENS>(at, queries, t0, (const __half*)chunk, dim, st);
        }
        chunk_meet<WARPS>(1 + turn);
        t0 += ATTEND_WARPS * TOKENS;
        asked = t0 < stop && ask<TOKENS>(p, at, t0, end, chunk, &full[turn], share == 0);
    }

    store_part(at, dim, st, (float*)chunk);
    __syncthreads();
    const int stride = chunk_bytes / 4;
    const size_t head_floats = (size_t)p.splits * part_floats;
    float* mine = p.partial + ((size_t)at.row * p.q_heads + at.head0) * head_floats;
#pragma unroll 1
    for (int h = warp; h < at.heads; h += WARPS) {
        const float* parts = (const float*)chunks + h * part_floats;
        const float2 ml = weigh(parts, stride, ATTEND_WARPS, dim, weights[h]);
        __syncwarp();
        const float factor = at.n_splits == 1 ? factor_of(p, at.head0 + h, ml) : 1.0f;
        float* to = mine + h * head_floats + at.split * part_floats;
        for (int d = 4 * lane; d < dim; d += 128) {
            const float4 o = merge(parts, stride, ATTEND_WARPS, d, weights[h]);
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
        uint32_t* counter = p.finished + at.counter;
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

#define ATTEND(NAME, D, TOKENS, WARPS, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) NAME(const __grid_constant__ Attend p) { attend_row<D, TOKENS, WARPS>(p); }
ATTEND(attend_decode_d64, 64, 32, 4, 4)
ATTEND(attend_decode_d128, 128, 32, 4, 4)
// For few blocks: more warps each.
ATTEND(attend_decode_d64_few, 64, 32, 8, 3)
ATTEND(attend_decode_d128_few, 128, 32, 8, 3)
ATTEND(attend_decode_d256, 256, 16, 4, 2)
