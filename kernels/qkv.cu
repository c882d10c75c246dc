// What follows a prompt's q, k and v products: norms per head, rotation, and keys and values into the cache.
//
// A warp owns a head of a row. In decoding, attend_decode.cu does this itself.
#include "rope.cuh"

constexpr int MAX_DIM = 256;
constexpr int WARPS = 4;

struct QkvEpilogue {
    float* q;             // [n, q_stride], in place
    const float* k;       // [n, kv_stride]
    const float* v;       // [n, kv_stride]
    const int* slot;      // [n]; below 0: a row that is not there
    const int* position;  // [n]
    Norm q_norm;          // weight null: none
    Norm k_norm;
    KvView kv;
    Rope rope;
    int q_heads;
    int q_stride;
    int kv_stride;
};

// grid (ceil((q heads + 2 kv heads) / 4), n), block 128
extern "C" __global__ void __launch_bounds__(WARPS * 32) qkv_epilogue(const QkvEpilogue p) {
    __shared__ float heads[WARPS][MAX_DIM];
    pdl_begin();
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.y, dim = p.kv.dim;
    int head = blockIdx.x * WARPS + warp;
    int slot = p.slot[row], position = p.position[row];
    if (slot < 0 || head >= p.q_heads + 2 * p.kv.heads) return;
    float* x = heads[warp];
    if (head < p.q_heads) {
        float* q = p.q + (size_t)row * p.q_stride + head * dim;
        take_head(x, q, dim, p.q_norm, p.rope, position, nullptr);
        for (int i = lane; i < dim; i += 32) q[i] = x[i];
        return;
    }
    int is_v = head >= p.q_heads + p.kv.heads, kv_head = (head - p.q_heads) % p.kv.heads;
    const float* from = (is_v ? p.v : p.k) + (size_t)row * p.kv_stride + kv_head * dim;
    if (!is_v) take_head(x, from, dim, p.k_norm, p.rope, position, nullptr);
    __half* to = kv_page(p.kv, slot, position, is_v, kv_head) + position % PAGE_TOKENS * dim;
    for (int i = lane; i < dim; i += 32) to[i] = __float2half_rn(is_v ? from[i] : x[i]);
}
