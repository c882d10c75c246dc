// Attention of single rows on tensor cores, split over the length of the cache; with the rotation of q and k and the append to
// the cache before it.
//
// A block takes one split of one KV head for one row, with up to GROUP query heads together. What counts is the chain of
// instructions from the last of q, k and v to the result: so a warp rotates a head or two, scores 16 tokens, and adds 16
// elements' values of all, with one barrier between, and the code is short. The last block of a row and head to finish merges the
// splits in order.
//
// What the cache held before this step was there before the graph began, so it is fetched before the kernel waits for the
// product, and all that follows from the position is worked out.
#include "attend_round.cuh"

// The elements of a lane's pairs: those that rotate together, and then the others by twos.
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

// A head, or the row's own key or value, that a warp makes ready.
template <int LIMIT, bool EXACT>
struct Task {
    static constexpr int PAIRS = (LIMIT + 63) / 64;  // of a lane
    const float* from;                               // null: none

    // The i-th: query heads, then the key and the value.
    __device__ __forceinline__ Task(const Attend& p, const Place& at, int i) {
        const size_t of_kv = (size_t)at.row * p.kv_stride + at.kv_head * p.kv.dim;
        from = i < at.heads ? p.q + (size_t)at.row * p.q_stride + (at.head0 + i) * p.kv.dim : i - at.heads < 2 && at.last() ? (i == at.heads ? p.k : p.v) + of_kv : nullptr;
    }

    __device__ __forceinline__ void load(float2 (&x)[PAIRS], const Pairs<LIMIT, EXACT>& pairs) const {
#pragma unroll
        for (int e = 0; e < PAIRS; e++) x[e] = pairs.there(e) ? make_float2(__ldcg(from + pairs.first(e)), __ldcg(from + pairs.second(e))) : make_float2(0.0f, 0.0f);
    }

    __device__ __forceinline__ void normalize(float2 (&x)[PAIRS], const Norm& norm, int dim, const Pairs<LIMIT, EXACT>& pairs) const {
        const float share = 1.0f / (float)dim;
        float mean = 0.0f, square = 0.0f;
        if (norm.layer) {
#pragma unroll
            for (int e = 0; e < PAIRS; e++) mean += x[e].x + x[e].y;
            mean = warp_sum(mean) * share;
        }
#pragma unroll
        for (int e = 0; e < PAIRS; e++)
            if (pairs.there(e)) square = fmaf(x[e].x - mean, x[e].x - mean, fmaf(x[e].y - mean, x[e].y - mean, square));
        const float scale = rsqrtf(warp_sum(square) * share + norm.eps);
#pragma unroll
        for (int e = 0; e < PAIRS; e++) {
            if (!pairs.there(e)) continue;
            const int i = pairs.first(e), j = pairs.second(e);
            x[e].x = (x[e].x - mean) * scale * norm.weight[i] + (norm.bias ? norm.bias[i] : 0.0f);
            x[e].y = (x[e].y - mean) * scale * norm.weight[j] + (norm.bias ? norm.bias[j] : 0.0f);
        }
    }

    // `kind`: 0 a query, 1 the key, 2 the value. `turns`: see turn_of; `turn`: of the pieces of `to`.
    __device__ __forceinline__ void store(float2 (&x)[PAIRS], const Attend& p, int dim, const Pairs<LIMIT, EXACT>& pairs, int lane, int kind, const float2* turns, __half* to, int turn) const {
        const float scale = kind == 0 ? p.scale * LOG2_E : 1.0f;
        const int rotates = kind < 2 && p.rope.inv_freq ? p.rope.pairs : 0;
        float2 by[PAIRS];
        __half* places[PAIRS][2];
#pragma unroll
        for (int e = 0; e < PAIRS; e++) {
            const int i = pairs.first(e), j = pairs.second(e);
            places[e][0] = to + (i ^ turn << 3), places[e][1] = to + (j ^ turn << 3);
            by[e] = lane + 32 * e < rotates ? turns[lane + 32 * e] : make_float2(1.0f, 0.0f);
            by[e] = make_float2(by[e].x * scale, by[e].y * scale);
        }
        const Norm norm = kind == 0 ? p.q_norm : p.k_norm;
        if (__builtin_expect(kind < 2 && norm.weight, 0)) normalize(x, norm, dim, pairs);
#pragma unroll
        for (int e = 0; e < PAIRS; e++) {
            if (!pairs.there(e)) continue;
            *places[e][0] = __float2half_rn(x[e].x * by[e].x - x[e].y * by[e].y);
            *places[e][1] = __float2half_rn(x[e].x * by[e].y + x[e].y * by[e].x);
        }
    }
};

