// What becomes of a tile's sums: some pixels at a time they pass through shared memory, where a thread finds
// output channels, or pixels, that lie together in the output.
#pragma once

#include "common/epilogue.cuh"
#include "deform_conv2d/tile.cuh"

namespace degmix
{

// Eight output channels, and one, of a type.
template <typename T>
struct Output;

template <>
struct Output<float>
{
    static __device__ __forceinline__ void store(void* output, int64_t index, float const (&value)[8], float)
    {
        auto* const to = reinterpret_cast<Part<float>*>(static_cast<float*>(output) + index);
        to[0] = Part<float>{{value[0], value[1], value[2], value[3]}};
        to[1] = Part<float>{{value[4], value[5], value[6], value[7]}};
    }
    static __device__ __forceinline__ void store(void* output, int64_t index, float value, float)
    {
        static_cast<float*>(output)[index] = value;
    }
};

template <>
struct Output<__half>
{
    static __device__ __forceinline__ void store(void* output, int64_t index, float const (&value)[8], float)
    {
        *reinterpret_cast<uint4*>(static_cast<__half*>(output) + index) = uint4{packHalves(value[0], value[1]),
            packHalves(value[2], value[3]), packHalves(value[4], value[5]), packHalves(value[6], value[7])};
    }
    static __device__ __forceinline__ void store(void* output, int64_t index, float value, float)
    {
        static_cast<__half*>(output)[index] = fromFloat<__half>(value);
    }
};

template <>
struct Output<int8_t>
{
    static __device__ __forceinline__ void store(void* output, int64_t index, float const (&value)[8], float perScale)
    {
        uint32_t word[2] = {0, 0};
#pragma unroll
        for (int32_t e = 0; e < 8; ++e)
        {
            word[e / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(fromFloat<int8_t>(value[e] * perScale)))
                << (e % 4 * 8);
        }
        *reinterpret_cast<uint2*>(static_cast<int8_t*>(output) + index) = uint2{word[0], word[1]};
    }
    static __device__ __forceinline__ void store(void* output, int64_t index, float value, float perScale)
    {
        static_cast<int8_t*>(output)[index] = fromFloat<int8_t>(value * perScale);
    }
};

template <typename T, typename TILE>
class Slab
{
public:
    static constexpr int32_t kPITCH = TILE::kN + kSLAB_PADDING;
    static constexpr int32_t kBYTES = TILE::kSLAB_M * kPITCH * 4;
    static constexpr int32_t kVECTORS = TILE::kN / kSLAB_VECTOR;

    __device__ __forceinline__ Slab(
        unsigned char* shared, DeformConv2dWork const& work, BlockPlace const& block, int32_t thread)
        : mSums(reinterpret_cast<float*>(shared))
        , mWork(work)
        , mParams(work.params)
        , mBlock(block)
        , mThread(thread)
        , mOutputs(work.outputs)
    {
        mPaddedOutputs = mParams.outputLayout == Layout::kPLANAR ? mParams.outChannels
            : mParams.outputLayout == Layout::kCHANNELS_LAST
            ? mParams.outputPitch
            : (mParams.outChannels + kBLOCK_CHANNELS - 1) / kBLOCK_CHANNELS * kBLOCK_CHANNELS;
        // Vectors of a thread are of the same channels, whose scales and bias are asked for together.
        static_assert(TILE::kSTORING % kVECTORS == 0, "a thread keeps its channels");
        mColumn = thread % kVECTORS * kSLAB_VECTOR;
#pragma unroll
        for (int32_t e = 0; e < kSLAB_VECTOR; ++e)
        {
            mBias[e] = 0.F;
            mScale[e]
                = sizeof(T) == 1 ? mParams.valueScale * __ldg(mParams.weightScale[block.item] + outputOf(e)) : 1.F;
        }
        if (mParams.bias[block.item] != nullptr && mParams.biasType == Type::kFLOAT)
        {
            loadBias<float>();
        }
        else if (mParams.bias[block.item] != nullptr)
        {
            loadBias<__half>();
        }
    }

