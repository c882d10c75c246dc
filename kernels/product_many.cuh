// y = W x for up to N rows of activations a block, on Hopper's tensor cores (wgmma, sm_90a alone; elsewhere the kernels do nothing
// and product_split or product_batch serves), with the very sums of product_small. product_many_16.cu, _32.cu and _64.cu make the kernels:
//
//   product_many_N       any matrices, a unit is 8 tiles of 16 rows; N = 64 not for C = 1
//   product_many_N_wide  any matrices, a unit is 16 tiles
//   product_many_N_pair  gate and up with their activation, a unit is 8 tiles of each
//
// Launch: block 384; grid (C * units, items, or without items ceil(tokens / N)) in clusters of C = 1, 2, 4 or 8 blocks along x; dynamic
// shared memory 1024 + ring + sums, ring = stages * N * 128 + weight_stages * 8 * T * slot_bytes, T = 1, 2, 2, sums = 0 for C = 1 and
// C = 8, else 8 / C * S, but ring at least S = 8 * T * N * 64; stages 2..8; weight_stages 2..8. x: panels. An item has at most N rows
// and starts at a multiple of 8.
//
// Eight warps take a tile of weights each (T of them) as A from registers, dequantised there; activations are B. Another warp
// keeps the rings filled. The columns' eight parts are summed apart and then added in order, as in product_small: by one block
// (C = 1), or by the blocks of a cluster, which do 8 / C parts each.
#pragma once
#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"
#include "product_wgmma.cuh"

#if WGMMA
namespace {

constexpr int WARPS = 8, MAX_STAGES = 8;

// Where a tile's sum lies among floats: the rows of a token side by side, in fours whose order keeps tokens off each other's banks.
__device__ __forceinline__ int sum_at(int token, int row) { return token * TILE_ROWS + (row ^ ((token >> 1 & 3) * 4)); }

// Shared memory and what one block works on.
template <int T, bool PAIR, int N>
struct Many {
    static constexpr int X_BYTES = N * 128, SUMS = WARPS * T * N * TILE_ROWS;
    const ProductArgs& args;
    ProductItem item;
    uint8_t *x0, *weights0;
    uint64_t *full, *empty, *weights_full, *weights_empty;
    float* sums;  // [part][warp][tile][sum_at]
    uint32_t unit;
    int cluster, rank, records;

    __device__ const ProductMatrix& matrix(int i) const { return args.matrix[PAIR ? i : matrix_of(args, unit)]; }

    // The tile i (of T) of a warp.
    __device__ uint32_t tile(int warp, int i) const {
        return PAIR ? unit * WARPS + warp : (unit - matrix(0).first_unit) * WARPS * T + i * WARPS + warp;
    }

