// y = W x for one row of activations, which may be a norm of an f32 row: a decode step of one sequence.
//
//   product_row       any matrices, a unit is 1 tile of 16 rows
//   product_row_pair  gate and up with their activation, a unit is 1 tile of each
//
// Launch: block 32 * (warps + 2), warps = min(records, 8); of a pair from `hidden` it may be twice that, up to 8. Grid (up to units,
// experts used or 1); dynamic shared memory x_bytes + warps * stages * slot_bytes, x_bytes = 128 * steps; stages 1..MAX_STAGES. From
// sm_90 on; before, the kernels are empty.
//
// The same sums in the same order as product_small.cu and its like. What differs is what a step of one sequence is short of, time
// between kernels and instructions: the norm is made here, by every block for itself; a block keeps the whole row; one warp fills
// the rings of all, and one stores sums, so that those that multiply do nothing else.
#include <type_traits>

#include "norm_row.cuh"
#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"

struct RowArgs {
    ProductArgs product;       // x: records, row 0 or that of the expert; tokens 1
    const float* hidden;       // [cols], a multiple of 8: the row as f32, with `norm` to be applied; null: product.x
    const float* norm_weight;  // [cols]
    const float* norm_bias;    // [cols] or null
    const int* chosen;         // the expert of each blockIdx.y; null: expert 0
    uint32_t norm;             // RowNorm
    float eps;
    uint32_t x_per_expert;     // with experts: each has its own row of x
    uint32_t pad;
};

namespace {

constexpr int MAX_STAGES = 16;
constexpr int HELPERS = 2;  // warps beside those that multiply
constexpr int SUMS = 4;     // units whose sums may wait to be stored

// The warps that multiply wait for each other.
__device__ __forceinline__ void consumers_meet(int warps) { asm volatile("bar.sync 1, %0;" ::"r"(32 * warps) : "memory"); }

// The records that a warp of `parts` takes.
struct Span {
    int first, last;

    __device__ __forceinline__ Span(const ProductArgs& a, int part, int parts) {
        const int records = records_of(a.cols);
        first = parts < CHUNKS ? part : part * records / CHUNKS, last = parts < CHUNKS ? part + 1 : (part + 1) * records / CHUNKS;
    }
};

// Of a pair a warp takes both sides or, where a row is so short that there are warps enough, one. Without a pair there is one side,
// and the compiler knows.
template <bool PAIR>
struct Sides {
    int parts, first, end;

    __device__ __forceinline__ Sides(const ProductArgs& a, int warp, int warps) {
        parts = PAIR ? min(records_of(a.cols), CHUNKS) : warps;
        first = PAIR && warp >= parts, end = PAIR && warps == parts ? 2 : first + 1;
    }
};

// A warp's way through the pieces of its block's units. With a pair, gate's pieces and then up's, if both are its own.
template <bool PAIR>
struct Cursor {
    const ProductArgs& args;
    const Sides<PAIR> sides;
    int expert, first, last, steps;  // records of the warp, steps of a row
    uint32_t unit;
    int half, piece, end;
    const uint8_t* from;
    uint32_t stride, cut;  // cut: what the last piece is shorter by, if it is this warp's

    __device__ bool there() const { return unit < args.units && first < last; }

    __device__ void enter() {
        if (!there()) return;
        const ProductMatrix& m = args.matrix[PAIR ? half : matrix_of(args, unit)];
        const uint32_t tile = PAIR ? unit : unit - m.first_unit;
        const bool f16 = m.kind == KIND_F16;
        piece = f16 ? 4 * first : first, end = f16 ? min(4 * last, steps) : last;
        stride = block_tiles(m.tiles, tile) * m.piece_bytes;
        from = m.weights + expert * m.expert_bytes + piece_at(m.tiles, tile, m.tile_bytes, piece, m.piece_bytes, m.piece_bytes);
        bytes = m.piece_bytes, cut = !f16 && last == (steps + 3) / 4 ? m.piece_bytes - m.last_piece_bytes : 0;
        if (piece + 1 == end) to_last(tile);
    }

    uint32_t bytes;

    // The last piece may be shorter, and so begin earlier.
    __device__ void to_last(uint32_t tile) { from -= tile % BLOCK_TILES * cut, bytes -= cut; }

