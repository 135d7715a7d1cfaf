// Deformable convolution, modulated or not, on a GPU. Dai et al. 2017, eq. 2; Zhu et al. 2019, eq. 1;
// the contract is degmix_edge/ops/deform_conv2d.py.
#pragma once

#include "common/types.h"

#include <cuda_runtime.h>

namespace degmix
{

// Several convolutions of one shape, each with its own operands, go in one launch, so that all tasks of a network fill
// the card together.
struct DeformConv2dParams
{
    static constexpr int32_t kMAX_ITEMS = 8;

    void const* value[kMAX_ITEMS];  // (n, c, height, width), (n, height, width, valuePitch), or blocks of channels
    void const* weight[kMAX_ITEMS]; // (outChannels, kernelHeight, kernelWidth, c / groups), of the values' type
    void const* offset[kMAX_ITEMS]; // (n, 2 offsetGroups taps, outHeight, outWidth): dy, dx of each tap, pixels
    void const* mask[kMAX_ITEMS];   // (n, offsetGroups taps, outHeight, outWidth), or all null
    void const* bias[kMAX_ITEMS];   // (outChannels) of biasType, or null
    float const* weightScale[kMAX_ITEMS]; // (outChannels) for int8 values, else null
    void* output[kMAX_ITEMS];             // (n, outChannels, outHeight, outWidth) or channels last with outputPitch
    int32_t items;
    int32_t n;
    int32_t c;
    int32_t height;
    int32_t width;
    int32_t outChannels;
    int32_t outHeight;
    int32_t outWidth;
    int32_t kernelHeight;
    int32_t kernelWidth;
    int32_t strideHeight;
    int32_t strideWidth;
    int32_t padTop;
    int32_t padLeft;
    int32_t dilationHeight;
    int32_t dilationWidth;
    int32_t groups;
    int32_t offsetGroups;
    Type valueType;
    Type offsetType; // of offsets and mask: kFLOAT or kHALF
    Type biasType;   // kFLOAT or kHALF
    Type outputType; // the values' own; any for int8 values
    Layout valueLayout;
    Layout outputLayout;
    int32_t valuePitch; // elements from pixel to pixel where channels come last; 32 in blocks
    int32_t outputPitch;
    Activation activation;
    int32_t sigmoidMask; // the mask is given before its sigmoid
    float valueScale;    // of int8 values
    float outputScale;   // of an int8 output
    int32_t tileN;       // output channels of a block: 64, 128 or 256; 0 leaves the choice to the heuristic
    int32_t tileM;       // pixels of a block: 64 (with 128 channels) or 128; 0 as above
    int32_t splits;      // blocks that share the products of a tile: 1 to 8, where a card has clusters of
                         // blocks; 0 leaves it to the heuristic, which splits no tile that tileN asks for
    int32_t variant;     // 1: products by warps; 2: by groups of warps, on compute capability 9.0; 0: the heuristic's,
                         // and 1 with a tileN
};

struct DeformConv2dLaunch
{
    int32_t tileN;
    int32_t isVector; // 16 bytes a load, else an element
    int64_t blocks;
    int32_t threads;
    int64_t sharedBytes;
    int32_t tileM;
    int32_t splits; // blocks of a cluster
    int32_t variant;
};

// What is wrong with the parameters, or null.
char const* checkDeformConv2d(DeformConv2dParams const& params) noexcept;

// The launch for a card: a pure function.
DeformConv2dLaunch planDeformConv2d(DeformConv2dParams const& params, DeviceLimits const& limits) noexcept;

// Asynchronous, without allocation; cudaErrorInvalidValue if `checkDeformConv2d` finds something.
cudaError_t deformConv2d(DeformConv2dParams const& params, cudaStream_t stream) noexcept;

} // namespace degmix