    __device__ int parts() const { return CHUNKS / cluster; }
    // The first record of a part of the columns.
    __device__ int record_of(int part) const { return part * records / CHUNKS; }
    __device__ int steps(int r) const { return r + 1 == records ? steps_of(args.cols) - 4 * (records - 1) : 4; }
    __device__ uint32_t bytes(int r) const { return r + 1 == records ? matrix(0).last_piece_bytes : matrix(0).piece_bytes; }
    __device__ uint8_t* weights(int slot, int i) const { return weights0 + (slot * T + i) * WARPS * args.slot_bytes; }
};

// One lane keeps both rings filled. What does not change stays outside its loop: its instructions are what a step waits for.
template <int T, bool PAIR, int N>
__device__ void produce(const Many<T, PAIR, N>& p) {
    const ProductArgs& args = p.args;
    const bool f16 = p.matrix(0).kind == KIND_F16;
    const int first = p.record_of(p.rank * p.parts()), last = p.record_of((p.rank + 1) * p.parts());
    const int end = min(4 * last, steps_of(args.cols)), last_piece = f16 ? end : last;
    int piece = f16 ? 4 * first : first;
    const uint8_t* from[T];
    uint32_t count[T], all = 0;
#pragma unroll
    for (int i = 0; i < T; ++i) {
        const ProductMatrix& m = p.matrix(i);
        const uint32_t tile = min(p.tile(0, i), (m.tiles - 1) / WARPS * WARPS);
        count[i] = block_tiles(m.tiles, tile), all += count[i];
        from[i] = m.weights + p.item.expert * m.expert_bytes + (size_t)tile * m.tile_bytes + (size_t)piece * count[i] * m.piece_bytes;
    }
    const uint32_t piece_bytes = p.matrix(0).piece_bytes;
    Turn turn(args.stages), weights_turn(args.weight_stages);
    auto ask_weights = [&] {
        const uint32_t bytes = piece + 1 == p.records && !f16 ? p.matrix(0).last_piece_bytes : piece_bytes;
        uint64_t* bar = &p.weights_full[weights_turn.slot];
        barrier_wait(&p.weights_empty[weights_turn.slot], weights_turn.parity ^ 1);
        fill_begin(bar, all * bytes, 0);
#pragma unroll
        for (int i = 0; i < T; ++i) {
            fill_copy<false>(p.weights(weights_turn.slot, i), from[i], count[i] * bytes, bar, 0);
            from[i] += count[i] * piece_bytes;
        }
        weights_turn.next(), ++piece;
    };
    for (int ahead = min(piece + (int)args.weight_stages, last_piece); piece < ahead;) ask_weights();
    if (!args.items) wait_for_predecessor();
    const uint8_t* x = args.x + ((size_t)4 * first * args.x_stride + p.item.x_row) * 128;
    const uint32_t x_bytes = p.item.count * 128, per_piece = f16 ? 0 : 3;
#pragma unroll 1
    for (int s = 4 * first; s < end; ++s) {
        uint64_t* bar = &p.full[turn.slot];
        barrier_wait(&p.empty[turn.slot], turn.parity ^ 1);
        fill_begin(bar, x_bytes, 0);
        fill_copy<false>(p.x0 + turn.slot * p.X_BYTES, x, x_bytes, bar, 0);
        x += (size_t)args.x_stride * 128;
        turn.next();
        if ((s & per_piece) == per_piece && piece < last_piece) ask_weights();
    }
}

// Half a step: 32 columns of this warp's T tiles become fragments, and are multiplied while the next are made.
template <int HALF, int N, int T, uint32_t K>
__device__ __forceinline__ void half_step(Record<K> (&record)[T], int n, uint64_t descriptor, float (&acc)[T][N / 2]) {
    uint32_t a[T][2][4];
#pragma unroll
    for (int i = 0; i < T; ++i) record[i].template fragments<2 * HALF, 2>(n, a[i]);
    wgmma_fence();
#pragma unroll
    for (int ks = 0; ks < 2; ++ks)
#pragma unroll
        for (int i = 0; i < T; ++i) wgmma<N>(acc[i], a[i][ks], descriptor + 4 * HALF + 2 * ks);
    wgmma_commit();
    wgmma_wait<1>();
}

// Where a warp is in the rings.
struct Reader {
    Turn turn, weights_turn;
    int before = -1;
};

// One record of this warp's T tiles.
template <int T, bool PAIR, int N, uint32_t K>
__device__ __forceinline__ void multiply(const Many<T, PAIR, N>& p, Reader& at, const Record<K>&, int r, int warp, int lane, float (&acc)[T][N / 2]) {
    Record<K> record[T];
    auto open = [&](uint32_t bytes) {
        barrier_wait(&p.weights_full[at.weights_turn.slot], at.weights_turn.parity);
#pragma unroll
        for (int i = 0; i < T; ++i) record[i].open(p.weights(at.weights_turn.slot, i) + warp * bytes, lane);
    };
    auto done = [&] {
        __syncwarp();
        warp_arrive(&p.weights_empty[at.weights_turn.slot], lane);
        at.weights_turn.next();
    };
    if (K != KIND_F16) open(p.bytes(r));
    const int steps = p.steps(r);
#pragma unroll 1
    for (int n = 0; n < steps; ++n) {
        if (K == KIND_F16) open(2048);
        barrier_wait(&p.full[at.turn.slot], at.turn.parity);
        const uint64_t descriptor = wgmma_descriptor(p.x0 + at.turn.slot * p.X_BYTES);
        const int step = K == KIND_F16 ? 0 : n;
        half_step<0, N>(record, step, descriptor, acc);
        if (at.before >= 0) warp_arrive(&p.empty[at.before], lane);
        half_step<1, N>(record, step, descriptor, acc);
        at.before = at.turn.slot;
        at.turn.next();
        if (K == KIND_F16) done();
    }
    if (K != KIND_F16) done();
}

// The sums may take the place of the rings.
__device__ __forceinline__ void all_have_read() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

// Puts this warp's sums where the other blocks of the cluster, or it itself, take them.
template <int T, bool PAIR, int N>
__device__ __forceinline__ void keep(const Many<T, PAIR, N>& p, int part, int warp, int lane, const float (&acc)[T][N / 2]) {
    float* mine = p.sums + part * p.SUMS + warp * T * N * TILE_ROWS;
#pragma unroll
    for (int i = 0; i < T; ++i)
#pragma unroll
        for (int j = 0; j < N / 2; ++j)
            mine[i * N * TILE_ROWS + sum_at((j / 4) * 8 + 2 * (lane & 3) + (j & 1), (lane >> 2) + 8 * ((j >> 1) & 1))] = acc[i][j];
}

// The block's columns for this warp's T tiles, part by part. One block adds the parts up in registers; those of a cluster keep
// each of theirs.
template <int T, bool PAIR, int N, uint32_t K>
__device__ __forceinline__ void consume(const Many<T, PAIR, N>& p, const Record<K>& kind, int warp, int lane) {
    constexpr bool ADDS = T > 1 || N < 64;  // the others have no registers for it
    Reader at = {Turn(p.args.stages), Turn(p.args.weight_stages)};
    const int parts = p.parts();
    float sum[T][N / 2] = {};
#pragma unroll 1
    for (int part = 0; part < parts; ++part) {
        float acc[T][N / 2] = {};
        const int first = p.record_of(p.rank * parts + part), last = p.record_of(p.rank * parts + part + 1);
#pragma unroll 1
        for (int r = first; r < last; ++r) multiply(p, at, kind, r, warp, lane, acc);
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < T; ++i) wgmma_settle<N>(acc[i]);
        if (at.before >= 0) warp_arrive(&p.empty[at.before], lane);
        at.before = -1;
        if (!ADDS || p.cluster > 1) {
            if (p.cluster == CHUNKS) all_have_read();
            keep(p, part, warp, lane, acc);
        } else {
#pragma unroll
            for (int i = 0; i < T; ++i)
#pragma unroll
                for (int j = 0; j < N / 2; ++j) sum[i][j] += acc[i][j];
        }
    }
    if (!ADDS || p.cluster > 1) return;
    all_have_read();
    keep(p, 0, warp, lane, sum);
}

