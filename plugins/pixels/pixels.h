// Frames of cameras on a processor: their bytes as RGB, and RGB at another size. The contract is
// degmix_edge/camera.py and Pillow's bilinear filter, to which the bytes are equal within one level.
#pragma once

#include <cstdint>

namespace degmix
{

// How a camera lays out its bytes. The numbers are those of the C interface.
enum class Packing : int32_t
{
    kBGR = 1,
    kNV12 = 2, // a plane of Y, then rows of U and V in turn, one for each two rows of Y
    kYUYV = 3,
    kUYVY = 4,
};

// Contiguous frame to contiguous RGB of (height, width, 3). Sides that share chroma are even.
// Returns false if there is no memory.
bool toRgb(uint8_t const* frame, Packing packing, int64_t height, int64_t width, uint8_t* rgb) noexcept;

// One picture of RGB; rows are `pitch` bytes apart.
struct Picture
{
    uint8_t const* data;
    int64_t pitch;
    int64_t height;
    int64_t width;
};

// A picture at another size, contiguous. Returns false if there is no memory.
bool resizeRgb(Picture const& picture, int64_t height, int64_t width, uint8_t* rgb) noexcept;

} // namespace degmix

extern "C"
{
    __attribute__((visibility("default"))) char const* degmix_pixels_version() noexcept;
    __attribute__((visibility("default"))) int32_t degmix_pixels_to_rgb(
        uint8_t const* frame, int32_t packing, int64_t height, int64_t width, uint8_t* rgb) noexcept;
    __attribute__((visibility("default"))) int32_t degmix_pixels_resize(
        degmix::Picture const* picture, int64_t height, int64_t width, uint8_t* rgb) noexcept;
}
