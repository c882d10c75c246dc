// Records to A fragments: the weights of one step of 64 columns as f16, in registers.
//
// Integers become f16 by putting their bits under the mantissa of 1024 and subtracting 1024, exactly; then one multiplication
// or fused multiply-add by the scale, rounded to f16 once. Every kernel takes weights from here, so they are the same bits
// everywhere.
//
// Register j of fragment ks holds row g + 8 (j & 1), columns 16 t + 4 ks + 2 (j / 2) + {0, 1}.
#pragma once
#include "product_layout.cuh"

__device__ __forceinline__ __half2 as_half2(uint32_t x) { return *reinterpret_cast<__half2*>(&x); }
__device__ __forceinline__ uint32_t as_bits(__half2 x) { return *reinterpret_cast<uint32_t*>(&x); }
__device__ __forceinline__ __half2 pair_of(uint32_t bits16) { return as_half2(bits16 | bits16 << 16); }

constexpr uint32_t MAGIC = 0x64006400u;  // 1024 twice

// (x & MASK) | MAGIC; written out, or the compiler makes two instructions of it.
template <uint32_t MASK>
__device__ __forceinline__ uint32_t under_magic(uint32_t x) {
    uint32_t y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "n"(MASK), "n"(MAGIC));
    return y;
}

// (1024 + u) - bias, u in the low bits of each half
__device__ __forceinline__ __half2 low_int(uint32_t bits, uint32_t bias) { return __hsub2_rn(as_half2(bits), pair_of(0x6400u + bias)); }

// (1024 + 16 u) / 16 - 64 - bias; bias16 is the f16 of -(64 + bias)
__device__ __forceinline__ __half2 high_int(uint32_t bits, uint32_t minus) { return __hfma2(as_half2(bits), pair_of(0x2c00u), pair_of(minus)); }

__device__ __forceinline__ uint32_t shift(uint32_t x, int right) { return right >= 0 ? x >> right : x << -right; }

// The two words of table bytes + 128 for the eight nibbles of w.
__device__ __forceinline__ uint2 look_up_iq4(uint32_t w) {
    // -127 -104 -83 -65 | -49 -35 -22 -10 | 1 13 25 38 | 53 69 89 113, plus 128
    constexpr uint32_t T0 = 0x3f2d1801u, T1 = 0x766a5d4fu, T2 = 0xa6998d81u, T3 = 0xf1d9c5b5u;
    const uint32_t index = w & 0x77777777u;
    const uint32_t pick = 0x32103210u | ((w & 0x88888888u) >> 1);
    const uint32_t lo0 = __byte_perm(T0, T1, index), hi0 = __byte_perm(T2, T3, index);
    const uint32_t lo1 = __byte_perm(T0, T1, index >> 16), hi1 = __byte_perm(T2, T3, index >> 16);
    return make_uint2(__byte_perm(lo0, hi0, pick), __byte_perm(lo1, hi1, pick >> 16));
}

// One record as one lane sees it; memory may be shared or global. A step reads what it needs of scales and high bits, so that a
// loop over steps need not be unrolled: the kernels are long, and instructions that are not in the cache cost more than loads.
template <uint32_t K>
struct Record {
    static constexpr uint32_t KIND = K;
    static constexpr Planes P = planes(K);
    const uint8_t* base;
    const uint8_t* low_bits;  // of step 0; a kernel that keeps steps elsewhere moves it
    uint32_t stride = P.step; // from step to step
    int lane;
    uint32_t d[2];
    uint32_t high;            // one high bit of each of a step's weights

    __device__ __forceinline__ static void load16(uint32_t* to, const uint8_t* from) {
        const uint4 v = *reinterpret_cast<const uint4*>(from);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }

    __device__ __forceinline__ static void load8(uint32_t* to, const uint8_t* from) {
        const uint2 v = *reinterpret_cast<const uint2*>(from);
        to[0] = v.x, to[1] = v.y;
    }

    __device__ __forceinline__ static uint32_t load4(const uint8_t* from) { return *reinterpret_cast<const uint32_t*>(from); }
    __device__ __forceinline__ static uint32_t load2(const uint8_t* from) { return *reinterpret_cast<const uint16_t*>(from); }

    __device__ __forceinline__ void open(const uint8_t* record, int of_lane) {
        base = record, low_bits = record + P.steps_at(), lane = of_lane;
        if constexpr (P.d == 64) load8(d, base + P.d_at() + (lane >> 2) * 8);
        if constexpr (P.d == 32) d[0] = load4(base + P.d_at() + (lane >> 2) * 4);
    }

    // What says the scales of step n.
    __device__ __forceinline__ void load_scales(int n, uint32_t s[2]) const {
        const int block = (lane >> 2) * 2 + ((lane & 3) >> 1);
        if constexpr (K == KIND_Q4_1 || K == KIND_Q5_1)
            load8(s, base + block * 32 + n * 8);
        else if constexpr (K == KIND_Q2_K || K == KIND_Q3_K || K == KIND_Q6_K)
            s[0] = load2(base + lane * 8 + n * 2);
        else if constexpr (K == KIND_MXFP4)
            s[0] = load2(base + block * 8 + n * 2);
        else if constexpr (K != KIND_F16)
            s[0] = load4(base + block * 16 + n * 4);
    }

