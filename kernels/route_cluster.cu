// Which experts a few rows go through, by clusters of blocks: each row's norm, the router's logits and the choice.
//
// A block has a few experts, whose weights, f32 as in the file, come before the rows are there. Every block of a cluster makes the
// cluster's rows and hands its logits to the first, which chooses. The sums are those of prepare.cu and product_raw.cuh, and so of
// route_row.cu and route_rows.cu. From sm_90 on; before, the kernel is empty.
#include "norm_row.cuh"
#include "product_async.cuh"
#include "route.cuh"

[[maybe_unused]] constexpr int WARPS = 8, EACH = 4, KEPT = NORM_THREADS / (32 * WARPS), MOST_ROWS = 8;

struct RouteCluster {
    const float* hidden;  // [n, cols], cols a multiple of 8, up to PIECE * NORM_THREADS
    const float* norm_weight;
    const float* norm_bias;  // or null
    const float* router;     // [experts, cols], experts up to EACH times a cluster's blocks
    const float* bias;       // [experts], or null
    __half* rows;            // [n, row_stride], zeros past cols
    int* chosen;             // [n, used]
    float* weights;          // [n, used]
    uint32_t norm;           // RowNorm, not NORM_NONE
    float eps;
    int cols;
    int experts;
    int used;
    int row_stride;
    int n;
    int each;  // rows of a cluster, up to MOST_ROWS
};

#if BULK_COPY
// f(piece) over a row, summed as if NORM_THREADS threads had one each.
template <class F>
__device__ __forceinline__ float total(const Piece (&kept)[KEPT], int pieces, float* scratch, F&& f) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < KEPT; ++j) {
        const float sum = norm_warp_sum((warp + j * WARPS) * 32 + lane < pieces ? f(kept[j]) : 0.0f);
        if (lane == 0) scratch[warp + j * WARPS] = sum;
    }
    __syncthreads();
    return norm_sum(scratch, NORM_THREADS / 32);
}

__device__ __forceinline__ void store_in(int rank, float* at, float value) {
    asm volatile("{ .reg .b32 a; mapa.shared::cluster.u32 a, %0, %1; st.shared::cluster.f32 [a], %2; }" ::"r"(shared_address(at)), "r"(rank), "f"(value) : "memory");
}
#endif

// grid (blocks of a cluster, ceil(n / each)), block 256; shared: 1 + EACH rows of cols floats
extern "C" __global__ void __launch_bounds__(WARPS * 32) route_cluster(const __grid_constant__ RouteCluster p) {
#if BULK_COPY
    extern __shared__ __align__(128) float shared[];
    __shared__ float scratch[2][NORM_THREADS / 32], logits[MOST_ROWS][EACH * 8];
    __shared__ uint32_t left[WARPS][MAX_EXPERTS / 32];
    __shared__ uint64_t full[EACH];
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, pieces = p.cols / PIECE;
    const int expert = blockIdx.x * EACH + warp, first = blockIdx.y * p.each, count = min(p.each, p.n - first);
    const bool mine = warp < EACH && expert < p.experts;
    float *row = shared, *weights = shared + (1 + warp) * p.cols;
    if (warp < EACH && lane == 0) fill_barrier_init(&full[warp]);
    barrier_init_done();
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    dependents_may_start();
    if (mine && elected()) {
        fill_begin(&full[warp], p.cols * 4, lane);
        fill_copy<false>(weights, p.router + (size_t)expert * p.cols, p.cols * 4, &full[warp], lane);
    }
    __syncwarp();
    Piece weight[KEPT], kept[KEPT];
    auto piece_of = [&](int j) { return (warp + j * WARPS) * 32 + lane; };
#pragma unroll
    for (int j = 0; j < KEPT; ++j)
        if (piece_of(j) < pieces) weight[j] = load_whole(p.norm_weight, piece_of(j) * PIECE);
    wait_for_predecessor();
    // The first block is there to be written to.
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#pragma unroll 1
    for (int r = 0; r < count; ++r) {
        const float* hidden = p.hidden + (size_t)(first + r) * p.cols;
        __half* to = p.rows + (size_t)(first + r) * p.row_stride;
#pragma unroll
        for (int j = 0; j < KEPT; ++j)
            if (piece_of(j) < pieces) kept[j] = load_whole(hidden, piece_of(j) * PIECE);
        Moments m = {0.0f, 1.0f};
        if (p.norm == NORM_LAYER) m.mean = mean_of(total(kept, pieces, scratch[0], [](const Piece& x) { return add_values(0.0f, x); }), p.cols);
        m.factor = rsqrtf(mean_of(total(kept, pieces, scratch[1], [&](const Piece& x) { return add_squares(0.0f, x, m.mean, 0, PIECE); }), p.cols) + p.eps);
#pragma unroll
        for (int j = 0; j < KEPT; ++j) {
            if (piece_of(j) >= pieces) continue;
            const Piece x = apply_norm(kept[j], m, weight[j], p.norm_bias, piece_of(j) * PIECE, p.cols);
            *(Piece*)(row + piece_of(j) * PIECE) = x;
            if (blockIdx.x == r % gridDim.x) *(uint4*)(to + piece_of(j) * PIECE) = piece_f16(x);
        }
        if (blockIdx.x == 0 && threadIdx.x < (p.cols + 63) / 64 * 8 - pieces) *(uint4*)(to + (pieces + threadIdx.x) * PIECE) = make_uint4(0, 0, 0, 0);
        __syncthreads();
        if (mine) {
            if (r == 0) barrier_wait(&full[warp], 0);
            float sum = 0.0f;
#pragma unroll 4
            for (int k = lane * 8; k < p.cols; k += 256) {
                const float4 w[2] = {*(const float4*)(weights + k), *(const float4*)(weights + k + 4)};
                const float4 x[2] = {*(const float4*)(row + k), *(const float4*)(row + k + 4)};
#pragma unroll
                for (int i = 0; i < 2; i++) sum = fmaf(w[i].w, x[i].w, fmaf(w[i].z, x[i].z, fmaf(w[i].y, x[i].y, fmaf(w[i].x, x[i].x, sum))));
            }
            sum = warp_sum(sum);
            if (lane == 0) store_in(0, &logits[r][expert], p.bias ? sum + p.bias[expert] : sum);
        }
        __syncthreads();
    }
    __syncwarp();
    cluster_sync();
    if (blockIdx.x > 0) return;
    for (int r = warp; r < count; r += WARPS)
        choose([&](int e) { return logits[r][e]; }, left[warp], p.experts, p.used, p.chosen + (first + r) * p.used, p.weights + (first + r) * p.used);
#endif
}
