// CUDA's names for a plain C++ compiler: what our kernels and launchers use of them, and no more.
// Kernels built against this run on the processor, thread by thread, as `emulation.h` says. Put this
// folder in front of the include path and define DEGMIX_EMULATED.
#pragma once

#include "emulation.h"

#include <math.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

using cudaStream_t = void*;
using cudaEvent_t = void*;

enum cudaError_t
{
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorNotSupported = 801,
};

enum cudaFuncAttribute
{
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
};

enum cudaDeviceAttr
{
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

struct dim3
{
    unsigned x;
    unsigned y;
    unsigned z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1)
        : x(x_)
        , y(y_)
        , z(z_)
    {
    }
};

enum cudaLaunchAttributeID
{
    cudaLaunchAttributeClusterDimension = 4,
};

struct cudaLaunchAttribute
{
    cudaLaunchAttributeID id;
    struct
    {
        dim3 clusterDim;
    } val;
};

struct cudaLaunchConfig_t
{
    dim3 gridDim;
    dim3 blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

inline char const* cudaGetErrorString(cudaError_t status)
{
    switch (status)
    {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNotSupported: return "operation not supported";
    }
    return "unrecognized error code";
}

inline cudaError_t cudaGetDevice(int* device)
{
    *device = static_cast<int>(degmix::emulation::currentCard - degmix::emulation::kCARDS);
    return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device)
{
    degmix::emulation::Card const& card = degmix::emulation::kCARDS[device];
    switch (attribute)
    {
    case cudaDevAttrMultiProcessorCount: *value = card.multiprocessors; break;
    case cudaDevAttrComputeCapabilityMajor: *value = card.capability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = card.capability % 10; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = card.sharedBytesPerMultiprocessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = card.sharedBytesPerBlock; break;
    }
    return cudaSuccess;
}

struct cudaFuncAttributes
{
    int numRegs;
    int ptxVersion;
};

// Of a kernel that only code for compute capability 9.0 has.
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void const*)
{
    int const capability = degmix::emulation::codeCapability();
    *attributes = cudaFuncAttributes{capability == 90 ? 255 : 4, capability};
    return cudaSuccess;
}

inline cudaError_t cudaFuncSetAttribute(void const* function, cudaFuncAttribute, int value)
{
    if (value > degmix::emulation::currentCard->sharedBytesPerBlock)
    {
        return cudaErrorInvalidValue;
    }
    degmix::emulation::setSharedLimit(function, value);
    return cudaSuccess;
}

template <typename... Expected, typename... Given>
cudaError_t cudaLaunchKernelEx(cudaLaunchConfig_t const* config, void (*kernel)(Expected...), Given const&... given)
{
    if (!degmix::emulation::fitsShared(reinterpret_cast<void const*>(kernel), config->dynamicSmemBytes))
    {
        return cudaErrorInvalidValue;
    }
    unsigned const cluster = config->numAttrs == 0 ? 1 : config->attrs[0].val.clusterDim.x;
    unsigned const most = degmix::emulation::currentCard->capability >= 90 ? 8 : 1;
    if (cluster == 0 || cluster > most || config->gridDim.x % cluster != 0)
    {
        return cudaErrorInvalidValue;
    }
    auto const body = [&] { kernel(given...); };
    using Body = decltype(body);
    degmix::emulation::runGrid(
        degmix::emulation::Launch{config->gridDim.x, config->blockDim.x, cluster, config->dynamicSmemBytes},
        [](void const* context) { (*static_cast<Body const*>(context))(); }, &body);
    return cudaSuccess;
}

// threadIdx.x and the like: a launch is one-dimensional here, and so are our kernels.
template <unsigned (*kREAD)() noexcept>
struct BuiltIn
{
    struct
    {
        operator unsigned() const noexcept
        {
            return kREAD();
        }
    } x;
};

inline BuiltIn<degmix::emulation::threadIndex> const threadIdx{};
inline BuiltIn<degmix::emulation::blockIndex> const blockIdx{};
inline BuiltIn<degmix::emulation::blockSize> const blockDim{};
inline BuiltIn<degmix::emulation::gridSize> const gridDim{};

inline void __syncthreads()
{
    degmix::emulation::syncBlock();
}

inline void __syncwarp()
{
    degmix::emulation::syncWarp();
}

template <typename T>
T __shfl_down_sync(unsigned, T value, int by)
{
    void const* const* all = degmix::emulation::publish(&value);
    int const lane = static_cast<int>(degmix::emulation::threadIndex() % 32);
    T const found = *static_cast<T const*>(all[lane + by < 32 ? lane + by : lane]);
    degmix::emulation::syncWarp();
    return found;
}

template <typename T>
T __ldg(T const* at)
{
    return *at;
}

inline float __int_as_float(int32_t bits)
{
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline int32_t __float_as_int(float value)
{
    int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector)
{
    uint64_t const bytes = (static_cast<uint64_t>(high) << 32U) | low;
    uint32_t found = 0;
    for (uint32_t i = 0; i < 4; ++i)
    {
        uint32_t const from = (selector >> (4 * i)) & 7U;
        found |= static_cast<uint32_t>((bytes >> (8 * from)) & 0xFFU) << (8 * i);
    }
    return found;
}

inline int32_t min(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

inline float __expf(float x)
{
    return expf(x);
}

inline float __fdividef(float x, float y)
{
    return x / y;
}

struct uint2
{
    uint32_t x;
    uint32_t y;
};

struct alignas(16) uint4
{
    uint32_t x;
    uint32_t y;
    uint32_t z;
    uint32_t w;
};

struct float2
{
    float x;
    float y;
};

// Memory and streams, as far as the mini host uses them.
enum cudaMemcpyKind
{
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
};

inline cudaError_t cudaMalloc(void** pointer, size_t bytes)
{
    *pointer = ::operator new(bytes, std::align_val_t{256}, std::nothrow);
    return *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

inline cudaError_t cudaFree(void* pointer)
{
    ::operator delete(pointer, std::align_val_t{256});
    return cudaSuccess;
}

inline cudaError_t cudaMemcpy(void* to, void const* from, size_t bytes, cudaMemcpyKind)
{
    std::memcpy(to, from, bytes);
    return cudaSuccess;
}

inline cudaError_t cudaStreamCreate(cudaStream_t* stream)
{
    *stream = nullptr;
    return cudaSuccess;
}

inline cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return cudaSuccess;
}