    __device__ void next() {
        if (++piece < end) {
            from += stride;
            if (cut && piece + 1 == end) to_last(PAIR ? unit : unit - args.matrix[matrix_of(args, unit)].first_unit);
            return;
        }
        if (PAIR && half + 1 < sides.end)
            ++half;
        else
            half = sides.first, unit += gridDim.x;
        enter();
    }
};

// The row as f16 in shared memory, from records: a warp brings what it needs itself.
__device__ __forceinline__ void take_records(const RowArgs& a, int row, int first, int last, uint8_t* x) {
    const int end = min(32 * last, steps_of(a.product.cols) * 8), odd = row & 1;
    for (int piece = 32 * first + threadIdx.x % 32; piece < end; piece += 32) {
        const uint8_t* from = a.product.x + ((size_t)(piece / 32) * a.product.x_stride + row) * 512;
        *reinterpret_cast<uint4*>(x + piece * 16) = __ldcg(reinterpret_cast<const uint4*>(from + ((piece % 32) ^ odd) * 16));
    }
    __syncwarp();
}

// The same from an f32 row of whole pieces, normed. As there is a warp for every record up to the eighth, each stands for up to
// two of the warps of norm_row.cuh, and keeps their first pieces in registers.
struct NormedRow {
    const RowArgs& a;
    uint32_t pieces;
    int warp, lane, warps, n_warps;
    Piece weight[2], kept[2];

    __device__ NormedRow(const RowArgs& args) : a(args) {
        pieces = a.product.cols / PIECE;
        warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32 - HELPERS;
        n_warps = min(NORM_THREADS / 32, (int)(pieces + 31) / 32);
    }

    __device__ uint32_t piece_of(int j) const { return (warp + j * warps) * 32 + lane; }
    __device__ bool keeps(int j) const { return piece_of(j) < min(pieces, (uint32_t)NORM_THREADS); }

    __device__ void fetch(const float* row, Piece to[2]) {
#pragma unroll
        for (int j = 0; j < 2; ++j)
            if (keeps(j)) to[j] = load_whole(row, piece_of(j) * PIECE);
    }

    // f(sum so far, piece) over the pieces of each thread, then the sum over all
    template <class F>
    __device__ float total(float* scratch, F&& f) {
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int j = 0; j < 2; ++j)
            if (keeps(j)) {
                sum[j] = f(0.0f, kept[j]);
#pragma unroll 1
                for (uint32_t piece = piece_of(j) + NORM_THREADS; piece < pieces; piece += NORM_THREADS) sum[j] = f(sum[j], load_whole(a.hidden, piece * PIECE));
            }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            sum[j] = norm_warp_sum(sum[j]);
            if (lane == 0 && warp + j * warps < n_warps) scratch[warp + j * warps] = sum[j];
        }
        consumers_meet(warps);
        return norm_sum(scratch, n_warps);
    }

    __device__ void store(uint8_t* x, Piece p, const Piece& w, Moments m, uint32_t piece) {
        if (a.norm != NORM_NONE) p = apply_norm(p, m, w, a.norm_bias, piece * PIECE, a.product.cols);
        *reinterpret_cast<uint4*>(x + piece * 16) = piece_f16(p);
    }

    __device__ void take(uint8_t* x, float* scratch) {
        const uint32_t cols = a.product.cols;
        fetch(a.hidden, kept);
        Moments m = {0.0f, 1.0f};
        if (a.norm == NORM_LAYER) {
            m.mean = mean_of(total(scratch, [](float sum, const Piece& p) { return add_values(sum, p); }), cols);
            consumers_meet(warps);
        }
        if (a.norm != NORM_NONE)
            m.factor = rsqrtf(mean_of(total(scratch, [&](float sum, const Piece& p) { return add_squares(sum, p, m.mean, 0, PIECE); }), cols) + a.eps);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            if (!keeps(j)) continue;
            store(x, kept[j], weight[j], m, piece_of(j));
#pragma unroll 1
            for (uint32_t piece = piece_of(j) + NORM_THREADS; piece < pieces; piece += NORM_THREADS)
                store(x, load_whole(a.hidden, piece * PIECE), a.norm != NORM_NONE ? load_whole(a.norm_weight, piece * PIECE) : Piece(), m, piece);
        }
        // Steps are whole: zeros past the row's end.
        if (threadIdx.x < steps_of(cols) * (STEP_COLS / PIECE) - pieces) *reinterpret_cast<uint4*>(x + (pieces + threadIdx.x) * 16) = make_uint4(0, 0, 0, 0);
        consumers_meet(warps);
    }
};

