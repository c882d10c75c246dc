// y = W x for up to 64 rows of activations, each eighth of the columns in a block of its own: what product_batch does, and the
// same bits, on cards with clusters (sm_90 and newer; elsewhere the kernels do nothing).
//
//   product_split       any matrices, a unit is 8 tiles of 16 rows
//   product_split_wide  any matrices, a unit is 16 tiles
//   product_split_pair  gate and up with their activation, a unit is 8 tiles of each
//
// Launch: block 256; grid (8 * units, items, or without items ceil(tokens / 64)); clusters of 8 blocks along x, which the kernels
// declare themselves; dynamic shared memory max(stages * (8 * T * slot_bytes + 512 * min(tokens rounded up to 8, 64)), T * 32768), T = 1, 2, 2; stages
// 2..8; slot_bytes counts F16 as 0. x: records. Items have at most 64 rows.
//
// A block's eight warps own T tiles each and share the activations of the block's columns. The eight blocks of a cluster then add
// their sums in order of the columns, each for the rows of one of the warps, reading the others' shared memory.
#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"

#if BULK_COPY
namespace {

constexpr int WARPS = 8, TOKENS = 64, GROUPS = TOKENS / 8, MAX_STAGES = 8;

// The float at this block's shared address, in block `rank` of the cluster.
__device__ __forceinline__ float load_from(uint32_t address, int rank) {
    float value;
    asm volatile("{ .reg .b32 a; mapa.shared::cluster.u32 a, %1, %2; ld.shared::cluster.f32 %0, [a]; }" : "=f"(value) : "r"(address), "r"(rank));
    return value;
}

template <int T, bool PAIR>
struct Split {
    const ProductArgs& args;
    ProductItem item;
    uint8_t* ring;
    uint64_t *full, *empty;
    int records, first, last, slot_bytes;

    __device__ uint32_t unit() const { return blockIdx.x / CHUNKS; }
    __device__ const ProductMatrix& matrix(int i) const { return args.matrix[PAIR ? i : matrix_of(args, unit())]; }

    // The tile i (of T) of a warp.
    __device__ uint32_t tile(int warp, int i) const {
        return PAIR ? unit() * WARPS + warp : (unit() - matrix(0).first_unit) * WARPS * T + i * WARPS + warp;
    }

    // The first tile of the block of tiles that the warps' tiles i are in; the last one again where there is none.
    __device__ uint32_t block_of(int i) const { return min(tile(0, i), (matrix(i).tiles - 1) / WARPS * WARPS); }

    __device__ const uint8_t* weights(int i) const { return matrix(i).weights + item.expert * matrix(i).expert_bytes + (size_t)block_of(i) * matrix(i).tile_bytes; }

    __device__ uint32_t bytes(int r) const { return r + 1 == records ? matrix(0).last_piece_bytes : matrix(0).piece_bytes; }
    __device__ int steps(int r) const { return r + 1 == records ? steps_of(args.cols) - 4 * (records - 1) : 4; }
    __device__ uint8_t* x_slot(int slot) const { return ring + slot * slot_bytes + WARPS * T * args.slot_bytes; }
};

// One lane keeps the ring filled.
template <int T, bool PAIR>
struct Feed {
    const Split<T, PAIR>& b;
    const uint8_t* from[T];
    const uint8_t* x;
    uint32_t count[T], all = 0;
    bool direct;

    __device__ explicit Feed(const Split<T, PAIR>& split) : b(split), direct(split.matrix(0).kind == KIND_F16) {
        x = b.args.x + ((size_t)b.first * b.args.x_stride + b.item.x_row) * 512;
#pragma unroll
        for (int i = 0; i < T; ++i) {
            count[i] = block_tiles(b.matrix(i).tiles, b.block_of(i)), all += count[i];
            from[i] = b.weights(i) + (size_t)b.first * count[i] * b.matrix(i).piece_bytes;
        }
    }

    __device__ void ask_weights(int slot, int r) {
        const uint32_t bytes = direct ? 0 : b.bytes(r);
        fill_begin(&b.full[slot], all * bytes + b.item.count * 512, 0);
        if (direct) return;
#pragma unroll
        for (int i = 0; i < T; ++i) {
            fill_copy<false>(b.ring + slot * b.slot_bytes + i * WARPS * b.args.slot_bytes, from[i], count[i] * bytes, &b.full[slot], 0);
            from[i] += count[i] * b.matrix(i).piece_bytes;
        }
    }

