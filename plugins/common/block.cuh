// What a thread knows of its block and its cluster, and arithmetic that only devices have.
#pragma once

#include "common/device.cuh"

namespace degmix
{

// The thread's index, read anew: what is made of it need not lie in registers through a long loop before.
__device__ __forceinline__ int32_t threadAgain()
{
#ifdef __CUDA_ARCH__
    int32_t index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
#else
    return static_cast<int32_t>(threadIdx.x);
#endif
}

// The same of the block's index.
__device__ __forceinline__ uint32_t blockAgain()
{
#ifdef __CUDA_ARCH__
    uint32_t index;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
    return index;
#else
    return blockIdx.x;
#endif
}

// Whether blocks may run together, as clusters: from compute capability 9.0.
__device__ __forceinline__ bool hasClusters()
{
#if defined(DEGMIX_EMULATED)
    return emulation::codeCapability() >= 90;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    return false;
#else
    return true;
#endif
}

__device__ __forceinline__ void syncCluster()
{
#if defined(DEGMIX_EMULATED)
    emulation::syncCluster();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n" ::: "memory");
#endif
}

// The same where nothing that was written before has to be seen after: it does not wait for what is on its way to
// memory.
__device__ __forceinline__ void leaveCluster()
{
#if defined(DEGMIX_EMULATED)
    emulation::syncCluster();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.aligned;\n" ::: "memory");
#endif
}

__device__ __forceinline__ int32_t clusterRank()
{
#if defined(DEGMIX_EMULATED)
    return static_cast<int32_t>(emulation::clusterRank());
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    int32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#else
    return 0;
#endif
}

// Four floats from the same place in the shared memory of another block of the cluster.
struct alignas(16) Floats
{
    float element[4];
};

__device__ __forceinline__ Floats loadOfCluster(Floats const* mine, [[maybe_unused]] int32_t rank)
{
#if defined(DEGMIX_EMULATED)
    return *static_cast<Floats const*>(emulation::ofCluster(mine, static_cast<unsigned>(rank)));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(mine));
    Floats value;
    asm volatile(
        "{\n.reg .u32 there;\nmapa.shared::cluster.u32 there, %4, %5;\n"
        "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there];\n}\n"
        : "=f"(value.element[0]), "=f"(value.element[1]), "=f"(value.element[2]), "=f"(value.element[3])
        : "r"(address), "r"(rank)
        : "memory");
    return value;
#else
    return *mine;
#endif
}

// The same value, of which nothing is computed before its place in the program.
__device__ __forceinline__ int32_t onlyHere(int32_t value)
{
#ifdef __CUDA_ARCH__
    asm volatile("" : "+r"(value));
#endif
    return value;
}

// Pairs of halves in a word, element by element: a b, and a b + c with one rounding.
__device__ __forceinline__ uint32_t multiplyHalves(uint32_t a, uint32_t b)
{
#if defined(DEGMIX_EMULATED)
    return emulation::fusedHalves(a, b, 0x80008000U);
#else
    uint32_t d;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
#endif
}

__device__ __forceinline__ uint32_t multiplyAddHalves(uint32_t a, uint32_t b, uint32_t c)
{
#if defined(DEGMIX_EMULATED)
    return emulation::fusedHalves(a, b, c);
#else
    uint32_t d;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#endif
}

} // namespace degmix
