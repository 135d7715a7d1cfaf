// How deform_conv2d cuts its work: tiles of a block, steps along K, and rows of shared memory.
//
//                     kN output channels
//                   +----------------------+      A step multiplies 128 bytes of channels of one tap: kM rows
//   kM pixels of    | 32 x kWARP_N a warp, |      of samples times kN rows of weights. Both are double buffers
//   one image       | as 16 x 8 fragments  |      of 128-byte rows, whose 16-byte parts are swizzled.
//                   +----------------------+
//
// The order of steps is: as many taps as a table of corners holds, chunk by chunk of channels; a chunk's taps
// follow each other, so that the first-level cache still has most of their neighbours.
#pragma once

#include "common/block.cuh"
#include "common/tensor_core.cuh"
#include "deform_conv2d/deform_conv2d.h"

namespace degmix
{

constexpr int32_t kROW_BYTES = 128;         // of one pixel, or of one output channel, in a step
constexpr int32_t kPARTS = kROW_BYTES / 16; // in a row
constexpr int32_t kSTAGES = 2;              // of samples, and of weights
constexpr int32_t kTABLE_ROWS = 9;          // of a table of corners: pairs of a tap and an offset group
constexpr int32_t kTURING_TABLE_ROWS = 8;   // with which 64 x 128 of any type fit Turing's 64 KB
constexpr int32_t kSLAB_PADDING = 8;        // floats at the end of a row of sums, against bank conflicts
constexpr int32_t kSLAB_VECTOR = 8;         // output channels that a thread stores together

// Of the card that this code is for.
__device__ __forceinline__ int32_t tableRows()
{
    return isTuring() ? kTURING_TABLE_ROWS : kTABLE_ROWS;
}

// A block's tile. The largest has warps of 64 x 64, which read the fewest operands a product. A multiprocessor has
// registers for one block of 128 x 128 or more, or two others.
template <int32_t kPIXELS, int32_t kOUTPUTS>
struct Tile
{
    static constexpr int32_t kM = kPIXELS;
    static constexpr int32_t kN = kOUTPUTS;
    static constexpr int32_t kY = 8; // pixels a side
    static constexpr int32_t kX = kM / kY;
    static constexpr int32_t kTHREADS = 256;
    static constexpr int32_t kSTORING = kTHREADS; // threads that have sums
    static constexpr int32_t kWARP_M = kM * kN > 128 * 128 ? 64 : 32;
    // Blocks whose registers a multiprocessor has to hold; Turing has no shared memory for two.
    static constexpr int32_t kBLOCKS = kM * kN < 128 * 128 && !kIS_TURING ? 2 : 1;
    static constexpr int32_t kWARPS_M = kM / kWARP_M;
    static constexpr int32_t kWARPS_N = kTHREADS / 32 / kWARPS_M;
    static constexpr int32_t kWARP_N = kN / kWARPS_N;
    static constexpr int32_t kSLAB_M = kN > 64 ? 64 : kM; // pixels whose sums leave together
    static constexpr int32_t kFRAGMENTS_M = kWARP_M / 16;
    static constexpr int32_t kFRAGMENTS_N = kWARP_N / 8;
    static constexpr int32_t kROWS_AT_ONCE = kTHREADS / kPARTS; // of a copy by all threads
    static constexpr int32_t kVALUE_BYTES = kM * kROW_BYTES;    // of a stage
    static constexpr int32_t kWEIGHT_BYTES = kN * kROW_BYTES;
    static constexpr int32_t kTABLE_AT = kSTAGES * (kVALUE_BYTES + kWEIGHT_BYTES);

    // Pixels of a thread that are being read, as many as there are registers for.
    template <typename T>
    static constexpr int32_t kAHEAD = kBLOCKS == 1 || sizeof(T) == 2 ? 2 : 1;

    static __device__ __forceinline__ void sync()
    {
        __syncthreads();
    }
};

// 16 bytes of one type.
template <typename T>
struct alignas(16) Part
{
    static constexpr int32_t kCOUNT = 16 / static_cast<int32_t>(sizeof(T));
    T element[kCOUNT];
};

template <typename T>
constexpr int32_t kCHUNK = kPARTS * Part<T>::kCOUNT; // channels of a step

// What a launch knows beside the parameters; the loops need no division.
struct DeformConv2dWork
{
    DeformConv2dParams params;
    int32_t perGroup;       // input channels
    int32_t outputs;        // output channels of a group
    int32_t perOffsetGroup; // input channels
    int32_t taps;
    uint32_t perKernelWidth; // 2^32 / kernelWidth, rounded up, of wider ones than 1
    int32_t chunks;          // of one group's channels
    int32_t tableTaps;       // taps that a table of corners holds
    int32_t tableChunks;     // chunks that share a table
    int32_t tableGroups;     // offset groups that meet in a chunk
    uint32_t perTableGroups; // 2^16 / tableGroups, rounded up
    int32_t splits;          // blocks of a cluster that share the steps of one tile
    int32_t isVectorOutput;  // 8 output channels go to memory together
    float perOutputScale;    // 1 / outputScale
    int64_t chunkBytes;      // from a pixel's chunk of values to its next
    int64_t blockBytes;      // from a pixel's 32 channels to its next
};

// A step: which tap and which chunk of channels.
struct Step
{
    int32_t tap; // of the table's
    int32_t chunk;
    int32_t firstTap; // of the table
    int32_t tableTaps;

