// Draws a token for each row of logits: the device's copy of src/plan/sample.rs, to the bit.
//
// The largest score wins and of equals the lowest id, so the order of comparing does not matter: each block searches a part
// of the vocabulary and the last one to finish takes the best of all. Every operation is rounded by itself (no fused
// multiply-add), as the reference says.
#include "common.cuh"

constexpr int THREADS = 256;
constexpr float GREEDY_BELOW = 1e-4f;
constexpr uint32_t NOBODY = 0xffffffffu;

struct DrawSpec {
    int slot;  // below 0: nothing to draw
    int output;
    float temperature;
    uint32_t seed_low, seed_high;
    uint32_t position;
};

struct Sample {
    const float* logits;  // [n, n_vocab]
    const DrawSpec* draws;
    const uint32_t* never;  // a bit per id
    uint64_t* best;         // [n, parts]
    uint32_t* finished;     // [n], zero before and after
    uint32_t* drawn;        // [slots]
    uint32_t* outputs;      // [outputs]: the id, or NOBODY for a poisoned row
    int n_vocab;
    int parts;
};

__device__ __forceinline__ void philox(uint32_t c[4], uint32_t k0, uint32_t k1) {
#pragma unroll
    for (int i = 0; i < 10; i++) {
        uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
        uint32_t c1 = c[1], c3 = c[3];
        c[0] = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c[3] = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

__device__ __forceinline__ float ln_1p(float f) {
    float s = __fdiv_rn(f, __fadd_rn(2.0f, f));
    float z = __fmul_rn(s, s);
    float t = __fmul_rn(z, 1.0f / 9.0f);
    t = __fmul_rn(z, __fadd_rn(1.0f / 7.0f, t));
    t = __fmul_rn(z, __fadd_rn(1.0f / 5.0f, t));
    t = __fmul_rn(z, __fadd_rn(1.0f / 3.0f, t));
    return __fmul_rn(2.0f, __fadd_rn(s, __fmul_rn(s, t)));
}

__device__ __forceinline__ float ln(float x) {
    uint32_t bits = __float_as_uint(x) - 0x3F3504F3u;
    int k = (int)bits >> 23;
    float mantissa = __uint_as_float((bits & 0x007FFFFFu) + 0x3F3504F3u);
    return __fadd_rn(__fmul_rn((float)k, 0.693147180559945309f), ln_1p(__fadd_rn(mantissa, -1.0f)));
}

__device__ __forceinline__ float gumbel(uint32_t word) {
    constexpr float scale = 1.0f / 4294967296.0f;
    float v = __fmul_rn(__fadd_rn(__uint2float_rn(word), 0.5f), scale);
    float e = v < 0.29f ? -ln_1p(-v) : -ln(__fmul_rn(__fadd_rn(__uint2float_rn(~word), 0.5f), scale));
    return -ln(e);
}

// Ordered as (score, lower id), NaN above all: the maximum of keys is the draw.
__device__ __forceinline__ uint64_t key_of(float score, uint32_t id) {
    uint32_t bits = __float_as_uint(score == 0.0f ? 0.0f : score);
    uint32_t order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)order << 32 | (uint32_t)~id;
}

__device__ __forceinline__ uint64_t best_of_quad(const Sample& p, const DrawSpec& d, const float* logits, uint32_t quad) {
    uint64_t best = 0;
    uint32_t words[4] = {quad, 0, d.position, 0};
    bool noisy = d.temperature >= GREEDY_BELOW;
    __align__(16) float four[4] = {};
    if (p.n_vocab % 4 == 0)
        *(float4*)four = *(const float4*)(logits + quad * 4);
    else
        for (uint32_t i = 0; i < 4 && quad * 4 + i < (uint32_t)p.n_vocab; i++) four[i] = logits[quad * 4 + i];
    if (noisy) philox(words, d.seed_low, d.seed_high);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t id = quad * 4 + i;
        if (id >= (uint32_t)p.n_vocab || (p.never[id / 32] >> (id % 32) & 1)) continue;
        float logit = four[i];
        uint64_t key;
        if (logit != logit) {
            key = ~0ull;
        } else {
            float score = noisy ? __fadd_rn(__fdiv_rn(logit, d.temperature), gumbel(words[i])) : logit;
            key = score > -INFINITY ? key_of(score, id) : 0;
        }
        best = key > best ? key : best;
    }
    return best;
}

__device__ __forceinline__ uint64_t block_best(uint64_t best) {
    __shared__ uint64_t scratch[THREADS / 32];
    for (int o = 16; o > 0; o >>= 1) {
        uint64_t other = __shfl_xor_sync(0xffffffffu, best, o);
        best = other > best ? other : best;
    }
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = best;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; i++) best = scratch[i] > best ? scratch[i] : best;
    return best;
}

// grid (parts, n), block 256; parts at most 256
extern "C" __global__ void __launch_bounds__(THREADS) sample(const Sample p) {
    __shared__ bool last;
    pdl_start();
    int row = blockIdx.y, part = blockIdx.x;
    // What the host says of the step was there before it began.
    DrawSpec d = p.draws[row];
    pdl_wait();
    if (d.slot < 0) return;
    const float* logits = p.logits + (size_t)row * p.n_vocab;
    uint32_t quads = (p.n_vocab + 3) / 4;
    uint64_t best = 0;
    for (uint32_t q = part * THREADS + threadIdx.x; q < quads; q += p.parts * THREADS) {
        uint64_t key = best_of_quad(p, d, logits, q);
        best = key > best ? key : best;
    }
    best = block_best(best);
    if (threadIdx.x == 0) {
        p.best[(size_t)row * p.parts + part] = best;
        __threadfence();
        last = atomicAdd(&p.finished[row], 1) == (uint32_t)p.parts - 1;
    }
    __syncthreads();
    if (!last) return;
    __threadfence();
    best = block_best((int)threadIdx.x < p.parts ? __ldcg(&p.best[(size_t)row * p.parts + threadIdx.x]) : 0);
    if (threadIdx.x != 0) return;
    p.finished[row] = 0;
    bool poisoned = best == 0 || best == ~0ull;
    p.drawn[d.slot] = poisoned ? 0 : ~(uint32_t)best;
    p.outputs[d.output] = poisoned ? NOBODY : ~(uint32_t)best;
}
