// What every kernel uses: programmatic dependent launch, reductions of a fixed order, small helpers.
//
// Every kernel calls pdl_begin(), or pdl_wait() later, before it touches memory that another kernel writes. The order of kernels is only
// transitive, so a kernel that left it out would break its neighbours, not itself.
#pragma once
#include <cuda_fp16.h>
#include <stdint.h>

// Lets the next kernel of the stream start its launch.
__device__ __forceinline__ void pdl_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until all of the kernels before have finished.
__device__ __forceinline__ void pdl_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void pdl_begin() {
    pdl_start();
    pdl_wait();
}

// The sum over a warp, the same bits in every lane.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int o = 16; o > 0; o >>= 1) v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

// The sum over a block of THREADS threads, in every thread. `scratch` holds THREADS / 32 floats.
template <int THREADS>
__device__ __forceinline__ float block_sum(float v, float* scratch) {
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < THREADS / 32; i++) total += scratch[i];
    return total;
}

// How a norm is written in src/model/spec.rs.
struct Norm {
    const float* weight;
    const float* bias;
    float eps;
    int layer;  // 1: LayerNorm, 0: RMSNorm
};

// Where a layer's keys and values are. A page is [layers][k, v][kv heads][32 tokens][dim] in F16.
struct KvView {
    uint8_t* base;
    uint64_t page_bytes;
    // Per slot: the lengths of all groups' page tables, then the tables.
    const uint32_t* tables;
    int table_stride;
    int group;         // index of the length
    int table_offset;  // index of the first page
    int layer;
    int heads;
    int dim;
    int ring;  // 1: the table's pages are used in turn; 0: it is as long as the sequence
};

constexpr int PAGE_TOKENS = 32;

// Row 0 of the page that holds `position`: [dim] per token. which: 0 keys, 1 values.
__device__ __forceinline__ __half* kv_page(const KvView& kv, int slot, int position, int which, int head) {
    const uint32_t* table = kv.tables + (size_t)slot * kv.table_stride;
    uint32_t index = position / PAGE_TOKENS;
    if (kv.ring) index %= table[kv.group];
    uint32_t page = table[kv.table_offset + index];
    size_t element = ((size_t)(kv.layer * 2 + which) * kv.heads + head) * PAGE_TOKENS * kv.dim;
    return (__half*)(kv.base + page * kv.page_bytes) + element;
}
