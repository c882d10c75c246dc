// y = W x for a prompt's many rows, on Hopper's tensor cores (wgmma, sm_90a alone; elsewhere the kernels do nothing and
// product_batch serves).
//
//   product_prefill       any matrices, a unit is 8 tiles of 16 rows
//   product_prefill_wide  any matrices, a unit is 16 tiles: for launches that fill the card anyway
//   product_prefill_pair  gate and up with their activation, a unit is 8 tiles of each
//
// Launch: block 384; grid (items, or without items ceil(tokens / 128); units); dynamic shared memory 1024 + stages * 16384 +
// weight_stages * 8 * T * slot_bytes, T = 1, 2, 2, and at least 1024 + T * 81920; stages 2..8; weight_stages 2..8, for F16 better 4. x: panels. An item has at most
// 128 rows and starts at a multiple of 8.
//
// Two warpgroups of 64 T rows each take weights as A from registers, dequantised there, so they never pass through shared memory
// as f16; activations are B, 128 tokens by 64 columns a stage, copied as they lie. The next step is dequantised while the last
// one is multiplied. A token's result depends on the columns' order alone: not on the other tokens, nor on how a prompt is cut.
#include "product_dequant.cuh"
#include "product_store.cuh"
#include "product_wgmma.cuh"

#if WGMMA
namespace {

constexpr int WARPS = 8, TOKENS = 128, MAX_STAGES = 8, X_BYTES = TOKENS * 128;
constexpr int ROW = 20;  // floats from token to token of a tile of sums: 16 rows, and room to keep off each other's banks

// Shared memory and what one block works on.
template <int T, bool PAIR>
struct Prompt {
    const ProductArgs& args;
    ProductItem item;
    uint8_t *x0, *weights0;
    uint64_t *full, *empty, *weights_full, *weights_empty;
    int pieces, steps;

    __device__ const ProductMatrix& matrix(int i) const { return args.matrix[PAIR ? i : matrix_of(args, blockIdx.y)]; }

    // The tile i (of T) of a warp.
    __device__ uint32_t tile(int warp, int i) const {
        return PAIR ? blockIdx.y * WARPS + warp : (blockIdx.y - matrix(0).first_unit) * WARPS * T + i * WARPS + warp;
    }

    __device__ uint32_t bytes(int piece) const { return piece + 1 == pieces ? matrix(0).last_piece_bytes : matrix(0).piece_bytes; }

    __device__ uint8_t* weights(int slot, int i) const { return weights0 + (slot * T + i) * WARPS * args.slot_bytes; }
};

// One lane: pieces of the weights, and steps of the activations, each in its ring. All that does not change stays outside the
// loop: this lane's instructions are what a step waits for.
template <int T, bool PAIR>
__device__ void produce(const Prompt<T, PAIR>& p) {
    const ProductArgs& args = p.args;
    const int per_piece = piece_steps(p.matrix(0).kind);
    const uint8_t* from[T];
    uint32_t stride[T], count[T], all = 0;
#pragma unroll
    for (int i = 0; i < T; ++i) {
        const ProductMatrix& m = p.matrix(i);
        const uint32_t first = min(p.tile(0, i), (m.tiles - 1) / WARPS * WARPS);
        from[i] = m.weights + p.item.expert * m.expert_bytes + (size_t)first * m.tile_bytes;
        count[i] = block_tiles(m.tiles, first), stride[i] = count[i] * m.piece_bytes, all += count[i];
    }
    const uint8_t* x = args.x + (size_t)p.item.x_row * 128;
    const size_t x_stride = (size_t)args.x_stride * 128;
    const uint32_t x_bytes = p.item.count * 128, weight_slot = WARPS * args.slot_bytes;
    Turn turn(args.stages), weights_turn(args.weight_stages);
    bool waited = args.items != nullptr;
    for (int s = 0, left = 0, piece = 0; s < p.steps; ++s) {
        if (left == 0) {
            left = per_piece;
            const uint32_t bytes = p.bytes(piece++);
            uint64_t* full = &p.weights_full[weights_turn.slot];
            barrier_wait(&p.weights_empty[weights_turn.slot], weights_turn.parity ^ 1);
            fill_begin(full, all * bytes, 0);
#pragma unroll
            for (int i = 0; i < T; ++i) {
                fill_copy<false>(p.weights0 + (weights_turn.slot * T + i) * weight_slot, from[i], count[i] * bytes, full, 0);
                from[i] += stride[i];
            }
            weights_turn.next();
        }
        --left;
        if (!waited) wait_for_predecessor(), waited = true;
        uint64_t* full = &p.full[turn.slot];
        barrier_wait(&p.empty[turn.slot], turn.parity ^ 1);
        fill_begin(full, x_bytes, 0);
        fill_copy<false>(p.x0 + turn.slot * X_BYTES, x, x_bytes, full, 0);
        x += x_stride;
        turn.next();
    }
}

// Half a step: 32 columns of this warp's T tiles become fragments, and are multiplied while the next are made.
template <int HALF, int T, uint32_t K>
__device__ __forceinline__ void half_step(Record<K> (&record)[T], int n, uint64_t descriptor, float (&acc)[T][64]) {
    uint32_t a[T][2][4];
#pragma unroll
    for (int i = 0; i < T; ++i) record[i].template fragments<2 * HALF, 2>(n, a[i]);
    wgmma_fence();
#pragma unroll
    for (int ks = 0; ks < 2; ++ks)
#pragma unroll
        for (int i = 0; i < T; ++i) wgmma<128>(acc[i], a[i][ks], descriptor + 4 * HALF + 2 * ks);
    wgmma_commit();
    wgmma_wait<1>();
}

// All columns for this warp's T tiles.
template <int T, bool PAIR, uint32_t K>
__device__ __forceinline__ void consume(const Prompt<T, PAIR>& p, const Record<K>&, int warp, int lane, float (&acc)[T][64]) {
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
            const uint64_t descriptor = wgmma_descriptor(p.x0 + slot * X_BYTES);
            half_step<0>(record, n, descriptor, acc);
            if (before >= 0) warp_arrive(&p.empty[before], lane);
            half_step<1>(record, n, descriptor, acc);
            before = slot;
            if (++slot == stages) slot = 0, parity ^= 1;
        }
        __syncwarp();
        warp_arrive(&p.weights_empty[weight_slot], lane);
        if (++weight_slot == weight_stages) weight_slot = 0, weight_parity ^= 1;
    }
    wgmma_wait<0>();
}