    __device__ void ask_x(int slot) {
        fill_copy<false>(b.x_slot(slot), x, b.item.count * 512, &b.full[slot], 0);
        x += (size_t)b.args.x_stride * 512;
    }
};

// One record: this warp's tiles times all tokens.
template <int T, bool PAIR, uint32_t K>
__device__ __forceinline__ void multiply(const Split<T, PAIR>& b, const Record<K>&, int slot, int r, int warp, int lane, float (&acc)[T][GROUPS][4]) {
    const int t = lane & 3, g = lane >> 2, steps = b.steps(r), count = b.item.count;
    const uint8_t* x = b.x_slot(slot);
    Record<K> record[T];
#pragma unroll
    for (int i = 0; i < T; ++i) {
        record[i].open(b.ring + slot * b.slot_bytes + i * WARPS * b.args.slot_bytes + warp * b.bytes(r), lane);
        if constexpr (K == KIND_F16) {
            const ProductMatrix& m = b.matrix(i);
            record[i].stride = block_tiles(m.tiles, b.block_of(i)) * 2048;
            record[i].low_bits = b.weights(i) + (size_t)4 * r * record[i].stride + min((uint32_t)warp, block_tiles(m.tiles, b.block_of(i)) - 1) * 2048;
        }
    }
    // The lane's columns of token g; rows past the last token hold anything, and go to columns of the sum that nobody reads.
    const int swap = (b.item.x_row + g) & 1;
    const uint8_t *even = x + g * 512 + ((2 * t) ^ swap) * 16, *odd = x + g * 512 + ((2 * t + 1) ^ swap) * 16;
#pragma unroll 1
    for (int n = 0; n < steps; ++n) {
        uint32_t a[T][4][4];
#pragma unroll
        for (int i = 0; i < T; ++i) record[i].step(n, a[i]);
        // Four groups of tokens at a time, so that a product need not wait for the one before; groups that are not there repeat the last.
#pragma unroll
        for (int four = 0; four < GROUPS; four += 4) {
            if (four * 8 >= count) break;
            uint4 b0[4], b1[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int at = min(four + j, (count - 1) / 8) * 4096 + n * 128;
                b0[j] = *reinterpret_cast<const uint4*>(even + at), b1[j] = *reinterpret_cast<const uint4*>(odd + at);
            }
#pragma unroll
            for (int ks = 0; ks < 4; ++ks)
#pragma unroll
                for (int i = 0; i < T; ++i)
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        const uint4& v = ks < 2 ? b0[j] : b1[j];
                        mma_16816(acc[i][four + j], a[i][ks], ks % 2 == 0 ? v.x : v.z, ks % 2 == 0 ? v.y : v.w);
                    }
        }
    }
}

template <int T, bool PAIR>
__device__ __forceinline__ void sum_up(const Split<T, PAIR>& b, Feed<T, PAIR>& feed, int warp, int lane, float (&acc)[T][GROUPS][4]) {
    const int stages = b.args.stages;
    with_kind(b.matrix(0).kind, [&](auto record) {
        int slot = 0;
        uint32_t parity = 0;
        for (int r = b.first; r < b.last; ++r) {
            const int ask = r - 1 + stages;
            if (threadIdx.x == 0 && r > b.first && ask < b.last) {
                const int freed = slot == 0 ? stages - 1 : slot - 1;
                barrier_wait(&b.empty[freed], slot == 0 ? parity ^ 1 : parity);
                feed.ask_weights(freed, ask);
                feed.ask_x(freed);
            }
            __syncwarp();
            barrier_wait(&b.full[slot], parity);
            multiply(b, record, slot, r, warp, lane, acc);
            __syncwarp();
            warp_arrive(&b.empty[slot], lane);
            if (++slot == stages) slot = 0, parity ^= 1;
        }
    });
}

