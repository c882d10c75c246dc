// Attention of single rows on tensor cores, split over the length of the cache; with the rotation of q and k and the append to
// the cache before it.
//
// A block takes one split of one KV head for one row, with up to GROUP query heads together. What counts is the chain of
// instructions from the last of q, k and v to the result: so a warp rotates a head or two, scores 16 tokens, and adds 16
// elements' values of all, with one barrier between, and the code is short and in the order in which it runs. The splits of a row
// merge in order: through shared memory in a cluster of up to 8 where the launch makes one, and else by the last block to finish.
//
// What the cache held before this step was there before the graph began, so it is fetched before the kernel waits for the
// product, and all that follows from the position is worked out.
#include "attend_heads.cuh"
#include "attend_round.cuh"

// What the warps of a block do, in rounds of ROUND tokens of which SLOTS have room at a time. DIM: the elements of a head, or 0 where
// the launch says; LIMIT: at most so many.
template <int DIM, int LIMIT, int ROUND, int SLOTS>
struct Block {
    using A = Addresses<DIM, LIMIT, ROUND>;
    using S = State<A::ELEMENT_TILES>;
    using R = Ready<LIMIT, ROUND>;
    static constexpr int KEYS = 1, VALUES = 2, ROUND_TOKENS = ROUND;

    const Attend& p;
    const Place& at;
    Ready<LIMIT, ROUND>& ready;
    const Rows<DIM> rows;
    const int warp, lane, dim, round_bytes, n_rounds;
    const uint32_t keys0, values0;

    __device__ __forceinline__ Block(const Attend& p, const Place& at, Ready<LIMIT, ROUND>& ready, uint32_t rounds)
        : p(p), at(at), ready(ready), rows(p.kv.dim), warp(__shfl_sync(~0u, threadIdx.x / 32, 0)), lane(threadIdx.x % 32), dim(rows.dim), round_bytes(ROUND * rows.row_bytes()),
          n_rounds((at.stop - at.start + ROUND - 1) / ROUND), keys0(rounds), values0(rounds + SLOTS * round_bytes) {}

    __device__ __forceinline__ int slot(int r) const { return r % SLOTS * round_bytes; }
    __device__ __forceinline__ bool adds() const { return warp * 16 < dim; }

    template <int WANTED>
    __device__ __forceinline__ void ask(int r) const {
        if (r < n_rounds && warp < ready.TILES)
            ask_tile<DIM, (WANTED & KEYS) != 0, (WANTED & VALUES) != 0>(p, at, at.start + r * ROUND + warp * TILE, keys0 + slot(r), values0 + slot(r), warp);
        asked();
    }

    // Where the row's own key and value go: to their place where it is there from the beginning.
    __device__ __forceinline__ int own_row() const { return (at.position - at.start) % ROUND; }
    __device__ __forceinline__ bool direct() const { return n_rounds <= SLOTS; }
    __device__ __forceinline__ int own_turn(int v) const { return v ? rows.value_turn(own_row()) : rows.key_turn(own_row()); }
    __device__ __forceinline__ uint32_t own_place(int v) const { return (v ? values0 : keys0) + slot(n_rounds - 1) + own_row() * rows.row_bytes(); }
    __device__ __forceinline__ uint32_t own(int v) const { return direct() ? own_place(v) : shared_address(ready.own[v]); }

    // The i-th of the query heads, the key and the value; null: none.
    __device__ __forceinline__ const float* head_from(int i) const {
        const uint32_t of_kv = at.row * p.kv_stride + at.kv_head * dim;
        if (i < at.heads) return p.q + (uint32_t)(at.row * p.q_stride + (at.head0 + i) * dim);
        return i < at.heads + 2 && at.last() ? (i == at.heads ? p.k : p.v) + of_kv : nullptr;
    }

