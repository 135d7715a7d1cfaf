// Device code of deform_sample: a block takes one plane, which is one channel of one image.
#pragma once

#include "common/bilinear.cuh"
#include "deform_sample/deform_sample.h"

namespace degmix
{

constexpr int32_t kSAMPLE_UNROLL = 4;

// How planes lie in shared memory. Each word holds what one load should bring: a float alone, a half
// with its right neighbour, an int8 with its right, lower and lower right ones. Around the plane lies a
// ring of zeros, wide enough for a place clamped to [-1, size]. A row begins with four words of the ring,
// which the row before has at its right end too, so that rows of vectors are aligned.
constexpr int32_t kRING = 4;

template <typename T>
struct PlaneWord;

template <>
struct PlaneWord<float>
{
    using Word = float;
    static constexpr int32_t kROWS = 3; // the ring: rows -1, height and height + 1
    static constexpr uint32_t kZERO = 0;

    static __device__ __forceinline__ Word make(float value, float, float, float)
    {
        return value;
    }

    // The words of four values.
    static __device__ __forceinline__ void put(Word* to, uint4 row, uint32_t, uint4, uint32_t)
    {
        *reinterpret_cast<uint4*>(to) = row;
    }

    static __device__ __forceinline__ uint32_t edge(uint32_t, uint32_t)
    {
        return 0;
    }

    static __device__ __forceinline__ float sample(Word const* words, int32_t at, int32_t pitch, float fy, float fx)
    {
        return blend(words[at], words[at + 1], words[at + pitch], words[at + pitch + 1], fy, fx);
    }
};

template <>
struct PlaneWord<__half>
{
    using Word = uint32_t;
    static constexpr int32_t kROWS = 3;
    static constexpr uint32_t kZERO = 0;

    static __device__ __forceinline__ Word make(__half value, __half right, __half, __half)
    {
        return bits(value) | (bits(right) << 16U);
    }

    // The upper half of a word and the lower one of the next.
    static __device__ __forceinline__ uint32_t between(uint32_t word, uint32_t next)
    {
        return __byte_perm(word, next, 0x5432U);
    }

    // The words of eight values; `next` begins with the ninth.
    static __device__ __forceinline__ void put(Word* to, uint4 row, uint32_t next, uint4, uint32_t)
    {
        auto* words = reinterpret_cast<uint4*>(to);
        words[0] = uint4{row.x, between(row.x, row.y), row.y, between(row.y, row.z)};
        words[1] = uint4{row.z, between(row.z, row.w), row.w, between(row.w, next)};
    }

    // The word left of a row: zero, and the row's first value.
    static __device__ __forceinline__ uint32_t edge(uint32_t first, uint32_t)
    {
        return first << 16U;
    }

    static __device__ __forceinline__ float sample(Word const* words, int32_t at, int32_t pitch, float fy, float fx)
    {
        Word const top = words[at];
        Word const bottom = words[at + pitch];
        return blend(
            toFloat(lowHalf(top)), toFloat(highHalf(top)), toFloat(lowHalf(bottom)), toFloat(highHalf(bottom)), fy, fx);
    }
};

template <>
struct PlaneWord<int8_t>
{
    using Word = uint32_t;
    static constexpr int32_t kROWS = 2;
    static constexpr uint32_t kZERO = 0x80808080U; // stored plus 128

    static __device__ __forceinline__ Word make(int8_t value, int8_t right, int8_t below, int8_t belowRight)
    {
        return (static_cast<uint32_t>(static_cast<uint8_t>(value))
                   | static_cast<uint32_t>(static_cast<uint8_t>(right)) << 8U
                   | static_cast<uint32_t>(static_cast<uint8_t>(below)) << 16U
                   | static_cast<uint32_t>(static_cast<uint8_t>(belowRight)) << 24U)
            ^ kZERO;
    }

