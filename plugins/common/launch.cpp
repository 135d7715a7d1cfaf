#include "common/launch.h"

#include <initializer_list>
#include <mutex>

namespace degmix
{
namespace
{

constexpr int32_t kDEVICES = 64;

struct Known
{
    std::once_flag once;
    cudaError_t status{cudaSuccess};
    DeviceLimits limits{};
};

cudaError_t read(int device, DeviceLimits& limits)
{
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
        cudaError_t const status = cudaDeviceGetAttribute(asked.value, asked.attribute, device);
        if (status != cudaSuccess)
        {
            return status;
        }
    }
    limits = DeviceLimits{multiprocessors, perBlock, perMultiprocessor, 10 * major + minor};
    return cudaSuccess;
}

} // namespace

cudaError_t deviceLimits(DeviceLimits& limits) noexcept
{
    int device = 0;
    cudaError_t const status = cudaGetDevice(&device);
    if (status != cudaSuccess)
    {
        return status;
    }
    if (device >= kDEVICES)
    {
        return read(device, limits);
    }
    static Known known[kDEVICES];
    Known& mine = known[device];
    std::call_once(mine.once, [&] { mine.status = read(device, mine.limits); });
    limits = mine.limits;
    return mine.status;
}

} // namespace degmix
