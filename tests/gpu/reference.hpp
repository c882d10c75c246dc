// The tensor types as plain C++ on the host, in doubles: what the kernels are measured against. Written from the formats'
// description, block by block, not from the kernels' code.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

struct Type {
    uint32_t number;  // in GGUF
    const char* name;
    int cols, bytes;  // of a block
};

inline const Type TYPES[] = {{1, "F16", 1, 2},      {30, "BF16", 1, 2},    {2, "Q4_0", 32, 18},   {3, "Q4_1", 32, 20},    {6, "Q5_0", 32, 22},
                             {7, "Q5_1", 32, 24},   {8, "Q8_0", 32, 34},   {10, "Q2_K", 256, 84}, {11, "Q3_K", 256, 110}, {12, "Q4_K", 256, 144},
                             {13, "Q5_K", 256, 176}, {14, "Q6_K", 256, 210}, {20, "IQ4_NL", 32, 18}, {23, "IQ4_XS", 256, 136}, {39, "MXFP4", 32, 17}};

inline double half_value(const uint8_t* p) {
    const uint32_t bits = p[0] | p[1] << 8, e = bits >> 10 & 31, m = bits & 1023;
    const double v = e == 0 ? std::ldexp(m, -24) : std::ldexp(1024 + m, (int)e - 25);
    return bits >> 15 ? -v : v;
}

inline void put_half(uint8_t* p, double v) {  // cut off, not rounded: any f16 near v will do
    int e;
    const double m = std::frexp(std::fabs(v), &e);
    const uint32_t bits = (v < 0 ? 0x8000u : 0) | (e < -13 ? (uint32_t)std::ldexp(std::fabs(v), 24) : (uint32_t)(e + 14) << 10 | ((uint32_t)(m * 2048) & 1023));
    p[0] = bits & 255, p[1] = bits >> 8;
}

inline void k_scales(const uint8_t* s, int j, int& scale, int& min) {
    if (j < 4) {
        scale = s[j] & 63, min = s[j + 4] & 63;
    } else {
        scale = (s[j + 4] & 15) | (s[j - 4] >> 6 << 4), min = (s[j + 4] >> 4) | (s[j] >> 6 << 4);
    }
}

