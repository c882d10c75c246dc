// Copies to shared memory that run by themselves, the barriers that tell when they are done, and the tensor cores' instruction.
//
// From sm_90 on one lane starts a bulk copy and the barrier counts bytes; before, the warp's lanes copy 16 bytes each and the
// barrier counts lanes. The calls are the same.
#pragma once
#include <stdint.h>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define BULK_COPY 1
#else
#define BULK_COPY 0
#endif

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// The same address of shared memory, which the compiler keeps in a register and does not work out again at each use.
template <class T>
__device__ __forceinline__ T* kept(T* p) {
    uint32_t address = shared_address(p);
    asm volatile("" : "+r"(address));
    return static_cast<T*>(__cvta_shared_to_generic(address));
}

// Arrivals that complete a fill.
constexpr int FILL_ARRIVALS_BULK = 1, FILL_ARRIVALS_LANES = 32;

__device__ __forceinline__ void barrier_init(uint64_t* bar, int count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count) : "memory");
}

__device__ __forceinline__ void fill_barrier_init(uint64_t* bar) {
    barrier_init(bar, BULK_COPY ? FILL_ARRIVALS_BULK : FILL_ARRIVALS_LANES);
}

// After the inits and before the block's __syncthreads or the warp's __syncwarp.
__device__ __forceinline__ void barrier_init_done() {
#if BULK_COPY
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(uint64_t* bar) {
    asm volatile("{ .reg .b64 s; mbarrier.arrive.shared.b64 s, [%0]; }" ::"r"(shared_address(bar)) : "memory");
}

// A warp arrives: its first lane for all, after __syncwarp. The racecheck tool does not see that this orders the other lanes'
// reads before the arrival, and reports each of them; for the build that it watches (-DEVERY_LANE_ARRIVES, scripts/gpu-check.sh)
// each lane arrives for itself, and nothing else differs.
#ifdef EVERY_LANE_ARRIVES
constexpr int WARP_ARRIVALS = 32;
#else
constexpr int WARP_ARRIVALS = 1;
#endif

__device__ __forceinline__ void warp_arrive(uint64_t* bar, int lane) {
    if (lane < WARP_ARRIVALS) barrier_arrive(bar);
}

// One try.
__device__ __forceinline__ bool barrier_passed(uint64_t* bar, uint32_t parity) {
    uint32_t done;
#if BULK_COPY
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
#else
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
#endif
                 : "=r"(done)
                 : "r"(shared_address(bar)), "r"(parity)
                 : "memory");
    return done;
}

// One try that does not wait at all.
__device__ __forceinline__ bool barrier_done(uint64_t* bar, uint32_t parity) {
    uint32_t done;
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(done)
                 : "r"(shared_address(bar)), "r"(parity)
                 : "memory");
    return done;
}

__device__ __forceinline__ void barrier_wait(uint64_t* bar, uint32_t parity) {
    while (!barrier_passed(bar, parity)) {
    }
}

#if BULK_COPY
__device__ __forceinline__ int cluster_blocks() {
    int n;
    asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(n));
    return n;
}

__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
#endif

// The lanes that ask for copies: the first alone, or all. What only they need to know lives in their registers, and a branch
// around a whole fill keeps the addresses of bulk copies uniform for the compiler.
__device__ __forceinline__ bool asks(int lane) { return !BULK_COPY || lane == 0; }

// One lane of a warp, the same every time, by an instruction that lets the compiler see that there is only one.
__device__ __forceinline__ bool elected() {
#if BULK_COPY
    uint32_t one;
    asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(one));
    return one != 0;
#else
    return true;
#endif
}

// A fill: begin (bytes in all), any number of copies, end. By the lanes that ask.
__device__ __forceinline__ void fill_begin(uint64_t* bar, uint32_t bytes, int lane) {
#if BULK_COPY
    asm volatile("{ .reg .b64 s; mbarrier.arrive.expect_tx.shared.b64 s, [%0], %1; }" ::"r"(shared_address(bar)), "r"(bytes)
                 : "memory");
#endif
}

template <bool STREAM>
__device__ __forceinline__ void fill_copy(void* to, const void* from, uint32_t bytes, uint64_t* bar, int lane) {
#if BULK_COPY
    if (STREAM) {
        uint64_t policy;
        asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
                         shared_address(to)),
                     "l"(from), "r"(bytes), "r"(shared_address(bar)), "l"(policy)
                     : "memory");
    } else {
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from),
                     "r"(bytes), "r"(shared_address(bar))
                     : "memory");
    }
#else
    for (uint32_t at = lane * 16; at < bytes; at += 512)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address((uint8_t*)to + at)), "l"((const uint8_t*)from + at)
                     : "memory");
#endif
}

__device__ __forceinline__ void fill_end(uint64_t* bar) {
#if !BULK_COPY
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(bar)) : "memory");
#endif
}

// Programmatic dependent launch: let the next kernel start; wait for the one before and its writes.
__device__ __forceinline__ void dependents_may_start() {
#if BULK_COPY
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void wait_for_predecessor() {
#if BULK_COPY
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// d += a b: 16 x 16 weights, 16 columns of 8 tokens.
__device__ __forceinline__ void mma_16816(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
