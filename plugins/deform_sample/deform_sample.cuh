// Device code of deform_sample: a block takes one plane, which is one channel of one image.
#pragma once

#include "common/bilinear.cuh"
#include "deform_sample/deform_sample.h"

#include <type_traits>

namespace degmix
{

constexpr int32_t kSAMPLE_UNROLL = 4;    // samples of a round
constexpr int32_t kSAMPLE_THREADS = 384; // at most: three such blocks leave a thread 56 registers

// How planes lie in shared memory. Each word holds what one load should bring: a float alone, a half
// with its right neighbour, an int8 with its right, lower and lower right ones. Around the plane lies a
// ring of zeros, wide enough for a place clamped to [-1, size]. A row begins with 16 bytes of the ring,
// which the row before has at its right end too, so that rows of vectors are aligned.
template <typename TWord>
struct PlaneRows
{
    using Word = TWord;
    static constexpr int32_t kRING = 16 / static_cast<int32_t>(sizeof(Word)); // words
    static constexpr int32_t kROWS = 3; // of the ring: rows -1, height and height + 1
    static constexpr uint32_t kZERO = 0;

    // Words from row to row.
    template <typename Size>
    static constexpr __host__ __device__ Size pitchOf(Size width)
    {
        return width + kRING;
    }
};

template <typename T>
struct PlaneWord;

template <>
struct PlaneWord<float> : PlaneRows<float>
{
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

    static __device__ __forceinline__ float sample(Word const* at, int32_t pitch, float fy, float fx)
    {
        Word const* const below = at + pitch;
        return blend(at[0], at[1], below[0], below[1], fy, fx);
    }
};

template <>
struct PlaneWord<__half> : PlaneRows<uint32_t>
{
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

    static __device__ __forceinline__ float sample(Word const* at, int32_t pitch, float fy, float fx)
    {
        Word const top = at[0];
        Word const bottom = at[pitch];
        return blend(
            toFloat(lowHalf(top)), toFloat(highHalf(top)), toFloat(lowHalf(bottom)), toFloat(highHalf(bottom)), fy, fx);
    }
};

template <>
struct PlaneWord<int8_t> : PlaneRows<uint32_t>
{
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

    static __device__ __forceinline__ float sample(Word const* at, int32_t, float fy, float fx)
    {
        Word const word = at[0];
        return blendBiased(biased(word, 0), biased(word, 1), biased(word, 2), biased(word, 3), fy, fx);
    }

    // Differences are the same with the bias, and all of it is exact.
    static __device__ __forceinline__ float blendBiased(
        float left, float right, float leftBelow, float rightBelow, float fy, float fx)
    {
        constexpr float kBIAS = 8388736.F; // 2^23 + 128
        float const top = (left - kBIAS) + fx * (right - left);
        float const bottom = (leftBelow - kBIAS) + fx * (rightBelow - leftBelow);
        return top + fy * (bottom - top);
    }
};

// The same values, each of them once: a half or a quarter of the shared memory, for four loads a sample. Rows are
// whole vectors, because so is the ring.
template <typename TWord>
struct CompactRows : PlaneRows<TWord>
{
    using PlaneRows<TWord>::kRING;

    template <typename Size>
    static constexpr __host__ __device__ Size pitchOf(Size width)
    {
        return (width + kRING - 1) / kRING * kRING + kRING;
    }

    static __device__ __forceinline__ uint32_t edge(uint32_t, uint32_t)
    {
        return 0;
    }
};

template <typename T>
struct CompactPlane;

template <>
struct CompactPlane<__half> : CompactRows<__half>
{
    static __device__ __forceinline__ Word make(__half value, __half, __half, __half)
    {
        return value;
    }

    static __device__ __forceinline__ void put(Word* to, uint4 row, uint32_t, uint4, uint32_t)
    {
        *reinterpret_cast<uint4*>(to) = row;
    }

    static __device__ __forceinline__ float sample(Word const* at, int32_t pitch, float fy, float fx)
    {
        Word const* const below = at + pitch;
        return blend(toFloat(at[0]), toFloat(at[1]), toFloat(below[0]), toFloat(below[1]), fy, fx);
    }
};

template <>
struct CompactPlane<int8_t> : CompactRows<uint8_t>
{
    static constexpr uint32_t kZERO = PlaneWord<int8_t>::kZERO;

