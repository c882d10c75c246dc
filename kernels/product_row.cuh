// What the kernels of one row have in common: a warp's way through the weights, the row normed by each block for itself, and the
// multiplication of a record.
#pragma once
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

// The warps that multiply wait for each other.
__device__ __forceinline__ void consumers_meet(int warps) { asm volatile("bar.sync 1, %0;" ::"r"(32 * warps) : "memory"); }

// A warp's way through the pieces of the units that it takes part in. With a pair, gate's pieces and then up's.
struct Cursor {
    const ProductArgs* args;
    bool pair, one_side;  // one_side: of a pair, this warp takes `half` alone
    int expert, first, last, steps;  // records of the warp, steps of a row
    uint32_t unit, unit_step;
    int half, piece, end;
    const uint8_t* from;
    uint32_t bytes, full_bytes, stride, cut;  // full_bytes: of a piece that is not cut off; cut: what the last piece is shorter by, if it is this warp's

    __device__ bool there() const { return unit < args->units && first < last; }

    __device__ void enter() {
        if (!there()) return;
        const ProductMatrix& m = args->matrix[pair ? half : matrix_of(*args, unit)];
        const uint32_t tile = pair ? unit : unit - m.first_unit;
        const bool f16 = m.kind == KIND_F16;
        piece = f16 ? 4 * first : first, end = f16 ? min(4 * last, steps) : last;
        stride = block_tiles(m.tiles, tile) * m.piece_bytes;
        from = m.weights + expert * m.expert_bytes + piece_at(m.tiles, tile, m.tile_bytes, piece, m.piece_bytes, m.piece_bytes);
        bytes = full_bytes = m.piece_bytes, cut = !f16 && last == (steps + 3) / 4 ? m.piece_bytes - m.last_piece_bytes : 0;
        if (piece + 1 == end) to_last(tile);
    }

    // The last piece may be shorter, and so begin earlier.
    __device__ void to_last(uint32_t tile) { from -= tile % BLOCK_TILES * cut, bytes -= cut; }

    __device__ void next() {
        if (++piece < end) {
            from += stride;
            if (cut && piece + 1 == end) to_last(pair ? unit : unit - args->matrix[matrix_of(*args, unit)].first_unit);
            return;
        }
        if (pair && half == 0 && !one_side)
            half = 1;
        else
            half = one_side ? half : 0, unit += unit_step;
        enter();
    }
};

// The row as f16 in shared memory, from an f32 row of whole pieces, normed, by `warps` warps together. Each stands for up to KEPT of
// the warps of norm_row.cuh, and keeps their first pieces in registers. `read` brings a piece of the row.
template <int KEPT, class Read>
struct NormedRow {
    const RowArgs& a;
    const float* hidden;
    Read read;
    uint32_t pieces;
    int warp, lane, warps, n_warps;
    Piece weight[KEPT] = {}, kept[KEPT] = {};  // or a loop around this keeps registers for what an earlier turn left

    __device__ NormedRow(const RowArgs& args, const float* hidden, int warps, Read read) : a(args), hidden(hidden), read(read), warps(warps) {
        pieces = a.product.cols / PIECE;
        warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        n_warps = min(NORM_THREADS / 32, (int)(pieces + 31) / 32);
    }

    __device__ uint32_t piece_of(int j) const { return (warp + j * warps) * 32 + lane; }
    __device__ bool keeps(int j) const { return piece_of(j) < min(pieces, (uint32_t)NORM_THREADS); }

    __device__ void fetch_weight() {
#pragma unroll
        for (int j = 0; j < KEPT; ++j)
            if (keeps(j)) weight[j] = load_whole(a.norm_weight, piece_of(j) * PIECE);
    }

    // f(sum so far, piece) over the pieces of each thread, then the sum over all
    template <class F>
    __device__ float total(float* scratch, F&& f) {
        float sum[KEPT] = {};
#pragma unroll
        for (int j = 0; j < KEPT; ++j)
            if (keeps(j)) {
                sum[j] = f(0.0f, kept[j]);
#pragma unroll 1
                for (uint32_t piece = piece_of(j) + NORM_THREADS; piece < pieces; piece += NORM_THREADS) sum[j] = f(sum[j], read(hidden, piece * PIECE));
            }
#pragma unroll
        for (int j = 0; j < KEPT; ++j) {
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
#pragma unroll
        for (int j = 0; j < KEPT; ++j)
            if (keeps(j)) kept[j] = read(hidden, piece_of(j) * PIECE);
        Moments m = {0.0f, 1.0f};
        if (a.norm == NORM_LAYER) {
            m.mean = mean_of(total(scratch, [](float sum, const Piece& p) { return add_values(sum, p); }), cols);
            consumers_meet(warps);
        }
        if (a.norm != NORM_NONE)
            m.factor = rsqrtf(mean_of(total(scratch, [&](float sum, const Piece& p) { return add_squares(sum, p, m.mean, 0, PIECE); }), cols) + a.eps);
#pragma unroll
        for (int j = 0; j < KEPT; ++j) {
            if (!keeps(j)) continue;
            store(x, kept[j], weight[j], m, piece_of(j));
#pragma unroll 1
            for (uint32_t piece = piece_of(j) + NORM_THREADS; piece < pieces; piece += NORM_THREADS)
                store(x, read(hidden, piece * PIECE), a.norm != NORM_NONE ? load_whole(a.norm_weight, piece * PIECE) : Piece(), m, piece);
        }
        // Steps are whole: zeros past the row's end.
        if (threadIdx.x < steps_of(cols) * (STEP_COLS / PIECE) - pieces) *reinterpret_cast<uint4*>(x + (pieces + threadIdx.x) * 16) = make_uint4(0, 0, 0, 0);
        consumers_meet(warps);
    }
};

template <int UNROLL, uint32_t K>
__device__ __forceinline__ void multiply(Record<K> record, const uint8_t* slot, const uint8_t* x, int steps, int lane, float acc[4]) {
    record.open(slot, lane);
    const uint8_t* from = x + (lane & 3) * 32;
#pragma unroll UNROLL
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
