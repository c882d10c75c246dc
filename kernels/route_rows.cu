// Which experts a few rows go through: each row's norm, the router's logits and the choice, in one kernel.
//
// A block takes a row. The sums are those of prepare.cu and product_raw.cuh, and so of route_row.cu: a row's choice does not know
// how many others there are. The normed row is left for the experts' products.
#include "common.cuh"
#include "norm_row.cuh"
#include "route.cuh"

struct RouteRows {
    const float* hidden;  // [n, cols], cols a multiple of 8
    const float* norm_weight;
    const float* norm_bias;  // or null
    const float* router;     // [experts, cols]
    const float* bias;       // [experts], or null
    float* normed;           // [n, cols]
    __half* rows;            // [n, row_stride], or null: the same as f16, zeros up to a multiple of 64
    float* logits;           // [n, experts]
    int* chosen;             // [n, used]
    float* weights;          // [n, used]
    uint32_t norm;           // RowNorm, not NORM_NONE
    float eps;
    int cols;
    int experts;
    int used;
    int row_stride;
};

constexpr int WARPS = NORM_THREADS / 32;
constexpr int TOGETHER = 2;  // experts of a warp whose weights it fetches at the same time

__device__ __forceinline__ float total(float mine, float* scratch) {
    mine = norm_warp_sum(mine);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = mine;
    __syncthreads();
    return norm_sum(scratch, WARPS);
}

// The moments of the row whose pieces are in shared memory, each read by the thread that put it there.
__device__ __forceinline__ Moments measure(const RouteRows& p, const float* row, float* scratch) {
    const int pieces = p.cols / PIECE;
    Moments m = {0.0f, 1.0f};
    if (p.norm == NORM_LAYER) {
        float sum = 0.0f;
        for (int piece = threadIdx.x; piece < pieces; piece += NORM_THREADS) sum = add_values(sum, *(const Piece*)(row + piece * PIECE));
        m.mean = mean_of(total(sum, scratch), p.cols);
    }
    float squares = 0.0f;
    for (int piece = threadIdx.x; piece < pieces; piece += NORM_THREADS) squares = add_squares(squares, *(const Piece*)(row + piece * PIECE), m.mean, 0, PIECE);
    m.factor = rsqrtf(mean_of(total(squares, scratch), p.cols) + p.eps);
    return m;
}

// The logits of the experts `first` on, as far as there are any.
__device__ __forceinline__ void logits_of(const RouteRows& p, const float* row, int first, float* logits) {
    const int lane = threadIdx.x % 32;
    const float* weights[TOGETHER];
    float sum[TOGETHER];
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) weights[i] = p.router + (size_t)min(first + i * WARPS, p.experts - 1) * p.cols, sum[i] = 0.0f;
#pragma unroll 4
    for (int k = lane * 8; k < p.cols; k += 256) {
        const float4 x[2] = {*(const float4*)(row + k), *(const float4*)(row + k + 4)};
#pragma unroll
        for (int i = 0; i < TOGETHER; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float4 w = __ldg((const float4*)(weights[i] + k + 4 * h));
                sum[i] = fmaf(w.w, x[h].w, fmaf(w.z, x[h].z, fmaf(w.y, x[h].y, fmaf(w.x, x[h].x, sum[i]))));
            }
    }
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
        const int expert = first + i * WARPS;
        const float all = warp_sum(sum[i]);
        if (lane == 0 && expert < p.experts) logits[expert] = p.bias ? all + p.bias[expert] : all;
    }
}

// grid (n), block 512; shared: a row of cols floats
extern "C" __global__ void __launch_bounds__(NORM_THREADS) route_rows(const __grid_constant__ RouteRows p) {
    extern __shared__ __align__(128) float row[];
    __shared__ float scratch[WARPS];
    __shared__ uint32_t left[MAX_EXPERTS];
    pdl_begin();
    const size_t n = blockIdx.x;
    const int pieces = p.cols / PIECE, warp = threadIdx.x / 32;
    for (int piece = threadIdx.x; piece < pieces; piece += NORM_THREADS) *(Piece*)(row + piece * PIECE) = load_whole(p.hidden + n * p.cols, piece * PIECE);
    const Moments m = measure(p, row, scratch);
    for (int piece = threadIdx.x; piece < pieces; piece += NORM_THREADS) {
        Piece* at = (Piece*)(row + piece * PIECE);
        *at = apply_norm(*at, m, load_whole(p.norm_weight, piece * PIECE), p.norm_bias, piece * PIECE, p.cols);
        if (p.rows)
            *(uint4*)(p.rows + n * p.row_stride + piece * PIECE) = piece_f16(*at);
        else
            *(Piece*)(p.normed + n * p.cols + piece * PIECE) = *at;
    }
    if (p.rows && threadIdx.x < (p.cols + 63) / 64 * 8 - pieces) *(uint4*)(p.rows + n * p.row_stride + (pieces + threadIdx.x) * PIECE) = make_uint4(0, 0, 0, 0);
    __syncthreads();
    float* logits = p.logits + n * p.experts;
    for (int first = warp; first < p.experts; first += TOGETHER * WARPS) logits_of(p, row, first, logits);
    __syncthreads();
    if (warp == 0) choose([&](int e) { return __ldcg(logits + e); }, left, p.experts, p.used, p.chosen + n * p.used, p.weights + n * p.used);
}