    static __device__ __forceinline__ Word make(int8_t value, int8_t, int8_t, int8_t)
    {
        return static_cast<Word>(static_cast<uint8_t>(value) ^ 0x80U);
    }

    static __device__ __forceinline__ void put(Word* to, uint4 row, uint32_t, uint4, uint32_t)
    {
        *reinterpret_cast<uint4*>(to) = uint4{row.x ^ kZERO, row.y ^ kZERO, row.z ^ kZERO, row.w ^ kZERO};
    }

    static __device__ __forceinline__ uint32_t edge(uint32_t, uint32_t)
    {
        return kZERO;
    }

    static __device__ __forceinline__ float sample(Word const* at, int32_t pitch, float fy, float fx)
    {
        Word const* const below = at + pitch;
        return PlaneWord<int8_t>::blendBiased(biased(at[0]), biased(at[1]), biased(below[0]), biased(below[1]), fy, fx);
    }

private:
    static __device__ __forceinline__ float biased(uint32_t value)
    {
        return __int_as_float(static_cast<int32_t>(0x4B000000U | value));
    }
};

// What a variant keeps of a plane; of a float the word is the value.
template <typename T, DeformSampleVariant kVARIANT>
using PlaneOf = std::conditional_t<kVARIANT == DeformSampleVariant::kCOMPACT, CompactPlane<T>, PlaneWord<T>>;

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
template <typename Plane, typename T>
__device__ __forceinline__ void fillVectors(typename Plane::Word* words, T const* plane, int32_t height, int32_t width)
{
    constexpr bool kHAS_BELOW = Plane::kROWS == 2; // words hold the row below too
    constexpr int32_t kVALUES = 16 / static_cast<int32_t>(sizeof(T));
    int32_t const vectors = width / kVALUES;
    int32_t const thread = static_cast<int32_t>(threadIdx.x);
    int32_t const threads = static_cast<int32_t>(blockDim.x);
    int32_t const across = vectors < threads ? vectors : threads;
    int32_t const step = threads / across;
    int32_t const pitch = Plane::pitchOf(width);
    int32_t const firstRow = thread / across;
    for (int32_t vector = thread - firstRow * across; vector < vectors && firstRow < step; vector += across)
    {
        bool const isLast = vector + 1 == vectors;
        int32_t const column = vector * kVALUES;
        T const* from = pinned(plane + (firstRow - 1) * width + column);
        typename Plane::Word* to = words + firstRow * pitch + Plane::kRING + column;
        for (int32_t row = firstRow - 1; row < height + Plane::kROWS - 1; row += step)
        {
            bool const inside = static_cast<uint32_t>(row) < static_cast<uint32_t>(height);
            uint4 const values = vectorOf(from, inside);
            uint32_t const next = bitsOf(from + kVALUES, inside && !isLast);
            uint4 below{};
            uint32_t nextBelow = 0;
            if constexpr (kHAS_BELOW)
            {
                bool const insideBelow = static_cast<uint32_t>(row + 1) < static_cast<uint32_t>(height);
                below = vectorOf(from + width, insideBelow);
                nextBelow = bitsOf(from + width + kVALUES, insideBelow && !isLast);
            }
            Plane::put(to, values, next, below, nextBelow);
            if (vector == 0)
            {
                *reinterpret_cast<uint4*>(to - Plane::kRING)
                    = uint4{Plane::kZERO, Plane::kZERO, Plane::kZERO, Plane::edge(values.x, below.x)};
            }
            from += step * width;
            to += step * pitch;
        }
    }
}

// The same one by one, for planes whose rows are no whole vectors.
template <typename Plane, typename T>
__device__ __forceinline__ void fillWords(typename Plane::Word* words, T const* plane, int32_t height, int32_t width)
{
    constexpr bool kHAS_RIGHT = sizeof(typename Plane::Word) > sizeof(T);
    constexpr bool kHAS_BELOW = Plane::kROWS == 2;
    int32_t const pitch = Plane::pitchOf(width);
    int32_t const thread = static_cast<int32_t>(threadIdx.x);
    int32_t const threads = static_cast<int32_t>(blockDim.x);
    int32_t const across = pitch < threads ? pitch : threads;
    int32_t const step = threads / across;
    int32_t const firstRow = thread / across;
    for (int32_t c = thread - firstRow * across; c < pitch && firstRow < step; c += across)
    {
        int32_t const column = c - Plane::kRING;
#pragma unroll 2
        for (int32_t row = firstRow - 1; row < height + Plane::kROWS - 1; row += step)
        {
            T const value = zeroOr(plane, row, column, height, width);
            T right = value;
            T below = value;
            T belowRight = value;
            if constexpr (kHAS_RIGHT)
            {
                right = zeroOr(plane, row, column + 1, height, width);
            }
            if constexpr (kHAS_BELOW)
            {
                below = zeroOr(plane, row + 1, column, height, width);
                belowRight = zeroOr(plane, row + 1, column + 1, height, width);
            }
            words[(row + 1) * pitch + c] = Plane::make(value, right, below, belowRight);
        }
    }
}

// The block's plane into shared memory.
template <typename Plane, typename T>
__device__ __forceinline__ void fillPlane(typename Plane::Word* words, T const* plane, int32_t height, int32_t width)
{
    bool const isWhole
        = width % (16 / static_cast<int32_t>(sizeof(T))) == 0 && reinterpret_cast<uintptr_t>(plane) % 16 == 0;
    if (isWhole && width > 0)
    {
        fillVectors<Plane>(words, plane, height, width);
    }
    else
    {
        fillWords<Plane>(words, plane, height, width);
    }
    // The ring right of the last row.
    int32_t const last = (height + Plane::kROWS) * Plane::pitchOf(width);
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < 4; i += static_cast<int32_t>(blockDim.x))
    {
        reinterpret_cast<uint32_t*>(words + last)[i] = Plane::kZERO;
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

// Where a pixel of one column of a plane samples, before its own offset is added: y and x as lines over
// the row. Without a table of positions that is the pixel itself.
__device__ __forceinline__ PositionLine lineOf(
    PositionLine const* lines, DeformSampleParams const& params, int32_t channel, int32_t column, int32_t rowBorder)
{
    float const x = static_cast<float>(column);
    if (lines == nullptr)
    {
        return PositionLine{1.F, 0.F, 0.F, x};
    }
    PositionLine const line = lines[(3 * rowBorder + borderOf(column, params.outWidth)) * params.c + channel];
    // Of a channel that moves along the columns, the line is over the column: a constant here.
    bool const isAlongRows = 2 * channel < params.c;
    return isAlongRows
        ? PositionLine{1.F + line.slopeY, line.interceptY, line.slopeX, line.interceptX + x}
        : PositionLine{1.F, line.slopeY * x + line.interceptY, 0.F, line.slopeX * x + line.interceptX + x};
}

// A plane, sampled anywhere.
template <typename T, DeformSampleVariant kVARIANT>
struct SampledPlane
{
    using Plane = PlaneOf<T, kVARIANT>;
    typename Plane::Word const* words; // of its first pixel, in shared memory
    T const* value;                    // the same in global memory
    int32_t pitch;                     // words from row to row
    int32_t height;
    int32_t width;
    float lowest; // height and width as coordinates
    float rightmost;

    template <typename TOffset>
    __device__ __forceinline__ T sample(PositionLine const& line, float row, TOffset dy, TOffset dx) const
    {
        float const y = toFloat(dy) + (line.slopeY * row + line.interceptY);
        float const x = toFloat(dx) + (line.slopeX * row + line.interceptX);
        Place const place = placeOf(y, x, lowest, rightmost);
        if constexpr (kVARIANT != DeformSampleVariant::kDIRECT)
        {
            return betweenValues<T>(Plane::sample(words + place.row * pitch + place.column, pitch, place.fy, place.fx));
        }
        return betweenValues<T>(blend(toFloat(zeroOr(value, place.row, place.column, height, width)),
            toFloat(zeroOr(value, place.row, place.column + 1, height, width)),
            toFloat(zeroOr(value, place.row + 1, place.column, height, width)),
            toFloat(zeroOr(value, place.row + 1, place.column + 1, height, width)), place.fy, place.fx));
    }
};

// The pixels of one plane that a thread samples: neighbours in a row, of rows at equal distances.
struct Share
{
    uint32_t first;  // pixel
    uint32_t stride; // pixels
    uint32_t end;    // pixels of the plane
    float row;
    float step; // rows
};

// The offsets of a thread's next rows. They are asked for a round before they are used, and the first ones
// before the plane is copied, so that the memory always has something to bring.
template <typename TOffset, int32_t kPIXELS>
struct Round
{
    static constexpr int32_t kROWS = kSAMPLE_UNROLL / kPIXELS;
    Together<TOffset, kPIXELS> y[kROWS];
    Together<TOffset, kPIXELS> x[kROWS];

    __device__ __forceinline__ void ask(TOffset const* offset, uint32_t pixel, Share const& share)
    {
#pragma unroll
        for (int32_t i = 0; i < kROWS; ++i)
        {
            uint32_t const at = pixel + i * share.stride;
            if (at < share.end)
            {
                y[i] = loadOnce<TOffset, kPIXELS>(offset + at);
                x[i] = loadOnce<TOffset, kPIXELS>(offset + (at + share.end)); // behind the plane of dy
            }
        }
    }
};

// Sample a thread's share of a plane; `lines` has one a column, and `next` what was asked for first.
template <typename T, typename TOffset, DeformSampleVariant kVARIANT, int32_t kPIXELS>
__device__ __forceinline__ void sampleShare(SampledPlane<T, kVARIANT> const& plane,
    PositionLine const (&lines)[kPIXELS], TOffset const* offset, T* output, Share const& share,
    Round<TOffset, kPIXELS> next)
{
    using Offsets = Round<TOffset, kPIXELS>;
    float row = share.row;
    for (uint32_t pixel = share.first; pixel < share.end;)
    {
        Offsets const round = next;
        uint32_t const at = pixel;
        pixel += Offsets::kROWS * share.stride;
        next.ask(offset, pixel, share);
#pragma unroll
        for (int32_t i = 0; i < Offsets::kROWS; ++i)
        {
            Together<T, kPIXELS> sampled;
#pragma unroll
            for (int32_t k = 0; k < kPIXELS; ++k)
            {
                sampled.of[k] = plane.sample(lines[k], row, round.y[i].of[k], round.x[i].of[k]);
            }
            row += share.step;
            if (at + i * share.stride < share.end)
            {
                *reinterpret_cast<Together<T, kPIXELS>*>(output + at + i * share.stride) = sampled;
            }
        }
    }
}

// Blocks whose registers a multiprocessor has to hold: of DeMT's planes, 227 KB of shared memory hold three and
// Orin's 163 KB two. INT8 needs more registers to copy a plane, and on Turing to do without.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
constexpr int32_t kPLANES = 3;
#else
constexpr int32_t kPLANES = 2;
#endif
template <typename T, DeformSampleVariant kVARIANT>
constexpr int32_t kBLOCKS = kVARIANT != DeformSampleVariant::kDIRECT ? (sizeof(T) > 1 ? kPLANES : 2)
    : kIS_TURING && sizeof(T) == 1                                   ? 1
                                                                     : 2;

// What a block works on.
template <typename T, typename TOffset>
struct BlockPlane
{
    T const* value;
    TOffset const* offset; // a plane of dy, then one of dx
    T* output;
    PositionLine const* table; // of the item, or null
    int32_t channel;

    __device__ __forceinline__ BlockPlane(DeformSampleParams const& params, int32_t block)
    {
        int32_t const perItem = params.n * params.c;
        int32_t const item = block / perItem;
        int64_t const plane = block - item * perItem;
        int64_t const pixels = params.outHeight * params.outWidth;
        value = static_cast<T const*>(params.value[item]) + plane * (params.height * params.width);
        offset = static_cast<TOffset const*>(params.offset[item]) + 2 * plane * pixels;
        output = static_cast<T*>(params.output[item]) + plane * pixels;
        table = reinterpret_cast<PositionLine const*>(params.position[item]);
        channel = static_cast<int32_t>(plane) % params.c;
    }
};

// The first and the last row, which have lines of their own in a table of positions. What is needed for them is
// computed here again, so that no register has to keep it meanwhile.
template <typename T, typename TOffset, DeformSampleVariant kVARIANT>
__device__ __forceinline__ void sampleBorderRows(
    SampledPlane<T, kVARIANT> const& sampled, DeformSampleParams const& params, int32_t block)
{
    BlockPlane<T, TOffset> const plane(params, pinned(block));
    if (plane.table == nullptr)
    {
        return;
    }
    __syncthreads(); // these rows were written by others, too
    int32_t const width = params.outWidth;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < 2 * width; i += static_cast<int32_t>(blockDim.x))
    {
        bool const isLast = i >= width;
        int32_t const x = isLast ? i - width : i;
        int32_t const y = isLast ? params.outHeight - 1 : 0;
        if (!isLast || y > 0)
        {
            int32_t const at = y * width + x;
            PositionLine const line = lineOf(plane.table, params, plane.channel, x, isLast ? 2 : 0);
            plane.output[at] = sampled.sample(line, static_cast<float>(y), plane.offset[at],
                plane.offset[static_cast<uint32_t>(at) + static_cast<uint32_t>(params.outHeight * width)]);
        }
    }
}

template <typename T, typename TOffset, DeformSampleVariant kVARIANT, int32_t kPIXELS>
__global__ void __launch_bounds__(kSAMPLE_THREADS, (kBLOCKS<T, kVARIANT>) )
    deformSampleKernel(DeformSampleParams params)
{
    DEGMIX_SHARED(shared);
    int32_t const block = static_cast<int32_t>(blockIdx.x);
    BlockPlane<T, TOffset> const plane(params, block);
    int32_t const height = params.height;
    int32_t const width = params.width;
    int32_t const outWidth = params.outWidth;
    using Plane = PlaneOf<T, kVARIANT>;
    auto* words = reinterpret_cast<typename Plane::Word*>(shared);
    int32_t const pitch = Plane::pitchOf(width);
    // A thread keeps its columns and goes down the rows, so that no pixel needs a division. Lanes take
    // neighbouring columns: offsets and outputs are whole lines of memory, and neighbours sample
    // neighbouring banks.
    int32_t const threads = static_cast<int32_t>(blockDim.x);
    int32_t const across = outWidth / kPIXELS;
    int32_t const columns = across < threads ? across : threads;
    int32_t const row = static_cast<int32_t>(threadIdx.x) / columns;
    int32_t column = (static_cast<int32_t>(threadIdx.x) - row * columns) * kPIXELS;
    Share share{};
    int32_t const step = threads / columns;
    share.row = static_cast<float>(row);
    share.step = static_cast<float>(step);
    share.stride = static_cast<uint32_t>(step * outWidth);
    share.end = static_cast<uint32_t>(params.outHeight * outWidth);
    share.first = row < step ? static_cast<uint32_t>(row * outWidth + column) : share.end;
    TOffset const* const offset = pinned(plane.offset);
    T* const output = pinned(plane.output);
    Round<TOffset, kPIXELS> first;
    first.ask(offset, share.first, share);
    if constexpr (kVARIANT != DeformSampleVariant::kDIRECT)
    {
        fillPlane<Plane>(words, plane.value, height, width);
        __syncthreads();
    }
    SampledPlane<T, kVARIANT> const sampled{words + pitch + Plane::kRING, plane.value, pinned(pitch), height, width,
        pinned(static_cast<float>(height)), pinned(static_cast<float>(width))};
    while (share.first < share.end)
    {
        PositionLine lines[kPIXELS];
#pragma unroll
        for (int32_t k = 0; k < kPIXELS; ++k)
        {
            lines[k] = lineOf(plane.table, params, plane.channel, column + k, 1);
        }
        sampleShare<T, TOffset, kVARIANT, kPIXELS>(sampled, lines, offset, output, share, first);
        column += columns * kPIXELS;
        share.first += static_cast<uint32_t>(columns * kPIXELS);
        if (column >= outWidth)
        {
            break;
        }
        first.ask(offset, share.first, share);
    }
    sampleBorderRows<T, TOffset>(sampled, params, block);
}

} // namespace degmix