// Adds the blocks' sums and stores them; this block those of the tiles of warp `rank`.
template <int T, bool PAIR>
__device__ __forceinline__ void add_up(const Split<T, PAIR>& b, int warp, int lane, float (&acc)[T][GROUPS][4]) {
    const ProductArgs& args = b.args;
    float* partial = reinterpret_cast<float*>(b.ring);  // [tile][warp][group * 4 + register][lane]
    __syncthreads();
#pragma unroll
    for (int i = 0; i < T; ++i)
#pragma unroll
        for (int j = 0; j < GROUPS; ++j)
#pragma unroll
            for (int c = 0; c < 4; ++c)
                if (j * 8 < b.item.count) partial[((i * WARPS + warp) * GROUPS * 4 + j * 4 + c) * 32 + lane] = acc[i][j][c];
    cluster_sync();
    const int rank = blockIdx.x % CHUNKS;
    const Sink sink(b.matrix(0), b.item.expert), up(b.matrix(PAIR ? 1 : 0), b.item.expert);
    if (warp * 8 < b.item.count) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            float sum[T] = {};
#pragma unroll
            for (int i = 0; i < T; ++i)
#pragma unroll
                for (int from = 0; from < CHUNKS; ++from)
                    sum[i] += load_from(shared_address(partial + ((i * WARPS + rank) * GROUPS * 4 + warp * 4 + c) * 32 + lane), from);
            const int token = warp * 8 + 2 * (lane & 3) + (c & 1), in_tile = (lane >> 2) + 8 * (c >> 1);
            if (token >= b.item.count) continue;
#pragma unroll
            for (int i = 0; i < (PAIR ? 1 : T); ++i) {
                const uint32_t row = b.tile(rank, i) * TILE_ROWS + in_tile;
                const float bias[2] = {sink.bias_of(row), PAIR ? up.bias_of(row) : 0.0f};
                if (b.tile(rank, i) >= sink.tiles) continue;
                if (PAIR)
                    finish_pair(args, sink, row, b.item.out_row + token, sum, bias);
                else
                    finish(args, sink, row, b.item.out_row + token, sum[i], bias[0]);
            }
        }
    }
    cluster_sync();
}

template <int T, bool PAIR>
__device__ __forceinline__ void product_split_body(const ProductArgs& args) {
    extern __shared__ __align__(128) uint8_t ring[];
    __shared__ uint64_t full[MAX_STAGES], empty[MAX_STAGES];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0)
        for (int i = 0; i < (int)args.stages; ++i) fill_barrier_init(&full[i]), barrier_init(&empty[i], WARPS * WARP_ARRIVALS);
    barrier_init_done();
    __syncthreads();
    dependents_may_start();

    ProductItem item = {0, (int)blockIdx.y * TOKENS, (int)blockIdx.y * TOKENS, min(TOKENS, (int)args.tokens - (int)blockIdx.y * TOKENS)};
    if (args.items) {
        wait_for_predecessor();
        if (args.item_count && blockIdx.y >= *args.item_count) return;
        item = args.items[blockIdx.y];
    }
    const int records = records_of(args.cols), chunk = blockIdx.x % CHUNKS;
    const Split<T, PAIR> b = {args, item, ring, full, empty, records, chunk * records / CHUNKS, (chunk + 1) * records / CHUNKS,
                              WARPS * T * (int)args.slot_bytes + min(((int)args.tokens + 7) / 8 * 8, TOKENS) * 512};
    Feed<T, PAIR> feed(b);
    const int ahead = min((int)args.stages, b.last - b.first);
    if (threadIdx.x == 0)
#pragma unroll 1
        for (int i = 0; i < ahead; ++i) feed.ask_weights(i, b.first + i);
    if (!args.items) wait_for_predecessor();
    if (threadIdx.x == 0)
#pragma unroll 1
        for (int i = 0; i < ahead; ++i) feed.ask_x(i);
    __syncwarp();

    float acc[T][GROUPS][4] = {};
    sum_up(b, feed, warp, lane, acc);
    add_up(b, warp, lane, acc);
}

}  // namespace
#define CLUSTER __cluster_dims__(CHUNKS, 1, 1)
#define BODY(T, PAIR) product_split_body<T, PAIR>(args)
#else
#define CLUSTER
#define BODY(T, PAIR)
#endif

extern "C" __global__ void CLUSTER __launch_bounds__(256, 2) product_split(const __grid_constant__ ProductArgs args) { BODY(1, false); }
extern "C" __global__ void CLUSTER __launch_bounds__(256, 1) product_split_wide(const __grid_constant__ ProductArgs args) { BODY(2, false); }
extern "C" __global__ void CLUSTER __launch_bounds__(256, 1) product_split_pair(const __grid_constant__ ProductArgs args) { BODY(2, true); }
