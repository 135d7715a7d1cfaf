#include "common/launch.h"
#include "fit_image/fit_image.cuh"

#include <algorithm>
#include <initializer_list>

namespace degmix
{
namespace
{

constexpr int64_t kSTAGE_WORDS = 8192;     // so that several blocks share a multiprocessor
constexpr int64_t kMOST_BYTES = 64 * 1024; // of a block: what every card has, and enough for a band of one row

bool isYuv(FitImageParams const& params)
{
    return params.format == FrameFormat::kNV12 || params.format == FrameFormat::kYUYV;
}

int64_t rowBytes(FitImageParams const& params)
{
    int64_t const bytes = params.format == FrameFormat::kNV12 ? 1 : params.format == FrameFormat::kYUYV ? 2 : 3;
    return bytes * params.width;
}

// Whether `size` pixels from `start` lie in `whole`, and there is one.
bool isInside(int32_t start, int32_t size, int32_t whole)
{
    return start >= 0 && size >= 1 && size <= whole && start <= whole - size;
}

// Pixels of the frame that one of the output may need.
int32_t tapsOf(int32_t from, int32_t to)
{
    return from > to ? static_cast<int32_t>(ceilDiv(2 * static_cast<int64_t>(from), to)) + 1 : 3;
}

// Pixels of the frame that `count` neighbours of the output may need.
int64_t reachOf(int32_t from, int32_t to, int32_t count)
{
    return ceilDiv(static_cast<int64_t>(count - 1) * from, to) + tapsOf(from, to);
}

// Bytes that can be stored together: what a row has, and its address.
int32_t vectorOf(FitImageParams const& params)
{
    int64_t const row = params.outWidth * (params.layout == Layout::kCHANNELS_LAST ? 3 : 1);
    for (int32_t vector : {16, 4})
    {
        if (row % vector == 0 && reinterpret_cast<uintptr_t>(params.output) % static_cast<uintptr_t>(vector) == 0)
        {
            return vector;
        }
    }
    return 1;
}

char const* checkBytes(FitImageParams const& params)
{
    if (params.source == nullptr || params.output == nullptr)
    {
        return "a pointer is null";
    }
    if (params.format == FrameFormat::kNV12 && params.chroma == nullptr)
    {
        return "chroma: nv12 needs the plane of U and V";
    }
    if (params.pitch < rowBytes(params))
    {
        return "pitch: expected at least the bytes of a row";
    }
    if (params.format == FrameFormat::kNV12 && params.chromaPitch < params.width)
    {
        return "chromaPitch: expected at least the bytes of a row";
    }
    for (int32_t value : params.pad)
    {
        if (value < 0 || value > 255)
        {
            return "pad: expected bytes, 0 to 255";
        }
    }
    return nullptr;
}

} // namespace

char const* checkFitImage(FitImageParams const& params) noexcept
{
    if (params.format < FrameFormat::kRGB || params.format > FrameFormat::kYUYV)
    {
        return "format: expected rgb, bgr, nv12 or yuyv";
    }
    if (params.layout != Layout::kPLANAR && params.layout != Layout::kCHANNELS_LAST)
    {
        return "layout: expected planar or channels last";
    }
    for (int32_t side : {params.height, params.width, params.outHeight, params.outWidth})
    {
        if (side < 1 || side > FitImageParams::kMOST_SIDE)
        {
            return "a side: expected 1 to 16384 pixels";
        }
    }
    if (isYuv(params) && params.width % 2 != 0)
    {
        return "width: nv12 and yuyv need an even number";
    }
    if (params.format == FrameFormat::kNV12 && params.height % 2 != 0)
    {
        return "height: nv12 needs an even number";
    }
    if (!isInside(params.windowTop, params.windowHeight, params.height)
        || !isInside(params.windowLeft, params.windowWidth, params.width))
    {
        return "window: expected a part of the frame";
    }
    if (!isInside(params.top, params.placedHeight, params.outHeight)
        || !isInside(params.left, params.placedWidth, params.outWidth))
    {
        return "placement: expected a part of the output";
    }
    if (params.windowHeight > static_cast<int64_t>(FitImageParams::kMOST_SHRINK) * params.placedHeight
        || params.windowWidth > static_cast<int64_t>(FitImageParams::kMOST_SHRINK) * params.placedWidth)
    {
        return "the window is more than 128 times as large as its place in the output";
    }
    return checkBytes(params);
}

cudaError_t fitImage(FitImageParams const& params, cudaStream_t stream) noexcept
{
    if (checkFitImage(params) != nullptr)
    {
        return cudaErrorInvalidValue;
    }
    fit::Launch launch_{};
    launch_.image = params;
    launch_.planX = fit::kPLAN_HEAD + tapsOf(params.windowWidth, params.placedWidth);
    launch_.planY = fit::kPLAN_HEAD + tapsOf(params.windowHeight, params.placedHeight);
    launch_.vector = vectorOf(params);
    int64_t const columns = reachOf(params.windowWidth, params.placedWidth, fit::kTILE_X);
    int64_t const rows = reachOf(params.windowHeight, params.placedHeight, fit::kTILE_Y);
    int64_t const pitch = std::min<int64_t>(columns, params.windowWidth) | 1;
    launch_.stagePitch = static_cast<int32_t>(pitch);
    int64_t const plans = fit::kTILE_X * launch_.planX + fit::kTILE_Y * launch_.planY;
    int64_t const most = ((kMOST_BYTES - fit::kTILE_BYTES) / 4 - plans) / (pitch + fit::kMIDDLE_PITCH);
    launch_.stageRows
        = static_cast<int32_t>(std::max<int64_t>(std::min(rows, std::min(kSTAGE_WORDS / pitch, most)), 1));
    int64_t const words = plans + launch_.stageRows * (pitch + fit::kMIDDLE_PITCH);
    int64_t const blocks = ceilDiv(params.outWidth, fit::kTILE_X) * ceilDiv(params.outHeight, fit::kTILE_Y);
    auto const kernel = params.format == FrameFormat::kRGB ? fit::fitImageKernel<FrameFormat::kRGB>
        : params.format == FrameFormat::kBGR               ? fit::fitImageKernel<FrameFormat::kBGR>
        : params.format == FrameFormat::kNV12              ? fit::fitImageKernel<FrameFormat::kNV12>
                                                           : fit::fitImageKernel<FrameFormat::kYUYV>;
    return launch(kernel, launch_, blocks, fit::kTHREADS, fit::kTILE_BYTES + 4 * words, stream);
}

} // namespace degmix
