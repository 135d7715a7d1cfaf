#include "common/launch.h"
#include "deform_sample/deform_sample.cuh"

#include <algorithm>

namespace degmix
{
namespace
{

template <typename Plane>
int64_t planeBytes(DeformSampleParams const& params)
{
    int64_t const rows = static_cast<int64_t>(params.height) + Plane::kROWS;
    int64_t const words = rows * Plane::pitchOf(static_cast<int64_t>(params.width)) + Plane::kRING;
    return words * static_cast<int64_t>(sizeof(typename Plane::Word));
}

// Shared memory of a block.
int64_t sharedBytes(DeformSampleParams const& params, DeformSampleVariant variant)
{
    if (variant == DeformSampleVariant::kDIRECT)
    {
        return 0;
    }
    bool const isCompact = variant == DeformSampleVariant::kCOMPACT;
    switch (params.valueType)
    {
    case Type::kFLOAT: return planeBytes<PlaneWord<float>>(params);
    case Type::kHALF:
        return isCompact ? planeBytes<CompactPlane<__half>>(params) : planeBytes<PlaneWord<__half>>(params);
    case Type::kINT8:
        return isCompact ? planeBytes<CompactPlane<int8_t>>(params) : planeBytes<PlaneWord<int8_t>>(params);
    }
    return 0;
}

// Blocks that a multiprocessor's shared memory holds.
int64_t blocksTogether(int64_t bytes, DeviceLimits const& limits)
{
    if (bytes > limits.sharedBytesPerBlock)
    {
        return 0;
    }
    // A card keeps some for itself, of each block.
    int64_t const reserved = limits.sharedBytesPerMultiprocessor - limits.sharedBytesPerBlock;
    return limits.sharedBytesPerMultiprocessor / (bytes + reserved);
}

// The variant that the shapes and the card ask for.
DeformSampleVariant variantOf(DeformSampleParams const& params, DeviceLimits const& limits)
{
    int64_t const pixels = static_cast<int64_t>(params.outHeight) * params.outWidth;
    // Filling reads the whole plane, so few samples of a large plane are better read one by one.
    bool const pays = 4 * pixels >= static_cast<int64_t>(params.height) * params.width;
    // Of a float, the word is the value.
    bool const hasCompact = params.valueType != Type::kFLOAT;
    int64_t const words = blocksTogether(sharedBytes(params, DeformSampleVariant::kSHARED), limits);
    int64_t const compact = blocksTogether(sharedBytes(params, DeformSampleVariant::kCOMPACT), limits);
    switch (params.variant)
    {
    case DeformSampleVariant::kSHARED: return words > 0 ? DeformSampleVariant::kSHARED : DeformSampleVariant::kDIRECT;
    case DeformSampleVariant::kCOMPACT:
        return compact == 0 ? DeformSampleVariant::kDIRECT
            : hasCompact    ? DeformSampleVariant::kCOMPACT
                            : DeformSampleVariant::kSHARED;
    case DeformSampleVariant::kDIRECT: return DeformSampleVariant::kDIRECT;
    case DeformSampleVariant::kAUTO: break;
    }
    if (!pays)
    {
        return DeformSampleVariant::kDIRECT;
    }
    // While one block copies its plane, others sample. Four are enough, and words then need fewer instructions. A
    // compact plane that is alone is slower than the caches: 123 us against 99 on an H100, at 224x288.
    if (words < 4 && compact >= 2 && compact > words)
    {
        return DeformSampleVariant::kCOMPACT;
    }
    return words > 0 ? DeformSampleVariant::kSHARED : DeformSampleVariant::kDIRECT;
}

// Pixels that a thread takes together: two where rows of offsets and of the output allow that.
int32_t pixelsOf(DeformSampleParams const& params)
{
    bool isAligned = params.outWidth % 2 == 0;
    for (int32_t i = 0; i < params.items; ++i)
    {
        isAligned = isAligned && reinterpret_cast<uintptr_t>(params.offset[i]) % 8 == 0
            && reinterpret_cast<uintptr_t>(params.output[i]) % 8 == 0;
    }
    return isAligned ? 2 : 1;
}

template <typename T, typename TOffset, int32_t kPIXELS>
cudaError_t launchPixels(DeformSampleParams const& params, DeformSampleLaunch const& plan, cudaStream_t stream)
{
    auto kernel = plan.variant == DeformSampleVariant::kDIRECT
        ? deformSampleKernel<T, TOffset, DeformSampleVariant::kDIRECT, 1>
        : deformSampleKernel<T, TOffset, DeformSampleVariant::kSHARED, kPIXELS>;
    if constexpr (sizeof(T) <= 2)
    {
        if (plan.variant == DeformSampleVariant::kCOMPACT)
        {
            kernel = deformSampleKernel<T, TOffset, DeformSampleVariant::kCOMPACT, kPIXELS>;
        }
    }
    return launch(kernel, params, plan.blocks, plan.threads, plan.sharedBytes, stream);
}

template <typename T, typename TOffset>
cudaError_t launchTyped(DeformSampleParams const& params, DeformSampleLaunch const& plan, cudaStream_t stream)
{
    return pixelsOf(params) == 2 ? launchPixels<T, TOffset, 2>(params, plan, stream)
                                 : launchPixels<T, TOffset, 1>(params, plan, stream);
}

template <typename T>
cudaError_t launchValue(DeformSampleParams const& params, DeformSampleLaunch const& plan, cudaStream_t stream)
{
    return params.offsetType == Type::kFLOAT ? launchTyped<T, float>(params, plan, stream)
                                             : launchTyped<T, __half>(params, plan, stream);
}

} // namespace

char const* checkDeformSample(DeformSampleParams const& params) noexcept
{
    constexpr int64_t kMOST = 2147483647;
    if (params.items < 1 || params.items > DeformSampleParams::kMAX_ITEMS)
    {
        return "items: expected 1 to 8";
    }
    if (params.n < 0 || params.c < 0 || params.height < 0 || params.width < 0 || params.outHeight < 0
        || params.outWidth < 0)
    {
        return "a size is negative";
    }
    if (params.valueType != Type::kFLOAT && params.valueType != Type::kHALF && params.valueType != Type::kINT8)
    {
        return "valueType: expected float, half or int8";
    }
    if (params.offsetType != Type::kFLOAT && params.offsetType != Type::kHALF)
    {
        return "offsetType: expected float or half";
    }
    // Inside a plane indices are 32 bits; 24 bits of a float place a sample.
    if (static_cast<int64_t>(params.height) * params.width > kMOST
        || static_cast<int64_t>(params.outHeight) * params.outWidth > kMOST)
    {
        return "a plane has more than 2^31 - 1 pixels";
    }
    if (static_cast<int64_t>(params.items) * params.n * params.c > kMOST)
    {
        return "items n c: expected at most 2^31 - 1 planes";
    }
    bool const empty = params.n == 0 || params.c == 0 || params.outHeight == 0 || params.outWidth == 0;
    for (int32_t i = 0; i < params.items && !empty; ++i)
    {
        bool const valued = params.height == 0 || params.width == 0 || params.value[i] != nullptr;
        if (!valued || params.offset[i] == nullptr || params.output[i] == nullptr)
        {
            return "a pointer is null";
        }
        if ((params.position[i] == nullptr) != (params.position[0] == nullptr))
        {
            return "position: expected one for every item, or for none";
        }
    }
    return nullptr;
}

DeformSampleLaunch planDeformSample(DeformSampleParams const& params, DeviceLimits const& limits) noexcept
{
    int64_t const pixels = static_cast<int64_t>(params.outHeight) * params.outWidth;
    int64_t const planes = pixels == 0 ? 0 : static_cast<int64_t>(params.items) * params.n * params.c;
    DeformSampleVariant const variant = variantOf(params, limits);
    // Whole rows of threads, so that each keeps its column; small planes get small blocks, of which more
    // are resident.
    int64_t const width = ceilDiv(std::max<int32_t>(params.outWidth, 1), pixelsOf(params));
    int64_t const columns = ceilDiv(width, ceilDiv(width, kSAMPLE_THREADS));
    int64_t const rows = std::min<int64_t>(kSAMPLE_THREADS / columns, ceilDiv(params.outHeight, kSAMPLE_UNROLL));
    int64_t const threads = columns * std::max<int64_t>(rows, 1);
    return DeformSampleLaunch{variant, planes, static_cast<int32_t>(threads), sharedBytes(params, variant)};
}

cudaError_t deformSample(DeformSampleParams const& params, cudaStream_t stream) noexcept
{
    if (checkDeformSample(params) != nullptr)
    {
        return cudaErrorInvalidValue;
    }
    DeviceLimits limits{};
    cudaError_t const status = deviceLimits(limits);
    if (status != cudaSuccess)
    {
        return status;
    }
    DeformSampleLaunch const plan = planDeformSample(params, limits);
    switch (params.valueType)
    {
    case Type::kFLOAT: return launchValue<float>(params, plan, stream);
    case Type::kHALF: return launchValue<__half>(params, plan, stream);
    case Type::kINT8: return launchValue<int8_t>(params, plan, stream);
    }
    return cudaErrorInvalidValue;
}

} // namespace degmix