    template <class H, class P>
    __device__ __forceinline__ void store_head(int i, H& head, const P& pairs, const float2* turns) const {
        const int v = i - at.heads;
        if (__builtin_expect(v < 1 && (v < 0 ? p.q_norm.weight : p.k_norm.weight), 0)) head = normalized(head, v < 0 ? p.q_norm : p.k_norm, dim, pairs);
        const uint32_t to = v < 0 ? shared_address(ready.queries[0]) + i * (int)sizeof(ready.queries[0]) : own(v);
        head.store(pairs, turns, v < 1 && p.rope.inv_freq ? p.rope.pairs : 0, v < 0 ? p.scale * LOG2_E : 1.0f, to, v < 0 || !direct() ? 0 : own_turn(v));
    }

    __device__ __forceinline__ void score_round(const A& addresses, int r) const {
        if (ROUND < DECODE_WARPS * TILE && warp >= ready.TILES) return;
        const int token0 = at.start + r * ROUND + warp * TILE, token = token0 + lane / 4;
        const bool visible[2] = {token >= at.from && token <= at.position, token + 8 >= at.from && token + 8 <= at.position};
        score(addresses, slot(r), r % 2, token0 <= at.position, visible, dim, lane);
    }

    // By the warp whose tile holds the row's own token.
    __device__ __forceinline__ void place_own() const {
#pragma unroll 1
        for (int i = fresh(lane); i < 2 * rows.pieces(); i += 32) {
            const int v = i >= rows.pieces(), piece = v ? i - rows.pieces() : i;
            put_piece(own_place(v) + ((piece ^ own_turn(v)) << 4), piece_at(shared_address(ready.own[v]) + (piece << 4)));
        }
    }

    // The rounds after the first.
    __device__ __forceinline__ void go_on(const A& addresses, S& st) const {
        if (SLOTS == 1) {
            __syncthreads();
            ask<KEYS>(1);
            ask<VALUES>(1);
        } else {
            ask<KEYS>(SLOTS);
        }
#pragma unroll 1
        for (int r = 1; r < n_rounds; r++) {
            if (r < SLOTS)
                wait_for_all_but<SLOTS - 1>();
            else
                wait_for_all_but<SLOTS>();
            if (r + 1 == n_rounds && !direct() && at.last() && own_row() / TILE == warp) place_own();
            __syncwarp();
            score_round(addresses, r);
            wait_for_all_but<SLOTS - 1>();
            __syncthreads();
            if (r + 1 < n_rounds) {
                if (SLOTS > 1) ask<VALUES>(r + 1);
                ask<KEYS>(r + SLOTS);
            }
            if (adds()) add_values(addresses, slot(r), r % 2, false, dim, st);
            if (SLOTS == 1 && r + 1 < n_rounds) {
                __syncthreads();
                ask<VALUES>(r + 1);
            }
        }
    }

    // The key and the value go to the cache.
    __device__ __forceinline__ void append() const {
        if (!at.last() || warp != DECODE_WARPS - 1) return;
#pragma unroll 1
        for (int i = fresh(lane); i < 2 * rows.pieces(); i += 32) {
            const int v = i >= rows.pieces(), piece = v ? i - rows.pieces() : i;
            __half* cache = kv_page(p.kv, at.slot, at.position, v, at.kv_head) + at.position % PAGE_TOKENS * dim;
            ((uint4*)cache)[piece] = piece_at(own(v) + ((piece ^ (direct() ? own_turn(v) : 0)) << 4));
        }
    }
};

// A lane's part of the result: of one head, two elements beside each other and two more 8 further, for each tile of elements.
template <int N, bool EXACT>
struct Result {
    int head, dim, first;
    bool there;

    __device__ __forceinline__ Result(const Place& at, int dim, int warp, int lane) : head(lane % 4 * 2 + lane / 4 % 2), dim(dim), first(warp * 16 + (lane / 4 & 6)), there(head < at.heads) {}
    __device__ __forceinline__ int element(int i) const { return first + i / 2 * DECODE_WARPS * 16 + i % 2 * 8; }
    __device__ __forceinline__ bool has(int i) const { return there && (EXACT || element(i) < dim); }

