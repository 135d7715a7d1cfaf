// A block's samples: what is read, blended and written to shared memory in a step.
#pragma once

#include "common/epilogue.cuh"
#include "deform_conv2d/blend.cuh"

namespace degmix
{

// The planes of offsets and modulation of a block's image, at one pixel of the output.
template <typename TOffset>
class OffsetPlanes
{
public:
    __device__ __forceinline__ OffsetPlanes(DeformConv2dWork const& work, BlockPlace const& block, int32_t y, int32_t x)
    {
        DeformConv2dParams const& params = work.params;
        int32_t const width = onlyHere(params.outWidth);
        int32_t const pixel = y * width + x;
        mPixels = params.outHeight * width;
        int64_t const first = static_cast<int64_t>(block.image) * (params.offsetGroups * work.taps) * mPixels;
        mOffset = static_cast<TOffset const*>(params.offset[block.item]) + 2 * first + pixel;
        auto const* const mask = static_cast<TOffset const*>(params.mask[block.item]);
        mMask = mask == nullptr ? nullptr : mask + first + pixel;
    }

    // Of one offset group and tap, in this order.
    __device__ __forceinline__ Offset load(int32_t plane) const
    {
        TOffset const* const at = mOffset + static_cast<int64_t>(2 * plane) * mPixels;
        return Offset{toFloat(__ldg(at)), toFloat(__ldg(at + mPixels)),
            mMask == nullptr ? 1.F : toFloat(__ldg(mMask + static_cast<int64_t>(plane) * mPixels))};
    }

private:
    TOffset const* mOffset;
    TOffset const* mMask;
    int32_t mPixels;
};

// Where the taps of a tile's pixels sample: made once for several taps and all their channels.
template <typename T, typename TILE>
struct CornerTable
{
    using Weights = typename Blend<T>::Weights;
    static constexpr int32_t kBYTES_OF_ROW = TILE::kM * static_cast<int32_t>(sizeof(uint4) + sizeof(Weights));
    static constexpr int32_t kBYTES = kTABLE_ROWS * kBYTES_OF_ROW;

    uint4* places; // of the four neighbours, in 16 bytes from the plane's first pixel
    Weights* weights;

    __device__ __forceinline__ explicit CornerTable(unsigned char* at)
        : places(reinterpret_cast<uint4*>(at))
        , weights(reinterpret_cast<Weights*>(at + tableRows() * TILE::kM * sizeof(uint4)))
    {
    }

    // Of the step's table: a row of pixels for each tap and each offset group from `firstGroup`.
    __device__ __forceinline__ void fill(
        DeformConv2dWork const& work, BlockPlace const& block, Step const& step, int32_t firstGroup) const
    {
        DeformConv2dParams const& params = work.params;
        int32_t const groups = work.tableGroups;
        constexpr int32_t kROWS = TILE::kTHREADS / TILE::kM; // that all threads fill together
        constexpr int32_t kTURNS = (kTABLE_ROWS + kROWS - 1) / kROWS;
        int32_t const thread = threadAgain();
        int32_t const pixel = thread % TILE::kM;
        int32_t const y = block.y + pixel / TILE::kX;
        int32_t const x = block.x + pixel % TILE::kX;
        bool const isPixel = y < params.outHeight && x < params.outWidth;
        uint32_t const unit = static_cast<uint32_t>(params.valuePitch) * sizeof(T) / 16;
        int32_t const rows = step.tableTaps * groups;
        // A division of a small number.
        auto const tapOf = [&](int32_t row)
        { return static_cast<int32_t>(static_cast<uint32_t>(row) * work.perTableGroups >> 16U); };
        auto const planeOf = [&](int32_t row)
        {
            int32_t const group = min(firstGroup + row - tapOf(row) * groups, params.offsetGroups - 1);
            return group * work.taps + step.firstTap + tapOf(row);
        };
        // All offsets are asked for before the first is used: memory takes long to answer.
        Offset offsets[kTURNS]{};
        if (params.offsetType == Type::kFLOAT)
        {
            OffsetPlanes<float> const planes(work, block, y, x);
#pragma unroll
            for (int32_t i = 0; i < kTURNS; ++i)
            {
                int32_t const row = thread / TILE::kM + i * kROWS;
                if (isPixel && row < rows)
                {
                    offsets[i] = planes.load(planeOf(row));
                }
            }
        }
        else
        {
            OffsetPlanes<__half> const planes(work, block, y, x);
#pragma unroll
            for (int32_t i = 0; i < kTURNS; ++i)
            {
                int32_t const row = thread / TILE::kM + i * kROWS;
                if (isPixel && row < rows)
                {
                    offsets[i] = planes.load(planeOf(row));
                }
            }
        }
#pragma unroll
        for (int32_t i = 0; i < kTURNS; ++i)
        {
            int32_t const row = thread / TILE::kM + i * kROWS;
            if (row < rows)
            {
                Corners corners{};
                if (isPixel)
                {
                    corners = cornersAt(work, offsets[i], step.firstTap + tapOf(row), y, x);
                }
                int32_t const entry = row * TILE::kM + pixel;
                places[entry] = uint4{static_cast<uint32_t>(corners.index[0]) * unit,
                    static_cast<uint32_t>(corners.index[1]) * unit, static_cast<uint32_t>(corners.index[2]) * unit,
                    static_cast<uint32_t>(corners.index[3]) * unit};
                weights[entry] = Blend<T>::weights(corners.weight);
            }
        }
    }
};

// The samples of channels that lie together: a thread has 16 bytes of channels of every 32nd pixel. What is read
// lies in registers while the pixels before it are blended and stored.
template <typename T, typename TILE>
class VectorSamples
{
public:
    static constexpr int32_t kCOUNT = TILE::kM / TILE::kROWS_AT_ONCE; // pixels of a thread
    static constexpr int32_t kAHEAD = TILE::template kAHEAD<T>;       // of them are being read