// Four floats at this block's shared address, in block `rank` of the cluster.
__device__ __forceinline__ float4 load_from(uint32_t address, int rank) {
    float4 v;
    asm volatile("{ .reg .b32 a; mapa.shared::cluster.u32 a, %4, %5; ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [a]; }"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address), "r"(rank));
    return v;
}

// The sum over all parts of the four rows at `at`, in order.
template <int T, bool PAIR, int N>
__device__ __forceinline__ float4 add_parts(const Many<T, PAIR, N>& p, const float* at) {
    if (p.cluster == 1) return *reinterpret_cast<const float4*>(at);
    const int parts = p.parts();
    float4 v[CHUNKS];
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) v[i] = load_from(shared_address(at + i % parts * p.SUMS), i / parts);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) sum.x += v[i].x, sum.y += v[i].y, sum.z += v[i].z, sum.w += v[i].w;
    return sum;
}

// Finishes the sums of this block's share of the tiles. They come from shared memory, so that the code that finishes one is there
// once and not for every register: it would come from afar, to be run a single time.
template <int T, bool PAIR, int N>
__device__ __forceinline__ void store(const Many<T, PAIR, N>& p, int warp, int lane) {
    const Sink sink(p.matrix(0), p.item.expert), up(p.matrix(T - 1), p.item.expert);
    const int row4 = (lane & 3) * 4, tiles = p.parts(), owner = p.rank * tiles + warp % tiles, share = warp / tiles;
    const float* from = p.sums + owner * T * N * TILE_ROWS;
#pragma unroll 1
    for (int i = 0; i < (PAIR ? 1 : T); ++i) {
        const uint32_t row = p.tile(owner, i) * TILE_ROWS + row4;
        if (p.tile(owner, i) >= sink.tiles) break;
#pragma unroll 1
        for (int token = share * 8 + (lane >> 2); token < p.item.count; token += 8 * p.cluster) {
            const float4 a = add_parts(p, from + i * N * TILE_ROWS + sum_at(token, row4));
            const float4 b = PAIR ? add_parts(p, from + N * TILE_ROWS + sum_at(token, row4)) : a;
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const float sums[2] = {r == 0 ? a.x : r == 1 ? a.y : r == 2 ? a.z : a.w, r == 0 ? b.x : r == 1 ? b.y : r == 2 ? b.z : b.w};
                const float bias[2] = {sink.bias_of(row + r), PAIR ? up.bias_of(row + r) : 0.0f};
                if (PAIR)
                    finish_pair(p.args, sink, row + r, p.item.out_row + token, sums, bias);
                else
                    finish(p.args, sink, row + r, p.item.out_row + token, sums[0], bias[0]);
            }
        }
    }
}

