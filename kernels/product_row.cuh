// y = W x for one row of activations, which may be a norm of an f32 row: a decode step of one sequence.
//
//   product_row          any matrices, a unit is 1 tile of 16 rows
//   product_row_pair     gate and up with their activation, a unit is 1 tile of each
//   product_row.._AB     the same for kinds A and B alone (product_row_kinds.cu), whose shorter code stays in the caches
//   product_row.._ahead  the same where every block has one unit
//
// Launch: block 32 * (warps + 2), warps = min(records, 8); of a pair from `hidden` it may be twice that, up to 8. Grid (up to units,
// experts used or 1); dynamic shared memory x_bytes + warps * stages * slot_bytes, x_bytes = 128 * steps; stages 1..MAX_STAGES. From
// sm_90 on; before, the kernels are empty.
//
// The same sums in the same order as product_small.cu and its like. What differs is what a step of one sequence is short of, time
// between kernels and instructions: the norm is made here, by every block for itself; a block keeps the whole row; one warp fills
// the rings of all, and one stores sums, so that those that multiply do nothing else; with `ahead` they unpack their first records
// before the row is there.
#pragma once
#include <type_traits>

#include "product_dequant.cuh"
#include "product_row_input.cuh"
#include "product_store.cuh"

namespace {

constexpr int MAX_STAGES = 16;
constexpr int SUMS = 4;  // units whose sums may wait to be stored

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

// What a launch's matrices may be made of: anything, or two kinds. The steps of a record are unrolled for the kinds of large models;
// where a kernel multiplies a record or two, the longer code takes more time to come than it saves.
struct AnyKind {
    static constexpr bool UNROLLED = false;
    template <class F>
    __device__ static void with(uint32_t kind, F&& f) { with_kind(kind, f); }
};

template <uint32_t A, uint32_t B, bool UNROLL>
struct TwoKinds {
    static constexpr bool UNROLLED = UNROLL;
    template <class F>
    __device__ static void with(uint32_t kind, F&& f) {
        if (A == B || kind == A)
            f(Record<A>());
        else
            f(Record<B>());
    }
};

// The row's columns of one step, times a warp's rows.
__device__ __forceinline__ void multiply_step(const uint32_t (&a)[4][4], const uint8_t* x, float acc[4]) {
    const uint4 b0 = *reinterpret_cast<const uint4*>(x), b1 = *reinterpret_cast<const uint4*>(x + 16);
    mma_16816(acc, a[0], b0.x, b0.y);
    mma_16816(acc, a[1], b0.z, b0.w);
    mma_16816(acc, a[2], b1.x, b1.y);
    mma_16816(acc, a[3], b1.z, b1.w);
}

// A warp's first record as fragments, made before the row is there.
struct FirstRecord {
    uint32_t a[4][4][4];
    int steps = 0;

    template <uint32_t K>
    __device__ __forceinline__ void unpack(Record<K> record, const uint8_t* slot, int count, int lane) {
        if constexpr (K == KIND_F16) return;
        steps = count;
        record.open(kept(slot), lane);
#pragma unroll
        for (int n = 0; n < 4; ++n)
            if (n < count) record.step(n, a[n]);
    }

    __device__ __forceinline__ void multiply(const uint8_t* x, int lane, float acc[4]) const {
        const uint8_t* from = kept(x) + (lane & 3) * 32;
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            if (n >= steps) break;
            multiply_step(a[n], from + n * 128, acc);
        }
    }
};

template <bool UNROLLED, uint32_t K>
__device__ __forceinline__ void multiply(Record<K> record, const uint8_t* slot, const uint8_t* x, int steps, int lane, float acc[4]) {
    record.open(kept(slot), lane);
    const uint8_t* from = kept(x) + (lane & 3) * 32;
    const auto step = [&](int n) {
        uint32_t a[4][4];
        record.step(n, a);
        multiply_step(a, from + n * 128, acc);
    };
    if (UNROLLED && K != KIND_F16 && steps == 4) {
#pragma unroll
        for (int n = 0; n < 4; ++n) step(n);
        return;
    }
#pragma unroll 1
    for (int n = 0; n < steps; ++n) step(n);
}

// The rings of the warps that multiply, and the sums on their way to the warp that stores them.
struct Shared {
    uint64_t full[CHUNKS][MAX_STAGES], empty[CHUNKS][MAX_STAGES];
    uint64_t summed[SUMS], stored[SUMS], row;  // row: it is there
    float partial[SUMS][2][CHUNKS][16];
    alignas(16) float scratch[NORM_THREADS / 32];
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
        // Until the row is there few bytes are under way: it would come after them.
        if (round == 0 && a.quiet) {
            const int before = slot * warps + lane - (int)a.quiet;
            if (before >= 0 && !barrier_done(&sh.full[before % warps][before / warps], 0) && !barrier_done(&sh.row, 0)) continue;
        }
        if (round == 0 || barrier_passed(&sh.empty[lane][slot], (round & 1) ^ 1)) {
            fill_begin(&sh.full[lane][slot], c.bytes, lane);
            fill_copy<true>(ring + slot * a.product.slot_bytes, c.from, c.bytes, &sh.full[lane][slot], lane);
            c.next();
            if (++slot == stages) slot = 0, ++round;
        }
    }
}