    __device__ __forceinline__ VectorSamples(
        DeformConv2dWork const& work, BlockPlace const& block, CornerTable<T, TILE> const& table)
        : mWork(work)
        , mTable(table)
        , mPart(static_cast<int32_t>(threadIdx.x) % kPARTS)
        , mPixel(static_cast<int32_t>(threadIdx.x) / kPARTS)
        , mGroupChannel(block.group * work.perGroup)
        , mTo(partAt(mPixel, mPart))
        , mFirstEntry(mPixel)
    {
        DeformConv2dParams const& params = work.params;
        int64_t const pixels = static_cast<int64_t>(params.height) * params.width;
        mValue = static_cast<T const*>(params.value[block.item])
            + elementAt(params.valueLayout, block.image, mGroupChannel, 0, params.c, pixels, params.valuePitch);
    }

    // The first of `steps` steps with a new table.
    __device__ __forceinline__ void begin(Step const& step, int32_t steps)
    {
        mTap = step.tap;
        mTaps = step.tableTaps;
        mChunk = step.chunk;
        mLeft = steps - 1;
        if (mWork.tableGroups > 1)
        {
            // Several offset groups meet in the table's chunk: whose this part's channels are.
            int32_t const first = mGroupChannel + mChunk * kCHUNK<T>;
            int32_t const mine = first + part() * Part<T>::kCOUNT;
            mFirstEntry = mPixel + (mine / mWork.perOffsetGroup - first / mWork.perOffsetGroup) * TILE::kM;
        }
        mEntry = mFirstEntry + mTap * mWork.tableGroups * TILE::kM;
        find();
    }

    // The next step with the same table; of what is read behind the last one nothing is used.
    __device__ __forceinline__ void advance()
    {
        if (--mLeft >= 0)
        {
            mEntry += mWork.tableGroups * TILE::kM;
            if (++mTap == mTaps)
            {
                mTap = 0;
                mEntry = mFirstEntry;
                ++mChunk;
                find();
            }
        }
    }

    // Ask for the neighbours of the thread's i-th pixel.
    __device__ __forceinline__ void load(int32_t i)
    {
        int32_t const entry = mEntry + i * TILE::kROWS_AT_ONCE;
        mWeights[i % kAHEAD] = mTable.weights[entry];
        read(i % kAHEAD, mTable.places[entry]);
    }

    // Blend them into the stage at `values`.
    __device__ __forceinline__ void store(unsigned char* values, int32_t i) const
    {
        *reinterpret_cast<uint4*>(values + mTo + i * TILE::kROWS_AT_ONCE * kROW_BYTES)
            = Blend<T>::of(mRead[i % kAHEAD], mWeights[i % kAHEAD]);
    }

    // Blend the i-th pixel of the step whose values are at `values`, and ask for the one `kAHEAD` after it.
    __device__ __forceinline__ void turn(unsigned char* values, int32_t i)
    {
        if (i == kCOUNT - kAHEAD)
        {
            advance();
        }
        store(values, i);
        load((i + kAHEAD) % kCOUNT);
    }

    // The same for all pixels, where a whole step is being read.
    __device__ __forceinline__ void turnAll(unsigned char* values)
    {
        static_assert(kAHEAD == kCOUNT && kCOUNT % 2 == 0, "two pixels at a time");
        advance();
#pragma unroll
        for (int32_t i = 0; i < kCOUNT; i += 2)
        {
            // Places come before the stores, behind which the compiler would have them wait.
            uint4 const first = mTable.places[mEntry + i * TILE::kROWS_AT_ONCE];
            uint4 const second = mTable.places[mEntry + (i + 1) * TILE::kROWS_AT_ONCE];
            store(values, i);
            store(values, i + 1);
            read(i, first);
            read(i + 1, second);
            mWeights[i] = mTable.weights[mEntry + i * TILE::kROWS_AT_ONCE];
            mWeights[i + 1] = mTable.weights[mEntry + (i + 1) * TILE::kROWS_AT_ONCE];
            __syncwarp(); // which no load moves behind
        }
    }

private:
    // The thread's. Behind the group's last channel it is the chunk's first one again: its weights are zeros.
    __device__ __forceinline__ int32_t part() const
    {
        return mChunk * kCHUNK<T> + mPart * Part<T>::kCOUNT < mWork.perGroup ? mPart : 0;
    }

