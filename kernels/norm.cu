// Norms over a row: the input of a product, and the one that some models put on a branch before it is added.
#include "common.cuh"

constexpr int THREADS = 256;

struct NormRows {
    const float* x;      // [rows, width]
    float* y;            // [n, width]
    const int* gather;   // [n]: the row of x for each row of y; null: the same
    Norm norm;
    int width;
};

__device__ __forceinline__ float2 moments(const float* x, int width, const Norm& norm, float* scratch) {
    float mean = 0.0f;
    if (norm.layer) {
        float sum = 0.0f;
        for (int i = threadIdx.x; i < width; i += THREADS) sum += x[i];
        mean = block_sum<THREADS>(sum, scratch) / (float)width;
    }
    float square = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        float v = x[i] - mean;
        square = fmaf(v, v, square);
    }
    float variance = block_sum<THREADS>(square, scratch) / (float)width;
    return make_float2(mean, 1.0f / sqrtf(variance + norm.eps));
}

__device__ __forceinline__ float normed(float x, float2 m, const Norm& norm, int i) {
    float v = (x - m.x) * m.y * norm.weight[i];
    return norm.bias ? v + norm.bias[i] : v;
}

// grid (n), block 256
extern "C" __global__ void __launch_bounds__(THREADS) norm_rows(const NormRows p) {
    __shared__ float scratch[THREADS / 32];
    pdl_begin();
    int row = p.gather ? p.gather[blockIdx.x] : blockIdx.x;
    const float* x = p.x + (size_t)row * p.width;
    float* y = p.y + (size_t)blockIdx.x * p.width;
    float2 m = moments(x, p.width, p.norm, scratch);
    for (int i = threadIdx.x; i < p.width; i += THREADS) y[i] = normed(x[i], m, p.norm, i);
}

// y += norm(x); grid (n), block 256
extern "C" __global__ void __launch_bounds__(THREADS) add_norm_rows(const NormRows p) {
    __shared__ float scratch[THREADS / 32];
    pdl_begin();
    const float* x = p.x + (size_t)blockIdx.x * p.width;
    float* y = p.y + (size_t)blockIdx.x * p.width;
    float2 m = moments(x, p.width, p.norm, scratch);
    for (int i = threadIdx.x; i < p.width; i += THREADS) y[i] += normed(x[i], m, p.norm, i);
}
