// y = W x for up to N rows of activations a block, on Hopper's tensor cores (wgmma, sm_90a alone; elsewhere the kernels do nothing
// and product_split or product_batch serves), with the very sums of product_small. product_many_16.cu, _32.cu and _64.cu make the kernels:
//
//   product_many_N       any matrices, a unit is 8 tiles of 16 rows
//   product_many_N_wide  any matrices, a unit is 16 tiles
//   product_many_N_pair  gate and up with their activation, a unit is 8 tiles of each
//
// Launch: block 384; grid (C * units, items, or without items ceil(tokens / N)) in clusters of C = 1, 2, 4 or 8 blocks along x;
// stages 2..8, weight_stages 1..8, better no less than 3 and 2, of F16 4. Dynamic shared memory 1024 + max(rings, S) + sums, rings =
// stages * N * 128 * x_steps(N) + weight_stages * 8 * T * slot_bytes, T = 1, 2, 2, S = 8 * T * N * 64; sums = (8 / C - 1) * S for C > 1,
// S for C = 1 where a warp adds up its parts in shared memory (adds_in_registers), else 0. x: panels. An item has at most N rows and
// starts at a multiple of 8.
//
// Eight warps take a tile of weights each (T of them) as A from registers, dequantised there; activations are B. The columns' eight parts are summed apart and then added
// in order, as in product_small: by one block (C = 1), or by the blocks of a cluster, which do 8 / C parts each.
#pragma once
#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"
#include "product_wgmma.cuh"

#if WGMMA
namespace {

constexpr int WARPS = 8, MAX_STAGES = 8;

// Steps of 64 columns in a stage of activations.
__host__ __device__ constexpr int x_steps(int n) { return n == 64 ? 2 : 4; }

// Where a tile's sum lies among floats: the rows of a token side by side, in fours whose order keeps tokens off each other's banks.
__device__ __forceinline__ int sum_at(int token, int row) { return token * TILE_ROWS + (row ^ ((token >> 1 & 3) * 4)); }

// Shared memory and what one block works on: eight warps with a tile each of T groups, whose tiles lie side by side.
template <int T, bool PAIR, int N>
struct Many {
    static constexpr int X_STEPS = x_steps(N), SUMS = WARPS * T * N * TILE_ROWS;
    const ProductArgs& args;
    ProductItem item;
    uint8_t *x0, *weights0;
    uint64_t *full, *empty, *weights_full, *weights_empty;
    float *last_sums, *early_sums;  // [part][group][tile][sum_at]: the last part's lie where the ring was
    uint32_t unit;
    int cluster, rank, records;
    uint32_t x_step;  // bytes from step to step in a stage

    __device__ const ProductMatrix& matrix(int group) const { return args.matrix[PAIR ? group : matrix_of(args, unit)]; }
    // The first tile of a group.
    __device__ uint32_t tile(int group) const {
        return PAIR ? unit * WARPS : ((unit - matrix(0).first_unit) * T + group) * WARPS;
    }

