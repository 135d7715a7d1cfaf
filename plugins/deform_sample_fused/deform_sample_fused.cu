#include "common/launch.h"
#include "deform_sample_fused/deform_sample_fused.cuh"

namespace degmix
{

char const* checkDeformSampleFused(DeformSampleFusedParams const& params) noexcept
{
    constexpr int64_t kMOST = 2147483647;
    if (params.items < 1 || params.items > DeformSampleFusedParams::kMAX_ITEMS)
    {
        return "items: expected 1 to 8";
    }
    if (params.n < 0 || params.c < 0 || params.height < 0 || params.width < 0)
    {
        return "a size is negative";
    }
    bool const empty = params.n == 0 || params.c == 0 || params.height == 0 || params.width == 0;
    if (empty)
    {
        return nullptr;
    }
    if (params.height < 2 || params.width < 2)
    {
        return "height and width: expected at least 2, for a first and a last row and column";
    }
    if (static_cast<int64_t>(params.height) * params.width > kMOST)
    {
        return "a plane has more than 2^31 - 1 pixels";
    }
    bool const multiplies = params.product[0] != nullptr;
    if (params.c % (multiplies ? 64 : 8) != 0 || (multiplies && params.c > 768))
    {
        return multiplies ? "c: expected a multiple of 64, at most 768" : "c: expected a multiple of 8";
    }
    for (int32_t i = 0; i < params.items; ++i)
    {
        bool const affine = params.bias[i] != nullptr && params.scale[i] != nullptr && params.shift[i] != nullptr;
        if (params.value[i] == nullptr || params.maps[i] == nullptr || params.expand[i] == nullptr
            || params.position[i] == nullptr || params.output[i] == nullptr
            || multiplies != (params.product[i] != nullptr) || (multiplies && !affine))
        {
            return "a pointer is null";
        }
    }
    return nullptr;
}

int64_t sharedBytesOf(int32_t channels, bool multiplies) noexcept
{
    return fused::kMAP_SPACE + (multiplies ? static_cast<int64_t>(fused::kPIXELS) * channels * 2 : 0);
}

cudaError_t deformSampleFused(DeformSampleFusedParams const& params, cudaStream_t stream) noexcept
{
    if (checkDeformSampleFused(params) != nullptr)
    {
        return cudaErrorInvalidValue;
    }
    if (params.n == 0 || params.c == 0 || params.height == 0 || params.width == 0)
    {
        return cudaSuccess;
    }
    int64_t const tiles = ceilDiv(params.height, fused::kTILE_Y) * ceilDiv(params.width, fused::kTILE_X);
    int64_t const blocks = tiles * params.n * params.items;
    bool const multiplies = params.product[0] != nullptr;
    int64_t const bytes = sharedBytesOf(params.c, multiplies);
    DeviceLimits limits{};
    cudaError_t const status = deviceLimits(limits);
    if (status != cudaSuccess)
    {
        return status;
    }
    if (bytes > limits.sharedBytesPerBlock)
    {
        return cudaErrorNotSupported;
    }
    auto const kernel = multiplies ? fused::deformSampleFusedKernel<true> : fused::deformSampleFusedKernel<false>;
    return launch(kernel, params, blocks, fused::kTHREADS, bytes, stream);
}

} // namespace degmix
