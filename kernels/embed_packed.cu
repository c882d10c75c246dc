// hidden = table[token] * scale (+ positions[position]) where the table lies in records, as the head's matrix does.
//
// A warp takes a record of the token's tile apart as the products do, and keeps the one row that it wants.
#include "common.cuh"
#include "product_dequant.cuh"
#include "raw_blocks.cuh"

struct EmbedPacked {
    const uint8_t* table;
    const int* token;          // as in embed.cu
    const int* slot;
    const int* position;
    const uint32_t* drawn;
    const uint8_t* positions;  // or null
    float* hidden;             // [n, width]
    uint64_t positions_row_bytes;
    int positions_type;
    uint32_t kind;
    uint32_t piece_bytes;
    uint32_t last_piece_bytes;
    uint32_t tile_bytes;
    uint32_t tiles;
    int width;
    float scale;
};

__device__ __forceinline__ float weight_at(uint32_t pair, int e) {
    __half2 h = as_half2(pair);
    return e ? __high2float(h) : __low2float(h);
}

// grid (records of the width, n), block 32
extern "C" __global__ void __launch_bounds__(32) embed_packed(const EmbedPacked p) {
    pdl_begin();
    int row = blockIdx.y, lane = threadIdx.x, g = lane >> 2, t = lane & 3;
    int slot = p.slot[row], token = p.token[row];
    if (token < 0 && slot >= 0) token = (int)p.drawn[slot];
    if (token < 0) token = 0;
    uint32_t piece = blockIdx.x * (4 / piece_steps(p.kind)), tile = token / TILE_ROWS;
    uint32_t bytes = piece + 1 == pieces_of(p.kind, p.width) ? p.last_piece_bytes : p.piece_bytes;
    const uint8_t* from = p.table + piece_at(p.tiles, tile, p.tile_bytes, piece, p.piece_bytes, bytes);
    int steps = min(4, steps_of(p.width) - 4 * (int)blockIdx.x), half = token / 8 % 2;
    float* hidden = p.hidden + (size_t)row * p.width;
    with_kind(p.kind, [&](auto record) {
        record.open(from, lane);
        if (p.kind == KIND_F16) record.stride = p.piece_bytes * block_tiles(p.tiles, tile);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            if (n >= steps) break;
            uint32_t a[4][4];
            record.step(n, a);
            if (g != token % 8) continue;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                int col = blockIdx.x * RECORD_COLS + n * STEP_COLS + 16 * t + i;
                uint32_t low = a[i / 4][i / 2 % 2 * 2], high = a[i / 4][i / 2 % 2 * 2 + 1];
                if (col < p.width) hidden[col] = weight_at(half ? high : low, i % 2) * p.scale;
            }
        }
    });
    if (!p.positions) return;
    __syncwarp();
    int k = blockIdx.x * RECORD_COLS + lane * 8;
    if (k >= p.width) return;
    float o[8];
    decode8_any(p.positions_type, p.positions + (size_t)p.position[row] * p.positions_row_bytes, k, o);
#pragma unroll
    for (int i = 0; i < 8; i++) hidden[k + i] += o[i];
}