    // Scale and offset of rows g and g + 8: weight = q * scale[r] - minus[r].
    __device__ __forceinline__ void scales(const uint32_t s[2], __half2 scale[2], __half2 minus[2]) const {
        if constexpr (K == KIND_Q4_1 || K == KIND_Q5_1) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                scale[r] = __low2half2(as_half2(s[r]));
                minus[r] = __high2half2(as_half2(s[r] ^ 0x80000000u));
            }
        } else if constexpr (K == KIND_Q4_K || K == KIND_Q5_K) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const __half2 sm = low_int(__byte_perm(s[0], 0x64646464u, r ? 0x4342 : 0x4140), 0);
                const __half2 dm = __hmul2_rn(sm, as_half2(d[r]));
                scale[r] = __low2half2(dm), minus[r] = __high2half2(dm);
            }
        } else if constexpr (K == KIND_Q2_K) {
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const uint32_t both = __byte_perm(s[0], 0, r ? 0x4141 : 0x4040);
                const __half2 sm = __hfma2(as_half2(under_magic<0x00f0000fu>(both)), as_half2(0x2c003c00u), as_half2(0xd400e400u));
                const __half2 dm = __hmul2_rn(sm, as_half2(d[r]));
                scale[r] = __low2half2(dm), minus[r] = __high2half2(dm);
            }
        } else if constexpr (K == KIND_Q3_K || K == KIND_Q6_K) {
            const __half2 sc = low_int(__byte_perm(s[0], 0x64646464u, 0x4140), 128);
            const __half2 ds = __hmul2_rn(sc, as_half2(d[0]));
            scale[0] = __low2half2(ds), scale[1] = __high2half2(ds);
        } else if constexpr (K == KIND_MXFP4) {
            const uint32_t e = __byte_perm(s[0], 0, 0x1404) << 2;
            scale[0] = __low2half2(as_half2(e)), scale[1] = __high2half2(as_half2(e));
        } else if constexpr (K != KIND_F16) {
            scale[0] = __low2half2(as_half2(s[0])), scale[1] = __high2half2(as_half2(s[0]));
        }
    }

    // The integers of fragment ks of a step, without scale.
    __device__ __forceinline__ void integers(int ks, const uint32_t* low, const uint32_t* high2, __half2 q[4]) const {
        if constexpr (K == KIND_Q8_0) {
#pragma unroll
            for (int j = 0; j < 4; ++j)
                q[j] = low_int(__byte_perm(low[2 * ks + (j >> 1)], 0x64646464u, (j & 1) ? 0x4342 : 0x4140), 128);
        } else if constexpr (K == KIND_IQ4) {
            const uint2 v = look_up_iq4(low[ks]);
#pragma unroll
            for (int j = 0; j < 4; ++j) q[j] = low_int(__byte_perm(j < 2 ? v.x : v.y, 0x64646464u, (j & 1) ? 0x4342 : 0x4140), 128);
        } else if constexpr (K == KIND_MXFP4) {
            const uint32_t w = low[ks];
            q[0] = as_half2(w & 0x8e008e00u);
            q[1] = as_half2((w << 3) & 0x8e008e00u);
            q[2] = as_half2(((w << 1) & 0x80008000u) | ((w << 6) & 0x0e000e00u));
            q[3] = as_half2(((w << 2) & 0x80008000u) | ((w << 9) & 0x0e000e00u));
        } else if constexpr (K == KIND_Q2_K || K == KIND_Q3_K) {
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int r = (ks & 1) * 4 + j;
                uint32_t bits = under_magic<0x00030003u>(shift(high2[ks >> 1], 2 * r));
                if constexpr (K == KIND_Q3_K) bits |= shift(high, ks * 4 + j - 2) & 0x00040004u;
                q[j] = low_int(bits, K == KIND_Q3_K ? 4 : 0);
            }
        } else {  // nibbles, with up to two high bits: even registers at bit 0, odd ones at bit 4
            constexpr int HIGH = K == KIND_Q6_K ? 2 : P.high1 != 0 ? 1 : 0;
            constexpr uint32_t BIAS = K == KIND_Q4_0 ? 8 : K == KIND_Q5_0 ? 16 : K == KIND_Q6_K ? 32 : 0;
            constexpr uint32_t MINUS = K == KIND_Q4_0 ? 0xd480u : K == KIND_Q5_0 ? 0xd500u : K == KIND_Q6_K ? 0xd600u : 0xd400u;
            const uint32_t w[2] = {low[ks], low[ks] >> 8};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int at = (j & 1) * 4;
                uint32_t bits = (j & 1) ? under_magic<0x00f000f0u>(w[j >> 1]) : under_magic<0x000f000fu>(w[j >> 1]);
                if constexpr (HIGH == 1) bits |= shift(high, ks * 4 + j - 4 - at) & (0x00100010u << at);
                if constexpr (HIGH == 2) bits |= shift(high2[ks >> 1], 2 * ((ks & 1) * 4 + j) - 4 - at) & (0x00300030u << at);
                q[j] = (j & 1) ? high_int(bits, MINUS) : low_int(bits, BIAS);
            }
        }
    }

    // What a lane takes from memory for a step, besides `d`: read ahead, so that nobody waits for it. Of F16, which needs no
    // unpacking, nothing.
    struct Raw {
        uint32_t low[8], high2[2], s[2];
    };

    __device__ __forceinline__ void fetch(int n, Raw& raw) {
        if constexpr (K == KIND_F16) return;
        if constexpr (P.step != 0) load16(raw.low, low_bits + n * P.step + lane * 16);
        if constexpr (P.step == 1024) load16(raw.low + 4, low_bits + n * P.step + 512 + lane * 16);
        if constexpr (P.high2 != 0) load8(raw.high2, base + P.high2_at() + (n >> 1) * 512 + lane * 16 + (n & 1) * 8);
        if constexpr (P.high1 != 0) high = load4(base + P.high1_at() + lane * 16 + n * 4);
        load_scales(n, raw.s);
    }

    // COUNT fragments from FROM on of the step that was fetched, which was step n.
    template <int FROM, int COUNT>
    __device__ __forceinline__ void unpack(int n, const Raw& raw, uint32_t (*a)[4]) {
        if constexpr (K == KIND_F16)
            fragments<FROM, COUNT>(n, a);
        else
            convert<FROM, COUNT>(raw.s, raw.low, raw.high2, a);
    }

    // COUNT fragments of step n from FROM on.
    template <int FROM, int COUNT>
    __device__ __forceinline__ void fragments(int n, uint32_t (*a)[4]) {
        if constexpr (K == KIND_F16) {
#pragma unroll
            for (int ks = FROM; ks < FROM + COUNT; ++ks) load16(a[ks - FROM], low_bits + n * stride + ks * 512 + lane * 16);
        } else {
            uint32_t low[8], high2[2];
            if constexpr (P.step != 0 && (P.step == 512 || FROM < 2)) load16(low, low_bits + n * P.step + lane * 16);
            if constexpr (P.step == 1024 && FROM + COUNT > 2) load16(low + 4, low_bits + n * P.step + 512 + lane * 16);
            if constexpr (P.high2 != 0) load8(high2, base + P.high2_at() + (n >> 1) * 512 + lane * 16 + (n & 1) * 8);
            if constexpr (P.high1 != 0) high = load4(base + P.high1_at() + lane * 16 + n * 4);
            uint32_t s[2];
            load_scales(n, s);
            convert<FROM, COUNT>(s, low, high2, a);
        }
    }

    // Those fragments, from what a step takes from memory; `d` and `high` as well.
    template <int FROM, int COUNT>
    __device__ __forceinline__ void convert(const uint32_t* s, const uint32_t* low, const uint32_t* high2, uint32_t (*a)[4]) const {
        if constexpr (K != KIND_F16) {
            __half2 scale[2], minus[2];
            scales(s, scale, minus);
            constexpr bool AFFINE = K == KIND_Q4_1 || K == KIND_Q5_1 || K == KIND_Q4_K || K == KIND_Q5_K || K == KIND_Q2_K;
#pragma unroll
            for (int ks = FROM; ks < FROM + COUNT; ++ks) {
                __half2 q[4];
                integers(ks, low, high2, q);
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    if constexpr (AFFINE)
                        a[ks - FROM][j] = as_bits(__hfma2(q[j], scale[j & 1], __hneg2(minus[j & 1])));
                    else
                        a[ks - FROM][j] = as_bits(__hmul2_rn(q[j], scale[j & 1]));
                }
            }
        }
    }

    __device__ __forceinline__ void step(int n, uint32_t a[4][4]) { fragments<0, 4>(n, a); }
};

// Calls f with a Record of the kind; false for a number that is no kind.
template <class F>
__device__ __forceinline__ bool with_kind(uint32_t kind, F&& f) {
    switch (kind) {
        case KIND_F16: f(Record<KIND_F16>()); return true;
        case KIND_Q4_0: f(Record<KIND_Q4_0>()); return true;
        case KIND_Q4_1: f(Record<KIND_Q4_1>()); return true;
        case KIND_Q5_0: f(Record<KIND_Q5_0>()); return true;
        case KIND_Q5_1: f(Record<KIND_Q5_1>()); return true;
        case KIND_Q8_0: f(Record<KIND_Q8_0>()); return true;
        case KIND_Q2_K: f(Record<KIND_Q2_K>()); return true;
        case KIND_Q3_K: f(Record<KIND_Q3_K>()); return true;
        case KIND_Q4_K: f(Record<KIND_Q4_K>()); return true;
        case KIND_Q5_K: f(Record<KIND_Q5_K>()); return true;
        case KIND_Q6_K: f(Record<KIND_Q6_K>()); return true;
        case KIND_IQ4: f(Record<KIND_IQ4>()); return true;
        case KIND_MXFP4: f(Record<KIND_MXFP4>()); return true;
    }
    return false;
}