    // The words of four values of a row and of the row below; `next` and `nextBelow` begin with the fifth.
    static __device__ __forceinline__ uint4 four(uint32_t row, uint32_t next, uint32_t below, uint32_t nextBelow)
    {
        uint32_t const last = __byte_perm(row, next, 0x0043U);
        uint32_t const lastBelow = __byte_perm(below, nextBelow, 0x0043U);
        return uint4{__byte_perm(row, below, 0x5410U), __byte_perm(row, below, 0x6521U),
            __byte_perm(row, below, 0x7632U), __byte_perm(last, lastBelow, 0x5410U)};
    }

    // The words of sixteen values.
    static __device__ __forceinline__ void put(Word* to, uint4 row, uint32_t next, uint4 below, uint32_t nextBelow)
    {
        uint32_t const r[5] = {row.x ^ kZERO, row.y ^ kZERO, row.z ^ kZERO, row.w ^ kZERO, next ^ kZERO};
        uint32_t const b[5] = {below.x ^ kZERO, below.y ^ kZERO, below.z ^ kZERO, below.w ^ kZERO, nextBelow ^ kZERO};
        auto* words = reinterpret_cast<uint4*>(to);
#pragma unroll
        for (int32_t i = 0; i < 4; ++i)
        {
            words[i] = four(r[i], r[i + 1], b[i], b[i + 1]);
        }
    }

    static __device__ __forceinline__ uint32_t edge(uint32_t first, uint32_t firstBelow)
    {
        return ((first & 0xFFU) << 8U | (firstBelow & 0xFFU) << 24U) ^ kZERO;
    }

    // A byte behind the exponent of 2^23: the float 2^23 + 128 + value, in one instruction.
    static __device__ __forceinline__ float biased(Word word, uint32_t index)
    {
        return __int_as_float(static_cast<int32_t>(__byte_perm(word, 0x4B000000U, 0x7440U + index)));
    }

