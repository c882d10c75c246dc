// Hopper's products of a warpgroup (wgmma, sm_90a alone), and a place in a ring.
#pragma once
#include "product_async.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WGMMA 1
#else
#define WGMMA 0
#endif

#if WGMMA
// d += a b, 64 x 16 by 16 x N; a from registers, b at `descriptor`: rows of 128 bytes in the 128-byte swizzle.
template <int N>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t descriptor);

#define WGMMA_D8(at) "+f"(d[at]), "+f"(d[at + 1]), "+f"(d[at + 2]), "+f"(d[at + 3]), "+f"(d[at + 4]), "+f"(d[at + 5]), "+f"(d[at + 6]), "+f"(d[at + 7])
#define WGMMA_A "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor)

template <>
__device__ __forceinline__ void wgmma<16>(float (&d)[8], const uint32_t (&a)[4], uint64_t descriptor) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, %10, %11}, %12, 1, 1, 1, 0;"
        : WGMMA_D8(0)
        : WGMMA_A);
}

template <>
__device__ __forceinline__ void wgmma<32>(float (&d)[16], const uint32_t (&a)[4], uint64_t descriptor) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, 1, 1, 1, 0;"
        : WGMMA_D8(0), WGMMA_D8(8)
        : WGMMA_A);
}

template <>
__device__ __forceinline__ void wgmma<64>(float (&d)[32], const uint32_t (&a)[4], uint64_t descriptor) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
        : WGMMA_D8(0), WGMMA_D8(8), WGMMA_D8(16), WGMMA_D8(24)
        : WGMMA_A);
}

template <>
__device__ __forceinline__ void wgmma<128>(float (&d)[64], const uint32_t (&a)[4], uint64_t descriptor) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
        : WGMMA_D8(0), WGMMA_D8(8), WGMMA_D8(16), WGMMA_D8(24), WGMMA_D8(32), WGMMA_D8(40), WGMMA_D8(48), WGMMA_D8(56)
        : WGMMA_A);
}

// Keeps the compiler from using sums before the wait that makes them good.
template <int N>
__device__ __forceinline__ void wgmma_settle(float (&d)[N / 2]) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// Rows of 128 bytes in the 128-byte swizzle, at a multiple of 1024.
__device__ __forceinline__ uint64_t wgmma_descriptor(const void* shared) {
    return (uint64_t)((shared_address(shared) & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

// The products of T tiles' fragments, COUNT for each, with the columns at `descriptor`; what was begun before is over then.
template <int N, int T, int COUNT>
__device__ __forceinline__ void multiply_fragments(float (&acc)[T][N / 2], const uint32_t (&a)[T][COUNT][4], uint64_t descriptor) {
    wgmma_fence();
#pragma unroll
    for (int ks = 0; ks < COUNT; ++ks)
#pragma unroll
        for (int i = 0; i < T; ++i) wgmma<N>(acc[i], a[i][ks], descriptor + 2 * ks);
    wgmma_commit();
    wgmma_wait<1>();
}

// A place in a ring of slots, and the parity of its barrier's phase.
struct Turn {
    int slot = 0, slots;
    uint32_t parity = 0;
    __device__ explicit Turn(int n) : slots(n) {}
    __device__ void next() {
        if (++slot == slots) slot = 0, parity ^= 1;
    }
};
#endif
