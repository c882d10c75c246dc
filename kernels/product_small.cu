// y = W x for 1 to 8 rows of activations a block, limited by the memory that holds W.
//
//   product_small       any matrices, a unit is 1 tile of 16 rows          (1 row of activations)
//   product_small_wide  any matrices, a unit is 2 tiles                    (2..8 rows: x is fetched half as often)
//   product_small_pair  gate and up with their activation, a unit is 1 tile of each
//
// Launch: block 256; grid (min(units, blocks that fit the card at once), items, or without items ceil(tokens / 8)); dynamic
// shared memory 8 * stages * (T * slot_bytes + 512 * min(tokens, 8)), T = 1, 2, 2; stages 1..8; slot_bytes counts F16 as 0. Any number of units a block. x: records.
//
// A block's 8 warps take an eighth of the columns each (whole records) and stream records and activations through a ring of
// their own. The 8 sums are then added in order of the columns. What is summed in which order depends on the number of columns
// alone, and a column of mma's 8 holds one token: the result of a token is the same bits whatever else is in the launch.
#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"

namespace {

constexpr int MAX_STAGES = 8;

// The ring of one warp, and how far it has been filled and read.
struct Ring {
    uint8_t* slots;
    uint64_t* full;
    int bytes, stages;
    int slot = 0;
    uint32_t parity = 0;

    __device__ uint8_t* at(int i) const { return slots + i * bytes; }
    __device__ void next() {
        if (++slot == stages) slot = 0, parity ^= 1;
    }
};

template <int T, bool PAIR>
struct Small {
    const ProductArgs& args;
    ProductItem item;
    Ring ring;
    int lane, records, first, last;  // this warp's records: first .. last - 1
    uint32_t ask_unit;               // the next to be asked for
    int ask_record;
    const uint8_t* from[T];          // its weights
    uint32_t stride[T], bytes, last_bytes;
    const uint8_t* x_from;

    __device__ uint32_t x_bytes() const { return item.count * 512; }

    // Tile i of a unit.
    __device__ uint32_t tile_of(const ProductMatrix& m, uint32_t unit, int i) const {
        return PAIR ? unit : min((unit - m.first_unit) * T + i, m.tiles - 1);
    }

    __device__ const uint8_t* piece(const ProductMatrix& m, uint32_t tile, int piece, uint32_t bytes) const {
        return m.weights + item.expert * m.expert_bytes + piece_at(m.tiles, tile, m.tile_bytes, piece, m.piece_bytes, bytes);
    }

    // Goes to the first record of ask_unit. F16 goes from memory to registers: its records are too long for a ring, and need no
    // unpacking; so there are no bytes to ask for.
    __device__ void to_unit() {
        ask_record = first;
        if (ask_unit >= args.units) return;
#pragma unroll
        for (int i = 0; i < T; ++i) {
            const ProductMatrix& m = args.matrix[PAIR ? i : matrix_of(args, ask_unit)];
            const uint32_t tile = tile_of(m, ask_unit, i);
            bytes = m.kind == KIND_F16 ? 0 : m.piece_bytes, last_bytes = m.kind == KIND_F16 ? 0 : m.last_piece_bytes;
            stride[i] = block_tiles(m.tiles, tile) * m.piece_bytes;
            from[i] = piece(m, tile, first, m.piece_bytes);
        }
        if (first + 1 == records) to_last();
    }

    // The last record may be shorter, and so begin earlier.
    __device__ void to_last() {
#pragma unroll
        for (int i = 0; i < T; ++i) {
            const ProductMatrix& m = args.matrix[PAIR ? i : matrix_of(args, ask_unit)];
            from[i] -= tile_of(m, ask_unit, i) % BLOCK_TILES * (bytes - last_bytes);
        }
        bytes = last_bytes;
    }

    __device__ void advance() {
        if (++ask_record == last) {
            ask_unit += gridDim.x;
            to_unit();
            return;
        }
#pragma unroll
        for (int i = 0; i < T; ++i) from[i] += stride[i];
        if (ask_record + 1 == records && bytes != last_bytes) to_last();
    }

    __device__ void ask_weights(int slot) {
        fill_begin(&ring.full[slot], T * bytes + x_bytes(), lane);
        if (bytes == 0) return;
#pragma unroll
        for (int i = 0; i < T; ++i) fill_copy<true>(ring.at(slot) + i * args.slot_bytes, from[i], bytes, &ring.full[slot], lane);
    }

    __device__ void ask_x(int slot, int record) {
        fill_copy<false>(ring.at(slot) + T * args.slot_bytes, x_from + (size_t)record * args.x_stride * 512, x_bytes(), &ring.full[slot], lane);
        fill_end(&ring.full[slot]);
    }

    // Fills the whole ring; weights before the predecessor's results are waited for.
    __device__ void fill(bool wait) {
        const bool mine = asks(lane) && first < last;
        int asked = 0;
        if (mine) {
            to_unit();
            for (; asked < ring.stages && ask_unit < args.units; ++asked) ask_weights(asked), advance();
        }
        if (wait) wait_for_predecessor();
        if (!mine) return;
        for (int i = 0, record = first; i < asked; ++i) {
            ask_x(i, record);
            if (++record == last) record = first;
        }
    }

