// Device code of deform_conv2d: an implicit product. For every tap and chunk of channels a block samples its
// pixels into shared memory, where the weights of that step arrive by asynchronous copies, and multiplies the
// two; the next step's samples are made meanwhile. The column buffer of an explicit product never exists.
// tile.cuh has the picture.
#pragma once

#include "deform_conv2d/product.cuh"
#include "deform_conv2d/samples.cuh"
#include "deform_conv2d/sums.cuh"
#include "deform_conv2d/weights.cuh"

namespace degmix
{

template <typename TILE>
struct Stages
{
    unsigned char* shared;
    int32_t now{0};

    __device__ __forceinline__ unsigned char* values(int32_t ahead) const
    {
        return shared + (now ^ ahead) * TILE::kVALUE_BYTES;
    }
    __device__ __forceinline__ unsigned char* weights(int32_t ahead) const
    {
        return shared + kSTAGES * TILE::kVALUE_BYTES + (now ^ ahead) * TILE::kWEIGHT_BYTES;
    }
};

// Of the thread's warp in the tile.
template <typename TILE>
__device__ __forceinline__ int32_t firstRow(int32_t thread)
{
    return thread / 32 % TILE::kWARPS_M * TILE::kWARP_M;
}

template <typename TILE>
__device__ __forceinline__ int32_t firstColumn(int32_t thread)
{
    return thread / 32 / TILE::kWARPS_M * TILE::kWARP_N;
}

template <typename T, typename TILE, typename Sums>
__device__ __forceinline__ void multiplyVectors(
    DeformConv2dWork const& work, BlockPlace const& block, unsigned char* shared, Product<T> const& product, Sums& sum)
{
    CornerTable<T, TILE> const table(shared + TILE::kTABLE_AT);
    VectorSamples<T, TILE> samples(work, block, table);
    Weights<T, TILE> const weights(work, block, static_cast<int32_t>(threadIdx.x));
    Stages<TILE> stages{shared};
    using Samples = VectorSamples<T, TILE>;
    constexpr int32_t kEVERY = kSLICES / Samples::kCOUNT; // slices of the product for a pixel's samples
    Share const share = shareOf(work);
    int32_t left = share.steps;
    Step next(work, share.first);
    weights.copy(stages.weights(0), next, left > 0);
    while (left > 0)
    {
        int32_t const firstChannel = block.group * work.perGroup + next.chunk * kCHUNK<T>;
        int32_t const steps = min(next.leftOfTable(work), left);
        __syncthreads(); // the last table has been read
        table.fill(work, block, next, firstChannel / work.perOffsetGroup);
        __syncthreads();
        samples.begin(next, steps);
#pragma unroll
        for (int32_t i = 0; i < Samples::kAHEAD; ++i)
        {
            samples.load(i);
        }
#pragma unroll
        for (int32_t i = 0; i < Samples::kCOUNT; ++i)
        {
            samples.turn(stages.values(0), i);
        }
#pragma unroll 1
        for (int32_t const end = left - steps; left > end;)
        {
            next.advance(work);
            waitCopies<0>();
            __syncthreads(); // this step's operands are whole, and the last step's are read
            weights.copy(stages.weights(1), next, --left > 0);
#pragma unroll
            for (int32_t k = 0; k < kSLICES; ++k)
            {
                if (k % kEVERY == 0)
                {
                    samples.turn(stages.values(1), k / kEVERY);
                }
                product.slice(sum, stages.values(0), stages.weights(0), k);
            }
            stages.now ^= 1;
        }
    }
    waitCopies<0>();
}

template <typename T, typename TILE, typename Sums>
__device__ __forceinline__ void multiplyElements(
    DeformConv2dWork const& work, BlockPlace const& block, unsigned char* shared, Product<T> const& product, Sums& sum)
{
    ScalarSamples<T, TILE> const samples(work, block);
    Weights<T, TILE> const weights(work, block, static_cast<int32_t>(threadIdx.x));
    Stages<TILE> const stages{shared};
    Step step(work, 0);
    for (int32_t left = work.taps * work.chunks; left > 0; --left)
    {
        __syncthreads(); // the last step's operands are read
        samples.store(stages.values(0), step);
        weights.store(stages.weights(0), step);
        __syncthreads();
#pragma unroll 1
        for (int32_t k = 0; k < kSLICES; ++k)
        {
            product.slice(sum, stages.values(0), stages.weights(0), k);
        }
        step.advance(work);
    }
}

template <typename T, int32_t kM, int32_t kN, bool kVECTOR>
__global__ void __launch_bounds__(Tile<kM, kN>::kTHREADS, Tile<kM, kN>::kBLOCKS)
    deformConv2dKernel(DeformConv2dWork work)
{
    using TILE = Tile<kM, kN>;
    DEGMIX_SHARED(shared);
    BlockPlace const block = blockPlace<TILE>(work, blockIdx.x);
    typename Product<T>::Sum sum[TILE::kFRAGMENTS_M][TILE::kFRAGMENTS_N][4] = {};
    Product<T> const product(
        firstRow<TILE>(static_cast<int32_t>(threadIdx.x)), firstColumn<TILE>(static_cast<int32_t>(threadIdx.x)));
    if constexpr (kVECTOR)
    {
        multiplyVectors<T, TILE>(work, block, shared, product, sum);
    }
    else
    {
        multiplyElements<T, TILE>(work, block, shared, product, sum);
    }
    int32_t const thread = threadAgain();
    Slab<T, TILE> const slab(shared, work, blockPlace<TILE>(work, blockAgain()), thread);
    int32_t const row = firstRow<TILE>(thread);
    TILE::sync(); // the block's operands are read
#pragma unroll 1
    for (int32_t first = 0; first < TILE::kM; first += TILE::kSLAB_M)
    {
        if (first > 0)
        {
            slab.sync(); // the last pixels' sums are read
        }
        if (row - row % TILE::kSLAB_M == first)
        {
            slab.put(sum, row % TILE::kSLAB_M, firstColumn<TILE>(thread));
        }
        slab.sync();
        slab.store(first);
    }
    slab.end();
}

} // namespace degmix
