// Device code of deform_sample: a block takes one plane, which is one channel of one image.
#pragma once

#include "common/bilinear.cuh"
#include "deform_sample/deform_sample.h"

namespace degmix
{

constexpr int32_t kSAMPLE_UNROLL = 4;

// How planes lie in shared memory. Each word holds what one load should bring: a float alone, a half
// with its right neighbour, an int8 with its right, lower and lower right ones. Around the plane lies a
// ring of zeros, wide enough for a place clamped to [-1, size].
template <typename T>
struct PlaneWord;

template <>
struct PlaneWord<float>
{
    using Word = float;
    static constexpr int32_t kROWS = 3; // the ring: rows -1, height and height + 1
    static constexpr int32_t kCOLUMNS = 3;

    static __device__ __forceinline__ Word make(float value, float, float, float)
    {
        return value;
    }

    static __device__ __forceinline__ float sample(Word const* at, int32_t pitch, float fy, float fx)
    {
        return blend(at[0], at[1], at[pitch], at[pitch + 1], fy, fx);
    }
};

template <>
struct PlaneWord<__half>
{
    using Word = uint32_t;
    static constexpr int32_t kROWS = 3;
    static constexpr int32_t kCOLUMNS = 2;

    static __device__ __forceinline__ Word make(__half value, __half right, __half, __half)
    {
        return bits(value) | (bits(right) << 16U);
    }

    static __device__ __forceinline__ float sample(Word const* at, int32_t pitch, float fy, float fx)
    {
        Word const top = at[0];
        Word const bottom = at[pitch];
        return blend(
            toFloat(lowHalf(top)), toFloat(highHalf(top)), toFloat(lowHalf(bottom)), toFloat(highHalf(bottom)), fy, fx);
    }
};

template <>
struct PlaneWord<int8_t>
{
    using Word = uint32_t;
    static constexpr int32_t kROWS = 2;
    static constexpr int32_t kCOLUMNS = 2;

    static __device__ __forceinline__ Word make(int8_t value, int8_t right, int8_t below, int8_t belowRight)
    {
        // Stored plus 128, so that a byte becomes a float by an integer or and one subtraction.
        return (static_cast<uint32_t>(static_cast<uint8_t>(value))
                   | static_cast<uint32_t>(static_cast<uint8_t>(right)) << 8U
                   | static_cast<uint32_t>(static_cast<uint8_t>(below)) << 16U
                   | static_cast<uint32_t>(static_cast<uint8_t>(belowRight)) << 24U)
            ^ 0x80808080U;
    }

    static __device__ __forceinline__ float byteOf(Word word, int32_t index)
    {
        constexpr int32_t kTWO_TO_23 = 0x4B000000;
        uint32_t const byte = (word >> (8 * index)) & 0xFFU;
        return __int_as_float(kTWO_TO_23 | static_cast<int32_t>(byte)) - 8388736.F; // 2^23 + 128
    }

