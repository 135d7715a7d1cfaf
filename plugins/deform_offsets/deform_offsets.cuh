// Device code of deform_offsets. A block takes 32 x 8 pixels of one group, a warp a row of them.
//
// The product has output channels as rows and pixels as columns. A warp's pixels, with their 3 x 3
// neighbours of nine maps, stay in registers while the weights pass by. Which pixel a column is, is free: they
// are numbered so that a lane's columns are eight neighbours, which it stores as one vector.
#pragma once

#include "common/tensor_core.cuh"
#include "deform_offsets/deform_offsets.h"

namespace degmix
{
namespace offsets
{

constexpr int32_t kTILE_X = 32;
constexpr int32_t kTILE_Y = 8;
constexpr int32_t kTHREADS = 32 * kTILE_Y;
constexpr int32_t kHALO_X = kTILE_X + 2;
constexpr int32_t kHALO_Y = kTILE_Y + 2;
constexpr int32_t kPADDED = 10; // maps of a pixel, so that a pair of them is a word
constexpr int32_t kSTEPS = DeformOffsetsParams::kDEPTH / 16;
constexpr int32_t kCOLUMNS = kTILE_X / 8; // fragments of eight pixels
constexpr int32_t kMAP_BYTES = (kHALO_Y * kHALO_X * kPADDED * 2 + 15) / 16 * 16;
constexpr int32_t kFRAGMENTS = 16; // of weights that lie in shared memory at once
constexpr int32_t kFRAGMENT_BYTES = kSTEPS * 32 * 16;
// Blocks whose registers a multiprocessor has to hold; Turing's and later cards' code would keep some in local memory.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int32_t kBLOCKS = 2;
#else
constexpr int32_t kBLOCKS = kIS_TURING ? 2 : 3;
#endif

// The group's maps of the tile and a ring of one pixel, zeros outside the image, maps last. All are asked for
// before the first is stored.
__device__ __forceinline__ void fillMaps(
    __half* to, __half const* maps, int32_t y0, int32_t x0, int32_t height, int32_t width)
{
    constexpr int32_t kPLACES = kHALO_Y * kHALO_X;
    constexpr int32_t kTURNS = (kPLACES + kTHREADS - 1) / kTHREADS;
    int64_t const pixels = static_cast<int64_t>(height) * width;
    __half values[kTURNS][kPADDED];
#pragma unroll
    for (int32_t turn = 0; turn < kTURNS; ++turn)
    {
        int32_t const place = turn * kTHREADS + static_cast<int32_t>(threadIdx.x);
        int32_t const y = y0 + place / kHALO_X - 1;
        int32_t const x = x0 + place % kHALO_X - 1;
        bool const inside = place < kPLACES && y >= 0 && y < height && x >= 0 && x < width;
#pragma unroll
        for (int32_t map = 0; map < kPADDED; ++map)
        {
            values[turn][map] = fromFloat<__half>(0.F);
        }
        if (inside)
        {
            __half const* from = maps + static_cast<int64_t>(y) * width + x;
#pragma unroll
            for (int32_t map = 0; map < DeformOffsetsParams::kMAPS; ++map)
            {
                values[turn][map] = *from;
                from += pixels;
            }
        }
    }
#pragma unroll
    for (int32_t turn = 0; turn < kTURNS; ++turn)
    {
        int32_t const place = turn * kTHREADS + static_cast<int32_t>(threadIdx.x);
        if (place < kPLACES)
        {
            auto* words = reinterpret_cast<uint32_t*>(to + place * kPADDED);
#pragma unroll
            for (int32_t pair = 0; pair < kPADDED / 2; ++pair)
            {
                words[pair] = bits(values[turn][2 * pair]) | (bits(values[turn][2 * pair + 1]) << 16U);
            }
        }
    }
}

// Weights of up to kFRAGMENTS fragments into shared memory, in the order that lanes read them.
__device__ __forceinline__ void askForWeights(uint4* to, uint4 const* weight, int32_t fragments)
{
    int32_t const count = (fragments < kFRAGMENTS ? fragments : kFRAGMENTS) * kSTEPS * 32;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < count; i += kTHREADS)
    {
        copyAsync(to + i, weight + i, true);
    }
    commitCopies();
}

// Eight neighbours of one row, of which `left` are inside, `kVECTOR` at a time.
template <int32_t kVECTOR>
__device__ __forceinline__ void storeRow(__half* to, uint32_t const (&words)[kCOLUMNS], int32_t left)
{
#pragma unroll
    for (int32_t i = 0; i < 8; i += kVECTOR)
    {
        if (i >= left)
        {
            continue;
        }
        if constexpr (kVECTOR == 8)
        {
            *reinterpret_cast<uint4*>(to) = uint4{words[0], words[1], words[2], words[3]};
        }
        else if constexpr (kVECTOR == 4)
        {
            *reinterpret_cast<uint2*>(to + i) = uint2{words[i / 2], words[i / 2 + 1]};
        }
        else
        {
            to[i] = i % 2 == 0 ? lowHalf(words[i / 2]) : highHalf(words[i / 2]);
        }
    }
}

template <int32_t kVECTOR>
__global__ void __launch_bounds__(kTHREADS, kBLOCKS) deformOffsetsKernel(DeformOffsetsParams params)
{
    DEGMIX_SHARED(shared);
    __half* const maps = reinterpret_cast<__half*>(shared);
    int32_t const height = params.height;
    int32_t const width = params.width;
    int32_t const c = params.c;
    uint32_t const tilesX = static_cast<uint32_t>(width + kTILE_X - 1) / kTILE_X;
    uint32_t const tilesY = static_cast<uint32_t>(height + kTILE_Y - 1) / kTILE_Y;
    uint32_t block = blockIdx.x;
    int32_t const group = static_cast<int32_t>(block % 2);
    block /= 2;
    int32_t const x0 = static_cast<int32_t>(block % tilesX) * kTILE_X;
    block /= tilesX;
    int32_t const y0 = static_cast<int32_t>(block % tilesY) * kTILE_Y;
    block /= tilesY;
    int64_t const n = block % static_cast<uint32_t>(params.n);
    int32_t const item = static_cast<int32_t>(block / static_cast<uint32_t>(params.n));
    int64_t const pixels = static_cast<int64_t>(height) * width;
    auto const* from = static_cast<__half const*>(params.maps[item]);
    auto* const weights = reinterpret_cast<uint4*>(shared + kMAP_BYTES);
    int32_t const fragments = c / DeformOffsetsParams::kROWS;
    auto const* weight = static_cast<uint4 const*>(params.weight[item]) + group * fragments * kSTEPS * 32;
    askForWeights(weights, weight, fragments);
    fillMaps(maps, from + (2 * n + group) * DeformOffsetsParams::kMAPS * pixels, y0, x0, height, width);
    __syncthreads();

    int32_t const row = static_cast<int32_t>(threadIdx.x) / 32;
    int32_t const lane = static_cast<int32_t>(threadIdx.x) % 32;
    int32_t const eighth = lane / 4;
    int32_t const quarter = lane % 4;
    uint32_t b[kCOLUMNS][kSTEPS][2];
#pragma unroll
    for (int32_t step = 0; step < kSTEPS; ++step)
    {
#pragma unroll
        for (int32_t side = 0; side < 2; ++side)
        {
            int32_t const k = 16 * step + 8 * side + 2 * quarter;
            int32_t const tap = k / kPADDED;
            // Behind the last tap the weights are zeros, and any value that these pixels sum will do.
            bool const isTap = tap < DeformOffsetsParams::kTAPS;
            int32_t const dy = isTap ? tap / 3 : 0;
            int32_t const dx = isTap ? tap % 3 : 0;
            // Column i of fragment j is pixel 8 (i / 2) + 2 j + i % 2.
            int32_t const x = 8 * (eighth / 2) + eighth % 2 + dx;
            auto const* words
                = reinterpret_cast<uint32_t const*>(maps + ((row + dy) * kHALO_X + x) * kPADDED + k % kPADDED);
#pragma unroll
            for (int32_t j = 0; j < kCOLUMNS; ++j)
            {
                b[j][step][side] = words[j * kPADDED];
            }
        }
    }

    int32_t const x = x0 + 8 * quarter;
    int32_t const left = y0 + row < height ? width - x : 0;
    __half* to = static_cast<__half*>(params.offset[item]) + (2 * n + group) * c * pixels
        + static_cast<int64_t>(y0 + row) * width + x + eighth * pixels;
    for (int32_t fragment = 0; fragment < fragments; ++fragment)
    {
        int32_t const inShared = fragment % kFRAGMENTS;
        if (inShared == 0)
        {
            if (fragment > 0)
            {
                __syncthreads(); // all have read the last ones
                askForWeights(weights, weight + fragment * kSTEPS * 32, fragments - fragment);
            }
            waitCopies<0>();
            __syncthreads();
        }
        float sum[kCOLUMNS][4] = {};
#pragma unroll
        for (int32_t step = 0; step < kSTEPS; ++step)
        {
            uint4 const words = weights[(inShared * kSTEPS + step) * 32 + lane];
            uint32_t const a[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
            for (int32_t j = 0; j < kCOLUMNS; ++j)
            {
                multiplyAdd(sum[j], a, b[j][step]);
            }
        }
#pragma unroll
        for (int32_t side = 0; side < 2; ++side)
        {
            uint32_t words[kCOLUMNS];
#pragma unroll
            for (int32_t j = 0; j < kCOLUMNS; ++j)
            {
                words[j] = packHalves(sum[j][2 * side], sum[j][2 * side + 1]);
            }
            storeRow<kVECTOR>(to + 8 * side * pixels, words, left);
        }
        to += DeformOffsetsParams::kROWS * pixels;
    }
}

} // namespace offsets
} // namespace degmix