    static __device__ __forceinline__ float sample(Word const* words, int32_t at, int32_t, float fy, float fx)
    {
        // Differences are the same with the bias, and all of it is exact.
        constexpr float kBIAS = 8388736.F; // 2^23 + 128
        Word const word = words[at];
        float const left = biased(word, 0);
        float const leftBelow = biased(word, 2);
        float const top = (left - kBIAS) + fx * (biased(word, 1) - left);
        float const bottom = (leftBelow - kBIAS) + fx * (biased(word, 3) - leftBelow);
        return top + fy * (bottom - top);
    }
};

template <typename T>
__device__ __forceinline__ T zeroOr(T const* plane, int32_t row, int32_t column, int32_t height, int32_t width)
{
    bool const inside = row >= 0 && row < height && column >= 0 && column < width;
    return inside ? __ldg(plane + row * width + column) : fromFloat<T>(0.F);
}

// Sixteen bytes of a row, or zeros where there is no such row.
template <typename T>
__device__ __forceinline__ uint4 vectorOf(T const* row, bool inside)
{
    return inside ? __ldg(reinterpret_cast<uint4 const*>(row)) : uint4{};
}

// The bits of the value that follows a vector.
template <typename T>
__device__ __forceinline__ uint32_t bitsOf(T const* at, bool inside)
{
    if constexpr (sizeof(T) == 2)
    {
        return inside ? __ldg(reinterpret_cast<unsigned short const*>(at)) : 0U;
    }
    if constexpr (sizeof(T) == 1)
    {
        return inside ? __ldg(reinterpret_cast<unsigned char const*>(at)) : 0U;
    }
    return 0U;
}

// The block's plane into shared memory by vectors: a thread keeps its columns and goes down the rows.
template <typename T>
__device__ __forceinline__ void fillVectors(
    typename PlaneWord<T>::Word* words, T const* plane, int32_t height, int32_t width)
{
    using Plane = PlaneWord<T>;
    constexpr int32_t kVALUES = 16 / static_cast<int32_t>(sizeof(T));
    int32_t const vectors = width / kVALUES;
    int32_t const thread = static_cast<int32_t>(threadIdx.x);
    int32_t const threads = static_cast<int32_t>(blockDim.x);
    int32_t const across = vectors < threads ? vectors : threads;
    int32_t const step = threads / across;
    int32_t const pitch = width + kRING;
    int32_t const firstRow = thread / across;
    for (int32_t vector = thread - firstRow * across; vector < vectors && firstRow < step; vector += across)
    {
        bool const isLast = vector + 1 == vectors;
        int32_t const column = vector * kVALUES;
        T const* from = pinned(plane + (firstRow - 1) * width + column);
        typename Plane::Word* to = words + firstRow * pitch + kRING + column;
        for (int32_t row = firstRow - 1; row < height + Plane::kROWS - 1; row += step)
        {
            bool const inside = static_cast<uint32_t>(row) < static_cast<uint32_t>(height);
            uint4 const values = vectorOf(from, inside);
            uint32_t const next = bitsOf(from + kVALUES, inside && !isLast);
            uint4 below{};
            uint32_t nextBelow = 0;
            if constexpr (sizeof(T) == 1)
            {
                bool const insideBelow = static_cast<uint32_t>(row + 1) < static_cast<uint32_t>(height);
                below = vectorOf(from + width, insideBelow);
                nextBelow = bitsOf(from + width + kVALUES, insideBelow && !isLast);
            }
            Plane::put(to, values, next, below, nextBelow);
            if (vector == 0)
            {
                *reinterpret_cast<uint4*>(to - kRING)
                    = uint4{Plane::kZERO, Plane::kZERO, Plane::kZERO, Plane::edge(values.x, below.x)};
            }
            from += step * width;
            to += step * pitch;
        }
    }
}

// The same one by one, for planes whose rows are no whole vectors.
template <typename T>
__device__ __forceinline__ void fillWords(
    typename PlaneWord<T>::Word* words, T const* plane, int32_t height, int32_t width)
{
    using Plane = PlaneWord<T>;
    int32_t const pitch = width + kRING;
    int32_t const thread = static_cast<int32_t>(threadIdx.x);
    int32_t const threads = static_cast<int32_t>(blockDim.x);
    int32_t const across = pitch < threads ? pitch : threads;
    int32_t const step = threads / across;
    int32_t const firstRow = thread / across;
    for (int32_t c = thread - firstRow * across; c < pitch && firstRow < step; c += across)
    {
        int32_t const column = c - kRING;
#pragma unroll 4
        for (int32_t row = firstRow - 1; row < height + Plane::kROWS - 1; row += step)
        {
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
            words[(row + 1) * pitch + c] = Plane::make(value, right, below, belowRight);
        }
    }
}

// The block's plane into shared memory.
template <typename T>
__device__ __forceinline__ void fillPlane(
    typename PlaneWord<T>::Word* words, T const* plane, int32_t height, int32_t width)
{
    using Plane = PlaneWord<T>;
    bool const isWhole
        = width % (16 / static_cast<int32_t>(sizeof(T))) == 0 && reinterpret_cast<uintptr_t>(plane) % 16 == 0;
    if (isWhole && width > 0)
    {
        fillVectors<T>(words, plane, height, width);
    }
    else
    {
        fillWords<T>(words, plane, height, width);
    }
    // The ring right of the last row.
    int32_t const last = (height + Plane::kROWS) * (width + kRING);
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kRING; i += static_cast<int32_t>(blockDim.x))
    {
        reinterpret_cast<uint32_t*>(words)[last + i] = Plane::kZERO;
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

// A line as one of the row: of a channel that moves along the columns it is a constant.
__device__ __forceinline__ PositionLine alongRows(PositionLine const& line, bool isAlongRows, float column)
{
    if (isAlongRows)
    {
        return line;
    }
    return PositionLine{0.F, line.slopeY * column + line.interceptY, 0.F, line.slopeX * column + line.interceptX};
}

// What a pixel's own position adds to the offsets of one channel, down one column of the output. The first
// and the last row have lines of their own, which are read when they are needed.
struct ColumnPosition
{
    PositionLine const* lines; // of the column's border class and the channel
    int32_t ofRows;            // from one class of rows to the next
    bool isAlongRows;
    float column;
    float lastRow;
    PositionLine middle;

    __device__ __forceinline__ PositionLine line(int32_t rowBorder) const
    {
        return alongRows(lines[rowBorder * ofRows], isAlongRows, column);
    }
};

__device__ __forceinline__ void addLine(PositionLine const& line, float row, float& y, float& x)
{
    y += line.slopeY * row + line.interceptY;
    x += line.slopeX * row + line.interceptX;
}

// 0 at the first row or column, 2 at the last, else 1.
__device__ __forceinline__ int32_t borderOf(int32_t at, int32_t size)
{
    return at == 0 ? 0 : at == size - 1 ? 2 : 1;
}

__device__ __forceinline__ ColumnPosition columnPosition(
    PositionLine const* lines, DeformSampleParams const& params, int32_t channel, int32_t column)
{
    ColumnPosition position{};
    position.lines = lines + borderOf(column, params.outWidth) * params.c + channel;
    position.ofRows = 3 * params.c;
    position.isAlongRows = 2 * channel < params.c;
    position.column = static_cast<float>(column);
    position.lastRow = static_cast<float>(params.outHeight - 1);
    position.middle = position.line(1);
    return position;
}

// One column of a plane, sampled at any row.
template <typename T, typename TOffset, bool kSHARED>
struct SampleColumn
{
    using Plane = PlaneWord<T>;
    typename Plane::Word const* words;
    T const* value;
    int32_t pitch;
    int32_t height;
    int32_t width;
    float column;

    __device__ __forceinline__ T sample(float row, TOffset dy, TOffset dx) const
    {
        return at(row, toFloat(dy), toFloat(dx));
    }

    __device__ __forceinline__ T sample(float row, TOffset dy, TOffset dx, PositionLine const& line) const
    {
        float y = toFloat(dy);
        float x = toFloat(dx);
        addLine(line, row, y, x);
        return at(row, y, x);
    }

    __device__ __forceinline__ T at(float row, float y, float x) const
    {
        Place const place = placeOf(row + y, column + x, height, width);
        if constexpr (kSHARED)
        {
            return betweenValues<T>(Plane::sample(words, place.row * pitch + place.column, pitch, place.fy, place.fx));
        }
        return betweenValues<T>(blend(toFloat(zeroOr(value, place.row, place.column, height, width)),
            toFloat(zeroOr(value, place.row, place.column + 1, height, width)),
            toFloat(zeroOr(value, place.row + 1, place.column, height, width)),
            toFloat(zeroOr(value, place.row + 1, place.column + 1, height, width)), place.fy, place.fx));
    }
};

// The rows of a column that one thread samples.
struct Rows
{
    int32_t first;
    int32_t step;
    int32_t count;
    int32_t width; // from one row to the next
};

// Sample down a column, given the pointers of its first row.
template <bool kAT, typename T, typename TOffset, bool kSHARED>
__device__ __forceinline__ void sampleDown(SampleColumn<T, TOffset, kSHARED> const& column,
    ColumnPosition const& position, TOffset const* dy, TOffset const* dx, T* output, Rows const& rows)
{
    dy = pinned(dy);
    dx = pinned(dx);
    output = pinned(output);
    float const step = static_cast<float>(rows.step);
    uint32_t const stride = static_cast<uint32_t>(rows.step * rows.width);
    uint32_t const end = static_cast<uint32_t>(rows.count * rows.width);
    uint32_t pixel = static_cast<uint32_t>(rows.first * rows.width);
    float row = static_cast<float>(rows.first);
    if (kAT && rows.first == 0)
    {
        output[0] = column.sample(0.F, __ldg(dy), __ldg(dx), position.line(0));
        pixel += stride;
        row += step;
    }
    // All offsets of a round are asked for before the first is used. The last row is no middle one.
    uint32_t const middleEnd = kAT ? end - static_cast<uint32_t>(rows.width) : end;
    for (; pixel + (kSAMPLE_UNROLL - 1) * stride < middleEnd; pixel += kSAMPLE_UNROLL * stride)
    {
        TOffset y[kSAMPLE_UNROLL];
        TOffset x[kSAMPLE_UNROLL];
#pragma unroll
        for (int32_t i = 0; i < kSAMPLE_UNROLL; ++i)
        {
            y[i] = __ldg(dy + pixel + i * stride);
            x[i] = __ldg(dx + pixel + i * stride);
        }
#pragma unroll
        for (int32_t i = 0; i < kSAMPLE_UNROLL; ++i)
        {
            output[pixel + i * stride]
                = kAT ? column.sample(row, y[i], x[i], position.middle) : column.sample(row, y[i], x[i]);
            row += step;
        }
    }
    for (; pixel < end; pixel += stride)
    {
        TOffset const y = __ldg(dy + pixel);
        TOffset const x = __ldg(dx + pixel);
        if constexpr (kAT)
        {
            PositionLine line = position.middle;
            if (row == position.lastRow)
            {
                line = position.line(2);
            }
            output[pixel] = column.sample(row, y, x, line);
        }
        else
        {
            output[pixel] = column.sample(row, y, x);
        }
        row += step;
    }
}

// Blocks of 512 threads whose registers a multiprocessor has to hold: three of DeMT's planes fit an H100's
// shared memory. INT8 needs more registers to copy a plane.
template <typename T, bool kSHARED>
constexpr int32_t kBLOCKS = kSHARED && sizeof(T) > 1 ? 3 : 2;

template <typename T, typename TOffset, bool kSHARED>
__global__ void __launch_bounds__(512, (kBLOCKS<T, kSHARED>) ) deformSampleKernel(DeformSampleParams params)
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
    auto* words = reinterpret_cast<typename Plane::Word*>(shared);
    int32_t const pitch = width + kRING;
    if constexpr (kSHARED)
    {
        fillPlane<T>(words, value, height, width);
        __syncthreads();
    }
    // A thread keeps its column and goes down the rows, so that no pixel needs a division. Lanes take
    // neighbouring columns: offsets and outputs are whole lines of memory, and neighbours sample
    // neighbouring banks.
    int32_t const threads = static_cast<int32_t>(blockDim.x);
    int32_t const columns = outWidth < threads ? outWidth : threads;
    Rows rows{};
    rows.step = threads / columns;
    rows.first = static_cast<int32_t>(threadIdx.x) / columns;
    rows.count = params.outHeight;
    rows.width = outWidth;
    int32_t const firstColumn = static_cast<int32_t>(threadIdx.x) - rows.first * columns;
    if (rows.first >= rows.step)
    {
        return;
    }
    int32_t const channel = static_cast<int32_t>(plane % params.c);
    auto const* lines = reinterpret_cast<PositionLine const*>(params.position[item]);
    for (int32_t column = firstColumn; column < outWidth; column += columns)
    {
        SampleColumn<T, TOffset, kSHARED> const sampled{
            words + pitch + kRING, value, pitch, height, width, static_cast<float>(column)};
        if (lines == nullptr)
        {
            sampleDown<false>(sampled, ColumnPosition{}, dy + column, dx + column, output + column, rows);
        }
        else
        {
            ColumnPosition const position = columnPosition(lines, params, channel, column);
            sampleDown<true>(sampled, position, dy + column, dx + column, output + column, rows);
        }
    }
}

} // namespace degmix
