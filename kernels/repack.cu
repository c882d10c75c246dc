// GGUF rows to the records of product_layout.cuh.
//
//   repack      launch: block 128; grid ceil(records / 4), records = tiles_of(rows) * records_of(cols); no shared memory.
//               One warp makes one record. `rows` may be a slab of the matrix: source and target then point to the slab's
//               first row and tile, and every slab but the last has a multiple of 128 rows.
//
// Bytes are read one by one: blocks have odd sizes, and the kernel runs once per load, far below the copy's time.
#include "product_layout.cuh"

struct RepackArgs {
    const uint8_t* source;
    uint8_t* target;
    unsigned long long row_bytes;  // of the source
    uint32_t type;                 // number in GGUF
    uint32_t rows, cols;
};

namespace {

__device__ __forceinline__ uint32_t u16_at(const uint8_t* p) { return p[0] | (uint32_t)p[1] << 8; }
__device__ __forceinline__ uint32_t nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

// The 6-bit scale and minimum j of Q4_K and Q5_K.
__device__ __forceinline__ uint32_t k_scale(const uint8_t* s, int j) { return j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4; }
__device__ __forceinline__ uint32_t k_min(const uint8_t* s, int j) { return j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4; }

// A block of each type: COLS weights in BYTES; `code` is the integer of weight i as the records keep it, `scale` the f16 bits (or
// byte) of the scale of block j, `offset` of its minimum, `d` the superblock's.
template <uint32_t TYPE>
struct Block;

struct Plain {
    __device__ static uint32_t offset(const uint8_t*, int) { return 0; }
    __device__ static uint32_t d(const uint8_t*) { return 0; }
};

template <>
struct Block<1> : Plain {  // F16
    static constexpr int COLS = 1, BYTES = 2, KIND = KIND_F16;
    __device__ static uint32_t code(const uint8_t* p, int) { return u16_at(p); }
};
template <>
struct Block<30> : Plain {  // BF16
    static constexpr int COLS = 1, BYTES = 2, KIND = KIND_F16;
    __device__ static uint32_t code(const uint8_t* p, int) { return __half_as_ushort(__float2half_rn(__uint_as_float(u16_at(p) << 16))); }
};
template <>
struct Block<2> : Plain {  // Q4_0
    static constexpr int COLS = 32, BYTES = 18, KIND = KIND_Q4_0;
    __device__ static uint32_t code(const uint8_t* p, int i) { return nibble(p + 2, i); }
    __device__ static uint32_t scale(const uint8_t* p, int) { return u16_at(p); }
};
template <>
struct Block<20> : Block<2> {  // IQ4_NL
    static constexpr int KIND = KIND_IQ4;
};
template <>
struct Block<3> : Plain {  // Q4_1
    static constexpr int COLS = 32, BYTES = 20, KIND = KIND_Q4_1;
    __device__ static uint32_t code(const uint8_t* p, int i) { return nibble(p + 4, i); }
    __device__ static uint32_t scale(const uint8_t* p, int) { return u16_at(p); }
    __device__ static uint32_t offset(const uint8_t* p, int) { return u16_at(p + 2); }
};
template <>
struct Block<6> : Plain {  // Q5_0
    static constexpr int COLS = 32, BYTES = 22, KIND = KIND_Q5_0;
    __device__ static uint32_t code(const uint8_t* p, int i) { return nibble(p + 6, i) | ((p[2 + i / 8] >> i % 8) & 1) << 4; }
    __device__ static uint32_t scale(const uint8_t* p, int) { return u16_at(p); }
};
template <>
struct Block<7> : Plain {  // Q5_1
    static constexpr int COLS = 32, BYTES = 24, KIND = KIND_Q5_1;
    __device__ static uint32_t code(const uint8_t* p, int i) { return nibble(p + 8, i) | ((p[4 + i / 8] >> i % 8) & 1) << 4; }
    __device__ static uint32_t scale(const uint8_t* p, int) { return u16_at(p); }
    __device__ static uint32_t offset(const uint8_t* p, int) { return u16_at(p + 2); }
};
template <>
struct Block<8> : Plain {  // Q8_0
    static constexpr int COLS = 32, BYTES = 34, KIND = KIND_Q8_0;
    __device__ static uint32_t code(const uint8_t* p, int i) { return p[2 + i] ^ 0x80; }
    __device__ static uint32_t scale(const uint8_t* p, int) { return u16_at(p); }
};
template <>
struct Block<39> : Plain {  // MXFP4: the scale becomes the exponent field of an f16, 14 up
    static constexpr int COLS = 32, BYTES = 17, KIND = KIND_MXFP4;
    __device__ static uint32_t code(const uint8_t* p, int i) { return nibble(p + 1, i); }
    __device__ static uint32_t scale(const uint8_t* p, int) { return min(max((int)p[0] - 98, 0), 30); }
};
template <>
struct Block<10> : Plain {  // Q2_K
    static constexpr int COLS = 256, BYTES = 84, KIND = KIND_Q2_K;
    __device__ static uint32_t code(const uint8_t* p, int i) { return p[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3; }
    __device__ static uint32_t scale(const uint8_t* p, int j) { return p[j]; }
    __device__ static uint32_t d(const uint8_t* p) { return u16_at(p + 80) | u16_at(p + 82) << 16; }
};
template <>
struct Block<11> : Plain {  // Q3_K
    static constexpr int COLS = 256, BYTES = 110, KIND = KIND_Q3_K;
    __device__ static uint32_t code(const uint8_t* p, int i) {
        return (p[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) | (p[i % 32] >> (i / 32) & 1) << 2;
    }
    __device__ static uint32_t scale(const uint8_t* p, int j) {
        const uint8_t* s = p + 96;
        const uint32_t low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, high = s[8 + j % 4] >> (j / 4 * 2) & 3;
        return ((low | high << 4) - 32 + 128) & 255;
    }
    __device__ static uint32_t d(const uint8_t* p) { return u16_at(p + 108); }
};
template <>
struct Block<12> : Plain {  // Q4_K
    static constexpr int COLS = 256, BYTES = 144, KIND = KIND_Q4_K;
    __device__ static uint32_t code(const uint8_t* p, int i) { return p[16 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15; }
    __device__ static uint32_t scale(const uint8_t* p, int j) { return k_scale(p + 4, j) | k_min(p + 4, j) << 8; }
    __device__ static uint32_t d(const uint8_t* p) { return u16_at(p) | u16_at(p + 2) << 16; }
};
template <>
struct Block<13> : Plain {  // Q5_K
    static constexpr int COLS = 256, BYTES = 176, KIND = KIND_Q5_K;
    __device__ static uint32_t code(const uint8_t* p, int i) {
        return (p[48 + i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15) | (p[16 + i % 32] >> (i / 32) & 1) << 4;
    }
    __device__ static uint32_t scale(const uint8_t* p, int j) { return k_scale(p + 4, j) | k_min(p + 4, j) << 8; }
    __device__ static uint32_t d(const uint8_t* p) { return u16_at(p) | u16_at(p + 2) << 16; }
};
template <>
struct Block<14> : Plain {  // Q6_K
    static constexpr int COLS = 256, BYTES = 210, KIND = KIND_Q6_K;
    __device__ static uint32_t code(const uint8_t* p, int i) {
        const int half = i / 128, sub = i % 128 / 32, l = i % 32;
        return (p[half * 64 + (sub & 1) * 32 + l] >> (sub / 2 * 4) & 15) | (p[128 + half * 32 + l] >> (sub * 2) & 3) << 4;
    }
    __device__ static uint32_t scale(const uint8_t* p, int j) { return p[192 + j] ^ 0x80; }
    __device__ static uint32_t d(const uint8_t* p) { return u16_at(p + 208); }
};
template <>
struct Block<23> : Plain {  // IQ4_XS: scale times superblock scale, as f16
    static constexpr int COLS = 256, BYTES = 136, KIND = KIND_IQ4;
    __device__ static uint32_t code(const uint8_t* p, int i) { return nibble(p + 8 + i / 32 * 16, i % 32); }
    __device__ static uint32_t scale(const uint8_t* p, int j) {
        const int low = p[4 + j / 2] >> (j % 2 * 4) & 15, high = u16_at(p + 2) >> (j * 2) & 3;
        const float d = __half2float(__ushort_as_half(u16_at(p)));
        return __half_as_ushort(__float2half_rn(d * (float)((low | high << 4) - 32)));
    }
};

// Writes the record `record` of tile `tile`, of which the lane (g, t) makes its own parts.
template <uint32_t TYPE>
struct Packer {
    using B = Block<TYPE>;
    static constexpr uint32_t K = B::KIND;
    static constexpr Planes P = planes(K);
    const RepackArgs& args;
    int tile, record, g, t;
    uint8_t* out;
    uint32_t stride;  // F16: from step to step

