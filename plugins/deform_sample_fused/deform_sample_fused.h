// DeMT's spatial-aware half of a mixer block, on a GPU: the offset maps are expanded where they are
// used, so that their two channels a value never touch memory, and on request the product, bias, GELU,
// batch-norm affine and residual follow in the same launch. Half values.
// The contract is degmix_edge/ops/deform_sample_fused.py.
#pragma once

#include "common/types.h"

#include <cuda_runtime.h>

namespace degmix
{

// Several blocks of one shape, each with its own weights, go in one launch.
struct DeformSampleFusedParams
{
    static constexpr int32_t kMAX_ITEMS = 8;
    static constexpr int32_t kMAPS = 9; // of each of the two halves of the channels
    static constexpr int32_t kTAPS = 9;
    static constexpr int32_t kDEPTH = 96; // taps times maps padded to ten, and to a multiple of 16

    void const* value[kMAX_ITEMS];     // (n, c, height, width) half
    void const* maps[kMAX_ITEMS];      // (n, 18, height, width) half: what the offsets are expanded from
    void const* expand[kMAX_ITEMS];    // (2 c, 96) half in fragment order: 3 x 3 weights, tap by tap
    float const* position[kMAX_ITEMS]; // (9, c, 4): slope and intercept of dy, then of dx, by border class
    void const* product[kMAX_ITEMS];   // (c, c) half in fragment order, or null: the samples are the output
    float const* bias[kMAX_ITEMS];     // (c), as the next two, with `product`
    float const* scale[kMAX_ITEMS];
    float const* shift[kMAX_ITEMS];
    void* output[kMAX_ITEMS]; // (n, c, height, width) half
    int32_t items;
    int32_t n;
    int32_t c;
    int32_t height;
    int32_t width;
    Activation activation;
    int32_t residual; // add the values
};

// What is wrong with the parameters, or null.
char const* checkDeformSampleFused(DeformSampleFusedParams const& params) noexcept;

// Bytes of shared memory that a block needs.
int64_t sharedBytesOf(int32_t channels, bool multiplies) noexcept;

// Asynchronous, without allocation; cudaErrorInvalidValue if `checkDeformSampleFused` finds something.
cudaError_t deformSampleFused(DeformSampleFusedParams const& params, cudaStream_t stream) noexcept;

} // namespace degmix
