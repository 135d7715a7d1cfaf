// deform_conv2d on compute capability 9.0: the same tiles, steps and samples, but warps share the work by kind.
// Eight or sixteen warps sample into stages of shared memory; two groups of four warps copy the weights, and multiply
// 64 pixels each with all output channels of the tile, straight from shared memory. Two barriers a stage say that it is
// full, and empty; one more says that no warp samples any longer. Without sm_90a's own instructions the kernel is empty, and the launcher does not use it.
#pragma once

#include "common/hopper.cuh"
#include "deform_conv2d/samples.cuh"
#include "deform_conv2d/sums.cuh"
#include "deform_conv2d/weights.cuh"

namespace degmix
{

template <int32_t kOUTPUTS>
struct HopperTile
{
    static constexpr int32_t kM = 128;
    static constexpr int32_t kN = kOUTPUTS;
    static constexpr int32_t kY = 8;
    static constexpr int32_t kX = kM / kY;
    static constexpr int32_t kSTORING = 256;                  // threads that multiply, and have sums
    static constexpr int32_t kTHREADS = kN > 128 ? 256 : 512; // that sample
    static constexpr int32_t kALL = kSTORING + kTHREADS;
    static constexpr int32_t kWARP_M = 64;                     // pixels of a group of warps
    static constexpr int32_t kSLAB_M = kM;                     // pixels whose sums leave together
    static constexpr int32_t kPRODUCT_N = kN > 128 ? 128 : 64; // output channels of an instruction
    static constexpr int32_t kPRODUCTS = kN / kPRODUCT_N;
    static constexpr int32_t kFRAGMENTS_M = 1;
    static constexpr int32_t kFRAGMENTS_N = kPRODUCT_N / 8;
    static constexpr int32_t kROWS_AT_ONCE = kTHREADS / kPARTS;
    static constexpr int32_t kVALUE_BYTES = kM * kROW_BYTES;
    static constexpr int32_t kWEIGHT_BYTES = kN * kROW_BYTES;
    static constexpr int32_t kSTAGE_BYTES = kVALUE_BYTES + kWEIGHT_BYTES;
    static constexpr int32_t kSTAGE_COUNT = 3;
    static constexpr int32_t kTABLE_AT = kSTAGE_COUNT * kSTAGE_BYTES;
    static constexpr int32_t kALIGNMENT = 1024; // of stages; shared memory that a launch asks for has less

    // Registers of threads that sample, and of those that multiply: together no more than the launch's. Sums of
    // 256 channels leave room for few threads that sample.
    static constexpr int32_t kSAMPLING = kN > 128 ? 96 : 72;
    static constexpr int32_t kMULTIPLYING = kN > 128 ? 160 : 96;

    // A step's neighbours are all on their way before the last step's are blended.
    template <typename T>
    static constexpr int32_t kAHEAD = kM * kPARTS / kTHREADS;

    // Of the threads that multiply, which alone have sums.
    static __device__ __forceinline__ void sync()
    {
#if defined(DEGMIX_HAS_GROUPS)
        syncSome<1, kSTORING>();
#endif
    }
};

template <typename TILE>
constexpr int32_t kHOPPER_BYTES = TILE::kALIGNMENT + TILE::kTABLE_AT + CornerTable<__half, TILE>::kBYTES
    + (2 * TILE::kSTAGE_COUNT + 1) * static_cast<int32_t>(sizeof(uint64_t));

#if defined(DEGMIX_HAS_GROUPS)

// A stage, and how often all of them were used.
template <typename TILE>
struct HopperStage
{
    unsigned char* shared;
    uint64_t* full;
    uint64_t* empty;
    int32_t index{0};
    uint32_t parity{0};