// put() of product_store.cuh for what this kernel stores, never panels.
__device__ __forceinline__ void put_row(const ProductArgs& args, const Sink& sink, uint32_t row, int token, float value) {
    if (args.store == STORE_RECORDS) {
        const bool last = row / TILE_ROWS + 1 == sink.tiles;
        const uint32_t end = last ? (sink.rows + 63) / 64 * 64 : row + 1;
#pragma unroll 1
        for (uint32_t at = row; at < end; at += TILE_ROWS)
            ((__half*)sink.out)[x_record_at(token, at, sink.stride)] = __float2half_rn(at < sink.rows ? value * args.store_scale : 0.0f);
        return;
    }
    float* out = (float*)sink.out + (size_t)token * sink.stride + row;
    if (row < sink.rows) {
        if (args.store == STORE_ADD)
            atomicAdd(out, value);
        else
            *out = value;
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
        put_row(args, sink, row, blockIdx.y, PAIR ? value_of_pair(args, sum, bias) : value_of(args, sum[0], bias[0]));
    }
}

template <bool PAIR, bool AHEAD, class Kinds>
__device__ __forceinline__ void product_row_body(const RowArgs& a) {
#if BULK_COPY
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ Shared sh;
    const ProductArgs& args = a.product;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, warps = blockDim.x / 32 - HELPERS, stages = args.stages;
    if (warp < warps && lane < stages) fill_barrier_init(&sh.full[warp][lane]), barrier_init(&sh.empty[warp][lane], WARP_ARRIVALS);
    if (warp == warps && lane < SUMS) barrier_init(&sh.summed[lane], warps * WARP_ARRIVALS), barrier_init(&sh.stored[lane], WARP_ARRIVALS);
    if (threadIdx.x == 0) barrier_init(&sh.row, WARP_ARRIVALS);
    if (threadIdx.x < NORM_THREADS / 32) sh.scratch[threadIdx.x] = 0.0f;
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
    const uint8_t* ring = shared + steps * 128 + warp * stages * slot_bytes;
    int slot = 0, buffer = 0, round = 0, begun = 0;
    uint32_t parity = 0;
    FirstRecord ahead;
    float acc[4] = {};
    if (AHEAD) {
        barrier_wait(&sh.full[warp][0], 0);
        Kinds::with(args.matrix[PAIR ? 0 : matrix_of(args, blockIdx.x)].kind, [&](auto record) { ahead.unpack(record, ring, min(4, steps - 4 * first), lane); });
        if (ahead.steps) {
            __syncwarp();
            warp_arrive(&sh.empty[warp][0], lane);
            if (++slot == stages) slot = 0, parity ^= 1;
            begun = 1;
        }
    }
    if (a.hidden) {
        NormedRow row(a);
        if (AHEAD)
            row.near();
        else if (a.norm != NORM_NONE)
            row.fetch(a.norm_weight, row.weight);
        if (!choosing) wait_for_predecessor();
        row.take<AHEAD>(shared, sh.scratch);
    } else {
        if (!choosing) wait_for_predecessor();
        take_records(a, a.x_per_expert ? blockIdx.y : 0, first, last, shared);
    }
    if (warp == 0) warp_arrive(&sh.row, lane);
    if (AHEAD) ahead.multiply(shared + first * 512, lane, acc);

#pragma unroll 1
    for (uint32_t unit = blockIdx.x; unit < args.units; unit += gridDim.x) {
        if (round) barrier_wait(&sh.stored[buffer], (round & 1) ^ 1);
        Kinds::with(args.matrix[PAIR ? 0 : matrix_of(args, unit)].kind, [&](auto record) {
            constexpr bool F16 = std::is_same<decltype(record), Record<KIND_F16>>::value;
            const int begin = F16 ? 4 * first : first, end = F16 ? min(4 * last, steps) : last;
#pragma unroll 1
            for (int half = sides.first; half < sides.end; ++half) {
#pragma unroll 1
                for (int r = begin + begun; r < end; ++r) {
                    barrier_wait(&sh.full[warp][slot], parity);
                    multiply<Kinds::UNROLLED>(record, ring + slot * slot_bytes, shared + r * (F16 ? 128 : 512), F16 ? 1 : min(4, steps - 4 * r), lane, acc);
                    __syncwarp();
                    if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.empty[warp][slot]);
                    if (++slot == stages) slot = 0, parity ^= 1;
                }
                if ((lane & 3) == 0) sh.partial[buffer][half][part][lane >> 2] = acc[0], sh.partial[buffer][half][part][(lane >> 2) + 8] = acc[2];
                begun = 0;
#pragma unroll
                for (int i = 0; i < 4; ++i) acc[i] = 0.0f;
            }
        });
        __syncwarp();
        if (WARP_ARRIVALS > 1 || elected()) barrier_arrive(&sh.summed[buffer]);
        if (++buffer == SUMS) buffer = 0, ++round;
        if (AHEAD) break;
    }
#endif
}

}  // namespace

#define PRODUCT_ROW(ending, AHEAD, ...)                                                                                                                \
    extern "C" __global__ void __launch_bounds__(32 * (CHUNKS + HELPERS), 2) product_row##ending(const __grid_constant__ RowArgs args) {               \
        product_row_body<false, AHEAD, __VA_ARGS__>(args);                                                                                             \
    }                                                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(32 * (CHUNKS + HELPERS), 2) product_row_pair##ending(const __grid_constant__ RowArgs args) {          \
        product_row_body<true, AHEAD, __VA_ARGS__>(args);                                                                                              \
    }
