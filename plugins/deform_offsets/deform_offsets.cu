#include "common/launch.h"
#include "deform_offsets/deform_offsets.cuh"

namespace degmix
{
namespace
{

bool isEmpty(DeformOffsetsParams const& params)
{
    return params.n == 0 || params.c == 0 || params.height == 0 || params.width == 0;
}

// Whether eight neighbours in a row can be stored together.
bool canVectorise(DeformOffsetsParams const& params)
{
    bool isAligned = params.width % 8 == 0;
    for (int32_t i = 0; i < params.items; ++i)
    {
        isAligned = isAligned && reinterpret_cast<uintptr_t>(params.offset[i]) % 16 == 0;
    }
    return isAligned;
}

} // namespace

char const* checkDeformOffsets(DeformOffsetsParams const& params) noexcept
{
    constexpr int64_t kMOST = 2147483647;
    if (params.items < 1 || params.items > DeformOffsetsParams::kMAX_ITEMS)
    {
        return "items: expected 1 to 8";
    }
    if (params.n < 0 || params.c < 0 || params.height < 0 || params.width < 0)
    {
        return "a size is negative";
    }
    if (params.c % DeformOffsetsParams::kROWS != 0)
    {
        return "c: expected a multiple of 16";
    }
    if (static_cast<int64_t>(params.height) * params.width > kMOST)
    {
        return "a plane has more than 2^31 - 1 pixels";
    }
    for (int32_t i = 0; i < params.items && !isEmpty(params); ++i)
    {
        if (params.maps[i] == nullptr || params.weight[i] == nullptr || params.offset[i] == nullptr)
        {
            return "a pointer is null";
        }
        if (reinterpret_cast<uintptr_t>(params.weight[i]) % 16 != 0)
        {
            return "weight: expected an address that is a multiple of 16";
        }
    }
    return nullptr;
}

cudaError_t deformOffsets(DeformOffsetsParams const& params, cudaStream_t stream) noexcept
{
    if (checkDeformOffsets(params) != nullptr)
    {
        return cudaErrorInvalidValue;
    }
    if (isEmpty(params))
    {
        return cudaSuccess;
    }
    int64_t const tiles = ceilDiv(params.height, offsets::kTILE_Y) * ceilDiv(params.width, offsets::kTILE_X);
    int64_t const blocks = 2 * tiles * params.n * params.items;
    auto const kernel = canVectorise(params) ? offsets::deformOffsetsKernel<true> : offsets::deformOffsetsKernel<false>;
    return launch(kernel, params, blocks, offsets::kTHREADS, offsets::kMAP_BYTES, stream);
}

} // namespace degmix
