#include "common/launch.h"
#include "deform_offsets/deform_offsets.cuh"

#include <algorithm>
#include <initializer_list>

namespace degmix
{
namespace
{

bool isEmpty(DeformOffsetsParams const& params)
{
    return params.n == 0 || params.c == 0 || params.height == 0 || params.width == 0;
}

int64_t blocksOf(DeformOffsetsParams const& params)
{
    int64_t const tiles = ceilDiv(params.height, offsets::kTILE_Y) * ceilDiv(params.width, offsets::kTILE_X);
    return 2 * tiles * params.n * params.items;
}

// Neighbours in a row that can be stored together: 8, 4 or 1.
int32_t vectorOf(DeformOffsetsParams const& params)
{
    uintptr_t addresses = 0;
    for (int32_t i = 0; i < params.items; ++i)
    {
        addresses |= reinterpret_cast<uintptr_t>(params.offset[i]);
    }
    for (int32_t vector : {8, 4})
    {
        if (params.width % vector == 0 && addresses % (2 * static_cast<uintptr_t>(vector)) == 0)
        {
            return vector;
        }
    }
    return 1;
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
    if (blocksOf(params) > kMOST)
    {
        return "more than 2^31 - 1 blocks";
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
    int64_t const blocks = blocksOf(params);
    int32_t const vector = vectorOf(params);
    auto const kernel = vector == 8 ? offsets::deformOffsetsKernel<8>
        : vector == 4               ? offsets::deformOffsetsKernel<4>
                                    : offsets::deformOffsetsKernel<1>;
    int64_t const fragments = std::min<int64_t>(params.c / DeformOffsetsParams::kROWS, offsets::kFRAGMENTS);
    int64_t const bytes = offsets::kMAP_BYTES + fragments * offsets::kFRAGMENT_BYTES;
    return launch(kernel, params, blocks, offsets::kTHREADS, bytes, stream);
}

} // namespace degmix
