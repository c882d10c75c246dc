// y = W x for a prompt's rows, on Hopper's tensor cores (wgmma, sm_90a alone; elsewhere the kernels do nothing and product_batch
// serves). product_prefill.cu makes the kernels for many rows (N = 128), product_prefill_N.cu those for few (N = 16, 32, 64):
//
//   product_prefill[_N]       any matrices, a unit is 8 tiles of 16 rows
//   product_prefill_wide      any matrices, a unit is 16 tiles: for launches that fill the card anyway
//   product_prefill[_N]_pair  gate and up with their activation, a unit is 8 tiles of each
//
// Launch: block 384; grid (items, or without items ceil(tokens / N); units) for N = 128, else (units; the other); dynamic shared
// memory 1024 + stages * N * 128 + weight_stages * 8 * T * slot_bytes, T = 1, 2, 2, and at least 1024 + T * N * 640; stages 2..8;
// weight_stages 2..8, for F16 better 4. x: panels. An item has at most N rows and starts at a multiple of 8.
//
// Two warpgroups of 64 T rows each take weights as A from registers, dequantised there, so they never pass through shared memory
// as f16; activations are B, N tokens by 64 columns a stage, copied as they lie. The next step is dequantised while the last one
// is multiplied. A token's result depends on the columns' order alone: not on the other tokens, nor on how a prompt is cut, nor on N.
#pragma once
#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"
#include "product_wgmma.cuh"

#if WGMMA
namespace {

constexpr int WARPS = 8, TOKENS = 128, MAX_STAGES = 8;
constexpr int ROW = 20;  // floats from token to token of a tile of sums: 16 rows, and room to keep off each other's banks

// Shared memory and what one block works on.
template <int T, bool PAIR, int N>
struct Prompt {
    const ProductArgs& args;
    ProductItem item;
    uint8_t *x0, *weights0;
    uint64_t *full, *empty, *weights_full, *weights_empty;
    uint32_t unit;
    int pieces, steps;

    static constexpr int X_BYTES = N * 128;

    __device__ const ProductMatrix& matrix(int i) const { return args.matrix[PAIR ? i : matrix_of(args, unit)]; }

    // The tile i (of T) of a warp.
    __device__ uint32_t tile(int warp, int i) const {
        return PAIR ? unit * WARPS + warp : (unit - matrix(0).first_unit) * WARPS * T + i * WARPS + warp;
    }

    __device__ uint32_t bytes(int piece) const { return piece + 1 == pieces ? matrix(0).last_piece_bytes : matrix(0).piece_bytes; }