    // m and l of the head.
    __device__ __forceinline__ float2 weight(const State<N>& st) const {
        const float l0 = st.l[0][0] + st.l[1][0], l1 = st.l[0][1] + st.l[1][1];
        return make_float2(__shfl_sync(~0u, st.m, 4 * head), head % 2 ? l1 : l0);
    }

    __device__ __forceinline__ float2 sum(const State<N>& st, int i) const {
        const float(&o)[2][4] = st.o[i / 2];
        const float a = o[0][i % 2 * 2] + o[1][i % 2 * 2], b = o[0][i % 2 * 2 + 1] + o[1][i % 2 * 2 + 1];
        const float other = __shfl_xor_sync(~0u, head % 2 ? a : b, 4);
        return head % 2 ? make_float2(other, b) : make_float2(a, other);
    }

    // As a part of several: [head][dim + PART_TAIL], `head_floats` apart.
    __device__ __forceinline__ void put_part(const State<N>& st, float* parts, size_t head_floats) const {
        const float2 ml = weight(st);
#pragma unroll
        for (int i = 0; i < 2 * N; i++) {
            const float2 x = sum(st, i);
            if (has(i)) *(float2*)(parts + head * head_floats + element(i)) = x;
        }
        if (there && threadIdx.x < 8) *(float2*)(parts + head * head_floats + dim) = ml;
    }
};

// What few rows need is called, so that the code of all others lies together, in the order in which it runs.
template <class B>
__device__ __noinline__ typename B::S go_on(const Attend& p, Place at, typename B::R* ready, uint32_t rounds, typename B::A addresses, typename B::S st) {
    B(p, at, *ready, rounds).go_on(addresses, st);
    return st;
}

// This split's part, and all of the row's if the others are there.
template <class B, class R>
__device__ __noinline__ void merge(const Attend& p, Place at, typename B::R* ready, uint8_t* rounds, R result, typename B::S st, float (*weights)[MAX_SPLITS]) {
    const B block(p, at, *ready, shared_address(rounds));
    const int part_floats = block.dim + PART_TAIL;
#if BULK_COPY
    if (at.clustered()) {
        // Among the keys, apart from the row's own.
        float* const part = (float*)(rounds + ((at.position - at.base()) % B::ROUND_TOKENS < B::ROUND_TOKENS / 2 ? B::ROUND_TOKENS / 2 * block.rows.row_bytes() : 0));
        if (block.adds()) result.put_part(st, part, part_floats);
        merge_cluster<32 * DECODE_WARPS>(p, at, shared_address(part));
        block.append();
        return leave_cluster();
    }
#endif
    float* const parts = p.partial + ((size_t)at.row * p.q_heads + at.head0) * p.splits * part_floats;
    if (block.adds()) result.put_part(st, parts + at.split * part_floats, (size_t)p.splits * part_floats);
    block.append();
    if (finished_last(p, at)) merge_parts<32 * DECODE_WARPS>(p, at, parts, weights);
}