    template <uint32_t K>
    __device__ void multiply(const Record<K>&, uint32_t unit, int r, float acc[T][4]) {
        const int steps = r + 1 == records ? steps_of(args.cols) - 4 * (records - 1) : 4;
        const uint8_t* slot = ring.at(ring.slot);
        const int t = lane & 3, token = min(lane >> 2, item.count - 1);
        const uint8_t* x = slot + T * args.slot_bytes + token * 512;
        const int odd = (item.x_row + token) & 1;
#pragma unroll
        for (int i = 0; i < T; ++i) {
            Record<K> record;
            record.open(slot + i * args.slot_bytes, lane);
            if constexpr (K == KIND_F16) {
                const ProductMatrix& m = args.matrix[PAIR ? i : matrix_of(args, unit)];
                const uint32_t tile = tile_of(m, unit, i);
                record.low_bits = piece(m, tile, 4 * r, m.piece_bytes), record.stride = block_tiles(m.tiles, tile) * m.piece_bytes;
            }
#pragma unroll 2
            for (int n = 0; n < steps; ++n) {
                const uint4 b0 = *reinterpret_cast<const uint4*>(x + ((8 * n + 2 * t) ^ odd) * 16);
                const uint4 b1 = *reinterpret_cast<const uint4*>(x + ((8 * n + 2 * t + 1) ^ odd) * 16);
                uint32_t a[4][4];
                record.step(n, a);
                mma_16816(acc[i], a[0], b0.x, b0.y);
                mma_16816(acc[i], a[1], b0.z, b0.w);
                mma_16816(acc[i], a[2], b1.x, b1.y);
                mma_16816(acc[i], a[3], b1.z, b1.w);
            }
        }
    }

    // All of this warp's records of one unit.
    __device__ void multiply_unit(uint32_t kind, uint32_t unit, float acc[T][4]) {
        with_kind(kind, [&](auto record) {
            for (int r = first; r < last; ++r) {
                barrier_wait(&ring.full[ring.slot], ring.parity);
                multiply(record, unit, r, acc);
                __syncwarp();
                if (asks(lane) && ask_unit < args.units) ask_weights(ring.slot), ask_x(ring.slot, ask_record), advance();
                __syncwarp();
                ring.next();
            }
        });
    }
};

template <int T, bool PAIR>
__device__ __forceinline__ void product_small_body(const ProductArgs& args) {
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ uint64_t full[CHUNKS][MAX_STAGES];
    __shared__ float partial[2][CHUNKS][T][128];  // [buffer][warp][tile][token * 16 + row]
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0)
        for (int i = 0; i < (int)args.stages; ++i) fill_barrier_init(&full[warp][i]);
    barrier_init_done();
    __syncwarp();
    dependents_may_start();

    ProductItem item = {0, (int)blockIdx.y * 8, (int)blockIdx.y * 8, min(8, (int)args.tokens - (int)blockIdx.y * 8)};
    if (args.items) {
        wait_for_predecessor();
        if (args.item_count && blockIdx.y >= *args.item_count) return;
        item = args.items[blockIdx.y];
    }
    const int records = records_of(args.cols), slot = T * args.slot_bytes + min(8, (int)args.tokens) * 512;
    Ring ring = {shared + (size_t)warp * args.stages * slot, full[warp], slot, (int)args.stages};
    const int first = warp * records / CHUNKS, last = (warp + 1) * records / CHUNKS;
    Small<T, PAIR> small = {args, item, ring, lane, records, first, last, blockIdx.x};
    small.x_from = args.x + (size_t)item.x_row * 512;
    small.fill(!args.items);

    int buffer = 0;
    for (uint32_t unit = blockIdx.x; unit < args.units; unit += gridDim.x, buffer ^= 1) {
        const ProductMatrix& m = args.matrix[PAIR ? 0 : matrix_of(args, unit)];
        float acc[T][4] = {};
        small.multiply_unit(m.kind, unit, acc);
#pragma unroll
        for (int i = 0; i < T; ++i)
#pragma unroll
            for (int c = 0; c < 4; ++c) partial[buffer][warp][i][(2 * (lane & 3) + (c & 1)) * 16 + (lane >> 2) + 8 * (c >> 1)] = acc[i][c];
        __syncthreads();

        const int i = PAIR ? 0 : threadIdx.x / 128, place = threadIdx.x % 128, token = place / 16;
        if (threadIdx.x >= (PAIR ? 128 : 128 * T) || token >= item.count) continue;
        float sum[2] = {};
#pragma unroll
        for (int w = 0; w < CHUNKS; ++w) {
            sum[0] += partial[buffer][w][i][place];
            if (PAIR) sum[1] += partial[buffer][w][T - 1][place];
        }
        const uint32_t tile = PAIR ? unit : (unit - m.first_unit) * T + i, row = tile * TILE_ROWS + place % 16;
        const Sink sink(m, item.expert);
        if (PAIR) {
            const float bias[2] = {sink.bias_of(row), Sink(args.matrix[1], item.expert).bias_of(row)};
            finish_pair(args, sink, row, item.out_row + token, sum, bias);
        } else if (tile < m.tiles) {
            finish(args, sink, row, item.out_row + token, sum[0], sink.bias_of(row));
        }
    }
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256, 3) product_small(const __grid_constant__ ProductArgs args) { product_small_body<1, false>(args); }
extern "C" __global__ void __launch_bounds__(256, 3) product_small_wide(const __grid_constant__ ProductArgs args) { product_small_body<2, false>(args); }
extern "C" __global__ void __launch_bounds__(256, 2) product_small_pair(const __grid_constant__ ProductArgs args) { product_small_body<2, true>(args); }
