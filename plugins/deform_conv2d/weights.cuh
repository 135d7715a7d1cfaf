// A block's weights: `TILE::kN` rows of 128 bytes a step, zeros beyond the last channel.
#pragma once

#include "common/tensor_core.cuh"
#include "deform_conv2d/tile.cuh"

namespace degmix
{

template <typename T, typename TILE>
class Weights
{
public:
    // `thread` counts those that copy, which are as many as have sums.
    __device__ __forceinline__ Weights(DeformConv2dWork const& work, BlockPlace const& block, int32_t thread)
        : mWork(work)
    {
        int32_t const row = thread / kPARTS;
        int32_t const part = thread % kPARTS;
        int64_t const output = static_cast<int64_t>(block.group) * work.outputs + block.firstOutput + row;
        mRows = work.outputs - block.firstOutput - row;
        mPartChannel = part * Part<T>::kCOUNT;
        mRow = pinned(
            static_cast<T const*>(work.params.weight[block.item]) + output * work.taps * work.perGroup + mPartChannel);
        mToRow = static_cast<int64_t>(kROWS_AT_ONCE) * work.taps * work.perGroup;
        mTo = partAt(row, part);
    }

    // Copy those of a step into the stage at `weights`, asynchronously; zeros behind the last step.
    __device__ __forceinline__ void copy(unsigned char* weights, Step const& step, bool isStep) const
    {
        T const* from = rowOf(step);
        bool const inside = step.chunk * kCHUNK<T> + mPartChannel < mWork.perGroup && isStep;
#pragma unroll
        for (int32_t i = 0; i < TILE::kN / kROWS_AT_ONCE; ++i)
        {
            copyAsync(
                weights + mTo + i * kROWS_AT_ONCE * kROW_BYTES, from + i * mToRow, inside && i * kROWS_AT_ONCE < mRows);
        }
        commitCopies();
    }

    // The same an element at a time.
    __device__ __forceinline__ void store(unsigned char* weights, Step const& step) const
    {
        T const* from = rowOf(step);
        int32_t const left = mWork.perGroup - step.chunk * kCHUNK<T> - mPartChannel;
#pragma unroll 1
        for (int32_t row = 0; row < TILE::kN; row += kROWS_AT_ONCE)
        {
            T* to = reinterpret_cast<T*>(weights + mTo + row * kROW_BYTES);
#pragma unroll 1
            for (int32_t e = 0; e < Part<T>::kCOUNT; ++e)
            {
                to[e] = row < mRows && e < left ? from[e] : fromFloat<T>(0.F);
            }
            from += mToRow;
        }
    }

private:
    static constexpr int32_t kROWS_AT_ONCE = TILE::kSTORING / kPARTS;

    __device__ __forceinline__ T const* rowOf(Step const& step) const
    {
        return mRow + ((step.firstTap + step.tap) * mWork.perGroup + step.chunk * kCHUNK<T>);
    }

    DeformConv2dWork const& mWork;
    T const* mRow;
    int64_t mToRow; // from one of the thread's rows to the next, in elements
    int32_t mPartChannel;
    int32_t mRows; // to the group's last output
    int32_t mTo;
};

} // namespace degmix
