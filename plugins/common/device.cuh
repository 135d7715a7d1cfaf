// Device code's common ground: conversions and shared memory. Compiles under nvcc, and under a plain
// C++ compiler with plugins/emulation in front of the include path.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>

#include <cstdint>

#if defined(DEGMIX_EMULATED)
#define DEGMIX_SHARED(name) unsigned char* const name = ::degmix::emulation::sharedMemory()
#else
#define DEGMIX_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace degmix
{

// The same pointer, which the compiler must not take apart again: with a base of its own, the address of
// an element is one instruction instead of four.
template <typename T>
__device__ __forceinline__ T* pinned(T* pointer)
{
#ifdef __CUDA_ARCH__
    asm("" : "+l"(pointer));
    __builtin_assume(__isGlobal(pointer));
#endif
    return pointer;
}

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

// Whether blocks may run together, as clusters: from compute capability 9.0.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kHAS_CLUSTERS = false;
#else
constexpr bool kHAS_CLUSTERS = true;
#endif

__device__ __forceinline__ void syncCluster()
{
#if defined(DEGMIX_EMULATED)
    emulation::syncCluster();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n" ::: "memory");
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

// A pair of floats from the same place in the shared memory of another block of the cluster.
__device__ __forceinline__ float2 loadOfCluster(float const* mine, int32_t rank)
{
#if defined(DEGMIX_EMULATED)
    return *static_cast<float2 const*>(emulation::ofCluster(mine, static_cast<unsigned>(rank)));
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(mine));
    float2 value;
    asm volatile(
        "{\n.reg .u32 there;\nmapa.shared::cluster.u32 there, %2, %3;\n"
        "ld.shared::cluster.v2.f32 {%0, %1}, [there];\n}\n"
        : "=f"(value.x), "=f"(value.y)
        : "r"(address), "r"(rank)
        : "memory");
    return value;
#else
    return float2{mine[0], mine[1]};
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

// One conversion, where a rounding and a conversion would be two.
__host__ __device__ __forceinline__ int32_t floorToInt(float value)
{
#ifdef __CUDA_ARCH__
    return __float2int_rd(value);
#else
    return static_cast<int32_t>(floorf(value));
#endif
}

__host__ __device__ __forceinline__ int32_t roundToInt(float value)
{
#ifdef __CUDA_ARCH__
    return __float2int_rn(value);
#else
    return static_cast<int32_t>(rintf(value));
#endif
}

__device__ __forceinline__ float toFloat(float value)
{
    return value;
}

__device__ __forceinline__ float toFloat(__half value)
{
    return __half2float(value);
}

__device__ __forceinline__ float toFloat(int8_t value)
{
    return static_cast<float>(value);
}

template <typename T>
__device__ __forceinline__ T fromFloat(float value);

template <>
__device__ __forceinline__ float fromFloat<float>(float value)
{
    return value;
}

template <>
__device__ __forceinline__ __half fromFloat<__half>(float value)
{
    return __float2half_rn(value);
}

// Ties to even, as ONNX's QuantizeLinear; symmetric, so -128 does not occur.
template <>
__device__ __forceinline__ int8_t fromFloat<int8_t>(float value)
{
    return static_cast<int8_t>(rintf(fminf(fmaxf(value, -127.F), 127.F)));
}

// What lies between values of the type needs no clamp.
template <typename T>
__device__ __forceinline__ T betweenValues(float value)
{
    if constexpr (sizeof(T) == 1)
    {
        return static_cast<T>(roundToInt(value));
    }
    return fromFloat<T>(value);
}

__device__ __forceinline__ uint32_t bits(__half value)
{
    return __half_as_ushort(value);
}

__device__ __forceinline__ __half lowHalf(uint32_t word)
{
    return __ushort_as_half(static_cast<unsigned short>(word & 0xFFFFU));
}

__device__ __forceinline__ __half highHalf(uint32_t word)
{
    return __ushort_as_half(static_cast<unsigned short>(word >> 16U));
}

__device__ __forceinline__ uint32_t packHalves(float low, float high)
{
    return bits(__float2half_rn(low)) | (bits(__float2half_rn(high)) << 16U);
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
