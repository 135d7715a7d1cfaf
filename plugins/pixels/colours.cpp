// YUV of BT.601 and limited range, in the whole numbers of OpenCV's conversions.
#include "pixels.h"

#include <algorithm>
#include <new>
#include <vector>

#include "clones.h"

namespace degmix
{
namespace
{

constexpr int32_t kBITS = 20;
constexpr int32_t kROUND = 1 << (kBITS - 1);

// What chroma adds to the red, green and blue of each pixel of a row.
struct Chroma
{
    int32_t* __restrict red;
    int32_t* __restrict green;
    int32_t* __restrict blue;
};

// The parts of a row in which they lie mixed.
struct Row
{
    Chroma chroma;
    uint8_t* __restrict luma;
    uint8_t* __restrict pairs; // U and V in turn
};

DEGMIX_INLINE int32_t bright(uint8_t luma)
{
    return (std::max<int32_t>(luma, 16) - 16) * 1220542 + kROUND;
}

DEGMIX_INLINE uint8_t level(int32_t value)
{
    return static_cast<uint8_t>(std::clamp(value >> kBITS, 0, 255));
}

// Two pixels share a pair of U and V.
DEGMIX_INLINE void chromaRow(uint8_t const* __restrict pairs, int64_t width, Chroma const& out)
{
    for (int64_t i = 0; i < width / 2; ++i)
    {
        int32_t const du = pairs[2 * i] - 128;
        int32_t const dv = pairs[2 * i + 1] - 128;
        out.red[2 * i] = out.red[2 * i + 1] = 1673527 * dv;
        out.green[2 * i] = out.green[2 * i + 1] = -852492 * dv - 409993 * du;
        out.blue[2 * i] = out.blue[2 * i + 1] = 2116026 * du;
    }
}

DEGMIX_INLINE void colourRow(
    uint8_t const* __restrict luma, Chroma const& chroma, int64_t width, uint8_t* __restrict rgb)
{
    for (int64_t x = 0; x < width; ++x)
    {
        int32_t const own = bright(luma[x]);
        rgb[3 * x] = level(own + chroma.red[x]);
        rgb[3 * x + 1] = level(own + chroma.green[x]);
        rgb[3 * x + 2] = level(own + chroma.blue[x]);
    }
}

DEGMIX_CLONES void planes(uint8_t const* frame, int64_t height, int64_t width, Chroma const& chroma, uint8_t* rgb)
{
    uint8_t const* pairs = frame + height * width;
    for (int64_t y = 0; y < height; ++y)
    {
        if (y % 2 == 0)
        {
            chromaRow(pairs + y / 2 * width, width, chroma);
        }
        colourRow(frame + y * width, chroma, width, rgb + 3 * y * width);
    }
}

// Every second byte is a Y, the first or the second.
template <int64_t kLUMA>
DEGMIX_INLINE void separate(
    uint8_t const* __restrict mixed, int64_t width, uint8_t* __restrict luma, uint8_t* __restrict pairs)
{
    for (int64_t x = 0; x < width; ++x)
    {
        luma[x] = mixed[2 * x + kLUMA];
        pairs[x] = mixed[2 * x + 1 - kLUMA];
    }
}

template <int64_t kLUMA>
DEGMIX_INLINE void packedRows(uint8_t const* frame, int64_t height, int64_t width, Row const& row, uint8_t* rgb)
{
    for (int64_t y = 0; y < height; ++y, frame += 2 * width, rgb += 3 * width)
    {
        separate<kLUMA>(frame, width, row.luma, row.pairs);
        chromaRow(row.pairs, width, row.chroma);
        colourRow(row.luma, row.chroma, width, rgb);
    }
}

DEGMIX_CLONES void yuyv(uint8_t const* frame, int64_t height, int64_t width, Row const& row, uint8_t* rgb)
{
    packedRows<0>(frame, height, width, row, rgb);
}

DEGMIX_CLONES void uyvy(uint8_t const* frame, int64_t height, int64_t width, Row const& row, uint8_t* rgb)
{
    packedRows<1>(frame, height, width, row, rgb);
}

DEGMIX_CLONES void swapped(uint8_t const* bgr, int64_t pixels, uint8_t* rgb)
{
    for (int64_t i = 0; i < pixels; ++i)
    {
        rgb[3 * i] = bgr[3 * i + 2];
        rgb[3 * i + 1] = bgr[3 * i + 1];
        rgb[3 * i + 2] = bgr[3 * i];
    }
}

} // namespace

bool toRgb(uint8_t const* frame, Packing packing, int64_t height, int64_t width, uint8_t* rgb) noexcept
{
    try
    {
        std::vector<int32_t> sums(3 * width);
        std::vector<uint8_t> bytes(2 * width);
        Chroma const chroma{sums.data(), sums.data() + width, sums.data() + 2 * width};
        Row const row{chroma, bytes.data(), bytes.data() + width};
        switch (packing)
        {
        case Packing::kBGR: swapped(frame, height * width, rgb); break;
        case Packing::kNV12: planes(frame, height, width, chroma, rgb); break;
        case Packing::kYUYV: yuyv(frame, height, width, row, rgb); break;
        case Packing::kUYVY: uyvy(frame, height, width, row, rgb); break;
        }
        return true;
    }
    catch (std::bad_alloc const&)
    {
        return false;
    }
}

} // namespace degmix