    __device__ const uint8_t* block(int r, int col) const {
        const uint32_t row = tile * TILE_ROWS + g + 8 * r;
        return row < args.rows && col < (int)args.cols ? args.source + row * args.row_bytes + (size_t)(col / B::COLS) * B::BYTES : nullptr;
    }

    __device__ uint32_t code(int r, int col) const {
        const uint8_t* p = block(r, col);
        return p ? B::code(p, col % B::COLS) : 0;
    }

    // Scale (or minimum) of row r for this lane's columns of step n; PER columns share one.
    template <int PER, bool OFFSET>
    __device__ uint32_t scale(int r, int n) const {
        const int col = record * RECORD_COLS + n * STEP_COLS + 16 * t;
        const uint8_t* p = block(r, col);
        if (!p) return 0;
        return OFFSET ? B::offset(p, col % B::COLS / PER) : B::scale(p, col % B::COLS / PER);
    }

    __device__ uint32_t* word(int at) const { return reinterpret_cast<uint32_t*>(out + at); }

    __device__ void scales(int n) const {
        const int pair = g * 2 + t / 2;
        if constexpr (K == KIND_Q2_K || K == KIND_Q3_K || K == KIND_Q6_K) {
            const uint32_t none = K == KIND_Q2_K ? 0 : 0x80;  // a zero after the bias of 128
            for (int r = 0; r < 2; ++r) out[(g * 4 + t) * 8 + n * 2 + r] = block(r, record * RECORD_COLS) ? scale<16, false>(r, n) : none;
        } else if (t % 2 == 0) {
            if constexpr (K == KIND_MXFP4)
                for (int r = 0; r < 2; ++r) out[pair * 8 + n * 2 + r] = scale<32, false>(r, n);
            else if constexpr (K == KIND_Q4_K || K == KIND_Q5_K)
                word(pair * 16)[n] = scale<32, false>(0, n) | scale<32, false>(1, n) << 16;
            else if constexpr (K == KIND_Q4_1 || K == KIND_Q5_1)
                for (int r = 0; r < 2; ++r) word(pair * 32)[2 * n + r] = scale<32, false>(r, n) | scale<32, true>(r, n) << 16;
            else if constexpr (K != KIND_F16)
                word(pair * 16)[n] = scale<32, false>(0, n) | scale<32, false>(1, n) << 16;
        }
    }

