#include "common/launch.h"

#include <atomic>
#include <initializer_list>

namespace degmix
{
namespace
{

constexpr int32_t kDEVICES = 64;
std::atomic<bool> known[kDEVICES];
DeviceLimits cache[kDEVICES];

} // namespace

cudaError_t deviceLimits(DeviceLimits& limits) noexcept
{
    int device = 0;
    cudaError_t status = cudaGetDevice(&device);
    if (status != cudaSuccess)
    {
        return status;
    }
    bool const cached = device < kDEVICES;
    if (cached && known[device].load(std::memory_order_acquire))
    {
        limits = cache[device];
        return cudaSuccess;
    }
    int major = 0;
    int minor = 0;
    struct Asked
    {
        cudaDeviceAttr attribute;
        int* value;
    };
    int multiprocessors = 0;
    int perBlock = 0;
    int perMultiprocessor = 0;
    for (Asked const& asked : {Asked{cudaDevAttrMultiProcessorCount, &multiprocessors},
             Asked{cudaDevAttrMaxSharedMemoryPerBlockOptin, &perBlock},
             Asked{cudaDevAttrMaxSharedMemoryPerMultiprocessor, &perMultiprocessor},
             Asked{cudaDevAttrComputeCapabilityMajor, &major}, Asked{cudaDevAttrComputeCapabilityMinor, &minor}})
    {
        status = cudaDeviceGetAttribute(asked.value, asked.attribute, device);
        if (status != cudaSuccess)
        {
            return status;
        }
    }
    limits = DeviceLimits{multiprocessors, perBlock, perMultiprocessor, 10 * major + minor};
    if (cached)
    {
        // Two threads may both come here; they write the same.
        cache[device] = limits;
        known[device].store(true, std::memory_order_release);
    }
    return cudaSuccess;
}

} // namespace degmix
