#include "common/launch.h"

#include <initializer_list>

namespace degmix
{
namespace
{

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
    static OnceADevice<DeviceLimits> known;
    return known.get(limits, read);
}

} // namespace degmix
