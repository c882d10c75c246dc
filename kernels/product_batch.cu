// y = W x for up to 64 rows of activations a block, with the very sums of product_small.
//
//   product_batch       any matrices, a unit is 8 tiles of 16 rows
//   product_batch_pair  gate and up with their activation, a unit is 4 tiles of each
//
// Launch: block 256; grid (units, items, or without items ceil(tokens / 64)); dynamic shared memory
// stages * (8 * slot_bytes + 512 * min(tokens rounded up to 8, 64)), for the pair no less than 16384; stages 1..8; slot_bytes
// counts F16 as 8192. x: records. Items have at most 64 rows. With a pair, units = ceil(tiles / 4).
//
// Each of eight warps owns 16 rows and goes through all columns; warp 0 also keeps the ring filled: the records of every warp
// and the activations, which all share. The sums of the eight parts of the columns are kept apart as product_small does, so a
// token's result does not show which of the two kernels made it. This is the decode step for many sequences, and on cards
// without wgmma also the prompt's.
#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"

namespace {

constexpr int WARPS = 8, TOKENS = 64, GROUPS = TOKENS / 8, MAX_STAGES = 8;

template <bool PAIR>
struct BatchTile {
    const ProductArgs& args;
    ProductItem item;
    uint8_t* ring;
    uint64_t *full, *empty;
    int records, slot_bytes;

    // With a pair, even warps have tiles of gate and odd warps the same tiles of up.
    __device__ const ProductMatrix& matrix(int warp) const { return args.matrix[PAIR ? warp & 1 : matrix_of(args, blockIdx.x)]; }

    __device__ uint32_t tile(int warp) const {
        return PAIR ? blockIdx.x * (WARPS / 2) + warp / 2 : (blockIdx.x - matrix(0).first_unit) * WARPS + warp;
    }

    __device__ int steps(int record) const { return record + 1 == records ? steps_of(args.cols) - 4 * (records - 1) : 4; }

    __device__ uint32_t bytes(int r) const { return r + 1 == records ? matrix(0).last_piece_bytes : matrix(0).piece_bytes; }

    // Where in a slot the record of a warp begins: its own bytes after those of the warps before.
    __device__ int place(int warp) const { return PAIR ? (warp & 1) * (WARPS / 2) + warp / 2 : warp; }
};

// Keeps the ring filled, record after record: the tiles of a block lie side by side in each piece, so a copy or two bring all
// eight warps' records.
template <bool PAIR>
struct Feed {
    static constexpr int H = PAIR ? 2 : 1, TILES = WARPS / H;
    const BatchTile<PAIR>& b;
    const uint8_t* from[H];
    const uint8_t* x;
    uint32_t stride[H], tiles[H], in_block[H];
    bool f16;

    __device__ explicit Feed(const BatchTile<PAIR>& batch) : b(batch) {
        f16 = b.matrix(0).kind == KIND_F16;
        x = b.args.x + (size_t)b.item.x_row * 512;
#pragma unroll
        for (int h = 0; h < H; ++h) {
            const ProductMatrix& m = b.matrix(h);
            const uint32_t first = b.tile(h);
            tiles[h] = min(TILES, (int)(m.tiles - first)), in_block[h] = first % BLOCK_TILES;
            from[h] = m.weights + b.item.expert * m.expert_bytes + (size_t)(first - in_block[h]) * m.tile_bytes;
            stride[h] = block_tiles(m.tiles, first) * m.piece_bytes;
        }
    }

    __device__ void ask_weights(int slot, int r, int lane) {
        const uint32_t each = f16 ? 2048 : b.bytes(r), pieces = f16 ? b.steps(r) : 1;
        uint32_t all = 0;
#pragma unroll
        for (int h = 0; h < H; ++h) all += tiles[h];
        fill_begin(&b.full[slot], all * each * pieces + b.item.count * 512, lane);
        uint8_t* to = b.ring + slot * b.slot_bytes;
        for (uint32_t i = 0; i < pieces; ++i, to += WARPS * each)
#pragma unroll
            for (int h = 0; h < H; ++h) {
                fill_copy<false>(to + h * TILES * each, from[h] + in_block[h] * each, tiles[h] * each, &b.full[slot], lane);
                from[h] += stride[h];
            }
    }

    __device__ void ask_x(int slot, int lane) {
        fill_copy<false>(b.ring + slot * b.slot_bytes + WARPS * b.args.slot_bytes, x, b.item.count * 512, &b.full[slot], lane);
        fill_end(&b.full[slot]);
        x += (size_t)b.args.x_stride * 512;
    }
};

// One record: this warp's rows times all tokens.
template <uint32_t K>
__device__ __forceinline__ void multiply(const Record<K>&, const uint8_t* weights, const uint8_t* x, const ProductItem& item, int steps, int lane,
                                         float acc[GROUPS][4]) {
    const int t = lane & 3, g = lane >> 2;
    Record<K> record;
    record.open(weights, lane);
    if constexpr (K == KIND_F16) record.stride = WARPS * 2048;
    // The lane's columns of token g; rows past the last token hold anything, and go to columns of the sum that nobody reads.
    const int swap = (item.x_row + g) & 1;
    const uint8_t *even = x + g * 512 + ((2 * t) ^ swap) * 16, *odd = x + g * 512 + ((2 * t + 1) ^ swap) * 16;
#pragma unroll 1
    for (int n = 0; n < steps; ++n) {
        uint32_t a[4][4];
        record.step(n, a);
        // Four groups of tokens at a time, so that a product need not wait for the one before; groups that are not there repeat the last.
#pragma unroll
        for (int four = 0; four < GROUPS; four += 4) {
            if (four * 8 >= item.count) break;
            uint4 b0[4], b1[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int at = min(four + j, (item.count - 1) / 8) * 4096 + n * 128;
                b0[j] = *reinterpret_cast<const uint4*>(even + at), b1[j] = *reinterpret_cast<const uint4*>(odd + at);
            }
#pragma unroll
            for (int ks = 0; ks < 4; ++ks)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const uint4& v = ks < 2 ? b0[j] : b1[j];
                    mma_16816(acc[four + j], a[ks], ks % 2 == 0 ? v.x : v.z, ks % 2 == 0 ? v.y : v.w);
                }
        }
    }
}

