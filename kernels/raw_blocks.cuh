// Weights in the layout of the file: eight at a time, dequantised to float.
//
// The portable twin of src/quant: one function for each type, the same arithmetic. k is a multiple of 8, so the eight share
// a half of a block of 32 and a scale of a block of 256; rows of plain numbers are whole multiples of 8, and so aligned.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

enum Type { F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4 };

__device__ __forceinline__ float half_at(const uint8_t* p) {
    return __half2float(__ushort_as_half((unsigned short)(p[0] | p[1] << 8)));
}

__device__ __forceinline__ uint32_t u32_at(const uint8_t* p) {
    return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

__device__ __forceinline__ int iq4_value(int q) {
    constexpr uint64_t low = 0xf6eaddcfbfad9881ull, high = 0x7159453526190d01ull;
    return (int8_t)((q < 8 ? low : high) >> (8 * (q & 7)));
}

// Twice the value of an E2M1 number.
__device__ __forceinline__ int fp4_value(int q) {
    constexpr uint64_t table = 0x0c08060403020100ull;
    int v = (int)(table >> (8 * (q & 7)) & 0xff);
    return q & 8 ? -v : v;
}

// Half of 2^(e - 127).
__device__ __forceinline__ float half_power(int e) {
    return __uint_as_float(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
}

// Scale and minimum of sub-block s of a Q4_K or Q5_K block.
__device__ __forceinline__ void k_scale(const uint8_t* s, int i, int& scale, int& minimum) {
    if (i < 4) {
        scale = s[i] & 63;
        minimum = s[i + 4] & 63;
    } else {
        scale = (s[i + 4] & 15) | s[i - 4] >> 6 << 4;
        minimum = s[i + 4] >> 4 | s[i] >> 6 << 4;
    }
}

// w = weights k .. k + 8 of the row.
template <int T>
__device__ __forceinline__ void decode8(const uint8_t* row, int k, float w[8]);

template <>
__device__ __forceinline__ void decode8<F32>(const uint8_t* row, int k, float w[8]) {
    const float4* p = (const float4*)((const float*)row + k);
    float4 a = p[0], b = p[1];
    w[0] = a.x, w[1] = a.y, w[2] = a.z, w[3] = a.w, w[4] = b.x, w[5] = b.y, w[6] = b.z, w[7] = b.w;
}

template <>
__device__ __forceinline__ void decode8<F16>(const uint8_t* row, int k, float w[8]) {
    uint4 raw = *(const uint4*)((const __half*)row + k);
    const __half* p = (const __half*)&raw;
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = __half2float(p[i]);
}

template <>
__device__ __forceinline__ void decode8<BF16>(const uint8_t* row, int k, float w[8]) {
    uint4 raw = *(const uint4*)((const __nv_bfloat16*)row + k);
    const __nv_bfloat16* p = (const __nv_bfloat16*)&raw;
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = __bfloat162float(p[i]);
}

template <>
__device__ __forceinline__ void decode8<Q4_0>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 32 * 18;
    float d = half_at(b);
    int shift = k % 32 / 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = d * (float)((b[2 + k % 16 + i] >> shift & 15) - 8);
}

template <>
__device__ __forceinline__ void decode8<Q4_1>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 32 * 20;
    float d = half_at(b), m = half_at(b + 2);
    int shift = k % 32 / 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = fmaf(d, (float)(b[4 + k % 16 + i] >> shift & 15), m);
}

template <>
__device__ __forceinline__ void decode8<Q5_0>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 32 * 22;
    float d = half_at(b);
    uint32_t high = u32_at(b + 2) >> (k % 32);
    int shift = k % 32 / 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int q = (b[6 + k % 16 + i] >> shift & 15) | (int)(high >> i & 1) << 4;
        w[i] = d * (float)(q - 16);
    }
}

template <>
__device__ __forceinline__ void decode8<Q5_1>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 32 * 24;
    float d = half_at(b), m = half_at(b + 2);
    uint32_t high = u32_at(b + 4) >> (k % 32);
    int shift = k % 32 / 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int q = (b[8 + k % 16 + i] >> shift & 15) | (int)(high >> i & 1) << 4;
        w[i] = fmaf(d, (float)q, m);
    }
}

template <>
__device__ __forceinline__ void decode8<Q8_0>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 32 * 34;
    float d = half_at(b);
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = d * (float)(int8_t)b[2 + k % 32 + i];
}

template <>
__device__ __forceinline__ void decode8<Q2_K>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 256 * 84;
    int in = k % 256, shift = in % 128 / 32 * 2, sc = b[in / 16];
    float d = half_at(b + 80) * (float)(sc & 15), m = half_at(b + 82) * (float)(sc >> 4);
    const uint8_t* q = b + 16 + in / 128 * 32 + in % 32;
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = fmaf(d, (float)(q[i] >> shift & 3), -m);
}

