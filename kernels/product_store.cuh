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

// Where one matrix' results go, in registers: looked up once, for the sums come all at the end with little to hide a load behind.
struct Sink {
    const float* bias;
    void* out;
    uint32_t rows, stride, tiles;

    __device__ __forceinline__ Sink(const ProductMatrix& m, int expert)
        : bias(m.bias ? m.bias + (size_t)expert * m.rows : nullptr), out(m.out), rows(m.rows), stride(m.out_stride), tiles(m.tiles) {}

    __device__ __forceinline__ float bias_of(uint32_t row) const { return bias && row < rows ? bias[row] : 0.0f; }
};

__device__ __forceinline__ void put_f16(const ProductArgs& args, const Sink& sink, uint32_t row, int token, float value) {
    const __half h = __float2half_rn(value * args.store_scale);
    __half* out = (__half*)sink.out;
    if (args.store == STORE_RECORDS)
        out[x_record_at(token, row, sink.stride)] = h;
    else
        out[x_panel_at(token, row, sink.stride)] = h;
}

// Stores the value of `row` for the output's row `token`. Rows up to the tile's end come here too; f16 outputs get zeros up to a
// multiple of 64 columns, since the product that reads them reads whole steps.
__device__ __forceinline__ void put(const ProductArgs& args, const Sink& sink, uint32_t row, int token, float value) {
    if (args.store >= STORE_RECORDS) {
        put_f16(args, sink, row, token, row < sink.rows ? value : 0.0f);
        if (row / TILE_ROWS + 1 == sink.tiles)
            for (uint32_t pad = row + TILE_ROWS; pad < (sink.rows + 63) / 64 * 64; pad += TILE_ROWS) put_f16(args, sink, pad, token, 0.0f);
        return;
    }
    if (row >= sink.rows) return;
    float* out = (float*)sink.out + (size_t)token * sink.stride + row;
    // One addend for each element and launch: the order is no question, and nobody waits for the old value.
    if (args.store == STORE_ADD)
        atomicAdd(out, value);
    else
        *out = value;
}

// What becomes of one sum of a launch without a pair; `bias` is that of the row.
__device__ __forceinline__ float value_of(const ProductArgs& args, float sum, float bias) {
    const float value = fmaf(sum, args.out_scale, bias);
    return args.act == ACT_GELU_ALONE ? gelu(value) : value;
}

__device__ __forceinline__ void finish(const ProductArgs& args, const Sink& sink, uint32_t row, int token, float sum, float bias) {
    put(args, sink, row, token, value_of(args, sum, bias));
}

// Of the two sums of a pair.
__device__ __forceinline__ float value_of_pair(const ProductArgs& args, const float sum[2], const float bias[2]) {
    return activate(args, fmaf(sum[0], args.out_scale, bias[0]), fmaf(sum[1], args.out_scale, bias[1]));
}

__device__ __forceinline__ void finish_pair(const ProductArgs& args, const Sink& sink, uint32_t row, int token, const float sum[2], const float bias[2]) {
    put(args, sink, row, token, value_of_pair(args, sum, bias));
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
// Stores the values of the rows `row` .. `row` + 3, a multiple of four, of a tile that is not its matrix' last: what put() does for
// each, in fewer and wider stores. `stride` of an f32 output has to be a multiple of four.
__device__ __forceinline__ void put_four(const ProductArgs& args, const Sink& sink, uint32_t row, int token, const float (&v)[4]) {
    if (args.store >= STORE_RECORDS) {
        __half2 pairs[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) pairs[i] = __floats2half2_rn(v[2 * i] * args.store_scale, v[2 * i + 1] * args.store_scale);
        __half* out = (__half*)sink.out;
#pragma unroll
        for (int i = 0; i < 2; ++i)
            *reinterpret_cast<__half2*>(out + (args.store == STORE_RECORDS ? x_record_at(token, row + 2 * i, sink.stride) : x_panel_at(token, row + 2 * i, sink.stride))) = pairs[i];
        return;
    }
    float* out = (float*)sink.out + (size_t)token * sink.stride + row;
    if (args.store == STORE_ADD)
        asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(out), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]) : "memory");
    else
        *reinterpret_cast<float4*>(out) = make_float4(v[0], v[1], v[2], v[3]);
}
#endif

// The matrix that a unit belongs to.
__device__ __forceinline__ int matrix_of(const ProductArgs& args, uint32_t unit) {
    return args.matrices > 2 && unit >= args.matrix[2].first_unit ? 2 : args.matrices > 1 && unit >= args.matrix[1].first_unit ? 1 : 0;
}