// Stores this warp's sums. They pass through shared memory, so that the code that finishes one is there once and not 64 times:
// it would come from afar, to be run a single time.
template <int T, bool PAIR>
__device__ __forceinline__ void store(const Prompt<T, PAIR>& p, float* mine, int warp, int lane, float (&acc)[T][64]) {
    asm volatile("bar.sync 1, 256;" ::: "memory");  // the other warps may still read the ring
#pragma unroll
    for (int i = 0; i < T; ++i)
#pragma unroll
        for (int j = 0; j < 64; ++j)
            mine[(i * TOKENS + (j / 4) * 8 + 2 * (lane & 3) + (j & 1)) * ROW + (lane >> 2) + 8 * ((j >> 1) & 1)] = acc[i][j];
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
            const float4 a = *reinterpret_cast<const float4*>(mine + (i * TOKENS + token) * ROW + row4);
            const float4 b = PAIR ? *reinterpret_cast<const float4*>(mine + (TOKENS + token) * ROW + row4) : a;
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

template <int T, bool PAIR>
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

    ProductItem item = {0, (int)blockIdx.x * TOKENS, (int)blockIdx.x * TOKENS, min(TOKENS, (int)args.tokens - (int)blockIdx.x * TOKENS)};
    if (args.items) {
        wait_for_predecessor();
        if (args.item_count && blockIdx.x >= *args.item_count) return;
        item = args.items[blockIdx.x];
    }
    uint8_t* base = shared + (1024 - (shared_address(shared) & 1023)) % 1024;
    const uint32_t kind = args.matrix[PAIR ? 0 : matrix_of(args, blockIdx.y)].kind;
    const Prompt<T, PAIR> p = {args, item, base, base + args.stages * X_BYTES, full, empty, weights_full, weights_empty, pieces_of(kind, args.cols),
                               steps_of(args.cols)};
    if (warp >= WARPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (warp == WARPS && lane == 0) produce<T, PAIR>(p);
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    float acc[T][64] = {};
    with_kind(p.matrix(0).kind, [&](auto record) { consume<T, PAIR>(p, record, warp, lane, acc); });
    if (!args.items) wait_for_predecessor();

    store<T, PAIR>(p, reinterpret_cast<float*>(base) + warp * T * TOKENS * ROW, warp, lane, acc);
}

}  // namespace
#define BODY(T, PAIR) product_prefill_body<T, PAIR>(args)
#else
#define BODY(T, PAIR)
#endif

extern "C" __global__ void __launch_bounds__(384, 1) product_prefill(const __grid_constant__ ProductArgs args) { BODY(1, false); }
extern "C" __global__ void __launch_bounds__(384, 1) product_prefill_wide(const __grid_constant__ ProductArgs args) { BODY(2, false); }
extern "C" __global__ void __launch_bounds__(384, 1) product_prefill_pair(const __grid_constant__ ProductArgs args) { BODY(2, true); }
