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
#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WGMMA 1
#else
#define WGMMA 0
#endif

#if WGMMA
namespace {

constexpr int WARPS = 8, TOKENS = 128, MAX_STAGES = 8, X_BYTES = TOKENS * 128;
constexpr int ROW = 20;  // floats from token to token of a tile of sums: 16 rows, and room to keep off each other's banks

// d += a b, 64 x 16 by 16 x 128; a from registers, b at `descriptor`: rows of 128 bytes in the 128-byte swizzle.
__device__ __forceinline__ void wgmma(float (&d)[64], const uint32_t (&a)[4], uint64_t descriptor) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
          "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
          "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
          "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
          "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
          "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
          "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
          "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor));
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

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

// A place in a ring of slots, and the parity of its barrier's phase.
struct Turn {
    int slot = 0, slots;
    uint32_t parity = 0;
    __device__ explicit Turn(int n) : slots(n) {}
    __device__ void next() {
        if (++slot == slots) slot = 0, parity ^= 1;
    }
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
        for (int i = 0; i < T; ++i) wgmma(acc[i], a[i][ks], descriptor + 4 * HALF + 2 * ks);
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
            const uint32_t x = shared_address(p.x0 + slot * X_BYTES);
            const uint64_t descriptor = (uint64_t)((x & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
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