    // Of all blocks that have sums of the tile.
    __device__ __forceinline__ void sync() const
    {
        if (hasClusters() && mWork.splits > 1)
        {
            syncCluster();
        }
        else
        {
            TILE::sync();
        }
    }

    // No block ends while another one reads its sums.
    __device__ __forceinline__ void end() const
    {
        if (hasClusters() && mWork.splits > 1)
        {
            leaveCluster();
        }
    }

    // One warp's sums, whose first row and column of the slab are `row` and `column`.
    template <typename Sum>
    __device__ __forceinline__ void put(
        Sum const (&sum)[TILE::kFRAGMENTS_M][TILE::kFRAGMENTS_N][4], int32_t row, int32_t column) const
    {
        int32_t const lane = mThread % 32;
        float* to = mSums + (row + lane / 4) * kPITCH + column + 2 * (lane % 4);
#pragma unroll
        for (int32_t m = 0; m < TILE::kFRAGMENTS_M; ++m)
        {
#pragma unroll
            for (int32_t f = 0; f < TILE::kFRAGMENTS_N; ++f)
            {
#pragma unroll
                for (int32_t i = 0; i < 2; ++i)
                {
                    *reinterpret_cast<float2*>(to + (16 * m + 8 * i) * kPITCH + 8 * f)
                        = float2{static_cast<float>(sum[m][f][2 * i]), static_cast<float>(sum[m][f][2 * i + 1])};
                }
            }
        }
    }

    // Finish the slab's sums, of pixels from `firstPixel` of the tile, and write them to the output: each block
    // of a cluster its share.
    __device__ __forceinline__ void store(int32_t firstPixel) const
    {
        if (mWork.isVectorOutput != 0)
        {
            storeVectors(firstPixel);
        }
        else
        {
            storeElements(firstPixel);
        }
    }

private:
    // Of the thread's e-th channel; what there is not is read as the last one is.
    __device__ __forceinline__ int32_t outputOf(int32_t e) const
    {
        return mBlock.group * mOutputs + min(mBlock.firstOutput + mColumn + e, mOutputs - 1);
    }

    template <typename TBias>
    __device__ __forceinline__ void loadBias()
    {
#pragma unroll
        for (int32_t e = 0; e < kSLAB_VECTOR; ++e)
        {
            mBias[e] = toFloat(__ldg(static_cast<TBias const*>(mParams.bias[mBlock.item]) + outputOf(e)));
        }
    }

    // Channels that only fill a vector are zero: whoever reads them multiplies them by zero, which what
    // memory happens to hold need not survive.
    __device__ __forceinline__ bool isStored(int32_t inGroup) const
    {
        int32_t const output = mBlock.group * mOutputs + inGroup;
        return inGroup < mOutputs || (output >= mParams.outChannels && output < mPaddedOutputs);
    }

    // Four sums of the steps of every block, in one order.
    __device__ __forceinline__ Floats sumsAt(int32_t row, int32_t column) const
    {
        auto const* const at = reinterpret_cast<Floats const*>(mSums + row * kPITCH + column);
        if (!hasClusters() || mWork.splits == 1)
        {
            return *at;
        }
        Floats total{};
#pragma unroll 2
        for (int32_t rank = 0; rank < mWork.splits; ++rank)
        {
            Floats const part = loadOfCluster(at, rank);
#pragma unroll
            for (int32_t e = 0; e < 4; ++e)
            {
                total.element[e] += part.element[e];
            }
        }
        return total;
    }

    __device__ __forceinline__ int32_t firstOfThread() const
    {
        return mThread + (hasClusters() && mWork.splits > 1 ? clusterRank() * TILE::kSTORING : 0);
    }

    __device__ __forceinline__ float finished(float sum, int32_t inGroup) const
    {
        if (inGroup >= mOutputs)
        {
            return 0.F;
        }
        int32_t const output = mBlock.group * mOutputs + inGroup;
        if constexpr (sizeof(T) == 1)
        {
            sum *= mParams.valueScale * mParams.weightScale[mBlock.item][output];
        }
        void const* const bias = mParams.bias[mBlock.item];
        sum += bias != nullptr ? loadAs(bias, output, mParams.biasType) : 0.F;
        return activate(sum, mParams.activation);
    }