template <uint32_t K>
__device__ __forceinline__ void multiply(Record<K> record, const uint8_t* slot, const uint8_t* x, int steps, int lane, float acc[4]) {
    record.open(slot, lane);
    const uint8_t* from = x + (lane & 3) * 32;
#pragma unroll 1
    for (int n = 0; n < steps; ++n) {
        const uint4 b0 = *reinterpret_cast<const uint4*>(from + n * 128);
        const uint4 b1 = *reinterpret_cast<const uint4*>(from + n * 128 + 16);
        uint32_t a[4][4];
        record.step(n, a);
        mma_16816(acc, a[0], b0.x, b0.y);
        mma_16816(acc, a[1], b0.z, b0.w);
        mma_16816(acc, a[2], b1.x, b1.y);
        mma_16816(acc, a[3], b1.z, b1.w);
    }
}

// The rings of the warps that multiply, and the sums on their way to the warp that stores them.
struct Shared {
    uint64_t full[CHUNKS][MAX_STAGES], empty[CHUNKS][MAX_STAGES];
    uint64_t summed[SUMS], stored[SUMS];
    float partial[SUMS][2][CHUNKS][16];
    float scratch[NORM_THREADS / 32];
};

// One warp fills all rings: lane w that of warp w.
template <bool PAIR>
__device__ __forceinline__ void fill_rings(const RowArgs& a, Shared& sh, uint8_t* rings, int warps, int expert) {
    const int lane = threadIdx.x % 32, stages = a.product.stages;
    if (lane >= warps) return;
    const Sides<PAIR> sides(a.product, lane, warps);
    const Span span(a.product, lane - sides.first * sides.parts, sides.parts);
    Cursor<PAIR> c = {a.product, sides, expert, span.first, span.last, steps_of(a.product.cols), blockIdx.x};
    c.half = sides.first;
    c.enter();
    uint8_t* ring = rings + lane * stages * a.product.slot_bytes;
    int slot = 0, round = 0;
    while (c.there()) {
        if (round == 0 || barrier_passed(&sh.empty[lane][slot], (round & 1) ^ 1)) {
            fill_begin(&sh.full[lane][slot], c.bytes, lane);
            fill_copy<true>(ring + slot * a.product.slot_bytes, c.from, c.bytes, &sh.full[lane][slot], lane);
            c.next();
            if (++slot == stages) slot = 0, ++round;
        }
    }
}

// One warp adds the sums of a unit and stores them.
template <bool PAIR>
__device__ __forceinline__ void store_sums(const RowArgs& a, Shared& sh, int parts, int expert) {
    const ProductArgs& args = a.product;
    const int lane = threadIdx.x % 32;
    int buffer = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (uint32_t unit = blockIdx.x; unit < args.units; unit += gridDim.x) {
        const ProductMatrix& m = args.matrix[PAIR ? 0 : matrix_of(args, unit)];
        const uint32_t tile = PAIR ? unit : unit - m.first_unit, row = tile * TILE_ROWS + lane;
        const Sink sink(m, expert);
        float bias[2] = {0.0f, 0.0f}, sum[2] = {0.0f, 0.0f};
        if (lane < TILE_ROWS) {
            bias[0] = sink.bias_of(row);
            if (PAIR) bias[1] = Sink(args.matrix[1], expert).bias_of(row);
        }
        barrier_wait(&sh.summed[buffer], parity);
        if (lane < TILE_ROWS) {
#pragma unroll
            for (int h = 0; h < (PAIR ? 2 : 1); ++h)
#pragma unroll
                for (int w = 0; w < CHUNKS; ++w) sum[h] += w < parts ? sh.partial[buffer][h][w][lane] : 0.0f;
        }
        __syncwarp();
        warp_arrive(&sh.stored[buffer], lane);
        if (++buffer == SUMS) buffer = 0, parity ^= 1;
        if (lane >= TILE_ROWS) continue;
        if (PAIR)
            finish_pair(args, sink, row, blockIdx.y, sum, bias);
        else
            finish(args, sink, row, blockIdx.y, sum[0], bias[0]);
    }
}