template <>
__device__ __forceinline__ void decode8<Q3_K>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 256 * 110;
    int in = k % 256, part = in / 32, shift = in % 128 / 32 * 2, s = in / 16;
    const uint8_t* sc = b + 96;
    int low = s < 8 ? sc[s] & 15 : sc[s - 8] >> 4;
    int scale = (low | (sc[8 + s % 4] >> (2 * (s / 4)) & 3) << 4) - 32;
    float d = half_at(b + 108) * (float)scale;
    const uint8_t *q = b + 32 + in / 128 * 32 + in % 32, *high = b + in % 32;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int v = (q[i] >> shift & 3) - (high[i] >> part & 1 ? 0 : 4);
        w[i] = d * (float)v;
    }
}

template <>
__device__ __forceinline__ void decode8<Q4_K>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 256 * 144;
    int in = k % 256, scale, minimum;
    k_scale(b + 4, in / 32, scale, minimum);
    float d = half_at(b) * (float)scale, m = half_at(b + 2) * (float)minimum;
    const uint8_t* q = b + 16 + in / 64 * 32 + in % 32;
    int shift = in % 64 / 32 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = fmaf(d, (float)(q[i] >> shift & 15), -m);
}

template <>
__device__ __forceinline__ void decode8<Q5_K>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 256 * 176;
    int in = k % 256, scale, minimum;
    k_scale(b + 4, in / 32, scale, minimum);
    float d = half_at(b) * (float)scale, m = half_at(b + 2) * (float)minimum;
    const uint8_t *q = b + 48 + in / 64 * 32 + in % 32, *high = b + 16 + in % 32;
    int shift = in % 64 / 32 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int v = (q[i] >> shift & 15) | (high[i] >> (in / 32) & 1) << 4;
        w[i] = fmaf(d, (float)v, -m);
    }
}

template <>
__device__ __forceinline__ void decode8<Q6_K>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 256 * 210;
    int in = k % 256, half = in / 128, quarter = in % 128 / 32, l = in % 32;
    const uint8_t *low = b + half * 64 + quarter % 2 * 32 + l, *high = b + 128 + half * 32 + l;
    float d = half_at(b + 208) * (float)(int8_t)b[192 + in / 16];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int v = (low[i] >> (quarter / 2 * 4) & 15) | (high[i] >> (2 * quarter) & 3) << 4;
        w[i] = d * (float)(v - 32);
    }
}

template <>
__device__ __forceinline__ void decode8<IQ4_NL>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 32 * 18;
    float d = half_at(b);
    int shift = k % 32 / 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = d * (float)iq4_value(b[2 + k % 16 + i] >> shift & 15);
}

template <>
__device__ __forceinline__ void decode8<IQ4_XS>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 256 * 136;
    int sub = k % 256 / 32;
    int scale = (b[4 + sub / 2] >> (sub % 2 * 4) & 15) | ((b[2] | b[3] << 8) >> (2 * sub) & 3) << 4;
    float d = half_at(b) * (float)(scale - 32);
    int shift = k % 32 / 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = d * (float)iq4_value(b[8 + sub * 16 + k % 16 + i] >> shift & 15);
}

template <>
__device__ __forceinline__ void decode8<MXFP4>(const uint8_t* row, int k, float w[8]) {
    const uint8_t* b = row + k / 32 * 17;
    float d = half_power(b[0]);
    int shift = k % 32 / 16 * 4;
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = d * (float)fp4_value(b[1 + k % 16 + i] >> shift & 15);
}

// The same, by a type known only at run time.
__device__ inline void decode8_any(int type, const uint8_t* row, int k, float w[8]) {
    switch (type) {
        case F32: return decode8<F32>(row, k, w);
        case F16: return decode8<F16>(row, k, w);
        case BF16: return decode8<BF16>(row, k, w);
        case Q4_0: return decode8<Q4_0>(row, k, w);
        case Q4_1: return decode8<Q4_1>(row, k, w);
        case Q5_0: return decode8<Q5_0>(row, k, w);
        case Q5_1: return decode8<Q5_1>(row, k, w);
        case Q8_0: return decode8<Q8_0>(row, k, w);
        case Q2_K: return decode8<Q2_K>(row, k, w);
        case Q3_K: return decode8<Q3_K>(row, k, w);
        case Q4_K: return decode8<Q4_K>(row, k, w);
        case Q5_K: return decode8<Q5_K>(row, k, w);
        case Q6_K: return decode8<Q6_K>(row, k, w);
        case IQ4_NL: return decode8<IQ4_NL>(row, k, w);
        case IQ4_XS: return decode8<IQ4_XS>(row, k, w);
        default: return decode8<MXFP4>(row, k, w);
    }
}
