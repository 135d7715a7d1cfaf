// One way to launch, for nvcc and for the emulation alike.
#pragma once

#include "common/types.h"

#include <cuda_runtime.h>

#include <mutex>

namespace degmix
{

// What is read once a device, since a launch must not ask the driver each time.
template <typename Value>
class OnceADevice
{
public:
    // Of the current device, by `read(device, value)`.
    template <typename Read>
    cudaError_t get(Value& value, Read const& read) noexcept
    {
        int device = 0;
        cudaError_t const status = cudaGetDevice(&device);
        if (status != cudaSuccess)
        {
            return status;
        }
        if (device >= kDEVICES)
        {
            return read(device, value);
        }
        Entry& mine = mEntries[device];
        std::call_once(mine.once, [&] { mine.status = read(device, mine.value); });
        value = mine.value;
        return mine.status;
    }

private:
    static constexpr int32_t kDEVICES = 64;

    struct Entry
    {
        std::once_flag once;
        cudaError_t status{cudaSuccess};
        Value value{};
    };

    Entry mEntries[kDEVICES];
};

// Of the current device.
cudaError_t deviceLimits(DeviceLimits& limits) noexcept;

// Blocks of a cluster, which compute capability 9.0 and later have, run together.
template <typename Params>
cudaError_t launch(void (*kernel)(Params), Params const& params, int64_t blocks, int32_t threads, int64_t sharedBytes,
    cudaStream_t stream, int32_t cluster = 1) noexcept
{
    if (blocks == 0)
    {
        return cudaSuccess;
    }
    constexpr int64_t kWITHOUT_OPT_IN = 48 * 1024;
    if (sharedBytes > kWITHOUT_OPT_IN)
    {
        // The attribute is the function's, not the launch's: another thread's smaller launch must not take
        // away what this one needs, so it is always the card's limit.
        DeviceLimits limits{};
        cudaError_t status = deviceLimits(limits);
        if (status == cudaSuccess)
        {
            status = cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel),
                cudaFuncAttributeMaxDynamicSharedMemorySize, limits.sharedBytesPerBlock);
        }
        if (status != cudaSuccess)
        {
            return status;
        }
    }
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(sharedBytes);
    config.stream = stream;
    cudaLaunchAttribute attribute{};
    if (cluster > 1)
    {
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = static_cast<unsigned>(cluster);
        attribute.val.clusterDim.y = 1;
        attribute.val.clusterDim.z = 1;
        config.attrs = &attribute;
        config.numAttrs = 1;
    }
    return cudaLaunchKernelEx(&config, kernel, params);
}

} // namespace degmix