    __device__ int parts() const { return CHUNKS / cluster; }
    __device__ float* sums(int part) const { return part + 1 == parts() ? last_sums : early_sums + part * SUMS; }
    // The first record of a part of the columns.
    __device__ int record_of(int part) const { return part * records / CHUNKS; }
    // The block's columns, in pieces of which a record has so many.
    __device__ int begin(int pieces) const { return pieces * record_of(rank * parts()); }
    __device__ int end(int pieces) const { return min(pieces * record_of((rank + 1) * parts()), pieces == 1 ? records : steps_of(args.cols)); }
    __device__ int steps(int r) const { return r + 1 == records ? steps_of(args.cols) - 4 * (records - 1) : 4; }
    __device__ uint32_t bytes(int r) const { return r + 1 == records ? matrix(0).last_piece_bytes : matrix(0).piece_bytes; }
    __device__ uint8_t* x(int slot) const { return x0 + slot * X_STEPS * N * 128; }
    __device__ uint8_t* weights(int slot, int group) const { return weights0 + (slot * T + group) * WARPS * args.slot_bytes; }
};

// Two lanes of two warps keep the rings filled, each its own: what a lane asks for takes it so long that both would be waited for.
// What does not change stays outside their loops.
template <int T, bool PAIR, int N>
__device__ void fill_weights(const Many<T, PAIR, N>& p) {
    const bool f16 = p.matrix(0).kind == KIND_F16;
    const int begin = p.begin(f16 ? 4 : 1), end = p.end(f16 ? 4 : 1);
    const uint8_t* from[T];
    uint32_t count[T], all = 0;
#pragma unroll
    for (int i = 0; i < T; ++i) {
        const ProductMatrix& m = p.matrix(i);
        const uint32_t tile = min(p.tile(i), (m.tiles - 1) / WARPS * WARPS);
        count[i] = block_tiles(m.tiles, tile), all += count[i];
        from[i] = m.weights + p.item.expert * m.expert_bytes + (size_t)tile * m.tile_bytes + (size_t)begin * count[i] * m.piece_bytes;
    }
    const uint32_t piece_bytes = p.matrix(0).piece_bytes;
    Turn turn(p.args.weight_stages);
#pragma unroll 1
    for (int piece = begin; piece < end; ++piece) {
        const uint32_t bytes = f16 ? piece_bytes : p.bytes(piece);
        uint64_t* full = &p.weights_full[turn.slot];
        barrier_wait(&p.weights_empty[turn.slot], turn.parity ^ 1);
        fill_begin(full, all * bytes, 0);
#pragma unroll
        for (int i = 0; i < T; ++i) {
            fill_copy<false>(p.weights(turn.slot, i), from[i], count[i] * bytes, full, 0);
            from[i] += count[i] * piece_bytes;
        }
        turn.next();
    }
}

template <int T, bool PAIR, int N>
__device__ void fill_activations(const Many<T, PAIR, N>& p) {
    constexpr int X_STEPS = x_steps(N);
    const uint32_t stride = p.args.x_stride * 128;
    const bool whole = p.x_step == stride;  // a stage lies in one piece
    const int begin = p.begin(4), end = p.end(4);
    const uint8_t* x = p.args.x + ((size_t)begin * p.args.x_stride + p.item.x_row) * 128;
    Turn turn(p.args.stages);
    if (!p.args.items) wait_for_predecessor();
#pragma unroll 1
    for (int s = begin; s < end; s += X_STEPS) {
        const uint32_t steps = min(X_STEPS, end - s), copies = whole ? 1 : steps, bytes = whole ? steps * p.x_step : p.x_step;
        uint64_t* full = &p.full[turn.slot];
        barrier_wait(&p.empty[turn.slot], turn.parity ^ 1);
        fill_begin(full, steps * p.x_step, 0);
#pragma unroll 1
        for (uint32_t i = 0; i < copies; ++i) fill_copy<false>(p.x(turn.slot) + i * bytes, x + (size_t)i * stride, bytes, full, 0);
        x += (size_t)X_STEPS * stride;
        turn.next();
    }
}

// The sums may take the place of the ring.
__device__ __forceinline__ void all_have_read() {
    asm volatile("bar.sync 1, 256;" ::: "memory");
}

// Puts this warp's sums where the other blocks of the cluster, or it itself, take them.
template <bool ADD, int T, int N>
__device__ __forceinline__ void keep(float* sums, int warp, int lane, const float (&acc)[T][N / 2]) {
    float* mine = sums + warp * N * TILE_ROWS;
    // Two addresses, and else constants.
    float* rows[2] = {mine + sum_at(2 * (lane & 3), lane >> 2), mine + sum_at(2 * (lane & 3), (lane >> 2) + 8)};
#pragma unroll
    for (int i = 0; i < T; ++i)
#pragma unroll
        for (int j = 0; j < N / 2; ++j) {
            float& at = rows[j >> 1 & 1][i * WARPS * N * TILE_ROWS + sum_at((j / 4) * 8 + (j & 1), 0)];
            at = ADD ? at + acc[i][j] : acc[i][j];
        }
}

// Whether a warp has registers to add up its parts; else it does so in shared memory, beside the ring.
__host__ __device__ constexpr bool adds_in_registers(int t, int n) { return t > 1 ? n > 16 : n < 64; }

// What a warp reads from the rings: weights always a step ahead of what it multiplies, so that nothing waits for shared memory.
template <int T, bool PAIR, int N, uint32_t K>
struct Reader {
    static constexpr int X_STEPS = x_steps(N);
    const Many<T, PAIR, N>& p;
    int warp, lane, piece, last;
    Turn turn, weights_turn;
    Record<K> record[T];
    typename Record<K>::Raw raw[T];
    int n = 0, steps = 0;    // steps of the piece
    int s = 0, before = -1;  // steps in all; the slot of activations whose products may still run

    __device__ Reader(const Many<T, PAIR, N>& many, int w, int l, int first, int end)
        : p(many), warp(w), lane(l), piece(first), last(end), turn(many.args.stages), weights_turn(many.args.weight_stages) {}

