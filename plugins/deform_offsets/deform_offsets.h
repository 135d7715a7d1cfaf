// The offsets of DeMT's deformable sampling, on a GPU: a 3 x 3 convolution of 18 maps with two groups, on
// tensor cores. Half values. The contract is degmix_edge/ops/deform_offsets.py.
#pragma once

#include "common/types.h"

#include <cuda_runtime.h>

namespace degmix
{

// Several convolutions of one shape, each with its own weights, go in one launch.
struct DeformOffsetsParams
{
    static constexpr int32_t kMAX_ITEMS = 8;
    static constexpr int32_t kMAPS = 9; // of each of the two groups
    static constexpr int32_t kTAPS = 9;
    static constexpr int32_t kDEPTH = 96; // taps times maps padded to ten, and to a multiple of 16
    static constexpr int32_t kROWS = 16;  // of a fragment: what c is a multiple of

    void const* maps[kMAX_ITEMS];   // (n, 18, height, width) half
    void const* weight[kMAX_ITEMS]; // (2 c, 96) half in fragment order: tap by tap
    void* offset[kMAX_ITEMS];       // (n, 2 c, height, width) half: dy and dx of each channel, pixels
    int32_t items;
    int32_t n;
    int32_t c; // channels that are sampled: output channels of a group
    int32_t height;
    int32_t width;
};

// What is wrong with the parameters, or null.
char const* checkDeformOffsets(DeformOffsetsParams const& params) noexcept;

// Asynchronous, without allocation; cudaErrorInvalidValue if `checkDeformOffsets` finds something.
cudaError_t deformOffsets(DeformOffsetsParams const& params, cudaStream_t stream) noexcept;

} // namespace degmix