    __device__ void superblock() const {
        if (t != 0 || P.d == 0) return;
        uint32_t d[2];
        for (int r = 0; r < 2; ++r) {
            const uint8_t* p = block(r, record * RECORD_COLS);
            d[r] = p ? B::d(p) : 0;
        }
        if constexpr (P.d == 64) word(P.d_at() + g * 8)[0] = d[0], word(P.d_at() + g * 8)[1] = d[1];
        if constexpr (P.d == 32) word(P.d_at() + g * 4)[0] = d[0] | d[1] << 16;
    }

    // The step's bits, register by register as product_dequant.cuh takes them apart.
    __device__ void step(int n) const {
        uint32_t low[16] = {}, high1 = 0, high2[2] = {};
        for (int ks = 0; ks < 4; ++ks)
            for (int j = 0; j < 4; ++j)
                for (int e = 0; e < 2; ++e) {
                    const uint32_t c = code(j & 1, record * RECORD_COLS + n * STEP_COLS + 16 * t + 4 * ks + 2 * (j >> 1) + e);
                    if constexpr (K == KIND_F16) low[ks * 4 + j] |= c << (16 * e);
                    else if constexpr (K == KIND_Q8_0) low[ks * 2 + (j >> 1)] |= c << (16 * (j & 1) + 8 * e);
                    else if constexpr (K == KIND_IQ4) low[ks] |= c << (4 * (2 * j + e));
                    else if constexpr (K == KIND_MXFP4) {
                        constexpr uint32_t SIGNS = 0xdecf;  // bits 15, 12, 14, 13, from the last nibble on
                        low[ks] |= ((c & 7) << (9 - 3 * j) | (c >> 3) << (SIGNS >> (4 * j) & 15)) << (16 * e);
                    } else {
                        if constexpr (P.step != 0) low[ks] |= (c & 15) << (4 * j + 16 * e);
                        constexpr int ABOVE = P.step != 0 ? 4 : 0;
                        if constexpr (P.high2 != 0) high2[ks >> 1] |= (c >> ABOVE & 3) << (2 * ((ks & 1) * 4 + j) + 16 * e);
                        if constexpr (P.high1 != 0) high1 |= (c >> (K == KIND_Q3_K ? 2 : 4) & 1) << (ks * 4 + j + 16 * e);
                    }
                }
        const int lane = g * 4 + t;
        for (int v = 0; v < P.step / 512; ++v)
            for (int i = 0; i < 4; ++i) word(P.steps_at() + n * stride + v * 512 + lane * 16)[i] = low[v * 4 + i];
        if constexpr (P.high2 != 0)
            for (int i = 0; i < 2; ++i) word(P.high2_at() + (n >> 1) * 512 + lane * 16 + (n & 1) * 8)[i] = high2[i];
        if constexpr (P.high1 != 0) word(P.high1_at() + lane * 16)[n] = high1;
    }

