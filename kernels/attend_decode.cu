// Attention of single rows as a kernel of its own: attend_row.cuh, a block for each split. Few registers and small blocks let the
// kernels before and after be there at the same time.
#include "attend_row.cuh"

namespace {

struct Launched {
    template <class T>
    __device__ __forceinline__ T* row(T* p) const {
        return p;
    }
    __device__ __forceinline__ float load(const float* p) const { return __ldcg(p); }
    __device__ __forceinline__ bool there(float) const { return true; }
    __device__ __forceinline__ void wait() const { pdl_wait(); }
    __device__ __forceinline__ void meet() const { __syncthreads(); }
};

// grid (splits, kv heads * ceil(group / 16), n), block 128; shared: the chunks
template <int D, int TOKENS>
__device__ __forceinline__ void attend_row(const Attend& p) {
    extern __shared__ __align__(128) uint8_t chunks[];
    __shared__ AttendShared<D> sh;
    __shared__ uint64_t full[ATTEND_WARPS];
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    if (threadIdx.x % 32 == 0) fill_barrier_init(&full[warp]);
    barrier_init_done();
    __syncwarp();
    pdl_start();
    const Place at(p, blockIdx.z, blockIdx.y, gridDim.y, blockIdx.x);
    if (!at.there()) return pdl_wait();
    uint32_t parity = 0;
    attend_split<D, TOKENS>(p, Launched(), at, sh, chunks, &full[warp], parity);
}

}  // namespace

#define ATTEND(D, TOKENS, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(ATTEND_WARPS * 32, BLOCKS) attend_decode_d##D(const __grid_constant__ Attend p) { attend_row<D, TOKENS>(p); }
ATTEND(64, 32, 4)
ATTEND(128, 32, 4)
ATTEND(256, 16, 2)