// grid (splits, kv heads * ceil(group / GROUP), n), block 256; shared: SLOTS rounds of keys, then as many of values
template <int DIM, int LIMIT, int ROUND, int SLOTS>
__device__ __forceinline__ void attend_row(const Attend& p) {
    using A = Addresses<DIM, LIMIT, ROUND>;
    extern __shared__ __align__(128) uint8_t rounds[];
    __shared__ Ready<LIMIT, ROUND> ready;
    __shared__ float2 turns[LIMIT / 2];
    __shared__ float weights[GROUP][MAX_SPLITS];
    __shared__ bool last;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    pdl_start();
    const Place at(p, blockIdx.z, blockIdx.y, gridDim.y, blockIdx.x);
    if (!at.there()) return pdl_wait();
    const Rows<DIM> rows(p.kv.dim);
    const int dim = rows.dim, round_bytes = ROUND * rows.row_bytes(), n_rounds = (at.stop - at.start + ROUND - 1) / ROUND;
    const uint32_t keys0 = shared_address(rounds), values0 = keys0 + SLOTS * round_bytes;
    const auto slot = [&](int r) { return r % SLOTS * round_bytes; };
    const auto ask = [&](int r, auto wanted) {
        constexpr int WANTED = decltype(wanted)::value;
        if (r < n_rounds && warp < ready.TILES)
            ask_tile<DIM, (WANTED & 1) != 0, (WANTED & 2) != 0>(p, at, at.start + r * ROUND + warp * TILE, keys0 + slot(r), values0 + slot(r), warp);
        asked();
    };
    const std::integral_constant<int, 1> only_keys;
    const std::integral_constant<int, 2> only_values;
#pragma unroll 1
    for (int r = 0; r < SLOTS; r++) ask(r, std::integral_constant<int, 3>());
    if (p.rope.inv_freq && (int)threadIdx.x < p.rope.pairs) turns[threadIdx.x] = turn_of(p.rope, threadIdx.x, at.position);
    for (int i = threadIdx.x; i < (int)sizeof(ready.queries) / 16; i += 256) ((uint4*)ready.queries)[i] = make_uint4(0, 0, 0, 0);
    if (threadIdx.x == 0) ready.zeros = make_uint4(0, 0, 0, 0);
    // The row's own key and value go to their place where it is there from the beginning.
    const int own_row = (at.position - at.start) % ROUND;
    const bool direct = at.last() && n_rounds <= SLOTS;
    __half* const own_key = direct ? (__half*)(rounds + slot(n_rounds - 1) + own_row * rows.row_bytes()) : ready.own[0];
    __half* const own_value = direct ? (__half*)(rounds + SLOTS * round_bytes + slot(n_rounds - 1) + own_row * rows.row_bytes()) : ready.own[1];
    const int key_turn = direct ? rows.key_turn(own_row) : 0, value_turn = direct ? rows.value_turn(own_row) : 0;
    const Pairs<LIMIT, (DIM > 0)> pairs(p.rope, dim, lane);
    const Task<LIMIT, (DIM > 0)> tasks[2] = {Task<LIMIT, (DIM > 0)>(p, at, warp), Task<LIMIT, (DIM > 0)>(p, at, warp + DECODE_WARPS)};
    const A addresses(ready, keys0, values0, dim, warp, lane);
    // The result's elements: of one head, two beside each other and two more 8 further, for each tile of elements.
    const int head = lane % 4 * 2 + lane / 4 % 2;
    uint32_t places[2 * A::ELEMENT_TILES];
#pragma unroll
    for (int i = 0; i < 2 * A::ELEMENT_TILES; i++) {
        const int d = (warp + i / 2 * DECODE_WARPS) * 16 + i % 2 * 8 + (lane / 4 & 6), col = (at.head0 + head) * dim + d;
        if (at.n_splits > 1)
            places[i] = (head * p.splits + at.split) * (dim + PART_TAIL) + d;
        else if (DIM && i % 2)
            places[i] = p.mixed.packed ? places[i - 1] ^ (p.mixed.panels ? 32 : 8) : places[i - 1] + 8;
        else
            places[i] = mixed_at(p.mixed, at.row, col, p.q_stride);
        places[i] = fresh(places[i]);
    }
    float* const mine = p.partial + ((size_t)at.row * p.q_heads + at.head0) * p.splits * (dim + PART_TAIL);
    __syncthreads();
    pdl_wait();
    float2 x[2][Task<LIMIT, (DIM > 0)>::PAIRS];
    const int now = fresh(lane);
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (tasks[i].from) tasks[i].load(x[i], pairs);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int task = warp + i * DECODE_WARPS, kind = max(0, task - at.heads + 1);
        if (tasks[i].from)
            tasks[i].store(x[i], p, dim, pairs, now, kind, turns, kind == 0 ? ready.queries[0] + task * (LIMIT + 8) : kind == 1 ? own_key : own_value, kind == 0 ? 0 : kind == 1 ? key_turn : value_turn);
    }
    wait_for_all_but<SLOTS - 1>();
    __syncthreads();
    State<A::ELEMENT_TILES> st;
    const auto score_round = [&](int r) {
        if (ROUND < DECODE_WARPS * TILE && warp >= ready.TILES) return;
        const int token0 = at.start + r * ROUND + warp * TILE, token = token0 + lane / 4;
        const bool visible[2] = {token >= at.from && token <= at.position, token + 8 >= at.from && token + 8 <= at.position};
        score(addresses, slot(r), r % 2, token0 <= at.position, visible, dim, lane);
    };
    score_round(0);
    __syncthreads();
    if (warp * 16 < dim) add_values(addresses, 0, 0, true, dim, st);
    if (__builtin_expect(n_rounds > 1, 0)) {
        if (SLOTS == 1) {
            __syncthreads();
            ask(1, only_keys);
            ask(1, only_values);
        } else {
            ask(SLOTS, only_keys);
        }
#pragma unroll 1
        for (int r = 1; r < n_rounds; r++) {
            if (r < SLOTS)
                wait_for_all_but<SLOTS - 1>();
            else
                wait_for_all_but<SLOTS>();
            if (r + 1 == n_rounds && !direct && at.last() && own_row / TILE == warp) {
#pragma unroll 1
                for (int i = lane; i < 2 * rows.pieces(); i += 32) {
                    const int v = i >= rows.pieces(), piece = v ? i - rows.pieces() : i, turn = v ? rows.value_turn(own_row) : rows.key_turn(own_row);
                    *(uint4*)(rounds + (v ? SLOTS * round_bytes : 0) + slot(r) + own_row * rows.row_bytes() + ((piece ^ turn) << 4)) = ((const uint4*)ready.own[v])[piece];
                }
            }
            __syncwarp();
            score_round(r);
            wait_for_all_but<SLOTS - 1>();
            __syncthreads();
            if (r + 1 < n_rounds) {
                if (SLOTS > 1) ask(r + 1, only_values);
                ask(r + SLOTS, only_keys);
            }
            if (warp * 16 < dim) add_values(addresses, slot(r), r % 2, false, dim, st);
            if (SLOTS == 1 && r + 1 < n_rounds) {
                __syncthreads();
                ask(r + 1, only_values);
            }
        }
    }
    if (warp * 16 < dim) {
        const bool odd = head % 2, there = head < at.heads;
        const float l0 = st.l[0][0] + st.l[1][0], l1 = st.l[0][1] + st.l[1][1];
        const float2 ml = make_float2(__shfl_sync(~0u, st.m, 4 * head), odd ? l1 : l0);
        const float factor = at.n_splits == 1 && there ? factor_of(p, at.head0 + head, ml) : 1.0f;
#pragma unroll
        for (int i = 0; i < 2 * A::ELEMENT_TILES; i++) {
            const float(&o)[2][4] = st.o[i / 2];
            const float a = o[0][i % 2 * 2] + o[1][i % 2 * 2], b = o[0][i % 2 * 2 + 1] + o[1][i % 2 * 2 + 1];
            const float other = __shfl_xor_sync(~0u, odd ? a : b, 4);
            const float x = (odd ? other : a) * factor, y = (odd ? b : other) * factor;
            if (!there || (!DIM && (warp + i / 2 * DECODE_WARPS) * 16 + i % 2 * 8 + (lane / 4 & 6) >= dim)) continue;
            if (__builtin_expect(at.n_splits > 1, 0))
                *(float2*)(mine + places[i]) = make_float2(x, y);
            else
                put_mixed_at(p.mixed, places[i], x, y);
        }
        if (__builtin_expect(at.n_splits > 1 && warp == 0 && there && lane < 8, 0)) *(float2*)(mine + ((size_t)head * p.splits + at.split) * (dim + PART_TAIL) + dim) = ml;
    }
    if (at.last() && warp == DECODE_WARPS - 1) {
        for (int i = fresh(lane); i < 2 * rows.pieces(); i += 32) {
            const int v = i >= rows.pieces(), piece = v ? i - rows.pieces() : i;
            __half* cache = kv_page(p.kv, at.slot, at.position, v, at.kv_head) + at.position % PAGE_TOKENS * dim;
            ((uint4*)cache)[piece] = ((const uint4*)(v ? own_value : own_key))[piece ^ (v ? value_turn : key_turn)];
        }
    }
    if (__builtin_expect(at.n_splits == 1, 1)) return;
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
    merge_parts<32 * DECODE_WARPS>(p, at, mine, weights);
}

#define ATTEND(NAME, DIM, LIMIT, ROUND, SLOTS, REGISTERS) \
    extern "C" __global__ void __maxnreg__(REGISTERS) NAME(const __grid_constant__ Attend p) { attend_row<DIM, LIMIT, ROUND, SLOTS>(p); }
// With these registers a block finds room beside two blocks of product_row.
ATTEND(attend_decode_d64, 64, 64, 128, 1, 72)
ATTEND(attend_decode_d128, 128, 128, 128, 1, 80)
// For few blocks.
ATTEND(attend_decode_d64_few, 64, 64, 128, 2, 72)
ATTEND(attend_decode_d128_few, 128, 128, 128, 2, 128)
// Heads of other widths.
ATTEND(attend_decode, 0, 128, 128, 1, 80)
ATTEND(attend_decode_d256, 0, 256, 64, 1, 80)