    __device__ void pack() const {
        superblock();
        const int steps = min(4, steps_of(args.cols) - 4 * record);
        for (int n = 0; n < 4; ++n) {
            scales(n);
            if (n < steps) step(n);
            else if constexpr (P.high1 != 0) word(P.high1_at() + (g * 4 + t) * 16)[n] = 0;
        }
    }
};

template <uint32_t TYPE>
__device__ void pack(const RepackArgs& args) {
    constexpr uint32_t K = Block<TYPE>::KIND;
    const int records = records_of(args.cols), index = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (index >= records * tiles_of(args.rows)) return;
    const int tile = index / records, record = index % records;
    const int64_t of_tile = tile_bytes(K, args.cols);
    const uint32_t bytes = K == KIND_F16 ? 2048 : planes(K).record();
    const uint32_t here = K != KIND_F16 && record + 1 == records ? (uint32_t)(of_tile - (int64_t)record * bytes) : bytes;
    const uint32_t tiles = tiles_of(args.rows);
    uint8_t* out = args.target + piece_at(tiles, tile, of_tile, record * (4 / piece_steps(K)), bytes, here);
    const uint32_t stride = K == KIND_F16 ? 2048 * block_tiles(tiles, tile) : planes(K).step;
    Packer<TYPE>{args, tile, record, lane / 4, lane % 4, out, stride}.pack();
}

}  // namespace

extern "C" __global__ void __launch_bounds__(128) repack(const __grid_constant__ RepackArgs args) {
    switch (args.type) {
        case 1: return pack<1>(args);
        case 2: return pack<2>(args);
        case 3: return pack<3>(args);
        case 6: return pack<6>(args);
        case 7: return pack<7>(args);
        case 8: return pack<8>(args);
        case 10: return pack<10>(args);
        case 11: return pack<11>(args);
        case 12: return pack<12>(args);
        case 13: return pack<13>(args);
        case 14: return pack<14>(args);
        case 20: return pack<20>(args);
        case 23: return pack<23>(args);
        case 30: return pack<30>(args);
        case 39: return pack<39>(args);
    }
}