template <bool PAIR>
__device__ __forceinline__ void product_row_body(const RowArgs& a) {
#if BULK_COPY
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ Shared sh;
    const ProductArgs& args = a.product;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, warps = blockDim.x / 32 - HELPERS, stages = args.stages;
    if (warp < warps && lane < stages) fill_barrier_init(&sh.full[warp][lane]), barrier_init(&sh.empty[warp][lane], WARP_ARRIVALS);
    if (warp == warps && lane < SUMS) barrier_init(&sh.summed[lane], warps * WARP_ARRIVALS), barrier_init(&sh.stored[lane], WARP_ARRIVALS);
    barrier_init_done();
    // Those who go to experts first wait for the choice. They let the product after them start only then, and so it finds the
    // choice made, and fetches its weights while it waits for its row.
    const bool choosing = a.chosen && !a.x_per_expert;
    if (choosing) wait_for_predecessor();
    dependents_may_start();
    const int expert = a.chosen ? __ldcg(a.chosen + blockIdx.y) : 0;
    const int steps = steps_of(args.cols), slot_bytes = args.slot_bytes;
    __syncthreads();
    const Sides<PAIR> sides(args, warp, warps);
    if (warp == warps) return fill_rings<PAIR>(a, sh, shared + steps * 128, warps, expert);
    if (warp > warps) {
        if (!choosing) wait_for_predecessor();
        return store_sums<PAIR>(a, sh, sides.parts, expert);
    }

    const int part = warp - sides.first * sides.parts;
    const Span span(args, part, sides.parts);
    const int first = span.first, last = span.last;
    if (a.hidden) {
        NormedRow row(a);
        if (a.norm != NORM_NONE) row.fetch(a.norm_weight, row.weight);
        if (!choosing) wait_for_predecessor();
        row.take(shared, sh.scratch);
    } else {
        if (!choosing) wait_for_predecessor();
        take_records(a, a.x_per_expert ? blockIdx.y : 0, first, last, shared);
    }

    const uint8_t* ring = shared + steps * 128 + warp * stages * slot_bytes;
    int slot = 0, buffer = 0, round = 0;
    uint32_t parity = 0;
#pragma unroll 1
    for (uint32_t unit = blockIdx.x; unit < args.units; unit += gridDim.x) {
        if (round) barrier_wait(&sh.stored[buffer], (round & 1) ^ 1);
        with_kind(args.matrix[PAIR ? 0 : matrix_of(args, unit)].kind, [&](auto record) {
            constexpr bool F16 = std::is_same<decltype(record), Record<KIND_F16>>::value;
            const int begin = F16 ? 4 * first : first, end = F16 ? min(4 * last, steps) : last;
#pragma unroll 1
            for (int half = sides.first; half < sides.end; ++half) {
                float acc[4] = {};
#pragma unroll 1
                for (int r = begin; r < end; ++r) {
                    barrier_wait(&sh.full[warp][slot], parity);
                    multiply(record, ring + slot * slot_bytes, shared + r * (F16 ? 128 : 512), F16 ? 1 : min(4, steps - 4 * r), lane, acc);
                    __syncwarp();
                    if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.empty[warp][slot]);
                    if (++slot == stages) slot = 0, parity ^= 1;
                }
                if ((lane & 3) == 0) sh.partial[buffer][half][part][lane >> 2] = acc[0], sh.partial[buffer][half][part][(lane >> 2) + 8] = acc[2];
            }
        });
        __syncwarp();
        if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.summed[buffer]);
        if (++buffer == SUMS) buffer = 0, ++round;
    }
#endif
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32 * (CHUNKS + HELPERS), 2) product_row(const __grid_constant__ RowArgs args) { product_row_body<false>(args); }
extern "C" __global__ void __launch_bounds__(32 * (CHUNKS + HELPERS), 2) product_row_pair(const __grid_constant__ RowArgs args) { product_row_body<true>(args); }
