#include "deform_sample_cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace degmix
{
namespace
{

// A copy of the plane with zeros around it: one row and column before it, two behind, so that a
// coordinate clamped to [-1, size] needs no test and reads zeros outside.
constexpr int64_t kBEFORE = 1;
constexpr int64_t kRING = 3;

struct Ringed
{
    float const* data;
    int32_t pitch;
    float height;
    float width;
};

// Where the pixels of a row are sampled without an offset: at base + slope x, on both axes.
struct Line
{
    float baseY;
    float slopeY;
    float baseX;
    float slopeX;
};

// A row of offsets and of samples.
struct Row
{
    float const* dy;
    float const* dx;
    float* out;
};

// Sample the pixels [begin, end) of a row.
using SampleRow = void (*)(Ringed const& plane, Line const& line, Row const& row, int64_t begin, int64_t end);

void sampleRowPlain(Ringed const& plane, Line const& line, Row const& row, int64_t begin, int64_t end)
{
    for (int64_t x = begin; x < end; ++x)
    {
        // Written so that a NaN compares false and becomes -1.
        float const column = static_cast<float>(x);
        float const atY = line.baseY + line.slopeY * column + row.dy[x];
        float const atX = line.baseX + line.slopeX * column + row.dx[x];
        float const clampedY = atY > -1.F ? std::min(atY, plane.height) : -1.F;
        float const clampedX = atX > -1.F ? std::min(atX, plane.width) : -1.F;
        float const floorY = std::floor(clampedY);
        float const floorX = std::floor(clampedX);
        float const fy = clampedY - floorY;
        float const fx = clampedX - floorX;
        int32_t const firstY = static_cast<int32_t>(floorY) + static_cast<int32_t>(kBEFORE);
        int32_t const firstX = static_cast<int32_t>(floorX) + static_cast<int32_t>(kBEFORE);
        float const* top = plane.data + static_cast<int64_t>(firstY) * plane.pitch + firstX;
        float const* bottom = top + plane.pitch;
        float const upper = top[0] + fx * (top[1] - top[0]);
        float const lower = bottom[0] + fx * (bottom[1] - bottom[0]);
        row.out[x] = upper + fy * (lower - upper);
    }
}

#if defined(__x86_64__)

__attribute__((target("avx2,fma"))) inline __m128 twoPairs(float const* data, int32_t first, int32_t second)
{
    __m128 const low = _mm_castpd_ps(_mm_load_sd(reinterpret_cast<double const*>(data + first)));
    return _mm_loadh_pi(low, reinterpret_cast<__m64 const*>(data + second));
}

// Eight-byte loads, each both neighbours of a row. Measured on an EPYC (Zen 4) they beat gather
// instructions, of AVX2 and of AVX-512 alike.
__attribute__((target("avx2,fma"))) inline void pairs256(
    float const* data, int32_t const* index, __m256& left, __m256& right)
{
    __m256 const low = _mm256_set_m128(twoPairs(data, index[4], index[5]), twoPairs(data, index[0], index[1]));
    __m256 const high = _mm256_set_m128(twoPairs(data, index[6], index[7]), twoPairs(data, index[2], index[3]));
    left = _mm256_shuffle_ps(low, high, 0x88);
    right = _mm256_shuffle_ps(low, high, 0xdd);
}

__attribute__((target("avx2,fma"))) void sampleRowAvx2(
    Ringed const& plane, Line const& line, Row const& row, int64_t begin, int64_t end)
{
    __m256 const lowest = _mm256_set1_ps(-1.F);
    __m256 const height = _mm256_set1_ps(plane.height);
    __m256 const width = _mm256_set1_ps(plane.width);
    __m256 const baseY = _mm256_set1_ps(line.baseY);
    __m256 const slopeY = _mm256_set1_ps(line.slopeY);
    __m256 const baseX = _mm256_set1_ps(line.baseX);
    __m256 const slopeX = _mm256_set1_ps(line.slopeX);
    __m256 const lanes = _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i const pitch = _mm256_set1_epi32(plane.pitch);
    __m256i const first = _mm256_set1_epi32(plane.pitch + 1);
    int64_t x = begin;
    for (; x + 8 <= end; x += 8)
    {
        __m256 const column = _mm256_add_ps(_mm256_set1_ps(static_cast<float>(x)), lanes);
        __m256 atY = _mm256_add_ps(_mm256_fmadd_ps(slopeY, column, baseY), _mm256_loadu_ps(row.dy + x));
        __m256 atX = _mm256_add_ps(_mm256_fmadd_ps(slopeX, column, baseX), _mm256_loadu_ps(row.dx + x));
        atY = _mm256_min_ps(_mm256_max_ps(atY, lowest), height);
        atX = _mm256_min_ps(_mm256_max_ps(atX, lowest), width);
        __m256 const floorY = _mm256_floor_ps(atY);
        __m256 const floorX = _mm256_floor_ps(atX);
        __m256 const fy = _mm256_sub_ps(atY, floorY);
        __m256 const fx = _mm256_sub_ps(atX, floorX);
        __m256i const index = _mm256_add_epi32(
            first, _mm256_add_epi32(_mm256_mullo_epi32(_mm256_cvtps_epi32(floorY), pitch), _mm256_cvtps_epi32(floorX)));
        alignas(32) int32_t places[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(places), index);
        __m256 left;
        __m256 right;
        pairs256(plane.data, places, left, right);
        __m256 const upper = _mm256_fmadd_ps(fx, _mm256_sub_ps(right, left), left);
        pairs256(plane.data + plane.pitch, places, left, right);
        __m256 const lower = _mm256_fmadd_ps(fx, _mm256_sub_ps(right, left), left);
        _mm256_storeu_ps(row.out + x, _mm256_fmadd_ps(fy, _mm256_sub_ps(lower, upper), upper));
    }
    sampleRowPlain(plane, line, row, x, end);
}

#endif

// 0 for the first of `count`, 2 for the last, else 1.
int64_t borderOf(int64_t at, int64_t count) noexcept
{
    return at == 0 ? 0 : at == count - 1 ? 2 : 1;
}

// The line of row `y` in the columns of one border class.
Line lineOf(DeformSampleParams const& params, int64_t channel, int64_t y, int64_t column) noexcept
{
    double const row = static_cast<double>(y);
    if (params.position == nullptr)
    {
        return {static_cast<float>(row), 0.F, 0.F, 1.F};
    }
    int64_t const border = 3 * borderOf(y, params.outHeight) + column;
    float const* at = params.position + 4 * (border * params.channels + channel);
    double const slopeY = at[0];
    double const slopeX = at[2];
    bool const isAlongY = 2 * channel < params.channels;
    return isAlongY
        ? Line{static_cast<float>(row + slopeY * row + at[1]), 0.F, static_cast<float>(slopeX * row + at[3]), 1.F}
        : Line{static_cast<float>(row + at[1]), at[0], at[3], static_cast<float>(1. + slopeX)};
}

SampleRow rowOf(Isa isa) noexcept
{
#if defined(__x86_64__)
    if (isa == Isa::kAVX2)
    {
        return sampleRowAvx2;
    }
#endif
    (void) isa;
    return sampleRowPlain;
}

Isa best() noexcept
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    {
        return Isa::kAVX2;
    }
#endif
    return Isa::kPLAIN;
}

} // namespace

