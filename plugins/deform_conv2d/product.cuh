// The products of one step by one warp, as fragments of 16 pixels and 8 output channels.
#pragma once

#include "common/tensor_core.cuh"
#include "deform_conv2d/tile.cuh"

namespace degmix
{

template <typename T>
struct Product;

constexpr int32_t kSLICES = 4; // of a step along K, 32 bytes each

template <typename SumType>
struct TensorCoreProduct
{
    using Sum = SumType;

    // `row` and `column` are the warp's first.
    __device__ __forceinline__ TensorCoreProduct(int32_t row, int32_t column)
    {
        int32_t const lane = static_cast<int32_t>(threadIdx.x) % 32;
        int32_t const matrix = lane / 8;
        // Of the samples rows 0 to 7, rows 8 to 15, then both again 16 bytes further; of the weights the two
        // parts of eight channels, then of the next eight.
        mValue = partAt(row + lane % 8 + 8 * (matrix & 1), matrix >> 1);
        mWeight = partAt(column + lane % 8 + 8 * (matrix >> 1), matrix & 1);
    }

    template <int32_t kFRAGMENTS_M, int32_t kFRAGMENTS_N>
    __device__ __forceinline__ void slice(Sum (&sum)[kFRAGMENTS_M][kFRAGMENTS_N][4], unsigned char const* values,
        unsigned char const* weights, int32_t k) const
    {
        uint32_t a[kFRAGMENTS_M][4];
        unsigned char const* const value = values + (mValue ^ (k << 5));
        unsigned char const* const weight = weights + (mWeight ^ (k << 5));
#pragma unroll
        for (int32_t m = 0; m < kFRAGMENTS_M; ++m)
        {
            loadMatrices(a[m], value + 16 * m * kROW_BYTES);
        }
#pragma unroll
        for (int32_t f = 0; f < kFRAGMENTS_N; f += 2)
        {
            uint32_t b[4];
            loadMatrices(b, weight + 8 * f * kROW_BYTES);
            uint32_t const first[2] = {b[0], b[1]};
            uint32_t const second[2] = {b[2], b[3]};
#pragma unroll
            for (int32_t m = 0; m < kFRAGMENTS_M; ++m)
            {
                multiplyAdd(sum[m][f], a[m], first);
                multiplyAdd(sum[m][f + 1], a[m], second);
            }
        }
    }

private:
    int32_t mValue;
    int32_t mWeight;
};

template <>
struct Product<__half> : TensorCoreProduct<float>
{
    using TensorCoreProduct::TensorCoreProduct;
};

template <>
struct Product<int8_t> : TensorCoreProduct<int32_t>
{
    using TensorCoreProduct::TensorCoreProduct;
};

// float32 without tensor cores, which would round to TF32: each lane sums what it would hold of a
// fragment.
template <>
struct Product<float>
{
    using Sum = float;

    __device__ __forceinline__ Product(int32_t row, int32_t column)
        : mRow(row + static_cast<int32_t>(threadIdx.x) % 32 / 4)
        , mColumn(column + 2 * (static_cast<int32_t>(threadIdx.x) % 4))
    {
    }

    template <int32_t kFRAGMENTS_M, int32_t kFRAGMENTS_N>
    __device__ __forceinline__ void slice(Sum (&sum)[kFRAGMENTS_M][kFRAGMENTS_N][4], unsigned char const* values,
        unsigned char const* weights, int32_t k) const
    {
#pragma unroll 1
        for (int32_t part = 2 * k; part < 2 * k + 2; ++part)
        {
            Part<float> a[2 * kFRAGMENTS_M];
#pragma unroll
            for (int32_t i = 0; i < 2 * kFRAGMENTS_M; ++i)
            {
                a[i] = *reinterpret_cast<Part<float> const*>(values + partAt(mRow + 8 * i, part));
            }
#pragma unroll
            for (int32_t f = 0; f < kFRAGMENTS_N; ++f)
            {
#pragma unroll
                for (int32_t j = 0; j < 2; ++j)
                {
                    Part<float> const b
                        = *reinterpret_cast<Part<float> const*>(weights + partAt(mColumn + 8 * f + j, part));
#pragma unroll
                    for (int32_t i = 0; i < 2 * kFRAGMENTS_M; ++i)
                    {
#pragma unroll
                        for (int32_t e = 0; e < 4; ++e)
                        {
                            sum[i / 2][f][2 * (i % 2) + j] += a[i].element[e] * b.element[e];
                        }
                    }
                }
            }
        }
    }

private:
    int32_t mRow;
    int32_t mColumn;
};

} // namespace degmix