    __device__ uint8_t* weights(int slot, int i) const { return weights0 + (slot * T + i) * WARPS * args.slot_bytes; }
};

// Asking for a copy takes longer than a step of few rows, so four warps share it, a lane each: three take the activations' steps in
// turn, one the weights' pieces. All that does not change stays outside the loops: their instructions are what a step waits for.
constexpr int ASKERS = 3;

template <int T, bool PAIR, int N>
__device__ void ask_weights(const Prompt<T, PAIR, N>& p) {
    const ProductArgs& args = p.args;
    const uint8_t* from[T];
    uint32_t stride[T], count[T], all = 0;
#pragma unroll
    for (int i = 0; i < T; ++i) {
        const ProductMatrix& m = p.matrix(i);
        const uint32_t first = min(p.tile(0, i), (m.tiles - 1) / WARPS * WARPS);
        from[i] = m.weights + p.item.expert * m.expert_bytes + (size_t)first * m.tile_bytes;
        count[i] = block_tiles(m.tiles, first), stride[i] = count[i] * m.piece_bytes, all += count[i];
    }
    const uint32_t slot_bytes = WARPS * args.slot_bytes;
    Turn turn(args.weight_stages);
#pragma unroll 1
    for (int piece = 0; piece < p.pieces; ++piece) {
        const uint32_t bytes = p.bytes(piece);
        uint64_t* full = &p.weights_full[turn.slot];
        barrier_wait(&p.weights_empty[turn.slot], turn.parity ^ 1);
        fill_begin(full, all * bytes, 0);
#pragma unroll
        for (int i = 0; i < T; ++i) {
            fill_copy<false>(p.weights0 + (turn.slot * T + i) * slot_bytes, from[i], count[i] * bytes, full, 0);
            from[i] += stride[i];
        }
        turn.next();
    }
}

// Every third step from `first` on.
template <int T, bool PAIR, int N>
__device__ void ask_x(const Prompt<T, PAIR, N>& p, int first) {
    const ProductArgs& args = p.args;
    const size_t stride = (size_t)args.x_stride * 128;
    const uint8_t* from = args.x + (size_t)p.item.x_row * 128 + first * stride;
    const uint32_t bytes = p.item.count * 128;
    Turn turn(args.stages);
    for (int i = 0; i < first; ++i) turn.next();
    if (!args.items) wait_for_predecessor();
#pragma unroll 1
    for (int s = first; s < p.steps; s += ASKERS) {
        uint64_t* full = &p.full[turn.slot];
        barrier_wait(&p.empty[turn.slot], turn.parity ^ 1);
        fill_begin(full, bytes, 0);
        fill_copy<false>(p.x0 + turn.slot * p.X_BYTES, from, bytes, full, 0);
        from += ASKERS * stride;
#pragma unroll
        for (int i = 0; i < ASKERS; ++i) turn.next();
    }
}

// Half a step: 32 columns of this warp's T tiles become fragments, and are multiplied while the next are made.
template <int HALF, int N, int T, uint32_t K>
__device__ __forceinline__ void half_step(Record<K> (&record)[T], int n, uint64_t descriptor, float (&acc)[T][N / 2]) {
    uint32_t a[T][2][4];
#pragma unroll
    for (int i = 0; i < T; ++i) record[i].template fragments<2 * HALF, 2>(n, a[i]);
    multiply_fragments<N>(acc, a, descriptor + 4 * HALF);
}

// All columns for this warp's T tiles.
template <int T, bool PAIR, int N, uint32_t K>
__device__ __forceinline__ void consume(const Prompt<T, PAIR, N>& p, const Record<K>&, int warp, int lane, float (&acc)[T][N / 2]) {
    constexpr int STEPS = piece_steps(K);
    Record<K> record[T];
    int slot = 0, before = -1, weight_slot = 0;
    uint32_t parity = 0, weight_parity = 0;
    const int stages = p.args.stages, weight_stages = p.args.weight_stages;
    for (int piece = 0; piece < p.pieces; ++piece) {
        barrier_wait(&p.weights_full[weight_slot], weight_parity);
#pragma unroll
        for (int i = 0; i < T; ++i) record[i].open(p.weights(weight_slot, i) + warp * p.bytes(piece), lane);
        const int steps = min(STEPS, p.steps - STEPS * piece);
#pragma unroll 1
        for (int n = 0; n < steps; ++n) {
            barrier_wait(&p.full[slot], parity);
            const uint64_t descriptor = wgmma_descriptor(p.x0 + slot * p.X_BYTES);
            half_step<0, N>(record, n, descriptor, acc);
            if (before >= 0) warp_arrive(&p.empty[before], lane);
            half_step<1, N>(record, n, descriptor, acc);
            before = slot;
            if (++slot == stages) slot = 0, parity ^= 1;
        }
        __syncwarp();
        warp_arrive(&p.weights_empty[weight_slot], lane);
        if (++weight_slot == weight_stages) weight_slot = 0, weight_parity ^= 1;
    }
    wgmma_wait<0>();
}

// The same for few rows, where a step's products take less time than all that leads to them: what it needs of the weights is in registers
// before its activations are waited for.
template <int T, bool PAIR, int N, uint32_t K>
__device__ __forceinline__ void consume_ahead(const Prompt<T, PAIR, N>& p, const Record<K>&, int warp, int lane, float (&acc)[T][N / 2]) {
    constexpr int STEPS = piece_steps(K);
    Record<K> record[T];
    typename Record<K>::Raw raw[T];
    Turn x(p.args.stages), weights(p.args.weight_stages);
    int before = -1, piece = 0, n = 0, left = p.steps;
    auto open = [&] {
        barrier_wait(&p.weights_full[weights.slot], weights.parity);
#pragma unroll
        for (int i = 0; i < T; ++i) record[i].open(p.weights(weights.slot, i) + warp * p.bytes(piece), lane);
    };
    auto take = [&] {
#pragma unroll
        for (int i = 0; i < T; ++i) record[i].fetch(n, raw[i]);
    };
    // Takes the next step's weights, when this one's have become fragments.
    auto advance = [&] {
        --left;
        if (++n == STEPS || left == 0) {
            __syncwarp();
            warp_arrive(&p.weights_empty[weights.slot], lane);
            weights.next(), ++piece, n = 0;
            if (left > 0) open();
        }
        if (left > 0) take();
    };
    auto done = [&] {
        if (before >= 0) warp_arrive(&p.empty[before], lane);
        before = x.slot;
        x.next();
    };
    open();
    take();
    if constexpr (T * N > TOKENS) {  // fragments of half a step at a time: there are no registers for more
        uint32_t a[2][T][2][4];
#pragma unroll 1
        while (left > 0) {
            const uint64_t descriptor = wgmma_descriptor(p.x0 + x.slot * p.X_BYTES);
#pragma unroll
            for (int i = 0; i < T; ++i) record[i].template unpack<0, 2>(0, raw[i], a[0][i]);
            barrier_wait(&p.full[x.slot], x.parity);
            multiply_fragments<N>(acc, a[0], descriptor);
#pragma unroll
            for (int i = 0; i < T; ++i) record[i].template unpack<2, 2>(0, raw[i], a[1][i]);
            advance();
            multiply_fragments<N>(acc, a[1], descriptor + 4);
            done();
        }
    } else {
        uint32_t even[T][4][4], odd[T][4][4];
        auto step = [&](uint32_t (&a)[T][4][4]) {
#pragma unroll
            for (int i = 0; i < T; ++i) record[i].template unpack<0, 4>(0, raw[i], a[i]);
            advance();
            barrier_wait(&p.full[x.slot], x.parity);
            multiply_fragments<N>(acc, a, wgmma_descriptor(p.x0 + x.slot * p.X_BYTES));
            done();
        };
#pragma unroll 1
        while (left > 1) {
            step(even);
            step(odd);
        }
        if (left > 0) step(even);
    }
    wgmma_wait<0>();
}

// Stores this warp's sums. They pass through shared memory, so that the code that finishes one is there once and not 64 times:
// it would come from afar, to be run a single time.
template <int T, bool PAIR, int N>
__device__ __forceinline__ void store(const Prompt<T, PAIR, N>& p, float* mine, int warp, int lane, float (&acc)[T][N / 2]) {
    asm volatile("bar.sync 1, 256;" ::: "memory");  // the other warps may still read the ring
#pragma unroll
    for (int i = 0; i < T; ++i)
#pragma unroll
        for (int j = 0; j < N / 2; ++j)
            mine[(i * N + (j / 4) * 8 + 2 * (lane & 3) + (j & 1)) * ROW + (lane >> 2) + 8 * ((j >> 1) & 1)] = acc[i][j];
    __syncwarp();
    const Sink sink(p.matrix(0), p.item.expert), up(p.matrix(T - 1), p.item.expert);
    const int row4 = (lane & 3) * 4;
#pragma unroll 1
    for (int i = 0; i < (PAIR ? 1 : T); ++i) {
        const uint32_t row = p.tile(warp, i) * TILE_ROWS + row4;
        if (p.tile(warp, i) >= sink.tiles) break;
        float bias[4][2];
#pragma unroll
        for (int r = 0; r < 4; ++r) bias[r][0] = sink.bias_of(row + r), bias[r][1] = PAIR ? up.bias_of(row + r) : 0.0f;
#pragma unroll 1
        for (int token = lane >> 2; token < p.item.count; token += 8) {
            const float4 a = *reinterpret_cast<const float4*>(mine + (i * N + token) * ROW + row4);
            const float4 b = PAIR ? *reinterpret_cast<const float4*>(mine + (N + token) * ROW + row4) : a;
            const float sums[4][2] = {{a.x, b.x}, {a.y, b.y}, {a.z, b.z}, {a.w, b.w}};
#pragma unroll
            for (int r = 0; r < 4; ++r)
                if (PAIR)
                    finish_pair(p.args, sink, row + r, p.item.out_row + token, sums[r], bias[r]);
                else
                    finish(p.args, sink, row + r, p.item.out_row + token, sums[r][0], bias[r][0]);
        }
    }
}

// The warps that ask for copies leave their registers to those that compute.
template <int BLOCKS>
__device__ __forceinline__ void take_registers() {
    if (BLOCKS == 1)
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    else
        asm volatile("setmaxnreg.inc.sync.aligned.u32 96;");
}

// BLOCKS share a multiprocessor.
template <int T, bool PAIR, int N, int BLOCKS>
__device__ __forceinline__ void product_prefill_body(const ProductArgs& args) {
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ uint64_t full[MAX_STAGES], empty[MAX_STAGES], weights_full[MAX_STAGES], weights_empty[MAX_STAGES];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < (int)args.stages; ++i) fill_barrier_init(&full[i]), barrier_init(&empty[i], WARPS * WARP_ARRIVALS);
        for (int i = 0; i < (int)args.weight_stages; ++i) fill_barrier_init(&weights_full[i]), barrier_init(&weights_empty[i], WARPS * WARP_ARRIVALS);
    }
    barrier_init_done();
    __syncthreads();
    dependents_may_start();

    const uint32_t group = N == TOKENS ? blockIdx.x : blockIdx.y, unit = N == TOKENS ? blockIdx.y : blockIdx.x;
    ProductItem item = {0, (int)group * N, (int)group * N, min(N, (int)args.tokens - (int)group * N)};
    if (args.items) {
        wait_for_predecessor();
        if (args.item_count && group >= *args.item_count) return;
        item = args.items[group];
    }
    uint8_t* base = shared + (1024 - (shared_address(shared) & 1023)) % 1024;
    const uint32_t kind = args.matrix[PAIR ? 0 : matrix_of(args, unit)].kind;
    const Prompt<T, PAIR, N> p = {args, item, kept(base), kept(base + args.stages * N * 128), kept(full), kept(empty), kept(weights_full), kept(weights_empty), unit,
                                  pieces_of(kind, args.cols), steps_of(args.cols)};
    if (warp >= WARPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (lane == 0) {
            if (warp == WARPS)
                ask_weights<T, PAIR, N>(p);
            else
                ask_x<T, PAIR, N>(p, warp - WARPS - 1);
        }
        return;
    }
    take_registers<BLOCKS>();
    float acc[T][N / 2] = {};
    with_kind(p.matrix(0).kind, [&](auto record) {
        if constexpr (decltype(record)::KIND == KIND_F16)
            consume<T, PAIR, N>(p, record, warp, lane, acc);
        else
            consume_ahead<T, PAIR, N>(p, record, warp, lane, acc);
    });
    if (!args.items) wait_for_predecessor();
    store<T, PAIR, N>(p, reinterpret_cast<float*>(base) + warp * T * N * ROW, warp, lane, acc);
}

}  // namespace
#define BODY(T, PAIR, N, BLOCKS) product_prefill_body<T, PAIR, N, BLOCKS>(args)
#else
#define BODY(T, PAIR, N, BLOCKS)
#endif

#define PRODUCT_PREFILL(name, T, PAIR, N, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(384, BLOCKS) name(const __grid_constant__ ProductArgs args) { BODY(T, PAIR, N, BLOCKS); }