    __device__ __forceinline__ void open() {
        barrier_wait(&p.weights_full[weights_turn.slot], weights_turn.parity);
        const uint32_t bytes = K == KIND_F16 ? 2048 : p.bytes(piece);
        steps = K == KIND_F16 ? 1 : p.steps(piece);
#pragma unroll
        for (int i = 0; i < T; ++i) record[i].open(p.weights(weights_turn.slot, i) + warp * bytes, lane);
    }

    __device__ __forceinline__ void fetch() {
#pragma unroll
        for (int i = 0; i < T; ++i) record[i].fetch(n, raw[i]);
    }

    // The products of a step. Fragments of a half are made while the other half is multiplied.
    __device__ __forceinline__ void step(float (&acc)[T][N / 2]) {
        uint32_t a[T][2][4], b[T][2][4];
#pragma unroll
        for (int i = 0; i < T; ++i) record[i].template unpack<0, 2>(n, raw[i], a[i]);
        if (s % X_STEPS == 0) barrier_wait(&p.full[turn.slot], turn.parity);
        const uint64_t descriptor = wgmma_descriptor(p.x(turn.slot) + s % X_STEPS * p.x_step);
        multiply_fragments<N>(acc, a, descriptor);
        if (before >= 0) warp_arrive(&p.empty[before], lane);
        before = -1;
#pragma unroll
        for (int i = 0; i < T; ++i) record[i].template unpack<2, 2>(n, raw[i], b[i]);
        if (++s % X_STEPS == 0) before = turn.slot, turn.next();
        if (++n == steps) {
            __syncwarp();
            warp_arrive(&p.weights_empty[weights_turn.slot], lane);
            n = 0, weights_turn.next();
            if (++piece < last) open();
        }
        if (piece < last) fetch();
        multiply_fragments<N>(acc, b, descriptor + 4);
    }
};

// The block's columns for this warp's T tiles, part by part. One block adds the parts up in registers; those of a cluster keep
// each of theirs.
template <int T, bool PAIR, int N, uint32_t K>
__device__ __forceinline__ void consume(const Many<T, PAIR, N>& p, const Record<K>&, int warp, int lane) {
    constexpr bool ADDS = adds_in_registers(T, N);
    constexpr int PIECES = K == KIND_F16 ? 4 : 1;
    const int parts = p.parts();
    Reader<T, PAIR, N, K> reader(p, warp, lane, p.begin(PIECES), p.end(PIECES));
    if (reader.piece < reader.last) reader.open(), reader.fetch();
    float sum[T][N / 2] = {};
#pragma unroll 1
    for (int part = 0; part < parts; ++part) {
        float acc[T][N / 2] = {};
        const int end = min(PIECES * p.record_of(p.rank * parts + part + 1), reader.last);
#pragma unroll 1
        while (reader.piece < end) reader.step(acc);
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < T; ++i) wgmma_settle<N>(acc[i]);
        if (p.cluster > 1) {
            if (part + 1 == parts) all_have_read();
            keep<false, T, N>(p.sums(part), warp, lane, acc);
        } else if (ADDS) {
#pragma unroll
            for (int i = 0; i < T; ++i)
#pragma unroll
                for (int j = 0; j < N / 2; ++j) sum[i][j] += acc[i][j];
        } else if (part == 0) {
            keep<false, T, N>(p.early_sums, warp, lane, acc);
        } else {
            keep<true, T, N>(p.early_sums, warp, lane, acc);
        }
    }
    if (!ADDS || p.cluster > 1) return;
    all_have_read();
    keep<false, T, N>(p.last_sums, warp, lane, sum);
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
__device__ __forceinline__ float4 add_parts(const Many<T, PAIR, N>& p, int at) {
    if (p.cluster == 1) return *reinterpret_cast<const float4*>((adds_in_registers(T, N) ? p.last_sums : p.early_sums) + at);
    const int parts = p.parts();
    float4 v[CHUNKS];
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) v[i] = load_from(shared_address(p.sums(i % parts) + at), i / parts);
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) sum.x += v[i].x, sum.y += v[i].y, sum.z += v[i].z, sum.w += v[i].w;
    return sum;
}