// grid (splits, kv heads * ceil(group / GROUP), n), block 256, clusters of all splits if they are up to 8, or none; shared: SLOTS rounds of keys, then as many of values
template <int DIM, int LIMIT, int ROUND, int SLOTS>
__device__ __forceinline__ void attend_row(const Attend& p) {
    using B = Block<DIM, LIMIT, ROUND, SLOTS>;
    constexpr int N = B::A::ELEMENT_TILES;
    extern __shared__ __align__(128) uint8_t rounds[];
    __shared__ Ready<LIMIT, ROUND> ready;
    __shared__ float2 turns[LIMIT / 2];
    __shared__ float weights[GROUP][MAX_SPLITS];
    pdl_start();
    const Place at(p, blockIdx.z, blockIdx.y, gridDim.y, blockIdx.x);
    if (!at.there()) return pdl_wait();
    const B block(p, at, ready, shared_address(rounds));
    const int warp = block.warp, lane = block.lane, dim = block.dim;
#pragma unroll 1
    for (int r = 0; r < SLOTS; r++) block.template ask<B::KEYS | B::VALUES>(r);
    if (p.rope.inv_freq && (int)threadIdx.x < p.rope.pairs) turns[threadIdx.x] = turn_of(p.rope, threadIdx.x, at.position);
#pragma unroll 1
    for (int i = threadIdx.x; i < (int)sizeof(ready.queries) / 16; i += 256) ((uint4*)ready.queries)[i] = make_uint4(0, 0, 0, 0);
    if (threadIdx.x == 0) ready.zeros = make_uint4(0, 0, 0, 0);
    const Pairs<LIMIT, (DIM > 0)> pairs(p.rope, dim, lane);
    const float* const from[2] = {block.head_from(warp), block.head_from(warp + DECODE_WARPS)};
    const typename B::A addresses(ready, block.keys0, block.values0, dim, warp, lane);
    const Result<N, (DIM > 0)> result(at, dim, warp, lane);
    uint32_t places[2 * N];
#pragma unroll
    for (int i = 0; i < 2 * N; i++) {
        // 8 further in records, and 8 columns further in panels, is one bit that is not set.
        if (DIM && i % 2)
            places[i] = p.mixed.packed ? places[i - 1] ^ (p.mixed.panels ? 32 : 8) : places[i - 1] + 8;
        else
            places[i] = fresh(mixed_at(p.mixed, at.row, (at.head0 + result.head) * dim + result.element(i), p.q_stride));
    }
    __syncthreads();

    pdl_wait();
    Head<LIMIT, (DIM > 0)> heads[2];
    if (from[0]) heads[0].load(from[0], pairs);
    if (from[1]) heads[1].load(from[1], pairs);
    if (from[0]) block.store_head(fresh(warp), heads[0], pairs, turns);
    if (__builtin_expect(from[1] != nullptr, 0)) block.store_head(fresh(warp) + DECODE_WARPS, heads[1], pairs, turns);
    wait_for_all_but<SLOTS - 1>();
    __syncthreads();
    typename B::S st;
    block.score_round(addresses, 0);
    __syncthreads();
    if (block.adds()) add_values(addresses, 0, 0, true, dim, st);

    if (__builtin_expect(block.n_rounds > 1, 0)) st = go_on<B>(p, at, &ready, block.keys0, addresses, st);
    if (__builtin_expect(at.n_splits > 1, 0)) return merge<B>(p, at, &ready, rounds, result, st, weights);
    if (block.adds()) {
        const float2 ml = result.weight(st);
        const float factor = result.there ? factor_of(p, at.head0 + result.head, ml) : 1.0f;
#pragma unroll
        for (int i = 0; i < 2 * N; i++) {
            const float2 x = result.sum(st, i);
            if (result.has(i)) put_mixed_at(p.mixed, places[i], x.x * factor, x.y * factor);
        }
    }
    block.append();
}

#define ATTEND(NAME, DIM, LIMIT, ROUND, SLOTS, REGISTERS) \
    extern "C" __global__ void __maxnreg__(REGISTERS) NAME(const __grid_constant__ Attend p) { attend_row<DIM, LIMIT, ROUND, SLOTS>(p); }
// With 72 registers a block finds room beside two blocks of product_row.
ATTEND(attend_decode_d64, 64, 64, 128, 1, 72)
ATTEND(attend_decode_d128, 128, 128, 128, 1, 80)
// For few blocks, and with more registers for more than one split.
ATTEND(attend_decode_d64_few, 64, 64, 128, 2, 72)
ATTEND(attend_decode_d64_splits, 64, 64, 128, 2, 128)
ATTEND(attend_decode_d128_few, 128, 128, 128, 2, 128)
// Heads of other widths.
ATTEND(attend_decode, 0, 128, 128, 1, 80)
ATTEND(attend_decode_d256, 0, 256, 64, 1, 80)
