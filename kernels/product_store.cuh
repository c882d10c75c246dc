// What becomes of a finished sum: bias, activation, and where it goes.
#pragma once
#include "product_layout.cuh"

__device__ __forceinline__ float gelu(float x) {
    const float inner = 0.7978845608f * (x + 0.044715f * x * x * x);
    return 0.5f * x * (1.0f + tanhf(inner));
}

__device__ __forceinline__ float activate(const ProductArgs& args, float gate, float up) {
    switch (args.act) {
        case ACT_SILU: return gate / (1.0f + __expf(-gate)) * up;
        case ACT_GELU: return gelu(gate) * up;
        case ACT_CLAMPED: {
            const float g = fminf(gate, args.limit), u = fminf(fmaxf(up, -args.limit), args.limit);
            return g / (1.0f + __expf(-args.alpha * g)) * (u + 1.0f);
        }
    }
    return up;
}

// The sum scaled back, with its bias. A row that the matrix lacks is 0.
__device__ __forceinline__ float with_bias(const ProductArgs& args, const ProductMatrix& m, int expert, uint32_t row, float sum) {
    if (row >= m.rows) return 0.0f;
    const float bias = m.bias ? m.bias[(size_t)expert * m.rows + row] : 0.0f;
    return fmaf(sum, args.out_scale, bias);
}

__device__ __forceinline__ void put_f16(const ProductArgs& args, const ProductMatrix& m, uint32_t row, int token, float value) {
    const __half h = __float2half_rn(value * args.store_scale);
    __half* out = (__half*)m.out;
    if (args.store == STORE_RECORDS)
        out[x_record_at(token, row, m.out_stride)] = h;
    else
        out[x_panel_at(token, row, m.out_stride)] = h;
}

// Stores the value of `row` for the output's row `token`. Rows up to the tile's end come here too; f16 outputs get zeros up to a
// multiple of 64 columns, since the product that reads them reads whole steps.
__device__ __forceinline__ void put(const ProductArgs& args, const ProductMatrix& m, uint32_t row, int token, float value) {
    if (args.store >= STORE_RECORDS) {
        put_f16(args, m, row, token, value);
        const uint32_t end = (m.rows + 63) / 64 * 64;
        if (row / TILE_ROWS + 1 == m.tiles)
            for (uint32_t pad = row + TILE_ROWS; pad < end; pad += TILE_ROWS) put_f16(args, m, pad, token, 0.0f);
        return;
    }
    if (row >= m.rows) return;
    float* out = (float*)m.out + (size_t)token * m.out_stride + row;
    *out = args.store == STORE_ADD ? *out + value : value;
}

// One sum of a launch without a pair.
__device__ __forceinline__ void finish(const ProductArgs& args, const ProductMatrix& m, int expert, uint32_t row, int token, float sum) {
    float value = with_bias(args, m, expert, row, sum);
    if (args.act == ACT_GELU_ALONE) value = gelu(value);
    put(args, m, row, token, value);
}

// The two sums of a pair; the output is that of gate.
__device__ __forceinline__ void finish_pair(const ProductArgs& args, int expert, uint32_t row, int token, float gate, float up) {
    const float g = with_bias(args, args.matrix[0], expert, row, gate);
    const float u = with_bias(args, args.matrix[1], expert, row, up);
    put(args, args.matrix[0], row, token, row < args.matrix[0].rows ? activate(args, g, u) : 0.0f);
}

// The matrix that a unit belongs to.
__device__ __forceinline__ int matrix_of(const ProductArgs& args, uint32_t unit) {
    return args.matrices > 2 && unit >= args.matrix[2].first_unit ? 2 : args.matrices > 1 && unit >= args.matrix[1].first_unit ? 1 : 0;
}
