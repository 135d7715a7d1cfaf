// Sample each channel at its own pixel offsets, on a GPU. Dai et al. 2017, eq. 3 and 4, without the
// product; the contract is degmix_edge/ops/deform_sample.py.
#pragma once

#include "common/types.h"

#include <cuda_runtime.h>

namespace degmix
{

// How a plane of values is read.
enum class DeformSampleVariant : int32_t
{
    kAUTO = 0,
    kSHARED = 1,  // from shared memory, where the plane lies with a ring of zeros and a load brings all neighbours
    kDIRECT = 2,  // from global memory, through the caches
    kCOMPACT = 3, // from shared memory, where each value lies once: less memory, and more loads
};

// Several maps of one shape go in one launch, so that all tasks of a network fill the card together.
struct DeformSampleParams
{
    static constexpr int32_t kMAX_ITEMS = 8;

    void const* value[kMAX_ITEMS];  // (n, c, height, width)
    void const* offset[kMAX_ITEMS]; // (n, 2 c, outHeight, outWidth): dy in channel 2 i, dx in 2 i + 1, pixels
    // (9, c, 4), or all null: what a pixel's own position adds to its offsets; slope and intercept of dy, then of
    // dx, by border class, along y in the first half of the channels and x in the second.
    float const* position[kMAX_ITEMS];
    void* output[kMAX_ITEMS]; // (n, c, outHeight, outWidth), of the values' type
    int32_t items;
    int32_t n;
    int32_t c;
    int32_t height;
    int32_t width;
    int32_t outHeight;
    int32_t outWidth;
    Type valueType;  // kINT8 samples in the values' own scale, rounded
    Type offsetType; // kFLOAT or kHALF
    DeformSampleVariant variant;
};

struct DeformSampleLaunch
{
    DeformSampleVariant variant;
    int64_t blocks;
    int32_t threads;
    int64_t sharedBytes;
};

// What is wrong with the parameters, or null.
char const* checkDeformSample(DeformSampleParams const& params) noexcept;

// The launch for a card: a pure function.
DeformSampleLaunch planDeformSample(DeformSampleParams const& params, DeviceLimits const& limits) noexcept;

// Asynchronous, without allocation; cudaErrorInvalidValue if `checkDeformSample` finds something.
cudaError_t deformSample(DeformSampleParams const& params, cudaStream_t stream) noexcept;

} // namespace degmix
