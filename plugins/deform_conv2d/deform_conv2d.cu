#include "common/launch.h"
#include "deform_conv2d/deform_conv2d.cuh"
#include "deform_conv2d/deform_conv2d_hopper.cuh"

#include <algorithm>

namespace degmix
{
namespace
{

enum Variant : int32_t
{
    kWARPS = 1,
    kGROUPS = 2, // of four warps
};

struct TileChoice
{
    int32_t variant;
    int32_t m;
    int32_t n;
};

constexpr int32_t kMOST_SPLITS = 8; // the largest cluster that every card with clusters has
constexpr int32_t kCLUSTERS_FROM = 90;
constexpr int32_t kWHOLE_TABLES_FROM = 80;
constexpr int32_t kGROUPS_ON = 90; // sm_90a's instructions, which no other card has

constexpr TileChoice kTILES[] = {{kWARPS, 128, 256}, {kWARPS, 128, 128}, {kWARPS, 64, 128}, {kWARPS, 128, 64},
    {kGROUPS, 128, 256}, {kGROUPS, 128, 128}, {kGROUPS, 128, 64}};
constexpr TileChoice kSCALAR_TILE{kWARPS, 64, 128};

// Only half has all tiles: the products of float32, and what INT8 needs to blend, take the registers.
bool isTileOf(Type type, TileChoice const& tile)
{
    return type == Type::kHALF
        || (tile.variant == kWARPS && tile.m * tile.n != 128 * 128 && (type == Type::kINT8 || tile.n < 256));
}

struct Kernel
{
    void (*function)(DeformConv2dWork);
    int32_t threads;
    int64_t operandBytes;
    int64_t tableRowBytes; // of a table of corners