    __device__ __forceinline__ Step(DeformConv2dWork const& work, int32_t index)
    {
        int32_t const ofTaps = work.tableTaps * work.chunks; // steps of as many taps as a table holds
        int32_t const tables = index > 0 ? index / ofTaps : 0;
        firstTap = tables * work.tableTaps;
        setTaps(work);
        int32_t const rest = index - tables * ofTaps;
        chunk = rest > 0 ? rest / tableTaps : 0;
        tap = rest - chunk * tableTaps;
    }

    __device__ __forceinline__ void advance(DeformConv2dWork const& work)
    {
        if (++tap == tableTaps)
        {
            tap = 0;
            if (++chunk == work.chunks)
            {
                chunk = 0;
                firstTap += tableTaps;
                setTaps(work);
            }
        }
    }

    // Steps from this one to the table's last.
    __device__ __forceinline__ int32_t leftOfTable(DeformConv2dWork const& work) const
    {
        int32_t const chunksLeft = work.tableChunks - chunk % work.tableChunks;
        int32_t const chunks = work.chunks - chunk < chunksLeft ? work.chunks - chunk : chunksLeft;
        return chunks * tableTaps - tap;
    }

private:
    __device__ __forceinline__ void setTaps(DeformConv2dWork const& work)
    {
        int32_t const left = work.taps - firstTap;
        tableTaps = left < work.tableTaps ? left : work.tableTaps;
    }
};

// A block's share of a tile's steps.
struct Share
{
    int32_t first;
    int32_t steps;
};

__device__ __forceinline__ Share shareOf(DeformConv2dWork const& work)
{
    int32_t const all = work.taps * work.chunks;
    if (!hasClusters() || work.splits == 1)
    {
        return Share{0, all};
    }
    int32_t const rank = clusterRank();
    int32_t const more = all % work.splits; // blocks that have a step more than the others
    return Share{all / work.splits * rank + min(more, rank), all / work.splits + (rank < more ? 1 : 0)};
}

// What a block works on.
struct BlockPlace
{
    int32_t item;
    int32_t image;
    int32_t group;
    int32_t firstOutput; // of the group's
    int32_t y;           // of the tile's first pixel
    int32_t x;
};

template <typename TILE>
__device__ __forceinline__ BlockPlace blockPlace(DeformConv2dWork const& work, uint32_t index)
{
    DeformConv2dParams const& params = work.params;
    uint32_t const tilesX = static_cast<uint32_t>(params.outWidth + TILE::kX - 1) / TILE::kX;
    uint32_t const tilesY = static_cast<uint32_t>(params.outHeight + TILE::kY - 1) / TILE::kY;
    uint32_t const tilesN = static_cast<uint32_t>(work.outputs + TILE::kN - 1) / TILE::kN;
    uint32_t rest = index / static_cast<uint32_t>(work.splits);
    BlockPlace place;
    place.x = static_cast<int32_t>(rest % tilesX) * TILE::kX;
    rest /= tilesX;
    place.y = static_cast<int32_t>(rest % tilesY) * TILE::kY;
    rest /= tilesY;
    place.firstOutput = static_cast<int32_t>(rest % tilesN) * TILE::kN;
    rest /= tilesN;
    place.group = static_cast<int32_t>(rest % static_cast<uint32_t>(params.groups));
    rest /= static_cast<uint32_t>(params.groups);
    place.image = static_cast<int32_t>(rest % static_cast<uint32_t>(params.n));
    place.item = static_cast<int32_t>(rest / static_cast<uint32_t>(params.n));
    return place;
}

// Where part `part` of row `row` lies. Eight rows' equal parts fall on all banks once.
__device__ __forceinline__ int32_t partAt(int32_t row, int32_t part)
{
    return row * kROW_BYTES + ((part ^ (row & 7)) << 4);
}

// Where a channel of a pixel lies, in elements.
__device__ __forceinline__ int64_t elementAt(
    Layout layout, int64_t image, int32_t channel, int64_t pixel, int32_t channels, int64_t pixels, int32_t pitch)
{
    switch (layout)
    {
    case Layout::kPLANAR: return (image * channels + channel) * pixels + pixel;
    case Layout::kCHANNELS_LAST: return (image * pixels + pixel) * pitch + channel;
    case Layout::kCHANNELS_32: break;
    }
    int64_t const blocks = (channels + kBLOCK_CHANNELS - 1) / kBLOCK_CHANNELS;
    int64_t const block = image * blocks + channel / kBLOCK_CHANNELS;
    return (block * pixels + pixel) * kBLOCK_CHANNELS + channel % kBLOCK_CHANNELS;
}

} // namespace degmix