    __device__ __forceinline__ unsigned char* values() const
    {
        return shared + index * TILE::kSTAGE_BYTES;
    }
    __device__ __forceinline__ unsigned char* weights() const
    {
        return values() + TILE::kVALUE_BYTES;
    }
    __device__ __forceinline__ void advance()
    {
        if (++index == TILE::kSTAGE_COUNT)
        {
            index = 0;
            parity ^= 1U;
        }
    }
};

// Those of the next step into its stage; an empty group of copies behind the last step, so that the count is the same.
template <typename TILE>
__device__ __forceinline__ void copyWeights(Weights<__half, TILE> const& weights, DeformConv2dWork const& work,
    HopperStage<TILE>& stage, Step& step, bool isStep)
{
    if (isStep)
    {
        weights.copy(stage.weights(), step, true);
        step.advance(work);
        stage.advance();
    }
    else
    {
        commitCopies();
    }
}

template <typename TILE>
__device__ __forceinline__ void sampleStages(
    DeformConv2dWork const& work, BlockPlace const& block, HopperStage<TILE> stage)
{
    using Samples = VectorSamples<__half, TILE>;
    CornerTable<__half, TILE> const table(stage.shared + TILE::kTABLE_AT);
    Samples samples(work, block, table);
    Share const share = shareOf(work);
    Step next(work, share.first);
    for (int32_t left = share.steps; left > 0;)
    {
        int32_t const firstChannel = block.group * work.perGroup + next.chunk * kCHUNK<__half>;
        int32_t const steps = min(next.leftOfTable(work), left);
        syncSome<2, TILE::kTHREADS>(); // the last table has been read
        table.fill(work, block, next, firstChannel / work.perOffsetGroup);
        syncSome<2, TILE::kTHREADS>();
        samples.begin(next, steps);
#pragma unroll
        for (int32_t i = 0; i < Samples::kAHEAD; ++i)
        {
            samples.load(i);
        }
#pragma unroll 1
        for (int32_t const end = left - steps; left > end; --left)
        {
            // The first use of a stage waits for nothing: its barrier's phase before the first is complete.
            waitFor(stage.empty + stage.index, stage.parity ^ 1U);
            samples.turnAll(stage.values());
            __syncwarp();
            if (threadIdx.x % 32 == 0)
            {
                arriveAt(stage.full + stage.index);
            }
            stage.advance();
            next.advance(work);
        }
    }
}

// The threads that multiply wait for samples most of the time, so they copy the weights too, two steps ahead.
template <typename TILE>
__device__ __forceinline__ void multiplyStages(DeformConv2dWork const& work, BlockPlace const& block,
    HopperStage<TILE> stage, int32_t thread, float (&sum)[TILE::kPRODUCTS][1][TILE::kFRAGMENTS_N][4])
{
    constexpr int32_t kCOPIES = TILE::kSTAGE_COUNT - 1; // on their way
    Weights<__half, TILE> const weights(work, block, thread);
    int32_t const group = thread / 128;
    Share const share = shareOf(work);
    Step next(work, share.first); // whose weights are copied next
    HopperStage<TILE> ahead = stage;
#pragma unroll
    for (int32_t i = 0; i < kCOPIES; ++i)
    {
        copyWeights(weights, work, ahead, next, i < share.steps);
    }
#pragma unroll 1
    for (int32_t step = 0; step < share.steps; ++step)
    {
        waitFor(stage.full + stage.index, stage.parity);
        waitCopies<kCOPIES - 1>();
        TILE::sync(); // this step's weights are there, and the last step's have been read by both groups
        copyWeights(weights, work, ahead, next, step + kCOPIES < share.steps);
        // Here and not where samples are written: there the fence would wait for the neighbours under way.
        showToProducts();
        uint64_t const values = operandAt(stage.values() + group * TILE::kWARP_M * kROW_BYTES);
        uint64_t const filters = operandAt(stage.weights());
        beginProducts();
#pragma unroll
        for (int32_t k = 0; k < 4; ++k)
        {
#pragma unroll
            for (int32_t i = 0; i < TILE::kPRODUCTS; ++i)
            {
                multiplyAddGroup(sum[i], values + 2 * k, filters + i * TILE::kPRODUCT_N * kROW_BYTES / 16 + 2 * k);
            }
        }
        endProducts();
        // Not with the next step's: a stage that is empty late stops the samples of the step after it.
        waitProducts<0>();
        if (thread % 32 == 0)
        {
            arriveAt(stage.empty + stage.index);
        }
        stage.advance();
    }
    waitCopies<0>();
}

#endif

template <int32_t kN>
__global__ void __launch_bounds__(HopperTile<kN>::kALL, 1)
    deformConv2dHopperKernel([[maybe_unused]] DeformConv2dWork work)
{
#if defined(DEGMIX_HAS_GROUPS)
    using TILE = HopperTile<kN>;
    DEGMIX_SHARED(unaligned);
    unsigned char* const shared
        = unaligned + (TILE::kALIGNMENT - sharedAddress(unaligned) % TILE::kALIGNMENT) % TILE::kALIGNMENT;
    auto* const full = reinterpret_cast<uint64_t*>(shared + TILE::kTABLE_AT + CornerTable<__half, TILE>::kBYTES);
    uint64_t* const empty = full + TILE::kSTAGE_COUNT;
    uint64_t* const sampled = empty + TILE::kSTAGE_COUNT;
    BlockPlace const block = blockPlace<TILE>(work, blockIdx.x);
    if (threadIdx.x == 0)
    {
        for (int32_t i = 0; i < TILE::kSTAGE_COUNT; ++i)
        {
            initBarrier(full + i, TILE::kTHREADS / 32);
            initBarrier(empty + i, TILE::kSTORING / 32);
        }
        initBarrier(sampled, TILE::kTHREADS);
        showBarriers();
    }
    __syncthreads();
    HopperStage<TILE> const stage{shared, full, empty};
    if (threadIdx.x < TILE::kTHREADS)
    {
        giveRegisters<TILE::kSAMPLING>();
        sampleStages<TILE>(work, block, stage);
        arriveAt(sampled);
    }
    else
    {
        takeRegisters<TILE::kMULTIPLYING>();
        float sum[TILE::kPRODUCTS][1][TILE::kFRAGMENTS_N][4] = {};
        int32_t const thread = static_cast<int32_t>(threadIdx.x) - TILE::kTHREADS;
        multiplyStages<TILE>(work, block, stage, thread, sum);
        Slab<__half, TILE> const slab(shared, work, blockPlace<TILE>(work, blockAgain()), thread);
        // The sums take the place of the stages: nobody may write samples any longer. Every thread that samples
        // arrives for itself, and not one for its warp as at a full stage, so that NVIDIA's racecheck can follow.
        waitFor(sampled, 0);
        TILE::sync();
#pragma unroll
        for (int32_t i = 0; i < TILE::kPRODUCTS; ++i)
        {
            slab.put(sum[i], thread / 32 * 16, i * TILE::kPRODUCT_N);
        }
        slab.sync();
        slab.store(0);
        slab.end();
    }
#endif
}

} // namespace degmix
