// Device code of deform_conv2d: an implicit product. A block takes 8 x 8 output pixels and `kTILE_N`
// output channels of one image and group. For every tap and 64 bytes of channels it samples its pixels
// into shared memory, where the weights of that step arrive by asynchronous copies, and multiplies the
// two; the next step's neighbours are on their way meanwhile. The column buffer of an explicit product
// never exists.
#pragma once

#include "common/bilinear.cuh"
#include "common/epilogue.cuh"
#include "common/tensor_core.cuh"
#include "deform_conv2d/deform_conv2d.h"

namespace degmix
{

constexpr int32_t kTILE = 8; // pixels a side
constexpr int32_t kTILE_M = kTILE * kTILE;
constexpr int32_t kROW_BYTES = 64; // of one pixel, or of one output channel, in a step
constexpr int32_t kPARTS = 4;      // of 16 bytes in a row
constexpr int32_t kTHREADS = 256;  // four a pixel; eight warps, two along pixels and four along channels
constexpr int32_t kVALUE_STAGES = 2;
constexpr int32_t kWEIGHT_STAGES = 3;
constexpr int32_t kWARPS_N = 4;

// Where part `part` of row `row` lies. Eight rows' equal parts fall on all banks once.
__device__ __forceinline__ int32_t partAt(int32_t row, int32_t part)
{
    return row * kROW_BYTES + ((part ^ ((row >> 1) & 3)) << 4);
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

// The products of one step by one warp: 32 pixels times kTILE_N / 4 channels, as 16 x 8 fragments.
template <typename T>
struct Product;

template <typename T, typename SumType>
struct TensorCoreProduct
{
    using Sum = SumType;

    template <int32_t kFRAGMENTS>
    static __device__ __forceinline__ void step(Sum (&sum)[2][kFRAGMENTS][4], unsigned char const* values, int32_t row,
        unsigned char const* weights, int32_t column)
    {
        int32_t const lane = static_cast<int32_t>(threadIdx.x) % 32;
        int32_t const matrix = lane / 8;
#pragma unroll
        for (int32_t k = 0; k < kPARTS; k += 2)
        {
            uint32_t a[2][4];
#pragma unroll
            for (int32_t m = 0; m < 2; ++m)
            {
                // Rows 0 to 7, rows 8 to 15, then both again 16 bytes further.
                loadMatrices(a[m], values + partAt(row + 16 * m + lane % 8 + 8 * (matrix & 1), k + (matrix >> 1)));
            }
#pragma unroll
            for (int32_t f = 0; f < kFRAGMENTS; f += 2)
            {
                uint32_t b[4];
                loadMatrices(b, weights + partAt(column + 8 * f + lane % 8 + 8 * (matrix >> 1), k + (matrix & 1)));
                uint32_t const first[2] = {b[0], b[1]};
                uint32_t const second[2] = {b[2], b[3]};
#pragma unroll
                for (int32_t m = 0; m < 2; ++m)
                {
                    multiplyAdd(sum[m][f], a[m], first);
                    multiplyAdd(sum[m][f + 1], a[m], second);
                }
            }
        }
    }
};

template <>
struct Product<__half> : TensorCoreProduct<__half, float>
{
};

template <>
struct Product<int8_t> : TensorCoreProduct<int8_t, int32_t>
{
};

// float32 without tensor cores, which would round to TF32: each lane sums what it would hold of a
// fragment.
template <>
struct Product<float>
{
    using Sum = float;

    template <int32_t kFRAGMENTS>
    static __device__ __forceinline__ void step(Sum (&sum)[2][kFRAGMENTS][4], unsigned char const* values, int32_t row,
        unsigned char const* weights, int32_t column)
    {
        int32_t const lane = static_cast<int32_t>(threadIdx.x) % 32;
        for (int32_t k = 0; k < kPARTS; ++k)
        {
            float a[4][4];
#pragma unroll
            for (int32_t i = 0; i < 4; ++i)
            {
                load(a[i], values + partAt(row + lane / 4 + 8 * i, k));
            }
#pragma unroll
            for (int32_t f = 0; f < kFRAGMENTS; ++f)
            {
#pragma unroll
                for (int32_t j = 0; j < 2; ++j)
                {
                    float b[4];
                    load(b, weights + partAt(column + 8 * f + 2 * (lane % 4) + j, k));
#pragma unroll
                    for (int32_t i = 0; i < 4; ++i)
                    {
#pragma unroll
                        for (int32_t e = 0; e < 4; ++e)
                        {
                            sum[i / 2][f][2 * (i % 2) + j] += a[i][e] * b[e];
                        }
                    }
                }
            }
        }
    }

private:
    static __device__ __forceinline__ void load(float (&to)[4], unsigned char const* from)
    {
        float const* at = reinterpret_cast<float const*>(from);
#pragma unroll
        for (int32_t e = 0; e < 4; ++e)
        {
            to[e] = at[e];
        }
    }
};

// 16 bytes of one type.
template <typename T>
struct alignas(16) Part
{
    static constexpr int32_t kCOUNT = 16 / static_cast<int32_t>(sizeof(T));
    T element[kCOUNT];
};

// A thread's share of the values: one pixel, 16 bytes of channels.
template <typename T, bool kVECTOR>
class Sampler
{
public:
    static constexpr int32_t kCOUNT = Part<T>::kCOUNT;

    __device__ __forceinline__ Sampler(
        DeformConv2dParams const& params, int32_t image, int32_t group, int32_t y, int32_t x, int32_t part)
        : mParams(params)
        , mImage(image)
        , mFirst(group * (params.c / params.groups))
        , mY(y)
        , mX(x)
        , mPart(part)
        , mInside(y < params.outHeight && x < params.outWidth && params.height > 0 && params.width > 0)
        , mTap(-1)
        , mGroup(-1)
    {
    }

    // Ask for the neighbours of channels [channel, channel + step) of the group at `tap`.
    __device__ __forceinline__ void load(int32_t tap, int32_t channel)
    {
        int32_t const first = channel + mPart * kCOUNT;
        int32_t const left = mParams.c / mParams.groups - first;
        mCount = mInside ? (left < kCOUNT ? left : kCOUNT) : 0;
        if (mCount <= 0)
        {
            return;
        }
        if constexpr (kVECTOR)
        {
            place(tap, (mFirst + first) / (mParams.c / mParams.offsetGroups));
            int64_t const pixels = static_cast<int64_t>(mParams.height) * mParams.width;
            T const* at = static_cast<T const*>(mParams.value)
                + elementAt(mParams.valueLayout, mImage, mFirst + first, 0, mParams.c, pixels, mParams.valuePitch);
#pragma unroll
            for (int32_t i = 0; i < 4; ++i)
            {
                mRead[i] = *reinterpret_cast<Part<T> const*>(
                    at + static_cast<int64_t>(mCorners.index[i]) * mParams.valuePitch);
            }
        }
        else
        {
            for (int32_t e = 0; e < mCount; ++e)
            {
                place(tap, (mFirst + first + e) / (mParams.c / mParams.offsetGroups));
                float sum = 0.F;
                for (int32_t i = 0; i < 4; ++i)
                {
                    sum += mCorners.weight[i] * toFloat(valueAt(mCorners.index[i], mFirst + first + e));
                }
                mRead[0].element[e] = fromFloat<T>(sum);
            }
        }
    }

    // Blend what was asked for into a row of shared memory.
    __device__ __forceinline__ void store(unsigned char* to) const
    {
        Part<T> part;
#pragma unroll
        for (int32_t e = 0; e < kCOUNT; ++e)
        {
            float sum = 0.F;
            if (e < mCount)
            {
                if constexpr (kVECTOR)
                {
#pragma unroll
                    for (int32_t i = 0; i < 4; ++i)
                    {
                        sum += mCorners.weight[i] * toFloat(mRead[i].element[e]);
                    }
                }
                else
                {
                    sum = toFloat(mRead[0].element[e]);
                }
            }
            part.element[e] = fromFloat<T>(sum);
        }
        *reinterpret_cast<Part<T>*>(to) = part;
    }

private:
    // Offsets are read again only where the tap or the offset group changes.
    __device__ __forceinline__ void place(int32_t tap, int32_t group)
    {
        if (tap == mTap && group == mGroup)
        {
            return;
        }
        mTap = tap;
        mGroup = group;
        int32_t const taps = mParams.kernelHeight * mParams.kernelWidth;
        int64_t const pixels = static_cast<int64_t>(mParams.outHeight) * mParams.outWidth;
        int64_t const pixel = static_cast<int64_t>(mY) * mParams.outWidth + mX;
        int64_t const plane = (static_cast<int64_t>(mImage) * mParams.offsetGroups + group) * taps + tap;
        float const dy = loadAs(mParams.offset, 2 * plane * pixels + pixel, mParams.offsetType);
        float const dx = loadAs(mParams.offset, (2 * plane + 1) * pixels + pixel, mParams.offsetType);
        float share = 1.F;
        if (mParams.mask != nullptr)
        {
            share = loadAs(mParams.mask, plane * pixels + pixel, mParams.offsetType);
            share = mParams.sigmoidMask != 0 ? 1.F / (1.F + __expf(-share)) : share;
        }
        int32_t const row = tap / mParams.kernelWidth;
        int32_t const column = tap - row * mParams.kernelWidth;
        int32_t const y = mY * mParams.strideHeight - mParams.padTop + row * mParams.dilationHeight;
        int32_t const x = mX * mParams.strideWidth - mParams.padLeft + column * mParams.dilationWidth;
        Place const place
            = placeOf(static_cast<float>(y) + dy, static_cast<float>(x) + dx, mParams.height, mParams.width);
        mCorners = cornersOf(place, mParams.height, mParams.width, share);
    }

    __device__ __forceinline__ T valueAt(int32_t pixel, int32_t channel) const
    {
        T const* data = static_cast<T const*>(mParams.value);
        int64_t const pixels = static_cast<int64_t>(mParams.height) * mParams.width;
        return data[elementAt(mParams.valueLayout, mImage, channel, pixel, mParams.c, pixels, mParams.valuePitch)];
    }

    DeformConv2dParams const& mParams;
    int32_t mImage;
    int32_t mFirst; // channel of the group
    int32_t mY;
    int32_t mX;
    int32_t mPart;
    bool mInside; // has something to sample
    int32_t mTap;
    int32_t mGroup;
    int32_t mCount{0};
    Corners mCorners;
    Part<T> mRead[4];
};

// The weights of one step: `kTILE_N` rows of 64 bytes, zeros beyond the last channel.
template <typename T, int32_t kTILE_N, bool kVECTOR>
__device__ __forceinline__ void copyWeights(DeformConv2dParams const& params, unsigned char* to, int32_t group,
    int32_t firstOutput, int32_t tap, int32_t channel)
{
    constexpr int32_t kCOUNT = Part<T>::kCOUNT;
    int32_t const perGroup = params.c / params.groups;
    int32_t const outputs = params.outChannels / params.groups;
    int32_t const taps = params.kernelHeight * params.kernelWidth;
    T const* weight = static_cast<T const*>(params.weight);
#pragma unroll
    for (int32_t i = 0; i < kTILE_N * kPARTS / kTHREADS; ++i)
    {
        int32_t const index = static_cast<int32_t>(threadIdx.x) + i * kTHREADS;
        int32_t const row = index / kPARTS;
        int32_t const part = index % kPARTS;
        int32_t const first = channel + part * kCOUNT;
        int32_t const output = firstOutput + row;
        bool const inside = output < outputs && first < perGroup;
        int64_t const at
            = inside ? (static_cast<int64_t>(group * outputs + output) * taps + tap) * perGroup + first : 0;
        unsigned char* place = to + partAt(row, part);
        if constexpr (kVECTOR)
        {
            copyAsync(place, weight + at, inside);
        }
        else
        {
            Part<T> copy;
            for (int32_t e = 0; e < kCOUNT; ++e)
            {
                copy.element[e] = inside && first + e < perGroup ? weight[at + e] : fromFloat<T>(0.F);
            }
            *reinterpret_cast<Part<T>*>(place) = copy;
        }
    }
}

template <typename Sum>
__device__ __forceinline__ float scaled(DeformConv2dParams const&, Sum sum, int32_t)
{
    return sum;
}

template <>
__device__ __forceinline__ float scaled<int32_t>(DeformConv2dParams const& params, int32_t sum, int32_t output)
{
    return static_cast<float>(sum) * (params.valueScale * params.weightScale[output]);
}

template <typename T, int32_t kTILE_N, bool kVECTOR>
__global__ void __launch_bounds__(kTHREADS, kVECTOR && sizeof(T) == 2 && kTILE_N < 256 ? 2 : 1)
    deformConv2dKernel(DeformConv2dParams params)
{
    constexpr int32_t kFRAGMENTS = kTILE_N / kWARPS_N / 8;
    constexpr int32_t kCHANNELS = kPARTS * Part<T>::kCOUNT; // of a step
    constexpr int32_t kVALUE_BYTES = kTILE_M * kROW_BYTES;
    constexpr int32_t kWEIGHT_BYTES = kTILE_N * kROW_BYTES;
    using Sum = typename Product<T>::Sum;
    DEGMIX_SHARED(shared);
    unsigned char* const values = shared;
    unsigned char* const weights = shared + kVALUE_STAGES * kVALUE_BYTES;

    int32_t const perGroup = params.c / params.groups;
    int32_t const outputs = params.outChannels / params.groups;
    int32_t const tilesX = (params.outWidth + kTILE - 1) / kTILE;
    int32_t const tilesY = (params.outHeight + kTILE - 1) / kTILE;
    int32_t const tilesN = (outputs + kTILE_N - 1) / kTILE_N;
    int64_t block = blockIdx.x;
    int32_t const tileX = static_cast<int32_t>(block % tilesX);
    block /= tilesX;
    int32_t const tileY = static_cast<int32_t>(block % tilesY);
    block /= tilesY;
    int32_t const firstOutput = static_cast<int32_t>(block % tilesN) * kTILE_N;
    block /= tilesN;
    int32_t const group = static_cast<int32_t>(block % params.groups);
    int32_t const image = static_cast<int32_t>(block / params.groups);

    int32_t const thread = static_cast<int32_t>(threadIdx.x);
    int32_t const pixel = thread / kPARTS;
    int32_t const part = thread % kPARTS;
    int32_t const mine = partAt(pixel, part);
    Sampler<T, kVECTOR> sampler(
        params, image, group, tileY * kTILE + pixel / kTILE, tileX * kTILE + pixel % kTILE, part);

    int32_t const chunks = (perGroup + kCHANNELS - 1) / kCHANNELS;
    int32_t const steps = chunks * params.kernelHeight * params.kernelWidth;
    int32_t const warp = thread / 32;
    int32_t const row = (warp % 2) * 32;
    int32_t const column = (warp / 2) * (kTILE_N / kWARPS_N);
    Sum sum[2][kFRAGMENTS][4] = {};

    auto const ask = [&](int32_t step)
    {
        if (step < steps)
        {
            copyWeights<T, kTILE_N, kVECTOR>(params, weights + (step % kWEIGHT_STAGES) * kWEIGHT_BYTES, group,
                firstOutput, step / chunks, (step % chunks) * kCHANNELS);
        }
        commitCopies(); // an empty group too, so that their number says which step they are of
    };
    ask(0);
    ask(1);
    if (steps > 0)
    {
        sampler.load(0, 0);
        sampler.store(values + mine);
    }
    for (int32_t step = 0; step < steps; ++step)
    {
        bool const more = step + 1 < steps;
        if (more)
        {
            sampler.load((step + 1) / chunks, ((step + 1) % chunks) * kCHANNELS);
        }
        waitCopies<1>();
        __syncthreads(); // this step's operands are whole, and the last step's are read
        ask(step + 2);
        Product<T>::step(sum, values + (step % kVALUE_STAGES) * kVALUE_BYTES, row,
            weights + (step % kWEIGHT_STAGES) * kWEIGHT_BYTES, column);
        if (more)
        {
            sampler.store(values + ((step + 1) % kVALUE_STAGES) * kVALUE_BYTES + mine);
        }
    }
    waitCopies<0>();

    int32_t const lane = thread % 32;
    int64_t const pixels = static_cast<int64_t>(params.outHeight) * params.outWidth;
    int32_t const paddedOutputs = params.outputLayout == Layout::kPLANAR ? params.outChannels
        : params.outputLayout == Layout::kCHANNELS_LAST
        ? params.outputPitch
        : (params.outChannels + kBLOCK_CHANNELS - 1) / kBLOCK_CHANNELS * kBLOCK_CHANNELS;
#pragma unroll
    for (int32_t m = 0; m < 2; ++m)
    {
#pragma unroll
        for (int32_t f = 0; f < kFRAGMENTS; ++f)
        {
#pragma unroll
            for (int32_t i = 0; i < 4; ++i)
            {
                int32_t const at = row + 16 * m + lane / 4 + 8 * (i / 2);
                int32_t const y = tileY * kTILE + at / kTILE;
                int32_t const x = tileX * kTILE + at % kTILE;
                int32_t const inGroup = firstOutput + column + 8 * f + 2 * (lane % 4) + i % 2;
                int32_t const output = group * outputs + inGroup;
                // Channels that only fill a vector are zero: whoever reads them multiplies them by zero,
                // which what memory happens to hold need not survive.
                bool const isPadding = inGroup >= outputs;
                if (y >= params.outHeight || x >= params.outWidth
                    || (isPadding && (output < params.outChannels || output >= paddedOutputs)))
                {
                    continue;
                }
                float value = 0.F;
                if (!isPadding)
                {
                    value = scaled(params, sum[m][f][i], output);
                    value += params.bias != nullptr ? loadAs(params.bias, output, params.biasType) : 0.F;
                    value = activate(value, params.activation);
                }
                int64_t const place = static_cast<int64_t>(y) * params.outWidth + x;
                int64_t const index = elementAt(
                    params.outputLayout, image, output, place, params.outChannels, pixels, params.outputPitch);
                storeAs(params.output, index, value, params.outputType, params.outputScale);
            }
        }
    }
}

} // namespace degmix
