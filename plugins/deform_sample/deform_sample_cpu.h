// Sample planes at pixel offsets, one offset pair a channel and pixel: the 1x1 deformable
// convolution of DeMT without its product. Dai et al. 2017, eq. 3 and 4.
#pragma once

#include <cstdint>

namespace degmix
{

// value (N, C, height, width), offset (N, 2 C, outHeight, outWidth) with dy in channel 2 c and dx in
// 2 c + 1, output (N, C, outHeight, outWidth); float32, contiguous. Pixels outside are zero. An
// offset that is NaN samples outside.
struct DeformSampleParams
{
    float const* value;
    float const* offset;
    float* output;
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
