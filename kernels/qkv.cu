// What follows the q, k and v products: norms per head, rotation, and keys and values into the cache.
//
// A warp owns a head of a row. The angle is position * frequency in float, as the reference implementations compute it.
#include "common.cuh"

constexpr int MAX_DIM = 256;
constexpr int WARPS = 4;

struct QkvEpilogue {
    float* q;             // [n, q_stride], in place
    const float* k;       // [n, kv_stride]
    const float* v;       // [n, kv_stride]
    const int* slot;      // [n]; below 0: a row that is not there
    const int* position;  // [n]
    const float* inv_freq;  // [pairs], or null without a rope
    Norm q_norm;            // weight null: none
    Norm k_norm;
    KvView kv;
    float magnitude;
    int pairs;      // half of the elements that rotate
    int adjacent;   // 1: (0, 1), (2, 3), ..; 0: (0, pairs), (1, pairs + 1), ..
    int q_heads;
    int q_stride;
    int kv_stride;
};

__device__ __forceinline__ void norm_head(float* x, int dim, const Norm& norm) {
    int lane = threadIdx.x % 32;
    float mean = 0.0f;
    if (norm.layer) {
        float sum = 0.0f;
        for (int i = lane; i < dim; i += 32) sum += x[i];
        mean = warp_sum(sum) / (float)dim;
    }
    float square = 0.0f;
    for (int i = lane; i < dim; i += 32) square = fmaf(x[i] - mean, x[i] - mean, square);
    float scale = 1.0f / sqrtf(warp_sum(square) / (float)dim + norm.eps);
    for (int i = lane; i < dim; i += 32) {
        float v = (x[i] - mean) * scale * norm.weight[i];
        x[i] = norm.bias ? v + norm.bias[i] : v;
    }
    __syncwarp();
}

__device__ __forceinline__ void rotate_head(float* x, const QkvEpilogue& p, int position) {
    for (int i = threadIdx.x % 32; i < p.pairs; i += 32) {
        float sine, cosine;
        sincosf((float)position * p.inv_freq[i], &sine, &cosine);
        sine *= p.magnitude;
        cosine *= p.magnitude;
        int a = p.adjacent ? 2 * i : i, b = p.adjacent ? 2 * i + 1 : i + p.pairs;
        float u = x[a], w = x[b];
        x[a] = u * cosine - w * sine;
        x[b] = u * sine + w * cosine;
    }
    __syncwarp();
}

// grid (ceil((q heads + 2 kv heads) / 4), n), block 128
extern "C" __global__ void __launch_bounds__(WARPS * 32) qkv_epilogue(const QkvEpilogue p) {
    __shared__ float heads[WARPS][MAX_DIM];
    pdl_begin();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.y, dim = p.kv.dim;
    int head = blockIdx.x * WARPS + warp;
    int slot = p.slot[row], position = p.position[row];
    if (slot < 0 || head >= p.q_heads + 2 * p.kv.heads) return;
    bool is_q = head < p.q_heads, is_v = head >= p.q_heads + p.kv.heads;
    int kv_head = is_q ? 0 : (head - p.q_heads) % p.kv.heads;
    const float* from = is_q   ? p.q + (size_t)row * p.q_stride + head * dim
                        : is_v ? p.v + (size_t)row * p.kv_stride + kv_head * dim
                               : p.k + (size_t)row * p.kv_stride + kv_head * dim;
    float* x = heads[warp];
    for (int i = lane; i < dim; i += 32) x[i] = from[i];
    __syncwarp();
    if (!is_v) {
        const Norm& norm = is_q ? p.q_norm : p.k_norm;
        if (norm.weight) norm_head(x, dim, norm);
        if (p.inv_freq) rotate_head(x, p, position);
    }
    if (is_q) {
        float* to = p.q + (size_t)row * p.q_stride + head * dim;
        for (int i = lane; i < dim; i += 32) to[i] = x[i];
    } else {
        __half* to = kv_page(p.kv, slot, position, is_v, kv_head) + position % PAGE_TOKENS * dim;
        for (int i = lane; i < dim; i += 32) to[i] = __float2half_rn(x[i]);
    }
}
