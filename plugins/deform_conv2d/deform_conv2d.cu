#include "common/launch.h"
#include "deform_conv2d/deform_conv2d.cuh"

#include <algorithm>
#include <type_traits>

namespace degmix
{
namespace
{

int64_t blocksOf(DeformConv2dParams const& params, int32_t tileN)
{
    int64_t const outputs = params.outChannels / params.groups;
    return params.n * params.groups * ceilDiv(outputs, tileN) * ceilDiv(params.outHeight, kTILE)
        * ceilDiv(params.outWidth, kTILE);
}

// Instructions that the busiest multiprocessor issues in a step of each of its blocks. Every tile of channels
// samples its pixels anew, which costs as much as many channels' products; more tiles fill a card that small
// maps leave idle. The numbers of half are counted in sm_90 machine code: 440 a warp for 128 channels, 497 for
// 256; those of float and int8 are estimates from their instructions for a blend and a product.
int64_t costOf(DeformConv2dParams const& params, int32_t tileN, DeviceLimits const& limits)
{
    struct Cost
    {
        int64_t sampling;
        int64_t product; // of 64 channels
    };
    Cost const cost = params.valueType == Type::kFLOAT ? Cost{300, 320}
        : params.valueType == Type::kHALF              ? Cost{383, 28}
                                                       : Cost{700, 28};
    int64_t const blocks = ceilDiv(blocksOf(params, tileN), std::max(limits.multiprocessors, 1));
    return blocks * (cost.sampling + cost.product * tileN / 64);
}

bool isOn16Bytes(void const* pointer)
{
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Whether 16 bytes of channels lie together, share one offset pair, and are aligned.
bool canVectorise(DeformConv2dParams const& params)
{
    int64_t const bytes = sizeOf(params.valueType);
    int32_t const count = static_cast<int32_t>(16 / bytes);
    return params.valueLayout != Layout::kPLANAR && params.c / params.groups % count == 0
        && params.c / params.offsetGroups % count == 0 && params.valuePitch % count == 0 && isOn16Bytes(params.value)
        && isOn16Bytes(params.weight);
}

template <typename T, int32_t kTILE_N>
cudaError_t launchTile(DeformConv2dParams const& params, DeformConv2dLaunch const& plan, cudaStream_t stream)
{
    auto const kernel
        = plan.isVector != 0 ? deformConv2dKernel<T, kTILE_N, true> : deformConv2dKernel<T, kTILE_N, false>;
    return launch(kernel, params, plan.blocks, plan.threads, plan.sharedBytes, stream);
}

template <typename T>
cudaError_t launchTyped(DeformConv2dParams const& params, DeformConv2dLaunch const& plan, cudaStream_t stream)
{
    switch (plan.tileN)
    {
    case 64: return launchTile<T, 64>(params, plan, stream);
    case 128: return launchTile<T, 128>(params, plan, stream);
    }
    // float32 has no tile of 256: its sums would not fit the registers of two blocks.
    constexpr int32_t kWIDEST = std::is_same_v<T, float> ? 128 : 256;
    return launchTile<T, kWIDEST>(params, plan, stream);
}

} // namespace

char const* checkDeformConv2d(DeformConv2dParams const& params) noexcept
{
    constexpr int64_t kMOST = 2147483647;
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
    if (params.valueType == Type::kINT8 ? params.weightScale == nullptr || !(params.valueScale > 0.F)
                                        : params.outputType != params.valueType)
    {
        return params.valueType == Type::kINT8 ? "int8 values: expected a scale, and one an output channel for weights"
                                               : "outputType: expected the values' type";
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
    bool const empty = params.n == 0 || params.outChannels == 0 || params.outHeight == 0 || params.outWidth == 0;
    bool const sums = params.c > 0 && params.height > 0 && params.width > 0;
    if (!empty
        && (params.output == nullptr || (params.c > 0 && (params.weight == nullptr || params.offset == nullptr))
            || (sums && params.value == nullptr)))
    {
        return "a pointer is null";
    }
    return !empty && blocksOf(params, 64) > kMOST ? "more than 2^31 - 1 blocks" : nullptr;
}

DeformConv2dLaunch planDeformConv2d(DeformConv2dParams const& params, DeviceLimits const& limits) noexcept
{
    auto const bytesOf = [](int32_t tileN)
    { return static_cast<int64_t>(kROW_BYTES) * (kVALUE_STAGES * kTILE_M + kWEIGHT_STAGES * tileN); };
    int32_t const widest = params.valueType == Type::kFLOAT ? 128 : 256;
    int32_t tileN = 64;
    for (int32_t wider = 128; wider <= widest; wider *= 2)
    {
        if (bytesOf(wider) <= limits.sharedBytesPerBlock
            && costOf(params, wider, limits) <= costOf(params, tileN, limits))
        {
            tileN = wider;
        }
    }
    if (params.tileN != 0)
    {
        tileN = params.tileN < widest ? params.tileN : widest;
    }
    return DeformConv2dLaunch{tileN, canVectorise(params) ? 1 : 0, blocksOf(params, tileN), kTHREADS, bytesOf(tileN)};
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
    DeformConv2dLaunch const plan = planDeformConv2d(params, limits);
    switch (params.valueType)
    {
    case Type::kFLOAT: return launchTyped<float>(params, plan, stream);
    case Type::kHALF: return launchTyped<__half>(params, plan, stream);
    case Type::kINT8: return launchTyped<int8_t>(params, plan, stream);
    }
    return cudaErrorInvalidValue;
}

} // namespace degmix
