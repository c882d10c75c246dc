// Attention of single rows as a kernel of its own: attend_row.cuh, a block for each split. Few registers and small blocks let the
// kernels before and after be there at the same time.
#include "attend_row.cuh"

namespace {

template <int WARPS>
struct Launched {
    template <class T>
    __device__ __forceinline__ T* row(T* p) const {
        return p;
    }
    __device__ __forceinline__ float load(const float* p) const { return __ldcg(p); }
    __device__ __forceinline__ bool there(float) const { return true; }
    __device__ __forceinline__ void wait() const { pdl_wait(); }
    __device__ __forceinline__ void meet() const { __syncthreads(); }
    __device__ __forceinline__ void share(int turn) const { chunk_meet<WARPS>(1 + turn); }
};

// grid (splits, kv heads * ceil(group / 16), n), block 32 * WARPS; shared: the chunks
template <int D, int TOKENS, int WARPS>
__device__ __forceinline__ void attend_row(const Attend& p) {
    extern __shared__ __align__(128) uint8_t chunks[];
    __shared__ AttendShared<D, WARPS> sh;
    __shared__ uint64_t full[ATTEND_WARPS];
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), turn = warp % ATTEND_WARPS;
    if (threadIdx.x % 32 == 0 && warp == turn) fill_barrier_init(&full[turn]);
    barrier_init_done();
    __syncwarp();
    pdl_start();
    const Place at(p, blockIdx.z, blockIdx.y, gridDim.y, blockIdx.x);
    if (!at.there()) return pdl_wait();
    uint32_t parity = 0;
    attend_split<D, TOKENS, WARPS>(p, Launched<WARPS>(), at, sh, chunks, &full[turn], parity);
}

}  // namespace

#define ATTEND(NAME, D, TOKENS, WARPS, BLOCKS) \
    extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) NAME(const __grid_constant__ Attend p) { attend_row<D, TOKENS, WARPS>(p); }
ATTEND(attend_decode_d64, 64, 32, 4, 4)
ATTEND(attend_decode_d128, 128, 32, 4, 4)
// For few blocks: more warps each, that all form the weights of their chunk.
ATTEND(attend_decode_d128_few, 128, 32, 8, 3)
ATTEND(attend_decode_d256, 256, 16, 4, 2)