    static __device__ __forceinline__ float sample(Word const* at, int32_t, float fy, float fx)
    {
        Word const word = at[0];
        return blend(byteOf(word, 0), byteOf(word, 1), byteOf(word, 2), byteOf(word, 3), fy, fx);
    }
};

template <typename T>
__device__ __forceinline__ T zeroOr(T const* plane, int32_t row, int32_t column, int32_t height, int32_t width)
{
    bool const inside = row >= 0 && row < height && column >= 0 && column < width;
    return inside ? __ldg(plane + row * width + column) : fromFloat<T>(0.F);
}

// The block's plane into shared memory: a warp takes a row, a lane a word.
template <typename T>
__device__ __forceinline__ void fillPlane(
    typename PlaneWord<T>::Word* words, T const* plane, int32_t height, int32_t width)
{
    using Plane = PlaneWord<T>;
    int32_t const rows = height + Plane::kROWS;
    int32_t const pitch = width + Plane::kCOLUMNS;
    int32_t const lane = static_cast<int32_t>(threadIdx.x) % 32;
    int32_t const warps = static_cast<int32_t>(blockDim.x) / 32;
    for (int32_t r = static_cast<int32_t>(threadIdx.x) / 32; r < rows; r += warps)
    {
#pragma unroll 4
        for (int32_t c = lane; c < pitch; c += 32)
        {
            int32_t const row = r - 1;
            int32_t const column = c - 1;
            T const value = zeroOr(plane, row, column, height, width);
            T right = value;
            T below = value;
            T belowRight = value;
            if constexpr (sizeof(T) <= 2)
            {
                right = zeroOr(plane, row, column + 1, height, width);
            }
            if constexpr (sizeof(T) == 1)
            {
                below = zeroOr(plane, row + 1, column, height, width);
                belowRight = zeroOr(plane, row + 1, column + 1, height, width);
            }
            words[r * pitch + c] = Plane::make(value, right, below, belowRight);
        }
    }
}

// A line of the table of positions.
struct alignas(16) PositionLine
{
    float slopeY;
    float interceptY;
    float slopeX;
    float interceptX;
};

// 0 at the first row or column, 2 at the last, else 1.
__device__ __forceinline__ int32_t borderOf(int32_t at, int32_t size)
{
    return at == 0 ? 0 : at == size - 1 ? 2 : 1;
}

template <typename T, typename TOffset, bool kSHARED>
__global__ void __launch_bounds__(512) deformSampleKernel(DeformSampleParams params)
{
    using Plane = PlaneWord<T>;
    DEGMIX_SHARED(shared);
    int64_t const perItem = static_cast<int64_t>(params.n) * params.c;
    int64_t const item = static_cast<int64_t>(blockIdx.x) / perItem;
    int64_t const plane = static_cast<int64_t>(blockIdx.x) % perItem;
    int32_t const height = params.height;
    int32_t const width = params.width;
    int32_t const outWidth = params.outWidth;
    int32_t const pixels = params.outHeight * outWidth;
    T const* value = static_cast<T const*>(params.value[item]) + plane * height * width;
    TOffset const* dy = static_cast<TOffset const*>(params.offset[item]) + 2 * plane * pixels;
    TOffset const* dx = dy + pixels;
    T* output = static_cast<T*>(params.output[item]) + plane * pixels;
    int32_t const channel = static_cast<int32_t>(plane % params.c);
    auto const* lines = reinterpret_cast<PositionLine const*>(params.position[item]);
    auto* words = reinterpret_cast<typename Plane::Word*>(shared);
    int32_t const pitch = width + Plane::kCOLUMNS;
    if constexpr (kSHARED)
    {
        fillPlane<T>(words, value, height, width);
        __syncthreads();
    }
    // Lanes take neighbouring pixels: offsets and outputs are whole lines of memory, and neighbours
    // sample neighbouring banks. All offsets of a round are asked for before the first is used.
    int32_t const stride = static_cast<int32_t>(blockDim.x);
    for (int32_t first = static_cast<int32_t>(threadIdx.x); first < pixels; first += kSAMPLE_UNROLL * stride)
    {
        float y[kSAMPLE_UNROLL];
        float x[kSAMPLE_UNROLL];
#pragma unroll
        for (int32_t i = 0; i < kSAMPLE_UNROLL; ++i)
        {
            int32_t const pixel = first + i * stride;
            bool const inside = pixel < pixels;
            y[i] = inside ? toFloat(dy[pixel]) : 0.F;
            x[i] = inside ? toFloat(dx[pixel]) : 0.F;
        }
#pragma unroll
        for (int32_t i = 0; i < kSAMPLE_UNROLL; ++i)
        {
            int32_t const pixel = first + i * stride;
            if (pixel >= pixels)
            {
                break;
            }
            int32_t const row = pixel / outWidth;
            int32_t const column = pixel - row * outWidth;
            if (lines != nullptr)
            {
                int32_t const border = 3 * borderOf(row, params.outHeight) + borderOf(column, outWidth);
                PositionLine const line = lines[border * params.c + channel];
                float const along = static_cast<float>(2 * channel < params.c ? row : column);
                y[i] += line.slopeY * along + line.interceptY;
                x[i] += line.slopeX * along + line.interceptX;
            }
            Place const place
                = placeOf(static_cast<float>(row) + y[i], static_cast<float>(column) + x[i], height, width);
            float sampled;
            if constexpr (kSHARED)
            {
                int32_t const at = (place.row + 1) * pitch + place.column + 1;
                sampled = Plane::sample(words + at, pitch, place.fy, place.fx);
            }
            else
            {
                sampled = blend(toFloat(zeroOr(value, place.row, place.column, height, width)),
                    toFloat(zeroOr(value, place.row, place.column + 1, height, width)),
                    toFloat(zeroOr(value, place.row + 1, place.column, height, width)),
                    toFloat(zeroOr(value, place.row + 1, place.column + 1, height, width)), place.fy, place.fx);
            }
            output[pixel] = fromFloat<T>(sampled);
        }
    }
}

} // namespace degmix