Isa chooseIsa() noexcept
{
    Isa const have = best();
    char const* asked = std::getenv("DEGMIX_CPU_ISA");
    for (Isa isa : {Isa::kPLAIN, Isa::kAVX2})
    {
        if (asked != nullptr && std::strcmp(asked, isaName(isa)) == 0)
        {
            return std::min(isa, have);
        }
    }
    return have;
}

char const* isaName(Isa isa) noexcept
{
    return isa == Isa::kAVX2 ? "avx2" : "plain";
}

bool deformSamplePlane(DeformSampleParams const& params, int64_t plane, Isa isa) noexcept
{
    // Kept by the thread: a plane's copy is as large as the plane, and there are hundreds a frame.
    static thread_local std::vector<float> scratch;
    int64_t const pitch = params.width + kRING;
    try
    {
        scratch.assign(static_cast<size_t>((params.height + kRING) * pitch), 0.F);
    }
    catch (std::bad_alloc const&)
    {
        return false;
    }
    float const* value = params.value + plane * params.height * params.width;
    for (int64_t y = 0; y < params.height; ++y)
    {
        float* to = scratch.data() + (y + kBEFORE) * pitch + kBEFORE;
        std::memcpy(to, value + y * params.width, static_cast<size_t>(params.width) * sizeof(float));
    }
    Ringed const ringed{scratch.data(), static_cast<int32_t>(pitch), static_cast<float>(params.height),
        static_cast<float>(params.width)};
    int64_t const outPlane = params.outHeight * params.outWidth;
    float const* dy = params.offset + 2 * plane * outPlane;
    float const* dx = dy + outPlane;
    float* out = params.output + plane * outPlane;
    int64_t const channel = plane % params.channels;
    int64_t const width = params.outWidth;
    SampleRow const sampleRow = rowOf(isa);
    for (int64_t y = 0; y < params.outHeight; ++y)
    {
        int64_t const at = y * width;
        Row const row{dy + at, dx + at, out + at};
        sampleRow(ringed, lineOf(params, channel, y, 1), row, 0, width);
        if (params.position != nullptr) // the outer columns have lines of their own: once more
        {
            sampleRowPlain(ringed, lineOf(params, channel, y, 0), row, 0, 1);
            sampleRowPlain(ringed, lineOf(params, channel, y, 2), row, std::max<int64_t>(width - 1, 1), width);
        }
    }
    return true;
}

} // namespace degmix