    __device__ __forceinline__ void find()
    {
        constexpr int32_t kBLOCK_PARTS = kBLOCK_CHANNELS / Part<T>::kCOUNT;
        mFrom = reinterpret_cast<unsigned char const*>(mValue) + mChunk * mWork.chunkBytes
            + part() / kBLOCK_PARTS * mWork.blockBytes + part() % kBLOCK_PARTS * 16;
    }

    __device__ __forceinline__ void read(int32_t to, uint4 const& place)
    {
        mRead[to][0] = neighbour(place.x);
        mRead[to][1] = neighbour(place.y);
        mRead[to][2] = neighbour(place.z);
        mRead[to][3] = neighbour(place.w);
    }

    __device__ __forceinline__ uint4 neighbour(uint32_t place) const
    {
        return *reinterpret_cast<uint4 const*>(mFrom + static_cast<uint64_t>(place) * 16U);
    }

    DeformConv2dWork const& mWork;
    CornerTable<T, TILE> mTable;
    int32_t mPart;
    int32_t mPixel;
    int32_t mGroupChannel; // the group's first
    int32_t mTo;
    int32_t mFirstEntry;
    T const* mValue; // the group's first
    int32_t mTap{0};
    int32_t mTaps{0};
    int32_t mChunk{0};
    int32_t mLeft{0};
    int32_t mEntry{0};
    unsigned char const* mFrom{nullptr};
    typename Blend<T>::Weights mWeights[kAHEAD]{};
    uint4 mRead[kAHEAD][4]{};
};

// The samples of any channels in any layout, an element at a time.
template <typename T, typename TILE>
class ScalarSamples
{
public:
    __device__ __forceinline__ ScalarSamples(DeformConv2dWork const& work, BlockPlace const& block)
        : mWork(work)
        , mParams(work.params)
        , mBlock(block)
    {
    }

    // Those of a step into the stage at `values`.
    __device__ __forceinline__ void store(unsigned char* values, Step const& step) const
    {
        int32_t const part = static_cast<int32_t>(threadIdx.x) % kPARTS;
#pragma unroll 1
        for (int32_t pixel = static_cast<int32_t>(threadIdx.x) / kPARTS; pixel < TILE::kM; pixel += TILE::kROWS_AT_ONCE)
        {
            storePart(reinterpret_cast<T*>(values + partAt(pixel, part)), pixel, step.firstTap + step.tap,
                step.chunk * kCHUNK<T> + part * Part<T>::kCOUNT);
        }
    }

private:
    __device__ __forceinline__ void storePart(T* to, int32_t pixel, int32_t tap, int32_t channel) const
    {
        int32_t const y = mBlock.y + pixel / TILE::kX;
        int32_t const x = mBlock.x + pixel % TILE::kX;
        bool const isPixel = y < mParams.outHeight && x < mParams.outWidth;
        int32_t const first = mBlock.group * mWork.perGroup + channel;
        int32_t group = first / mWork.perOffsetGroup;
        int32_t nextGroup = first;
        Corners corners{};
#pragma unroll 1
        for (int32_t e = 0; e < Part<T>::kCOUNT; ++e)
        {
            float sum = 0.F;
            if (isPixel && channel + e < mWork.perGroup)
            {
                // Places are computed again only where the offset group changes.
                if (first + e == nextGroup)
                {
                    group = (first + e) / mWork.perOffsetGroup;
                    nextGroup = (group + 1) * mWork.perOffsetGroup;
                    corners = cornersAt(mWork, offsetAt(group * mWork.taps + tap, y, x), tap, y, x);
                }
#pragma unroll
                for (int32_t i = 0; i < 4; ++i)
                {
                    sum += corners.weight[i] * toFloat(valueAt(corners.index[i], first + e));
                }
            }
            to[e] = fromFloat<T>(sum);
        }
    }

    __device__ __forceinline__ Offset offsetAt(int32_t plane, int32_t y, int32_t x) const
    {
        return mParams.offsetType == Type::kFLOAT ? OffsetPlanes<float>(mWork, mBlock, y, x).load(plane)
                                                  : OffsetPlanes<__half>(mWork, mBlock, y, x).load(plane);
    }

    __device__ __forceinline__ T valueAt(int32_t pixel, int32_t channel) const
    {
        T const* data = static_cast<T const*>(mParams.value[mBlock.item]);
        int64_t const pixels = static_cast<int64_t>(mParams.height) * mParams.width;
        return data[elementAt(
            mParams.valueLayout, mBlock.image, channel, pixel, mParams.c, pixels, mParams.valuePitch)];
    }

    DeformConv2dWork const& mWork;
    DeformConv2dParams const& mParams;
    BlockPlace mBlock;
};

} // namespace degmix