// Weights of one block.
inline void dequantise(uint32_t type, const uint8_t* p, double* y) {
    static const int IQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    static const double FP4[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};
    const double d = half_value(p);
    switch (type) {
        case 1: y[0] = d; return;
        case 30: {
            const uint32_t bits = (uint32_t)(p[0] | p[1] << 8) << 16;
            float f;
            std::memcpy(&f, &bits, 4);
            y[0] = f;
            return;
        }
        case 2:
        case 20:
            for (int i = 0; i < 16; ++i)
                for (int h = 0; h < 2; ++h) {
                    const int q = h ? p[2 + i] >> 4 : p[2 + i] & 15;
                    y[i + 16 * h] = d * (type == 2 ? q - 8 : IQ4[q]);
                }
            return;
        case 3:
            for (int i = 0; i < 16; ++i) y[i] = d * (p[4 + i] & 15) + half_value(p + 2), y[i + 16] = d * (p[4 + i] >> 4) + half_value(p + 2);
            return;
        case 6:
        case 7: {
            const int head = type == 6 ? 2 : 4;
            uint32_t high;
            std::memcpy(&high, p + head, 4);
            for (int i = 0; i < 32; ++i) {
                const int low = i < 16 ? p[head + 4 + i] & 15 : p[head + 4 + i - 16] >> 4, q = low | (high >> i & 1) << 4;
                y[i] = type == 6 ? d * (q - 16) : d * q + half_value(p + 2);
            }
            return;
        }
        case 8:
            for (int i = 0; i < 32; ++i) y[i] = d * (int8_t)p[2 + i];
            return;
        case 39:
            for (int i = 0; i < 16; ++i) y[i] = std::ldexp(FP4[p[1 + i] & 15], p[0] - 127), y[i + 16] = std::ldexp(FP4[p[1 + i] >> 4], p[0] - 127);
            return;
        case 10:
            for (int i = 0; i < 256; ++i) {
                const int q = p[16 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3, s = p[i / 16];
                y[i] = half_value(p + 80) * (s & 15) * q - half_value(p + 82) * (s >> 4);
            }
            return;
        case 11: {
            int scale[16];
            for (int j = 0; j < 8; ++j) scale[j] = p[96 + j] & 15, scale[j + 8] = p[96 + j] >> 4;
            for (int j = 0; j < 16; ++j) scale[j] |= (p[104 + j % 4] >> (2 * (j / 4)) & 3) << 4;
            for (int i = 0; i < 256; ++i) {
                const int low = p[32 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3, high = p[i % 32] >> (i / 32) & 1;
                y[i] = half_value(p + 108) * (scale[i / 16] - 32) * (low - (high ? 0 : 4));
            }
            return;
        }
        case 12:
        case 13:
            for (int i = 0; i < 256; ++i) {
                int scale, min;
                k_scales(p + 4, i / 32, scale, min);
                const uint8_t* qs = p + (type == 12 ? 16 : 48);
                int q = qs[i / 64 * 32 + i % 32] >> (i / 32 % 2 * 4) & 15;
                if (type == 13) q += (p[16 + i % 32] >> (i / 32) & 1) * 16;
                y[i] = d * scale * q - half_value(p + 2) * min;
            }
            return;
        case 14:
            for (int i = 0; i < 256; ++i) {
                const int half = i / 128, part = i / 32 % 4, l = i % 32;
                const int low = p[half * 64 + part % 2 * 32 + l] >> (part / 2 * 4) & 15, high = p[128 + half * 32 + l] >> (2 * part) & 3;
                y[i] = half_value(p + 208) * (int8_t)p[192 + i / 16] * ((low | high << 4) - 32);
            }
            return;
        case 23:
            for (int i = 0; i < 256; ++i) {
                const int j = i / 32, low = p[4 + j / 2] >> (j % 2 * 4) & 15, high = (p[2] | p[3] << 8) >> (2 * j) & 3;
                const int q = i % 32 < 16 ? p[8 + j * 16 + i % 16] & 15 : p[8 + j * 16 + i % 16] >> 4;
                y[i] = d * ((low | high << 4) - 32) * IQ4[q];
            }
            return;
    }
}

// Random blocks whose weights are of the size of real ones, `count` of them.
inline std::vector<uint8_t> random_blocks(const Type& type, size_t count, uint32_t seed) {
    std::mt19937 rng(seed);
    std::uniform_real_distribution<double> unit(0.5, 1.0);
    std::normal_distribution<double> normal;
    std::vector<uint8_t> out(count * type.bytes);
    for (auto& b : out) b = rng();
    for (size_t i = 0; i < count; ++i) {
        uint8_t* p = &out[i * type.bytes];
        const double u = unit(rng) * (rng() & 1 ? 1 : -1);
        switch (type.number) {
            case 1: put_half(p, 0.03 * normal(rng) + 1e-4); break;
            case 30: {
                const float f = 0.03f * (float)normal(rng);
                uint32_t bits;
                std::memcpy(&bits, &f, 4);
                p[0] = bits >> 16, p[1] = bits >> 24;
                break;
            }
            case 2: case 6: put_half(p, 0.005 * u); break;
            case 8: case 20: put_half(p, 0.0005 * u); break;
            case 3: case 7: put_half(p, 0.005 * u), put_half(p + 2, -0.03 * u); break;
            case 10: put_half(p + 80, 0.003 * u), put_half(p + 82, 0.003 * u); break;
            case 11: put_half(p + 108, 0.001 * u); break;
            case 12: case 13: put_half(p, 0.0002 * u), put_half(p + 2, 0.001 * u); break;
            case 14: put_half(p + 208, 0.00003 * u); break;
            case 23: put_half(p, 0.00003 * u); break;
            case 39: p[0] = 115 + rng() % 8; break;
        }
    }
    return out;
}

inline std::vector<double> dequantise_all(const Type& type, const std::vector<uint8_t>& raw) {
    std::vector<double> y(raw.size() / type.bytes * type.cols);
    for (size_t i = 0; i < raw.size() / type.bytes; ++i) dequantise(type.number, &raw[i * type.bytes], &y[i * type.cols]);
    return y;
}

inline std::vector<float> random_x(int tokens, int cols, uint32_t seed) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x((size_t)tokens * cols);
    for (auto& v : x) v = normal(rng);
    for (int m = 0; m < tokens; ++m) x[(size_t)m * cols + rng() % cols] *= 40.0f;
    return x;
}

inline double relative(const std::vector<float>& got, const std::vector<double>& want) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < want.size(); ++i) error += (got[i] - want[i]) * (got[i] - want[i]), norm += want[i] * want[i];
    return std::isfinite(error) ? std::sqrt(error / norm) : 1e9;
}

inline std::vector<uint32_t> bits(const std::vector<float>& v) {
    std::vector<uint32_t> b(v.size());
    std::memcpy(b.data(), v.data(), v.size() * 4);
    return b;
}