__device__ __forceinline__ void close_chunk(float sum[GROUPS][4], float acc[GROUPS][4]) {
#pragma unroll
    for (int j = 0; j < GROUPS; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[j][c] += acc[j][c], acc[j][c] = 0.0f;
}

// This warp's sums over all columns.
template <bool PAIR>
__device__ __forceinline__ void sum_up(const BatchTile<PAIR>& b, Feed<PAIR>& feed, int warp, int lane, float sum[GROUPS][4]) {
    const int stages = b.args.stages;
    with_kind(b.matrix(0).kind, [&](auto record) {
        float acc[GROUPS][4] = {};
        int slot = 0, chunk = 0, end = b.records / CHUNKS;
        uint32_t parity = 0;
        for (int r = 0; r < b.records; ++r) {
            if (r == end) {
                close_chunk(sum, acc);
                while (r == end) ++chunk, end = (chunk + 1) * b.records / CHUNKS;
            }
            if (warp == 0 && asks(lane) && r > 0 && r - 1 + stages < b.records) {
                const int freed = slot == 0 ? stages - 1 : slot - 1;
                barrier_wait(&b.empty[freed], slot == 0 ? parity ^ 1 : parity);
                feed.ask_weights(freed, r - 1 + stages, lane);
                feed.ask_x(freed, lane);
            }
            __syncwarp();
            barrier_wait(&b.full[slot], parity);
            const uint8_t* at = b.ring + slot * b.slot_bytes;
            const uint32_t each = b.matrix(0).kind == KIND_F16 ? 2048 : b.bytes(r);
            multiply(record, at + b.place(warp) * each, at + WARPS * b.args.slot_bytes, b.item, b.steps(r), lane, acc);
            __syncwarp();
            warp_arrive(&b.empty[slot], lane);
            if (++slot == stages) slot = 0, parity ^= 1;
        }
        close_chunk(sum, acc);
    });
}

template <bool PAIR>
__device__ __forceinline__ void product_batch_body(const ProductArgs& args) {
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
    const int slot_bytes = WARPS * args.slot_bytes + min(((int)args.tokens + 7) / 8 * 8, TOKENS) * 512;
    const BatchTile<PAIR> b = {args, item, ring, full, empty, records_of(args.cols), slot_bytes};
    Feed<PAIR> feed(b);
    const int ahead = min((int)args.stages, b.records);
    if (warp == 0 && asks(lane))
        for (int r = 0; r < ahead; ++r) feed.ask_weights(r, r, lane);
    if (!args.items) wait_for_predecessor();
    if (warp == 0 && asks(lane))
        for (int r = 0; r < ahead; ++r) feed.ask_x(r, lane);

    float sum[GROUPS][4] = {};
    sum_up<PAIR>(b, feed, warp, lane, sum);

    // The odd warps of a pair hand their sums over through what was the ring.
    float* of_up = reinterpret_cast<float*>(ring) + (warp / 2) * 32 * GROUPS * 4 + lane;
    if (PAIR) {
        __syncthreads();
        if (warp & 1)
#pragma unroll
            for (int j = 0; j < GROUPS * 4; ++j) of_up[j * 32] = sum[j / 4][j % 4];
        __syncthreads();
        if (warp & 1) return;
    }
    const uint32_t tile = b.tile(warp);
    if (tile >= b.matrix(0).tiles) return;
    const Sink sink(b.matrix(0), item.expert), up(b.matrix(1), item.expert);
    float bias[2][2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const uint32_t row = tile * TILE_ROWS + (lane >> 2) + 8 * h;
        bias[h][0] = sink.bias_of(row), bias[h][1] = PAIR ? up.bias_of(row) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < GROUPS; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            const int token = j * 8 + 2 * (lane & 3) + (c & 1);
            const uint32_t row = tile * TILE_ROWS + (lane >> 2) + 8 * (c >> 1);
            if (token >= item.count) continue;
            const float sums[2] = {sum[j][c], PAIR ? of_up[(j * 4 + c) * 32] : 0.0f};
            if (PAIR)
                finish_pair(args, sink, row, item.out_row + token, sums, bias[c >> 1]);
            else
                finish(args, sink, row, item.out_row + token, sums[0], bias[c >> 1][0]);
        }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 2) product_batch(const __grid_constant__ ProductArgs args) { product_batch_body<false>(args); }
extern "C" __global__ void __launch_bounds__(256, 2) product_batch_pair(const __grid_constant__ ProductArgs args) { product_batch_body<true>(args); }