    __device__ __forceinline__ int64_t placeOfPixel(int32_t pixel, bool& isPixel) const
    {
        int32_t const y = mBlock.y + pixel / TILE::kX;
        int32_t const x = mBlock.x + pixel % TILE::kX;
        isPixel = y < mParams.outHeight && x < mParams.outWidth;
        return static_cast<int64_t>(y) * mParams.outWidth + x;
    }

    __device__ __forceinline__ int64_t indexOf(int32_t inGroup, int64_t place) const
    {
        int64_t const pixels = static_cast<int64_t>(mParams.outHeight) * mParams.outWidth;
        return elementAt(mParams.outputLayout, mBlock.image, mBlock.group * mOutputs + inGroup, place,
            mParams.outChannels, pixels, mParams.outputPitch);
    }

    __device__ __forceinline__ void storeVectors(int32_t firstPixel) const
    {
#pragma unroll 1
        for (int32_t i = firstOfThread(); i < TILE::kSLAB_M * kVECTORS; i += TILE::kSTORING * mWork.splits)
        {
            int32_t const row = i / kVECTORS;
            int32_t const inGroup = mBlock.firstOutput + mColumn;
            bool isPixel;
            int64_t const place = placeOfPixel(firstPixel + row, isPixel);
            if (!isPixel || !isStored(inGroup))
            {
                continue;
            }
            Floats const sums[2] = {sumsAt(row, mColumn), sumsAt(row, mColumn + 4)};
            float value[kSLAB_VECTOR];
#pragma unroll
            for (int32_t e = 0; e < kSLAB_VECTOR; ++e)
            {
                float const sum = sums[e / 4].element[e % 4] * mScale[e] + mBias[e];
                value[e] = inGroup + e < mOutputs ? activate(sum, mParams.activation) : 0.F;
            }
            storeAsOutput(indexOf(inGroup, place), value);
        }
    }

    // The output has the values' type, unless that is int8.
    template <typename Value>
    __device__ __forceinline__ void storeAsOutput(int64_t index, Value const& value) const
    {
        void* const output = mParams.output[mBlock.item];
        if constexpr (sizeof(T) > 1)
        {
            Output<T>::store(output, index, value, mWork.perOutputScale);
        }
        else
        {
            switch (mParams.outputType)
            {
            case Type::kFLOAT: Output<float>::store(output, index, value, mWork.perOutputScale); break;
            case Type::kHALF: Output<__half>::store(output, index, value, mWork.perOutputScale); break;
            case Type::kINT8: Output<int8_t>::store(output, index, value, mWork.perOutputScale); break;
            }
        }
    }

    // Neighbouring threads have neighbouring pixels, as planes have; a thread has four channels.
    __device__ __forceinline__ void storeElements(int32_t firstPixel) const
    {
#pragma unroll 1
        for (int32_t i = firstOfThread(); i < TILE::kSLAB_M * TILE::kN / 4; i += TILE::kSTORING * mWork.splits)
        {
            int32_t const row = i % TILE::kSLAB_M;
            int32_t const column = i / TILE::kSLAB_M * 4;
            bool isPixel;
            int64_t const place = placeOfPixel(firstPixel + row, isPixel);
            Floats const sums = sumsAt(row, column);
#pragma unroll
            for (int32_t e = 0; e < 4; ++e)
            {
                storeElement(sums.element[e], mBlock.firstOutput + column + e, place, isPixel);
            }
        }
    }

    __device__ __forceinline__ void storeElement(float sum, int32_t inGroup, int64_t place, bool isPixel) const
    {
        if (isPixel && isStored(inGroup))
        {
            storeAsOutput(indexOf(inGroup, place), finished(sum, inGroup));
        }
    }

    float* mSums;
    DeformConv2dWork const& mWork;
    DeformConv2dParams const& mParams;
    BlockPlace mBlock;
    int32_t mThread;
    int32_t mOutputs;
    int32_t mPaddedOutputs;
    int32_t mColumn;
    float mScale[kSLAB_VECTOR];
    float mBias[kSLAB_VECTOR];
};

} // namespace degmix
