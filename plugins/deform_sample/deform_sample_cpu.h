// Sample planes at pixel offsets, one offset pair a channel and pixel: the 1x1 deformable
// convolution of DeMT without its product. Dai et al. 2017, eq. 3 and 4.
#pragma once

#include <cstdint>

namespace degmix
{

// value (N, C, height, width), offset (N, 2 C, outHeight, outWidth) with dy in channel 2 c and dx in
// 2 c + 1, output (N, C, outHeight, outWidth); float32, contiguous. Pixels outside are zero. An
// offset that is NaN samples outside.
// position is null, or a table (9, C, 4) of what a pixel's own position adds to its offsets: by border
// class, which is first, inner or last row times the same of columns, slope and intercept of dy, then
// of dx, along y in the first half of the channels and along x in the second.
struct DeformSampleParams
{
    float const* value;
    float const* offset;
    float const* position;
    float* output;
    int64_t channels;
    int64_t height;
    int64_t width;
    int64_t outHeight;
    int64_t outWidth;
};

enum class Isa
{
    kPLAIN,
    kAVX2,
};

// The best one that this processor has; the environment's DEGMIX_CPU_ISA=plain takes the
// other.
Isa chooseIsa() noexcept;

char const* isaName(Isa isa) noexcept;

// Sample plane `plane` of N C. Threads may call it for different planes at once.
// Returns false if there is no memory for the plane's copy.
bool deformSamplePlane(DeformSampleParams const& params, int64_t plane, Isa isa) noexcept;

} // namespace degmix

extern "C"
{
    // The instruction set that samples here.
    __attribute__((visibility("default"))) char const* degmixCpuIsa() noexcept;

    // Sample `planes` planes on at most `threads` threads, the caller's among them. Returns 0, or 1 if
    // there is no memory for a plane's copy. For runtimes that lend an operator no threads.
    __attribute__((visibility("default"))) int32_t degmixCpuSample(
        degmix::DeformSampleParams const* params, int64_t planes, int32_t threads) noexcept;
}
