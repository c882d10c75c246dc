// What the kernels of few rows share (product_rows.cu, product_panels.cu): a block is made of teams of warps, a team takes a unit and each of
// its warps a part of the columns; one more warp fills the rings of all, and some store sums.
#pragma once
#include <type_traits>

#include "product_async.cuh"
#include "product_dequant.cuh"
#include "product_store.cuh"

namespace {

constexpr int WARPS = 16;  // that multiply
constexpr int MAX_STAGES = 16;
constexpr int STORERS = 4;
constexpr int HELPERS = 1 + STORERS;

// A warp's way through the pieces of its block's units. With a pair, gate's pieces and then up's.
template <bool PAIR>
struct Cursor {
    const ProductArgs& args;
    int first, last, steps;   // records of the warp, steps of a row
    uint32_t unit, units_on;  // the next unit is so many on
    int half, piece, end;
    const uint8_t* from;
    uint32_t stride, cut;  // cut: what the last piece is shorter by, if it is this warp's
    uint32_t bytes;

    __device__ bool there() const { return unit < args.units && first < last; }

    __device__ void enter() {
        if (!there()) return;
        const ProductMatrix& m = args.matrix[PAIR ? half : matrix_of(args, unit)];
        const uint32_t tile = PAIR ? unit : unit - m.first_unit;
        const bool f16 = m.kind == KIND_F16;
        piece = f16 ? 4 * first : first, end = f16 ? min(4 * last, steps) : last;
        stride = block_tiles(m.tiles, tile) * m.piece_bytes;
        from = m.weights + piece_at(m.tiles, tile, m.tile_bytes, piece, m.piece_bytes, m.piece_bytes);
        bytes = m.piece_bytes, cut = !f16 && last == (steps + 3) / 4 ? m.piece_bytes - m.last_piece_bytes : 0;
        if (piece + 1 == end) to_last(tile);
    }

    // The last piece may be shorter, and so begin earlier.
    __device__ void to_last(uint32_t tile) { from -= tile % BLOCK_TILES * cut, bytes -= cut; }

    __device__ void next() {
        if (++piece < end) {
            from += stride;
            if (cut && piece + 1 == end) to_last(PAIR ? unit : unit - args.matrix[matrix_of(args, unit)].first_unit);
            return;
        }
        if (PAIR && half == 0)
            half = 1;
        else
            half = 0, unit += units_on;
        enter();
    }
};

// What a block is made of.
struct Block {
    int parts, teams, warps;

    __device__ __forceinline__ Block(const ProductArgs& args) {
        parts = min(records_of(args.cols), CHUNKS), warps = blockDim.x / 32 - HELPERS, teams = warps / parts;
    }
};

}  // namespace
