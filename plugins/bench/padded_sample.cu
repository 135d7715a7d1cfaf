// deform_sample whose blocks ask for more shared memory than they use: so a card with much of it holds as few of
// them as one with little. For layouts.py alone.
#include "deform_sample/deform_sample.cu" // whose launcher is not exported

#include "kernels/degmix_kernels.h"

// As `degmix_deform_sample`, with at least so many bytes a block.
DEGMIX_API int32_t degmix_deform_sample_padded(void const* params, int64_t sharedBytes, void* stream)
{
    using namespace degmix;
    auto const& sample = *static_cast<DeformSampleParams const*>(params);
    DeviceLimits limits{};
    if (checkDeformSample(sample) != nullptr || sample.valueType != Type::kHALF)
    {
        return cudaErrorInvalidValue;
    }
    cudaError_t const status = deviceLimits(limits);
    if (status != cudaSuccess)
    {
        return status;
    }
    DeformSampleLaunch plan = planDeformSample(sample, limits);
    plan.sharedBytes = std::max(plan.sharedBytes, sharedBytes);
    return launchValue<__half>(sample, plan, static_cast<cudaStream_t>(stream));
}
