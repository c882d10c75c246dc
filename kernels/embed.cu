// hidden = table[token] * scale (+ positions[position]), the token being one that the host knows or that the last step drew.
#include "common.cuh"
#include "raw_blocks.cuh"

struct Embed {
    const uint8_t* table;
    const uint8_t* positions;  // or null
    const int* token;          // [n]; below 0: the one drawn for the row's slot
    const int* slot;           // [n]; below 0: a row that is not there
    const int* position;       // [n]
    const uint32_t* drawn;     // [slots]
    float* hidden;             // [n, width]
    uint64_t table_row_bytes;
    uint64_t positions_row_bytes;
    int table_type;
    int positions_type;
    int width;
    float scale;
};

// grid (ceil(width / 2048), n), block 256
extern "C" __global__ void __launch_bounds__(256) embed(const Embed p) {
    pdl_begin();
    int row = blockIdx.y, k = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (k >= p.width) return;
    int slot = p.slot[row], token = p.token[row];
    if (token < 0 && slot >= 0) token = (int)p.drawn[slot];
    if (token < 0) token = 0;
    float w[8];
    decode8_any(p.table_type, p.table + (size_t)token * p.table_row_bytes, k, w);
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] *= p.scale;
    if (p.positions) {
        float o[8];
        decode8_any(p.positions_type, p.positions + (size_t)p.position[row] * p.positions_row_bytes, k, o);
#pragma unroll
        for (int i = 0; i < 8; i++) w[i] += o[i];
    }
    float4* to = (float4*)(p.hidden + (size_t)row * p.width + k);
    to[0] = make_float4(w[0], w[1], w[2], w[3]);
    to[1] = make_float4(w[4], w[5], w[6], w[7]);
}