// Finishes the sums of this block's share of the tiles. They come from shared memory, so that the code that finishes one is there
// once and not for every register: it would come from afar, to be run a single time.
template <int T, bool PAIR, int N>
__device__ __forceinline__ void store(const Many<T, PAIR, N>& p, int warp, int lane) {
    constexpr int NEXT = WARPS * N * TILE_ROWS, LAST = T - 1;
    const Sink sink(p.matrix(0), p.item.expert), up(p.matrix(LAST), p.item.expert);
    const int row4 = (lane & 3) * 4, tiles = p.parts(), owner = p.rank * tiles + warp % tiles, share = warp / tiles;
    const int from = owner * N * TILE_ROWS;
    const bool whole = p.args.store >= STORE_RECORDS || (sink.stride % 4 == 0 && (size_t)sink.out % 16 == 0);
#pragma unroll 1
    for (int i = 0; i < (PAIR ? 1 : T); ++i) {
        const uint32_t tile = p.tile(i) + owner, row = tile * TILE_ROWS + row4;
        if (tile >= sink.tiles) break;
        float bias[2][4];
#pragma unroll
        for (int r = 0; r < 4; ++r) bias[0][r] = sink.bias_of(row + r), bias[1][r] = PAIR ? up.bias_of(row + r) : 0.0f;
#pragma unroll 1
        for (int token = share * 8 + (lane >> 2); token < p.item.count; token += WARPS * p.cluster) {
            const float4 a = add_parts(p, from + i * NEXT + sum_at(token, row4));
            const float4 b = PAIR ? add_parts(p, from + NEXT + sum_at(token, row4)) : a;
            const float gates[4] = {a.x, a.y, a.z, a.w}, ups[4] = {b.x, b.y, b.z, b.w};
            float values[4];
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const float sums[2] = {gates[r], ups[r]}, biases[2] = {bias[0][r], bias[1][r]};
                values[r] = PAIR ? value_of_pair(p.args, sums, biases) : value_of(p.args, sums[0], biases[0]);
            }
            if (whole && tile + 1 < sink.tiles) {
                put_four(p.args, sink, row, p.item.out_row + token, values);
                continue;
            }
#pragma unroll
            for (int r = 0; r < 4; ++r) put(p.args, sink, row + r, p.item.out_row + token, values[r]);
        }
    }
}

// The warps that ask for copies leave their registers to those that compute.
__device__ __forceinline__ void give_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 48;"); }

template <int REGISTERS>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int T, bool PAIR, int N, int BLOCKS>
__device__ __forceinline__ void product_many_body(const ProductArgs& args) {
    extern __shared__ __align__(1024) uint8_t shared[];
    __shared__ uint64_t full[MAX_STAGES], empty[MAX_STAGES], weights_full[MAX_STAGES], weights_empty[MAX_STAGES];
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, cluster = cluster_blocks(), rank = blockIdx.x % cluster;
    if (threadIdx.x < MAX_STAGES) {
        const int i = threadIdx.x;
        fill_barrier_init(&full[i]), barrier_init(&empty[i], WARPS * WARP_ARRIVALS);
        fill_barrier_init(&weights_full[i]), barrier_init(&weights_empty[i], WARPS * WARP_ARRIVALS);
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
    uint8_t *weights = base + args.stages * x_steps(N) * N * 128, *end = weights + args.weight_stages * WARPS * T * args.slot_bytes;
    const uint32_t x_step = (item.count + 7) / 8 * 1024;
    const Many<T, PAIR, N> p = {args, item, base, weights, full, empty, weights_full, weights_empty, reinterpret_cast<float*>(base), reinterpret_cast<float*>(end), blockIdx.x / cluster, cluster, rank, records_of(args.cols), x_step};
    // No code comes after the two ways meet: it would have to do with the registers of the smaller.
    if (warp >= WARPS) {
        give_registers();
        if (warp == WARPS && lane == 0) fill_weights(p);
        if (warp == WARPS + 1 && lane == 0) fill_activations(p);
        __syncwarp();
        if (cluster > 1) cluster_sync(), cluster_sync();
        return;
    }
    take_registers<BLOCKS == 2 ? 96 : 224>();
    with_kind(p.matrix(0).kind, [&](auto record) { consume(p, record, warp, lane); });
    if (!args.items) wait_for_predecessor();
    __syncwarp();
    if (cluster > 1)
        cluster_sync();
    else
        all_have_read();
    store(p, warp, lane);
    if (cluster > 1) cluster_sync();  // the others may still read
}

}  // namespace
#define BODY(T, PAIR, N, BLOCKS) product_many_body<T, PAIR, N, BLOCKS>(args)
#else
#define BODY(T, PAIR, N, BLOCKS)
#endif

#define PRODUCT_MANY(name, T, PAIR, N, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(384, BLOCKS) name(const __grid_constant__ ProductArgs args) { BODY(T, PAIR, N, BLOCKS); }
