// Device code of deform_sample_fused. A block takes 16 x 8 pixels and all channels.
//
// The expansion is a product of pixels (rows) with 3 x 3 x 9 neighbours of the maps (depth 96). Its
// 16 x 8 fragments hand each lane two neighbouring columns of a row, which are dy and dx of one channel
// at one pixel: the lane samples there and then, and the offsets are never stored. The samples lie in
// shared memory, where the second product reads them.
#pragma once

#include "common/bilinear.cuh"
#include "common/epilogue.cuh"
#include "common/tensor_core.cuh"
#include "deform_sample_fused/deform_sample_fused.h"

namespace degmix
{
namespace fused
{

constexpr int32_t kTILE_X = 16;
constexpr int32_t kTILE_Y = 8;
constexpr int32_t kPIXELS = kTILE_X * kTILE_Y;
constexpr int32_t kTHREADS = 256; // eight warps: four along pixels, two along channels
constexpr int32_t kHALO_X = kTILE_X + 2;
constexpr int32_t kHALO_Y = kTILE_Y + 2;
constexpr int32_t kPADDED = 10; // maps of a pixel, so that a pair of them is a word
constexpr int32_t kSTEPS = DeformSampleFusedParams::kDEPTH / 16;
constexpr int32_t kMAP_BYTES = 2 * kHALO_Y * kHALO_X * kPADDED * 2;
constexpr int32_t kMAP_SPACE = (kMAP_BYTES + 127) / 128 * 128;
constexpr int32_t kPRODUCT_FRAGMENTS = 8; // of eight channels that a warp sums at once

// Rows of halves in parts of 16 bytes; eight rows' equal parts fall on all banks once.
__device__ __forceinline__ int32_t sampleAt(int32_t pixel, int32_t part, int32_t channels)
{
    return pixel * 2 * channels + ((part ^ (pixel & 7)) << 4);
}

// The maps of the tile and a ring of one pixel, zeros outside the image, maps last.
__device__ __forceinline__ void fillMaps(
    __half* to, __half const* maps, int32_t y0, int32_t x0, int32_t height, int32_t width)
{
    constexpr int32_t kPLACES = 2 * kPADDED * kHALO_Y * kHALO_X;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kPLACES; i += kTHREADS)
    {
        int32_t const column = i % kHALO_X;
        int32_t const row = i / kHALO_X % kHALO_Y;
        int32_t const map = i / (kHALO_X * kHALO_Y) % kPADDED;
        int32_t const half = i / (kHALO_X * kHALO_Y * kPADDED);
        int32_t const y = y0 + row - 1;
        int32_t const x = x0 + column - 1;
        bool const inside = map < DeformSampleFusedParams::kMAPS && y >= 0 && y < height && x >= 0 && x < width;
        int64_t const plane = half * DeformSampleFusedParams::kMAPS + map;
        to[((half * kHALO_Y + row) * kHALO_X + column) * kPADDED + map]
            = inside ? maps[(plane * height + y) * width + x] : fromFloat<__half>(0.F);
    }
}

// A fragment's two words of `weights`, which lie in the order that lanes read them.
__device__ __forceinline__ void loadWeights(
    uint32_t (&b)[2], void const* weights, int32_t fragment, int32_t steps, int32_t step)
{
    int32_t const lane = static_cast<int32_t>(threadIdx.x) % 32;
    uint2 const words = __ldg(static_cast<uint2 const*>(weights) + (fragment * steps + step) * 32 + lane);
    b[0] = words.x;
    b[1] = words.y;
}

// A border class of one axis: first, inner, last.
__device__ __forceinline__ int32_t borderOf(int32_t at, int32_t size)
{
    return at == 0 ? 0 : at == size - 1 ? 2 : 1;
}

struct Image
{
    __half const* value;
    float const* position;
    int32_t height;
    int32_t width;
    int32_t c;
};

__device__ __forceinline__ float sampleChannel(
    Image const& image, int32_t channel, int32_t y, int32_t x, float dy, float dx)
{
    bool const isFirst = channel < image.c / 2;
    int32_t const border = 3 * borderOf(y, image.height) + borderOf(x, image.width);
    float const* line = image.position + (static_cast<int64_t>(border) * image.c + channel) * 4;
    float const along = static_cast<float>(isFirst ? y : x);
    float const atY = static_cast<float>(y) + (dy + (__ldg(line) * along + __ldg(line + 1)));
    float const atX = static_cast<float>(x) + (dx + (__ldg(line + 2) * along + __ldg(line + 3)));
    Place const place = placeOf(atY, atX, image.height, image.width);
    Corners const corners = cornersOf(place, image.height, image.width, 1.F);
    __half const* plane = image.value + static_cast<int64_t>(channel) * image.height * image.width;
    float sum = 0.F;
#pragma unroll
    for (int32_t i = 0; i < 4; ++i)
    {
        sum += corners.weight[i] * toFloat(__ldg(plane + corners.index[i]));
    }
    return sum;
}

template <bool kPRODUCT>
__global__ void __launch_bounds__(kTHREADS) deformSampleFusedKernel(DeformSampleFusedParams params)
{
    DEGMIX_SHARED(shared);
    __half* const maps = reinterpret_cast<__half*>(shared);
    unsigned char* const samples = shared + kMAP_SPACE;
    int32_t const height = params.height;
    int32_t const width = params.width;
    int32_t const c = params.c;
    int32_t const tilesX = (width + kTILE_X - 1) / kTILE_X;
    int32_t const tilesY = (height + kTILE_Y - 1) / kTILE_Y;
    int64_t block = blockIdx.x;
    int32_t const x0 = static_cast<int32_t>(block % tilesX) * kTILE_X;
    block /= tilesX;
    int32_t const y0 = static_cast<int32_t>(block % tilesY) * kTILE_Y;
    block /= tilesY;
    int64_t const n = block % params.n;
    int32_t const item = static_cast<int32_t>(block / params.n);
    int64_t const pixels = static_cast<int64_t>(height) * width;
    __half* const output = static_cast<__half*>(params.output[item]) + n * c * pixels;
    Image const image{
        static_cast<__half const*>(params.value[item]) + n * c * pixels, params.position[item], height, width, c};
    fillMaps(maps, static_cast<__half const*>(params.maps[item]) + n * 2 * DeformSampleFusedParams::kMAPS * pixels, y0,
        x0, height, width);
    __syncthreads();

    int32_t const warp = static_cast<int32_t>(threadIdx.x) / 32;
    int32_t const lane = static_cast<int32_t>(threadIdx.x) % 32;
    int32_t const row = lane / 4;
    int32_t const quarter = lane % 4;
    int32_t const half = warp / 4;         // of the channels, which is also the group of the expansion
    int32_t const firstY = 2 * (warp % 4); // two rows of 16 pixels a warp

    // The maps' neighbourhoods stay in registers for all channels.
    uint32_t a[2][kSTEPS][4];
#pragma unroll
    for (int32_t step = 0; step < kSTEPS; ++step)
    {
#pragma unroll
        for (int32_t side = 0; side < 2; ++side)
        {
            int32_t const k = 16 * step + 8 * side + 2 * quarter;
            int32_t const tap = k / kPADDED;
            bool const inside = tap < DeformSampleFusedParams::kTAPS;
            int32_t const dy = inside ? tap / 3 : 0;
            int32_t const dx = inside ? tap % 3 : 0;
#pragma unroll
            for (int32_t m = 0; m < 2; ++m)
            {
                int32_t const base = ((half * kHALO_Y + firstY + m + dy) * kHALO_X + row + dx) * kPADDED + k % kPADDED;
                auto const* words = reinterpret_cast<uint32_t const*>(maps + base);
                a[m][step][2 * side] = inside ? words[0] : 0U;
                a[m][step][2 * side + 1] = inside ? words[8 * kPADDED / 2] : 0U;
            }
        }
    }
    int32_t const fragments = c / 8; // of the half: two columns a channel
    for (int32_t f = 0; f < fragments; ++f)
    {
        float offset[2][4] = {};
#pragma unroll
        for (int32_t step = 0; step < kSTEPS; ++step)
        {
            uint32_t b[2];
            loadWeights(b, params.expand[item], half * fragments + f, kSTEPS, step);
            multiplyAdd(offset[0], a[0][step], b);
            multiplyAdd(offset[1], a[1][step], b);
        }
        int32_t const channel = half * (c / 2) + 4 * f + quarter;
#pragma unroll
        for (int32_t m = 0; m < 2; ++m)
        {
#pragma unroll
            for (int32_t side = 0; side < 2; ++side)
            {
                int32_t const inTile = (firstY + m) * kTILE_X + row + 8 * side;
                int32_t const y = y0 + firstY + m;
                int32_t const x = x0 + row + 8 * side;
                bool const inside = y < height && x < width;
                float const sampled
                    = inside ? sampleChannel(image, channel, y, x, offset[m][2 * side], offset[m][2 * side + 1]) : 0.F;
                if constexpr (kPRODUCT)
                {
                    auto* at = reinterpret_cast<__half*>(samples + sampleAt(inTile, channel / 8, c));
                    at[channel % 8] = fromFloat<__half>(sampled);
                }
                else if (inside)
                {
                    output[channel * pixels + static_cast<int64_t>(y) * width + x] = fromFloat<__half>(sampled);
                }
            }
        }
    }
    if constexpr (kPRODUCT)
    {
        __syncthreads();
        int32_t const steps = c / 16;
        int32_t const matrix = lane / 8;
        // Each warp has its 32 pixels and every other run of 64 channels.
        for (int32_t first = 64 * half; first < c; first += 128)
        {
            float sum[2][kPRODUCT_FRAGMENTS][4] = {};
            for (int32_t step = 0; step < steps; ++step)
            {
                uint32_t left[2][4];
#pragma unroll
                for (int32_t m = 0; m < 2; ++m)
                {
                    int32_t const pixel = (firstY + m) * kTILE_X + lane % 8 + 8 * (matrix & 1);
                    loadMatrices(left[m], samples + sampleAt(pixel, 2 * step + (matrix >> 1), c));
                }
#pragma unroll
                for (int32_t f = 0; f < kPRODUCT_FRAGMENTS; ++f)
                {
                    uint32_t b[2];
                    loadWeights(b, params.product[item], first / 8 + f, steps, step);
                    multiplyAdd(sum[0][f], left[0], b);
                    multiplyAdd(sum[1][f], left[1], b);
                }
            }
#pragma unroll
            for (int32_t f = 0; f < kPRODUCT_FRAGMENTS; ++f)
            {
#pragma unroll
                for (int32_t j = 0; j < 2; ++j)
                {
                    int32_t const channel = first + 8 * f + 2 * quarter + j;
                    float const bias = __ldg(params.bias[item] + channel);
                    float const scale = __ldg(params.scale[item] + channel);
                    float const shift = __ldg(params.shift[item] + channel);
#pragma unroll
                    for (int32_t i = 0; i < 4; ++i)
                    {
                        int32_t const y = y0 + firstY + i / 2;
                        int32_t const x = x0 + row + 8 * (i % 2);
                        if (y < height && x < width)
                        {
                            int64_t const at = channel * pixels + static_cast<int64_t>(y) * width + x;
                            float value = activate(sum[i / 2][f][2 * (i % 2) + j] + bias, params.activation);
                            value = scale * value + shift;
                            value += params.residual != 0 ? toFloat(image.value[at]) : 0.F;
                            output[at] = fromFloat<__half>(value);
                        }
                    }
                }
            }
        }
    }
}

} // namespace fused
} // namespace degmix