    int64_t sharedBytes(int32_t tableRows) const
    {
        return operandBytes + tableRows * tableRowBytes;
    }
};

// Of a table of corners, in code for a compute capability.
int32_t tableRowsOf(int32_t capability)
{
    return capability < kWHOLE_TABLES_FROM ? kTURING_TABLE_ROWS : kTABLE_ROWS;
}

template <typename T, int32_t kM, int32_t kN, bool kVECTOR = true>
Kernel kernel()
{
    using TILE = Tile<kM, kN>;
    static_assert(Slab<T, TILE>::kBYTES <= TILE::kTABLE_AT, "sums take the place of the operands");
    return Kernel{deformConv2dKernel<T, kM, kN, kVECTOR>, TILE::kTHREADS, TILE::kTABLE_AT,
        kVECTOR ? CornerTable<T, TILE>::kBYTES_OF_ROW : 0};
}

template <int32_t kN>
Kernel groupsKernel()
{
    using TILE = HopperTile<kN>;
    static_assert(Slab<__half, TILE>::kBYTES <= TILE::kTABLE_AT, "sums take the place of the operands");
    return Kernel{deformConv2dHopperKernel<kN>, TILE::kALL, kHOPPER_BYTES<TILE>, 0};
}

Kernel groupsKernelOf(TileChoice const& tile)
{
    switch (tile.n)
    {
    case 64: return groupsKernel<64>();
    case 128: return groupsKernel<128>();
    }
    return groupsKernel<256>();
}

// The library's code for the current card.
struct Code
{
    int32_t capability; // for which it was compiled: below the card's, if it is PTX for older ones
    bool hasGroups;     // of the card's own instructions; without them those kernels are empty
};

cudaError_t codeOfCard(Code& code)
{
    static OnceADevice<Code> known;
    return known.get(code,
        [](int, Code& read)
        {
            cudaFuncAttributes attributes{};
            cudaError_t const status
                = cudaFuncGetAttributes(&attributes, reinterpret_cast<void const*>(deformConv2dHopperKernel<256>));
            read = Code{attributes.ptxVersion, attributes.numRegs > 64};
            return status;
        });
}

// Of a tile that the type has.
template <typename T>
Kernel kernelOf(TileChoice const& tile, bool isVector)
{
    if (!isVector)
    {
        return kernel<T, kSCALAR_TILE.m, kSCALAR_TILE.n, false>();
    }
    if constexpr (sizeof(T) == 2)
    {
        if (tile.variant == kGROUPS)
        {
            return groupsKernelOf(tile);
        }
        if (tile.m == 128 && tile.n == 128)
        {
            return kernel<T, 128, 128>();
        }
    }
    if constexpr (sizeof(T) < 4)
    {
        if (tile.n == 256)
        {
            return kernel<T, 128, 256>();
        }
    }
    return tile.n == 64 ? kernel<T, 128, 64>() : kernel<T, 64, 128>();
}

Kernel kernelOf(Type type, TileChoice const& tile, bool isVector)
{
    switch (type)
    {
    case Type::kFLOAT: return kernelOf<float>(tile, isVector);
    case Type::kHALF: return kernelOf<__half>(tile, isVector);
    case Type::kINT8: break;
    }
    return kernelOf<int8_t>(tile, isVector);
}

int64_t blocksOf(DeformConv2dParams const& params, TileChoice const& tile)
{
    constexpr int32_t kSIDE = Tile<64, 64>::kY;
    int64_t const outputs = params.outChannels / params.groups;
    return int64_t{params.items} * params.n * params.groups * ceilDiv(outputs, tile.n)
        * ceilDiv(params.outHeight, kSIDE) * ceilDiv(params.outWidth, tile.m / kSIDE);
}

// Blocks that a card runs at once if each has a multiprocessor. A cluster lies in one part of the card: pairs
// of multiprocessors are always there, larger parts need not be whole.
int64_t roomOf(DeviceLimits const& limits, int32_t splits)
{
    int32_t const whole = splits <= 2 ? limits.multiprocessors : limits.multiprocessors * 9 / 10;
    return std::max(whole / splits * splits, 1);
}

// Rows of 128 bytes that a step moves through a multiprocessor's memory pipe, which takes one a cycle: four
// neighbours and a sample of each pixel, the weights, and what warps, or groups of them, read of both.
int64_t rowsOf(TileChoice const& tile)
{
    bool const isLarge = tile.m * tile.n > 128 * 128;
    int32_t const atOnceM = tile.variant == kGROUPS || isLarge ? 64 : 32;
    int32_t const atOnceN = tile.variant == kGROUPS ? (tile.n > 128 ? 128 : 64) : tile.m * tile.n > 64 * 128 ? 64 : 32;
    return 5 * tile.m + tile.n + tile.m * ceilDiv(tile.n, atOnceN) + tile.n * ceilDiv(tile.m, atOnceM);
}

// Cycles of the busiest multiprocessor. The numbers are fitted to every tile and split of eleven shapes on an H100
// (plugins/bench/h100.json). INT8 takes longer to blend, and float32 to multiply, than to move.
int64_t costOf(DeformConv2dParams const& params, TileChoice const& tile, int32_t splits, DeviceLimits const& limits)
{
    constexpr int64_t kONCE = 6300; // for the table of corners, and to begin and to end
    constexpr int64_t kSUMS = 6900; // of 64 x 128, through shared memory to the output
    constexpr int64_t kLATENCY = 1600;
    int64_t const blending = params.valueType == Type::kINT8 ? 20 * tile.m : 0;
    int64_t const product = params.valueType == Type::kFLOAT ? tile.m * tile.n / 4 : 0;
    int64_t const step = rowsOf(tile) + blending + product;
    int64_t const taps = static_cast<int64_t>(params.kernelHeight) * params.kernelWidth;
    int64_t const chunk = kROW_BYTES / sizeOf(params.valueType);
    int64_t const steps = ceilDiv(taps * ceilDiv(params.c / params.groups, chunk), splits);
    int64_t const once = kONCE + kSUMS * tile.m * tile.n / (64 * 128);
    int64_t const rounds = ceilDiv(blocksOf(params, tile) * splits, roomOf(limits, splits));
    bool const isLarge = tile.variant == kGROUPS || tile.m * tile.n >= 128 * 128;
    int64_t const together = isLarge ? 1 : std::min<int64_t>(rounds, 2);
    // Where all warps sample and multiply, they wait at their barriers. Where each kind has its own, a step takes
    // at least as long as memory to answer.
    int64_t const cycles = tile.variant == kGROUPS ? std::max(kLATENCY, step) : together * step * 23 / 16;
    return ceilDiv(rounds, together) * (steps * cycles + once);
}

// Whether all items' pointers are.
template <typename Pointer>
bool areOn16Bytes(DeformConv2dParams const& params, Pointer const (&pointers)[DeformConv2dParams::kMAX_ITEMS])
{
    return std::all_of(pointers, pointers + params.items,
        [](void const* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; });
}

// Whether 16 bytes of channels lie together, share one offset pair, and are aligned.
bool canVectorise(DeformConv2dParams const& params)
{
    int64_t const bytes = sizeOf(params.valueType);
    int32_t const count = static_cast<int32_t>(16 / bytes);
    // A table of corners counts 16 bytes in 32 bits.
    int64_t const image = static_cast<int64_t>(params.height) * params.width * params.valuePitch * bytes;
    bool const isInBlocks = params.valueLayout == Layout::kCHANNELS_32;
    return params.valueLayout != Layout::kPLANAR
        && (!isInBlocks || params.groups == 1 || params.c / params.groups % kBLOCK_CHANNELS == 0)
        && params.c / params.groups % count == 0 && params.c / params.offsetGroups % count == 0
        && params.valuePitch % count == 0 && areOn16Bytes(params, params.value) && areOn16Bytes(params, params.weight)
        && image / 16 <= 4294967295;
}

bool canStoreVectors(DeformConv2dParams const& params)
{
    return params.outputLayout != Layout::kPLANAR && params.outputPitch % kSLAB_VECTOR == 0
        && (params.groups == 1 || params.outChannels / params.groups % kSLAB_VECTOR == 0)
        && areOn16Bytes(params, params.output);
}

template <typename Pointer>
bool hasNull(DeformConv2dParams const& params, Pointer const (&pointers)[DeformConv2dParams::kMAX_ITEMS])
{
    return std::any_of(pointers, pointers + params.items, [](void const* pointer) { return pointer == nullptr; });
}

template <typename Pointer>
bool hasOnlyNulls(DeformConv2dParams const& params, Pointer const (&pointers)[DeformConv2dParams::kMAX_ITEMS])
{
    return std::all_of(pointers, pointers + params.items, [](void const* pointer) { return pointer == nullptr; });
}

// How the steps along K share tables of corners.
DeformConv2dWork workOf(DeformConv2dParams const& params, bool isVector, int32_t splits, int32_t tableRows)
{
    int32_t const count = static_cast<int32_t>(16 / sizeOf(params.valueType));
    int32_t const chunk = kPARTS * count;
    int32_t const perGroup = params.c / params.groups;
    int32_t const perOffsetGroup = params.c / params.offsetGroups;
    // Without channels or pixels there is nothing to sample, and the sums are zero.
    bool const isEmpty = params.c == 0 || params.height == 0 || params.width == 0;
    int32_t const taps = isEmpty ? 0 : params.kernelHeight * params.kernelWidth;
    uint32_t const perKernelWidth = static_cast<uint32_t>(ceilDiv(int64_t{1} << 32, params.kernelWidth));
    DeformConv2dWork work{params, perGroup, params.outChannels / params.groups, perOffsetGroup, taps, perKernelWidth,
        static_cast<int32_t>(ceilDiv(perGroup, chunk)), taps, 1, 1, 65536, splits, 0, 1.F, 0, 0};
    work.params.sigmoidMask = params.mask[0] != nullptr ? params.sigmoidMask : 0;
    work.isVectorOutput = canStoreVectors(params) ? 1 : 0;
    if (params.outputType == Type::kINT8)
    {
        work.perOutputScale = 1.F / params.outputScale;
    }
    if (!isVector || isEmpty)
    {
        return work;
    }
    bool const isLast = params.valueLayout == Layout::kCHANNELS_LAST;
    int64_t const pixels = isLast ? 1 : static_cast<int64_t>(params.height) * params.width;
    work.chunkBytes = pixels * kROW_BYTES;
    work.blockBytes = pixels * kBLOCK_CHANNELS * sizeOf(params.valueType);
    if (perOffsetGroup % perGroup == 0)
    {
        work.tableChunks = work.chunks;
    }
    else if (perOffsetGroup % chunk == 0 && perGroup % perOffsetGroup == 0)
    {
        work.tableChunks = perOffsetGroup / chunk;
    }
    else
    {
        // Groups that a chunk meets wherever it begins.
        work.tableGroups = std::min((kPARTS - 2) / (perOffsetGroup / count) + 2, kPARTS);
    }
    work.perTableGroups = static_cast<uint32_t>(ceilDiv(65536, work.tableGroups));
    work.tableTaps = std::min(taps, std::max(tableRows / work.tableGroups, 1));
    return work;
}

} // namespace

char const* checkDeformConv2d(DeformConv2dParams const& params) noexcept
{
    constexpr int64_t kMOST = 2147483647;
    if (params.items < 1 || params.items > DeformConv2dParams::kMAX_ITEMS)
    {
        return "items: expected 1 to 8";
    }
    if (params.n < 0 || params.c < 0 || params.height < 0 || params.width < 0 || params.outChannels < 0
        || params.outHeight < 0 || params.outWidth < 0)
    {
        return "a size is negative";
    }
    if (params.kernelHeight < 1 || params.kernelWidth < 1 || params.strideHeight < 1 || params.strideWidth < 1
        || params.dilationHeight < 1 || params.dilationWidth < 1)
    {
        return "kernel, stride and dilation: expected at least 1";
    }
    if (params.groups < 1 || params.c % params.groups != 0 || params.outChannels % params.groups != 0)
    {
        return "groups: expected a divisor of the input and the output channels";
    }
    if (params.offsetGroups < 1 || params.c % params.offsetGroups != 0)
    {
        return "offsetGroups: expected a divisor of the input channels";
    }
    if (params.valueType != Type::kINT8 && params.outputType != params.valueType)
    {
        return "outputType: expected the values' type";
    }
    if (params.valueType == Type::kINT8 && (hasNull(params, params.weightScale) || !(params.valueScale > 0.F)))
    {
        return "int8 values: expected a scale, and one an output channel for weights";
    }
    if (params.outputType == Type::kINT8 && !(params.outputScale > 0.F))
    {
        return "outputScale: expected a positive number for an int8 output";
    }
    if (params.offsetType == Type::kINT8 || params.biasType == Type::kINT8)
    {
        return "offsets, mask and bias: expected float or half";
    }
    if (static_cast<int64_t>(params.height) * params.width > kMOST
        || static_cast<int64_t>(params.outHeight) * params.outWidth > kMOST)
    {
        return "a plane has more than 2^31 - 1 pixels";
    }
    if (static_cast<int64_t>(params.kernelHeight) * params.kernelWidth * params.c > kMOST)
    {
        return "a filter has more than 2^31 - 1 weights";
    }
    if (params.valueLayout == Layout::kCHANNELS_LAST && params.valuePitch < params.c)
    {
        return "valuePitch: expected at least the input channels";
    }
    if (params.valueLayout == Layout::kCHANNELS_32 && params.valuePitch != kBLOCK_CHANNELS)
    {
        return "valuePitch: expected 32 for blocks of 32 channels";
    }
    if (params.outputLayout == Layout::kCHANNELS_LAST && params.outputPitch < params.outChannels)
    {
        return "outputPitch: expected at least the output channels";
    }
    if (params.tileN != 0 && params.tileN != 64 && params.tileN != 128 && params.tileN != 256)
    {
        return "tileN: expected 64, 128, 256, or 0 for the heuristic's";
    }
    if (params.tileM != 0 && params.tileM != 128 && (params.tileM != 64 || (params.tileN != 0 && params.tileN != 128)))
    {
        return "tileM: expected 128, 64 with a tileN of 128, or 0 for the heuristic's";
    }
    if (params.splits < 0 || params.splits > kMOST_SPLITS)
    {
        return "splits: expected 1 to 8, or 0 for the heuristic's";
    }
    if (params.variant < 0 || params.variant > kGROUPS)
    {
        return "variant: expected 1 or 2, or 0 for the heuristic's";
    }
    if (params.mask[0] != nullptr ? hasNull(params, params.mask) : !hasOnlyNulls(params, params.mask))
    {
        return "mask: expected one of every item, or none";
    }
    bool const empty = params.n == 0 || params.outChannels == 0 || params.outHeight == 0 || params.outWidth == 0;
    bool const sums = params.c > 0 && params.height > 0 && params.width > 0;
    if (!empty
        && (hasNull(params, params.output)
            || (params.c > 0 && (hasNull(params, params.weight) || hasNull(params, params.offset)))
            || (sums && hasNull(params, params.value))))
    {
        return "a pointer is null";
    }
    return !empty && blocksOf(params, TileChoice{kWARPS, 64, 64}) > kMOST / kMOST_SPLITS ? "more than 2^28 - 1 blocks"
                                                                                         : nullptr;
}

DeformConv2dLaunch planDeformConv2d(DeformConv2dParams const& params, DeviceLimits const& limits) noexcept
{
    bool const canBeVector = canVectorise(params);
    bool isVector = false; // unless a tile fits
    int32_t const rows = tableRowsOf(limits.computeCapability);
    bool const hasClusters = limits.computeCapability >= kCLUSTERS_FROM;
    bool const hasGroups = limits.computeCapability == kGROUPS_ON && params.valueType == Type::kHALF;
    // Both variants, unless one is asked for. A tile that is asked for gives the same bits on every card.
    bool const isOnlyWarps = params.variant == kWARPS || !hasGroups || (params.variant == 0 && params.tileN != 0);
    bool const isOnlyGroups = params.variant == kGROUPS && hasGroups;
    TileChoice best = kSCALAR_TILE;
    int32_t bestSplits = 1;
    int64_t least = 0;
    bool hasAsked = false;
    for (TileChoice const& tile : kTILES)
    {
        if (!canBeVector || (tile.variant == kGROUPS ? isOnlyWarps : isOnlyGroups) || !isTileOf(params.valueType, tile)
            || kernelOf(params.valueType, tile, true).sharedBytes(rows) > limits.sharedBytesPerBlock)
        {
            continue;
        }
        // What is asked for is taken if there is such a tile.
        bool const isAsked
            = (params.tileN == 0 || params.tileN == tile.n) && (params.tileM == 0 || params.tileM == tile.m);
        bool const isFree = params.splits == 0 && params.tileN == 0;
        int32_t const fewest = isFree || !hasClusters ? 1 : std::max(params.splits, 1);
        int32_t const most = !hasClusters ? 1 : isFree ? kMOST_SPLITS : fewest;
        for (int32_t splits = fewest; splits <= most; ++splits)
        {
            if (isFree && (splits == 5 || splits == 7))
            {
                continue; // parts of a card have even numbers of multiprocessors
            }
            int64_t const cost = costOf(params, tile, splits, limits);
            isVector = true;
            if (least == 0 || (isAsked && !hasAsked) || (isAsked == hasAsked && cost < least))
            {
                best = tile;
                bestSplits = splits;
                least = cost;
                hasAsked = isAsked;
            }
        }
    }
    Kernel const kernel = kernelOf(params.valueType, best, isVector);
    return DeformConv2dLaunch{best.n, isVector ? 1 : 0, blocksOf(params, best) * bestSplits, kernel.threads,
        kernel.sharedBytes(rows), best.m, bestSplits, best.variant};
}

cudaError_t deformConv2d(DeformConv2dParams const& params, cudaStream_t stream) noexcept
{
    if (checkDeformConv2d(params) != nullptr)
    {
        return cudaErrorInvalidValue;
    }
    DeviceLimits limits{};
    cudaError_t const status = deviceLimits(limits);
    if (status != cudaSuccess)
    {
        return status;
    }
    Code code{};
    cudaError_t const codeStatus = codeOfCard(code);
    if (codeStatus != cudaSuccess)
    {
        return codeStatus;
    }
    // What a card could do counts only as far as the code does it.
    limits.computeCapability = std::min(limits.computeCapability, code.capability);
    DeformConv2dLaunch plan = planDeformConv2d(params, limits);
    if (plan.variant == kGROUPS && !code.hasGroups)
    {
        if (params.variant == kGROUPS)
        {
            return cudaErrorNotSupported;
        }
        DeformConv2dParams byWarps = params;
        byWarps.variant = kWARPS;
        plan = planDeformConv2d(byWarps, limits);
    }
    bool const isVector = plan.isVector != 0;
    Kernel const kernel = kernelOf(params.valueType, TileChoice{plan.variant, plan.tileM, plan.tileN}, isVector);
    int32_t const rows = tableRowsOf(limits.computeCapability);
    return launch(kernel.function, workOf(params, isVector, plan.splits, rows), plan.blocks, plan.threads,
        plan.sharedBytes, stream, plan.splits);
}

} // namespace degmix