// The warps that ask for copies leave their registers to those that compute, where so many blocks share a multiprocessor.
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
}

template <int BLOCKS>
__device__ __forceinline__ void take_registers() {
    if (BLOCKS == 1)
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    else
        asm volatile("setmaxnreg.inc.sync.aligned.u32 96;");
}

template <int T, bool PAIR, int N, int BLOCKS>
__device__ __forceinline__ void product_many_body(const ProductArgs& args) {
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ uint64_t full[MAX_STAGES], empty[MAX_STAGES], weights_full[MAX_STAGES], weights_empty[MAX_STAGES];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, cluster = cluster_blocks(), rank = blockIdx.x % cluster;
    if (threadIdx.x == 0) {
        for (int i = 0; i < (int)args.stages; ++i) fill_barrier_init(&full[i]), barrier_init(&empty[i], WARPS * WARP_ARRIVALS);
        for (int i = 0; i < (int)args.weight_stages; ++i) fill_barrier_init(&weights_full[i]), barrier_init(&weights_empty[i], WARPS * WARP_ARRIVALS);
    }
    barrier_init_done();
    __syncthreads();
    dependents_may_start();

    ProductItem item = {0, (int)blockIdx.y * N, (int)blockIdx.y * N, min(N, (int)args.tokens - (int)blockIdx.y * N)};
    if (args.items) {
        wait_for_predecessor();
        if (args.item_count && blockIdx.y >= *args.item_count) return;
        item = args.items[blockIdx.y];
    }
    uint8_t* base = shared + (1024 - (shared_address(shared) & 1023)) % 1024;
    uint8_t *weights = base + args.stages * N * 128, *end = weights + args.weight_stages * WARPS * T * args.slot_bytes;
    float* sums = reinterpret_cast<float*>(cluster == 1 || cluster == CHUNKS ? base : end);
    const Many<T, PAIR, N> p = {args, item, base, weights, full, empty, weights_full, weights_empty, sums, blockIdx.x / cluster, cluster, rank,
                                records_of(args.cols)};
    // No code comes after the two ways meet: it would have to do with the registers of the smaller.
    if (warp >= WARPS) {
        give_registers();
        if (warp == WARPS && lane == 0) produce<T, PAIR, N>(p);
        __syncwarp();
        if (cluster > 1) cluster_sync(), cluster_sync();
        return;
    }
    take_registers<BLOCKS>();
    with_kind(p.matrix(0).kind, [&](auto record) { consume<T, PAIR, N>(p, record, warp, lane); });
    if (!args.items) wait_for_predecessor();
    __syncwarp();
    if (cluster > 1) cluster_sync();
    store<T, PAIR, N>(p, warp, lane);
    if (cluster > 1) cluster_sync();  // the others may still read
}

}  // namespace
#define BODY(T, PAIR, N, BLOCKS) product_many_body<T, PAIR, N, BLOCKS>(args)
#else
#define BODY(T, PAIR, N, BLOCKS)
#endif

#define PRODUCT_MANY(name, T, PAIR, N, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(384, BLOCKS) name(const __grid_constant__ ProductArgs args) { BODY(T, PAIR, N, BLOCKS); }
