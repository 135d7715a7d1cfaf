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

// Code for Turing, compute capability 7.5, which has less of most things. tensor_core.cuh has what it has instead.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define DEGMIX_TURING 1
#endif

namespace degmix
{

#if defined(DEGMIX_TURING)
constexpr bool kIS_TURING = true;
#else
constexpr bool kIS_TURING = false;
#endif

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

// The same number, which the compiler must keep instead of computing it again where it is used.
__device__ __forceinline__ int32_t pinned(int32_t number)
{
#ifdef __CUDA_ARCH__
    asm("" : "+r"(number));
#endif
    return number;
}

__device__ __forceinline__ float pinned(float number)
{
#ifdef __CUDA_ARCH__
    asm("" : "+f"(number));
#endif
    return number;
}

// Neighbours in memory that are read and written together.
template <typename T, int32_t kCOUNT>
struct alignas(sizeof(T) * kCOUNT) Together
{
    T of[kCOUNT];
};

// Values that are read once: they need not stay in a cache.
template <typename T, int32_t kCOUNT>
__device__ __forceinline__ Together<T, kCOUNT> loadOnce(T const* from)
{
    using Values = Together<T, kCOUNT>;
#ifdef __CUDA_ARCH__
    static_assert(sizeof(Values) <= 8, "two words at most");
    union
    {
        Values values;
        unsigned short two;
        uint32_t four;
        uint2 eight;
    } bytes;
    if constexpr (sizeof(Values) == 8)
    {
        bytes.eight = __ldcs(reinterpret_cast<uint2 const*>(from));
    }
    else if constexpr (sizeof(Values) == 4)
    {
        bytes.four = __ldcs(reinterpret_cast<uint32_t const*>(from));
    }
    else
    {
        bytes.two = __ldcs(reinterpret_cast<unsigned short const*>(from));
    }
    return bytes.values;
#else
    return *reinterpret_cast<Values const*>(from);
#endif
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

} // namespace degmix
