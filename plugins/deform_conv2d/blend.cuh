// Four neighbours and their weights become a sample: 16 bytes of channels at a time.
#pragma once

#include "common/bilinear.cuh"
#include "deform_conv2d/tile.cuh"

namespace degmix
{

// Half sums in half: the four weights in two words. Weights, their products' sums and the result are each
// rounded to 11 bits, which costs less than the rounding of a column buffer that is added to once more.
// Neighbours come with their weights growing, so that the sums that are rounded are small ones.
template <typename T>
struct Blend;

template <>
struct Blend<__half>
{
    struct alignas(8) Weights
    {
        uint32_t pair[2];
    };

    static __device__ __forceinline__ Weights weights(float const (&weight)[4])
    {
        return Weights{{packHalves(weight[0], weight[1]), packHalves(weight[2], weight[3])}};
    }

    static __device__ __forceinline__ uint4 of(uint4 const (&read)[4], Weights const& weights)
    {
        uint32_t weight[4];
#pragma unroll
        for (int32_t i = 0; i < 4; ++i)
        {
            weight[i] = __byte_perm(weights.pair[i / 2], 0U, i % 2 == 0 ? 0x1010U : 0x3232U);
        }
        return uint4{sum(read[0].x, read[1].x, read[2].x, read[3].x, weight),
            sum(read[0].y, read[1].y, read[2].y, read[3].y, weight),
            sum(read[0].z, read[1].z, read[2].z, read[3].z, weight),
            sum(read[0].w, read[1].w, read[2].w, read[3].w, weight)};
    }

private:
    static __device__ __forceinline__ uint32_t sum(
        uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t const (&weight)[4])
    {
        uint32_t const ab = multiplyAddHalves(b, weight[1], multiplyHalves(a, weight[0]));
        return multiplyAddHalves(d, weight[3], multiplyAddHalves(c, weight[2], ab));
    }
};

struct FloatWeights
{
    using Weights = Part<float>;

    static __device__ __forceinline__ Weights weights(float const (&weight)[4])
    {
        return Weights{{weight[0], weight[1], weight[2], weight[3]}};
    }
};

template <>
struct Blend<float> : FloatWeights
{
    static __device__ __forceinline__ uint4 of(uint4 const (&read)[4], Weights const& weights)
    {
        return uint4{sum(read[0].x, read[1].x, read[2].x, read[3].x, weights),
            sum(read[0].y, read[1].y, read[2].y, read[3].y, weights),
            sum(read[0].z, read[1].z, read[2].z, read[3].z, weights),
            sum(read[0].w, read[1].w, read[2].w, read[3].w, weights)};
    }

private:
    static __device__ __forceinline__ float real(uint32_t word)
    {
        return __int_as_float(static_cast<int32_t>(word));
    }

    static __device__ __forceinline__ uint32_t sum(
        uint32_t a, uint32_t b, uint32_t c, uint32_t d, Weights const& weights)
    {
        float const total = weights.element[0] * real(a) + weights.element[1] * real(b) + weights.element[2] * real(c)
            + weights.element[3] * real(d);
        return static_cast<uint32_t>(__float_as_int(total));
    }
};

// Bytes become floats, and a float becomes a byte, by their place in the 24 bits of a float's fraction:
// conversion instructions have a quarter of the rate.
template <>
struct Blend<int8_t> : FloatWeights
{
    static __device__ __forceinline__ uint4 of(uint4 const (&read)[4], Weights const& weights)
    {
        return uint4{sum(read[0].x, read[1].x, read[2].x, read[3].x, weights),
            sum(read[0].y, read[1].y, read[2].y, read[3].y, weights),
            sum(read[0].z, read[1].z, read[2].z, read[3].z, weights),
            sum(read[0].w, read[1].w, read[2].w, read[3].w, weights)};
    }

private:
    static __device__ __forceinline__ uint32_t sum(
        uint32_t a, uint32_t b, uint32_t c, uint32_t d, Weights const& weights)
    {
        constexpr uint32_t kSIGNS = 0x80808080U;
        constexpr float kROUNDING = 12582912.F; // 1.5 x 2^23: what is added to it ends at its last bit
        uint32_t const word[4] = {a ^ kSIGNS, b ^ kSIGNS, c ^ kSIGNS, d ^ kSIGNS};
        uint32_t rounded[4];
#pragma unroll
        for (int32_t e = 0; e < 4; ++e)
        {
            float total = 0.F;
#pragma unroll
            for (int32_t i = 0; i < 4; ++i)
            {
                total += weights.element[i] * value(word[i], static_cast<uint32_t>(e));
            }
            total = fminf(fmaxf(total, -127.F), 127.F);
            rounded[e] = static_cast<uint32_t>(__float_as_int(total + kROUNDING));
        }
        uint32_t const low = __byte_perm(rounded[0], rounded[1], 0x0040U);
        uint32_t const high = __byte_perm(rounded[2], rounded[3], 0x0040U);
        return __byte_perm(low, high, 0x5410U);
    }

    // Of a byte that has 128 added to it.
    static __device__ __forceinline__ float value(uint32_t word, uint32_t index)
    {
        constexpr float kBIAS = 8388736.F; // 2^23 + 128
        return __int_as_float(static_cast<int32_t>(__byte_perm(word, 0x4B000000U, 0x7440U + index))) - kBIAS;
    }
};

// An offset, and the modulation, as they are in memory.
struct Offset
{
    float dy;
    float dx;
    float share;
};

// Where the tap samples for output pixel (y, x), the nearest neighbour last.
__device__ __forceinline__ Corners cornersAt(
    DeformConv2dWork const& work, Offset const& offset, int32_t tap, int32_t y, int32_t x)
{
    DeformConv2dParams const& params = work.params;
    // Without a mask the share is 1, and the launcher asks for no sigmoid.
    float const share = params.sigmoidMask != 0 ? __fdividef(1.F, 1.F + __expf(-offset.share)) : offset.share;
    int32_t const row = params.kernelWidth == 1
        ? tap
        : static_cast<int32_t>((static_cast<uint64_t>(tap) * work.perKernelWidth) >> 32U);
    int32_t const column = tap - row * params.kernelWidth;
    int32_t const atY = y * params.strideHeight - params.padTop + row * params.dilationHeight;
    int32_t const atX = x * params.strideWidth - params.padLeft + column * params.dilationWidth;
    int32_t const width = onlyHere(params.width);
    Neighbours const rows = neighboursOf(static_cast<float>(atY) + offset.dy, onlyHere(params.height));
    Neighbours const columns = neighboursOf(static_cast<float>(atX) + offset.dx, width);
    Corners corners;
#pragma unroll
    for (int32_t i = 0; i < 4; ++i)
    {
        corners.index[i] = rows.at[i / 2] * width + columns.at[i % 2];
        corners.weight[i] = share * rows.weight[i / 2] * columns.weight[i % 2];
    }
    return corners;
}

} // namespace degmix
