// Which experts one row goes through: its norm, the router's logits and the choice, in one kernel.
//
// The sums are those of prepare.cu and product_raw.cuh, so the choice is that of many rows. The router's weights, f32 as in the file,
// come before the row is there. The last block to finish chooses.
#include "norm_row.cuh"
#include "product_async.cuh"
#include "route.cuh"

constexpr int WARPS = 4;

struct RouteRow {
    const float* hidden;  // [cols], cols a multiple of 8
    const float* norm_weight;
    const float* norm_bias;  // or null
    const float* router;     // [experts, cols]
    const float* bias;       // [experts], or null
    float* logits;           // [experts]
    int* chosen;             // [used]
    float* weights;          // [used]
    uint32_t* finished;      // zero before and after
    uint32_t norm;           // RowNorm
    float eps;
    int cols;
    int experts;
    int used;
};

// The moments of the row, whose pieces are in `row`; as NORM_THREADS threads would make them.
template <class F>
__device__ float total(const float* row, int pieces, float* scratch, F&& f) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = min(NORM_THREADS / 32, (pieces + 31) / 32);
    for (int v = warp; v < n_warps; v += WARPS) {
        float sum = 0.0f;
        for (int piece = v * 32 + lane; piece < pieces; piece += NORM_THREADS) sum = f(sum, *(const Piece*)(row + piece * PIECE));
        sum = norm_warp_sum(sum);
        if (lane == 0) scratch[v] = sum;
    }
    __syncthreads();
    return norm_sum(scratch, n_warps);
}

// grid (ceil(experts / 4)), block 128; shared: 5 rows of cols floats
extern "C" __global__ void __launch_bounds__(WARPS * 32) route_row(const __grid_constant__ RouteRow p) {
    extern __shared__ __align__(128) float rows[];
    __shared__ float scratch[NORM_THREADS / 32];
    __shared__ uint32_t left[MAX_EXPERTS];
    __shared__ uint64_t full[WARPS];
    __shared__ bool last;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, pieces = p.cols / PIECE;
    const int expert = blockIdx.x * WARPS + warp;
    float *row = rows, *weights = rows + (1 + warp) * p.cols;
    if (lane == 0) fill_barrier_init(&full[warp]);
    barrier_init_done();
    __syncwarp();
    pdl_start();
    if (expert < p.experts && elected()) {
        fill_begin(&full[warp], p.cols * 4, lane);
        fill_copy<false>(weights, p.router + (size_t)expert * p.cols, p.cols * 4, &full[warp], lane);
        fill_end(&full[warp]);
    }
    __syncwarp();
    pdl_wait();

    for (int piece = threadIdx.x; piece < pieces; piece += WARPS * 32) *(Piece*)(row + piece * PIECE) = load_whole(p.hidden, piece * PIECE);
    __syncthreads();
    Moments m = {0.0f, 1.0f};
    if (p.norm == NORM_LAYER) {
        m.mean = mean_of(total(row, pieces, scratch, [](float sum, const Piece& x) { return add_values(sum, x); }), p.cols);
        __syncthreads();
    }
    m.factor = rsqrtf(mean_of(total(row, pieces, scratch, [&](float sum, const Piece& x) { return add_squares(sum, x, m.mean, 0, PIECE); }), p.cols) + p.eps);
    for (int piece = threadIdx.x; piece < pieces; piece += WARPS * 32) {
        Piece* at = (Piece*)(row + piece * PIECE);
        *at = apply_norm(*at, m, load_whole(p.norm_weight, piece * PIECE), p.norm_bias, piece * PIECE, p.cols);
    }
    __syncthreads();
    if (expert < p.experts) {
        barrier_wait(&full[warp], 0);
        float sum = 0.0f;
        for (int k = lane * 8; k < p.cols; k += 256) {
            const float4 w[2] = {*(const float4*)(weights + k), *(const float4*)(weights + k + 4)};
            const float4 x[2] = {*(const float4*)(row + k), *(const float4*)(row + k + 4)};
#pragma unroll
            for (int i = 0; i < 2; i++) sum = fmaf(w[i].w, x[i].w, fmaf(w[i].z, x[i].z, fmaf(w[i].y, x[i].y, fmaf(w[i].x, x[i].x, sum))));
        }
        sum = warp_sum(sum);
        if (lane == 0) p.logits[expert] = p.bias ? sum + p.bias[expert] : sum;
    }
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(p.finished, 1) == gridDim.x - 1;
        if (last) *p.finished = 0;
    }
    __syncthreads();
    if (!last || warp != 0) return;
    __threadfence();
    choose([&](int e) { return __ldcg(p.logits + e); }, left, p.experts, p.used, p.chosen, p.weights);
}
