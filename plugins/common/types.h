// What every operator's parameters are made of. No CUDA here: hosts, tests and plugins read it too.
#pragma once

#include <cstdint>

namespace degmix
{

// Element types. The numbers are those of the C interface.
enum class Type : int32_t
{
    kFLOAT = 0,
    kHALF = 1,
    kINT8 = 2,
};

// kPLANAR is (N, C, H, W). kCHANNELS_LAST is (N, H, W, pitch) with the channels first in each pitch.
// kCHANNELS_32 is (N, ceil(C / 32), H, W, 32).
enum class Layout : int32_t
{
    kPLANAR = 0,
    kCHANNELS_LAST = 1,
    kCHANNELS_32 = 2,
};

// What follows a product.
enum class Activation : int32_t
{
    kNONE = 0,
    kRELU = 1,
    kGELU = 2, // with erf
};

// What a card offers a launch. Heuristics take it as a value, so that they can be tested for any card.
struct DeviceLimits
{
    int32_t multiprocessors;
    int32_t sharedBytesPerBlock; // with opt-in
    int32_t sharedBytesPerMultiprocessor;
    int32_t computeCapability; // 10 major + minor
};

constexpr int64_t sizeOf(Type type) noexcept
{
    return type == Type::kFLOAT ? 4 : type == Type::kHALF ? 2 : 1;
}

constexpr int32_t kBLOCK_CHANNELS = 32; // of kCHANNELS_32

constexpr int64_t ceilDiv(int64_t a, int64_t b) noexcept
{
    return (a + b - 1) / b;
}

} // namespace degmix
