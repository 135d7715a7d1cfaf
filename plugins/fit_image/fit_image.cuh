// Device code of fit_image. A block makes 32 x 8 pixels of the output:
//
//   frame ──colours──► stage[rows][columns] ──across──► middle[rows][32] ──down──► tile[8][32] ──► output
//
// Each step is whole numbers, rounded as Pillow rounds, so that the result is the processor's bit by bit. Stages
// hold a pixel a word, red in the low byte. Where a tile's part of the frame is too large for shared memory, it
// comes in bands of rows.
#pragma once

#include "common/device.cuh"
#include "fit_image/fit_image.h"

namespace degmix
{
namespace fit
{

constexpr int32_t kTILE_X = 32;
constexpr int32_t kTILE_Y = 8;
constexpr int32_t kTHREADS = kTILE_X * kTILE_Y;
constexpr int32_t kMIDDLE_PITCH = kTILE_X + 1;
constexpr int32_t kCHANNELS = 3;
constexpr int32_t kPLAN_HEAD = 2; // words of a pixel's plan in front of its weights
constexpr int32_t kTILE_BYTES = kTILE_X * kTILE_Y * kCHANNELS;
constexpr int32_t kFRACTION_BITS = 22; // of a weight: bytes times weights stay below 2^31
constexpr int32_t kHALF = 1 << (kFRACTION_BITS - 1);

// What all blocks of a launch share, and a launcher has worked out.
struct Launch
{
    FitImageParams image;
    int32_t planX; // words of a column's plan
    int32_t planY;
    int32_t stagePitch; // words, an odd number, so that a column has all banks
    int32_t stageRows;  // rows of a band
    int32_t vector;     // bytes that are stored together: 16, 4 or 1
};

// One axis of a resize: the bilinear filter, which becomes wider where the picture shrinks.
struct Axis
{
    int32_t from; // pixels of the window
    int32_t to;   // pixels of the output that show it
    int32_t half; // of the filter's base, in pixels of the frame, times `to`
};

__device__ __forceinline__ Axis axisOf(int32_t from, int32_t to)
{
    return Axis{from, to, from > to ? from : to};
}

// The first pixel with a weight above zero, and the one behind the last.
__device__ __forceinline__ int32_t firstOf(Axis const& axis, int32_t i)
{
    int32_t const twice = (2 * i + 1) * axis.from - 2 * axis.half + axis.to;
    return twice < 0 ? 0 : twice / (2 * axis.to);
}

__device__ __forceinline__ int32_t endOf(Axis const& axis, int32_t i)
{
    int32_t const end = ((2 * i + 1) * axis.from + 2 * axis.half + axis.to) / (2 * axis.to);
    return end < axis.from ? end : axis.from;
}

// What pixel `i` of the output needs: the first pixel, how many, and their weights times 2^22, rounded. `part` of
// `parts` threads writes its share.
__device__ __forceinline__ void planPixel(int32_t* plan, Axis const& axis, int32_t i, int32_t part, int32_t parts)
{
    int32_t const first = firstOf(axis, i);
    int32_t const count = endOf(axis, i) - first;
    int32_t const start = (2 * first + 1) * axis.to - (2 * i + 1) * axis.from;
    int32_t const base = 2 * axis.half;
    int32_t const step = 2 * axis.to;
    int32_t sum = 0;
    for (int32_t tap = 0; tap < count; ++tap)
    {
        int32_t const away = start + tap * step;
        int32_t const height = base - (away < 0 ? -away : away);
        sum += height > 0 ? height : 0;
    }
    if (part == 0)
    {
        plan[0] = first;
        plan[1] = count;
    }
    float const scale = static_cast<float>(1 << kFRACTION_BITS) / static_cast<float>(sum);
    for (int32_t tap = part; tap < count; tap += parts)
    {
        int32_t const away = start + tap * step;
        int32_t const height = base - (away < 0 ? -away : away);
        int32_t weight = roundToInt(static_cast<float>(height > 0 ? height : 0) * scale);
        // A float is off by less than one.
        int64_t const left
            = (static_cast<int64_t>(height > 0 ? height : 0) << kFRACTION_BITS) - static_cast<int64_t>(weight) * sum;
        weight += 2 * left >= sum ? 1 : 2 * left < -static_cast<int64_t>(sum) ? -1 : 0;
        plan[kPLAN_HEAD + tap] = weight;
    }
}

__device__ __forceinline__ uint32_t clampByte(int32_t value)
{
    return static_cast<uint32_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// ITU-R BT.601 of limited range, in OpenCV's whole numbers.
__device__ __forceinline__ uint32_t rgbOf(int32_t y, int32_t u, int32_t v)
{
    constexpr int32_t kBITS = 20;
    constexpr int32_t kROUND = 1 << (kBITS - 1);
    int32_t const bright = (y < 16 ? 0 : y - 16) * 1220542 + kROUND;
    u -= 128;
    v -= 128;
    return clampByte((bright + 1673527 * v) >> kBITS) | clampByte((bright - 852492 * v - 409993 * u) >> kBITS) << 8U
        | clampByte((bright + 2116026 * u) >> kBITS) << 16U;
}

// A row of a frame.
template <FrameFormat kFORMAT>
struct Row
{
    __device__ __forceinline__ Row(FitImageParams const& image, int32_t y)
        : bytes(static_cast<uint8_t const*>(image.source) + static_cast<int64_t>(y) * image.pitch)
        , other(bytes)
    {
        if constexpr (kFORMAT == FrameFormat::kNV12)
        {
            other = static_cast<uint8_t const*>(image.chroma) + static_cast<int64_t>(y / 2) * image.chromaPitch;
        }
    }

    // A pixel as a word.
    __device__ __forceinline__ uint32_t at(int32_t x) const
    {
        if constexpr (kFORMAT == FrameFormat::kRGB || kFORMAT == FrameFormat::kBGR)
        {
            uint32_t const first = __ldg(bytes + 3 * x);
            uint32_t const green = __ldg(bytes + 3 * x + 1);
            uint32_t const last = __ldg(bytes + 3 * x + 2);
            return kFORMAT == FrameFormat::kRGB ? first | green << 8U | last << 16U : last | green << 8U | first << 16U;
        }
        else if constexpr (kFORMAT == FrameFormat::kNV12)
        {
            return rgbOf(__ldg(bytes + x), __ldg(other + (x & ~1)), __ldg(other + (x | 1)));
        }
        else
        {
            int32_t const pair = 4 * (x / 2);
            return rgbOf(__ldg(bytes + 2 * x), __ldg(bytes + pair + 1), __ldg(bytes + pair + 3));
        }
    }

    uint8_t const* bytes;
    uint8_t const* other;
};

// Three sums of bytes times weights.
struct Sums
{
    int32_t red{kHALF};
    int32_t green{kHALF};
    int32_t blue{kHALF};

    __device__ __forceinline__ void add(uint32_t pixel, int32_t weight)
    {
        red += static_cast<int32_t>(pixel & 0xFFU) * weight;
        green += static_cast<int32_t>((pixel >> 8U) & 0xFFU) * weight;
        blue += static_cast<int32_t>((pixel >> 16U) & 0xFFU) * weight;
    }

    // Weights are never negative, and rounded ones may be a little more than one together.
    __device__ __forceinline__ uint32_t pixel() const
    {
        return byteOf(red) | byteOf(green) << 8U | byteOf(blue) << 16U;
    }

private:
    __device__ __forceinline__ static uint32_t byteOf(int32_t sum)
    {
        uint32_t const value = static_cast<uint32_t>(sum) >> kFRACTION_BITS;
        return value > 255U ? 255U : value;
    }
};

// Columns or rows of a tile that show the frame, counted from its first pixel in the output.
struct Span
{
    int32_t first;
    int32_t count;
};

__device__ __forceinline__ Span spanOf(int32_t tile, int32_t size, int32_t place, int32_t placed)
{
    int32_t const first = tile > place ? tile - place : 0;
    int32_t const end = tile + size - place < placed ? tile + size - place : placed;
    return Span{first, end > first ? end - first : 0};
}

// A band of the frame, a warp a row.
template <FrameFormat kFORMAT>
__device__ __forceinline__ void fillStage(
    uint32_t* stage, Launch const& launch, int32_t y0, int32_t rows, int32_t x0, int32_t columns)
{
    int32_t const lane = static_cast<int32_t>(threadIdx.x) % 32;
    for (int32_t row = static_cast<int32_t>(threadIdx.x) / 32; row < rows; row += kTHREADS / 32)
    {
        Row<kFORMAT> const from(launch.image, launch.image.windowTop + y0 + row);
        uint32_t* const to = stage + row * launch.stagePitch;
#pragma unroll 4
        for (int32_t x = lane; x < columns; x += 32)
        {
            to[x] = from.at(launch.image.windowLeft + x0 + x);
        }
    }
}

// Neighbours in a warp are neighbours in a column: their weights are the same, and their banks are not.
__device__ __forceinline__ void resizeAcross(uint32_t* middle, uint32_t const* stage, int32_t const* plans,
    Launch const& launch, int32_t rows, int32_t columns, int32_t x0)
{
    int32_t const steps = kTHREADS / rows;
    int32_t const rest = kTHREADS - steps * rows;
    int32_t column = static_cast<int32_t>(threadIdx.x) / rows;
    int32_t row = static_cast<int32_t>(threadIdx.x) - column * rows;
    while (column < columns)
    {
        int32_t const* const plan = plans + column * launch.planX;
        uint32_t const* const pixels = stage + row * launch.stagePitch + plan[0] - x0;
        int32_t const count = plan[1];
        Sums sums;
        for (int32_t tap = 0; tap < count; ++tap)
        {
            sums.add(pixels[tap], plan[kPLAN_HEAD + tap]);
        }
        middle[row * kMIDDLE_PITCH + column] = sums.pixel();
        column += steps;
        row += rest;
        if (row >= rows)
        {
            row -= rows;
            ++column;
        }
    }
}

// The tile's bytes in the output's order, `vector` at a time; a run is what lies together in memory.
__device__ __forceinline__ void storeTile(unsigned char const* tile, Launch const& launch, int32_t tileX, int32_t tileY)
{
    FitImageParams const& image = launch.image;
    bool const isLast = image.layout == Layout::kCHANNELS_LAST;
    int32_t const columns = image.outWidth - tileX < kTILE_X ? image.outWidth - tileX : kTILE_X;
    int32_t const rows = image.outHeight - tileY < kTILE_Y ? image.outHeight - tileY : kTILE_Y;
    int32_t const each = isLast ? kCHANNELS : 1; // bytes of a pixel in a run
    int32_t const perRun = kTILE_X * each / launch.vector;
    int32_t const bytes = columns * each;
    int32_t const step = kTHREADS / perRun;
    int32_t const place = static_cast<int32_t>(threadIdx.x) / perRun;
    int32_t const byte = (static_cast<int32_t>(threadIdx.x) - place * perRun) * launch.vector;
    int32_t const runs = isLast ? kTILE_Y : kTILE_Y * kCHANNELS;
    auto* const output = static_cast<unsigned char*>(image.output);
    if (place >= step || byte >= bytes)
    {
        return;
    }
    for (int32_t run = place; run < runs; run += step)
    {
        int32_t const row = run % kTILE_Y;
        if (row >= rows)
        {
            continue;
        }
        int64_t const y = static_cast<int64_t>(run / kTILE_Y) * image.outHeight + tileY + row;
        unsigned char* const to = output + (y * image.outWidth + tileX) * each + byte;
        unsigned char const* const from = tile + run * kTILE_X * each + byte;
        if (launch.vector == 16)
        {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<uint4 const*>(from);
        }
        else if (launch.vector == 4)
        {
            *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<uint32_t const*>(from);
        }
        else
        {
            *to = *from;
        }
    }
}

constexpr int32_t kBLOCKS = kIS_TURING ? 4 : 5; // Turing's multiprocessor holds 1024 threads

template <FrameFormat kFORMAT>
__global__ void __launch_bounds__(kTHREADS, kBLOCKS) fitImageKernel(Launch launch)
{
    DEGMIX_SHARED(shared);
    FitImageParams const& image = launch.image;
    unsigned char* const tile = shared;
    auto* const plansX = reinterpret_cast<int32_t*>(shared + kTILE_BYTES);
    int32_t* const plansY = plansX + kTILE_X * launch.planX;
    auto* const middle = reinterpret_cast<uint32_t*>(plansY + kTILE_Y * launch.planY);
    uint32_t* const stage = middle + launch.stageRows * kMIDDLE_PITCH;

    int32_t const tilesX = (image.outWidth + kTILE_X - 1) / kTILE_X;
    int32_t const tileY = static_cast<int32_t>(blockIdx.x) / tilesX * kTILE_Y;
    int32_t const tileX = (static_cast<int32_t>(blockIdx.x) - tileY / kTILE_Y * tilesX) * kTILE_X;
    int32_t const thread = static_cast<int32_t>(threadIdx.x);
    int32_t const lane = thread % kTILE_X;
    int32_t const warp = thread / kTILE_X;
    Span const columns = spanOf(tileX, kTILE_X, image.left, image.placedWidth);
    Span const rows = spanOf(tileY, kTILE_Y, image.top, image.placedHeight);
    uint32_t const pad = static_cast<uint32_t>(image.pad[0] | image.pad[1] << 8 | image.pad[2] << 16);
    uint32_t pixel = pad;
    if (columns.count > 0 && rows.count > 0)
    {
        Axis const across = axisOf(image.windowWidth, image.placedWidth);
        Axis const down = axisOf(image.windowHeight, image.placedHeight);
        int32_t const x0 = firstOf(across, columns.first);
        int32_t const x1 = endOf(across, columns.first + columns.count - 1);
        int32_t const y0 = firstOf(down, rows.first);
        int32_t const y1 = endOf(down, rows.first + rows.count - 1);
        int32_t const column = tileX + lane - image.left - columns.first;
        int32_t const row = tileY + warp - image.top - rows.first;
        bool const isPlaced = column >= 0 && column < columns.count && row >= 0 && row < rows.count;
        int32_t const* const plan = plansY + (isPlaced ? row : 0) * launch.planY;
        if (thread / kTILE_Y < columns.count)
        {
            planPixel(plansX + thread / kTILE_Y * launch.planX, across, columns.first + thread / kTILE_Y,
                thread % kTILE_Y, kTILE_Y);
        }
        if (warp < rows.count)
        {
            planPixel(plansY + warp * launch.planY, down, rows.first + warp, lane, kTILE_X);
        }
        Sums sums;
        for (int32_t y = y0; y < y1; y += launch.stageRows)
        {
            int32_t const band = y1 - y < launch.stageRows ? y1 - y : launch.stageRows;
            fillStage<kFORMAT>(stage, launch, y, band, x0, x1 - x0);
            __syncthreads();
            resizeAcross(middle, stage, plansX, launch, band, columns.count, x0);
            __syncthreads();
            if (isPlaced)
            {
                int32_t const skipped = plan[0] - y; // rows of the band in front of the filter
                int32_t const until = skipped + plan[1] < band ? skipped + plan[1] : band;
                for (int32_t i = skipped > 0 ? skipped : 0; i < until; ++i)
                {
                    sums.add(middle[i * kMIDDLE_PITCH + column], plan[kPLAN_HEAD + i - skipped]);
                }
            }
        }
        pixel = isPlaced ? sums.pixel() : pad;
    }
    bool const isLast = image.layout == Layout::kCHANNELS_LAST;
    int32_t const plane = isLast ? 1 : kTILE_X * kTILE_Y;
    unsigned char* const mine = tile + (isLast ? kCHANNELS * thread : thread);
    mine[0] = static_cast<unsigned char>(pixel);
    mine[plane] = static_cast<unsigned char>(pixel >> 8U);
    mine[2 * plane] = static_cast<unsigned char>(pixel >> 16U);
    __syncthreads();
    storeTile(tile, launch, tileX, tileY);
}

} // namespace fit
} // namespace degmix
