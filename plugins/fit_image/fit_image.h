// A camera's frame becomes the network's input, on a GPU: colours, the window that the network sees, its size,
// and the padding around it. The contract is degmix_edge/preprocess.py: the bytes are those of `fit_image` there.
#pragma once

#include "common/types.h"

#include <cuda_runtime.h>

namespace degmix
{

// How a camera lays out its bytes. The numbers are those of the C interface.
enum class FrameFormat : int32_t
{
    kRGB = 0,
    kBGR = 1,
    kNV12 = 2, // a plane of Y, and one of U and V in turn for each 2 x 2 pixels
    kYUYV = 3, // Y, U, Y, V for each two pixels of a row; YUY2 is another name
};

// One frame and one image of the network's input. Sizes are pixels, pitches are bytes from row to row.
struct FitImageParams
{
    static constexpr int32_t kMOST_SIDE = 16384;
    static constexpr int32_t kMOST_SHRINK = 128;

    void const* source;
    void const* chroma; // of kNV12: U and V, else null
    void* output;       // uint8 RGB, of `layout`
    FrameFormat format;
    int32_t height; // of the frame
    int32_t width;
    int32_t pitch;
    int32_t chromaPitch;
    int32_t windowTop; // the part of the frame that the network sees
    int32_t windowLeft;
    int32_t windowHeight;
    int32_t windowWidth;
    int32_t outHeight;
    int32_t outWidth;
    int32_t top; // the part of the output that shows it; `pad` is around it
    int32_t left;
    int32_t placedHeight;
    int32_t placedWidth;
    Layout layout; // kPLANAR or kCHANNELS_LAST, with a pitch of three
    int32_t pad[3];
};

// What is wrong with the parameters, or null.
char const* checkFitImage(FitImageParams const& params) noexcept;

// Asynchronous, without allocation; cudaErrorInvalidValue if `checkFitImage` finds something.
cudaError_t fitImage(FitImageParams const& params, cudaStream_t stream) noexcept;

} // namespace degmix
