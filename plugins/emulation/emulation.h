// CUDA blocks on the processor: one fiber a thread, warps and blocks meet at their barriers.
//
// It exists to prove kernels where no GPU is, so it is stricter than a card: shared memory is filled
// with NaN patterns and ends at a page that faults, an asynchronous copy arrives only when it is waited
// for, a warp-wide operation that a lane misses aborts, and the order in which threads run can be
// turned round, which changes results if a barrier is missing.
#pragma once

#include <cstddef>
#include <cstdint>

namespace degmix
{
namespace emulation
{

unsigned threadIndex() noexcept;
unsigned blockIndex() noexcept;
unsigned blockSize() noexcept;
unsigned gridSize() noexcept;
unsigned char* sharedMemory() noexcept;
unsigned clusterRank() noexcept;
void const* ofCluster(void const* mine, unsigned rank) noexcept; // the same place in another block's shared memory

void syncBlock() noexcept;
void syncCluster() noexcept;
void syncWarp() noexcept;

// Every lane's pointer, once all lanes of the warp have given theirs. Ends with a `syncWarp` of the
// caller's, so that nothing goes out of scope that another lane still reads.
void const* const* publish(void const* mine) noexcept;

void multiplyAddHalf(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2]) noexcept;
void multiplyAddInt8(int32_t (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2]) noexcept;
// Of Turing: 16 x 8 x 8 and 8 x 8 x 16.
void multiplyAddHalf(float (&d)[4], uint32_t const (&a)[2], uint32_t const (&b)[1]) noexcept;
void multiplyAddInt8(int32_t (&d)[2], uint32_t const (&a)[1], uint32_t const (&b)[1]) noexcept;
void loadMatrices(uint32_t (&r)[4], void const* row) noexcept;
uint32_t fusedHalves(uint32_t a, uint32_t b, uint32_t c) noexcept; // a b + c of both halves of a word
void copyAsync(void* to, void const* from, bool inside) noexcept;
void commitCopies() noexcept;
void waitCopies(int32_t pending) noexcept;

// Of compute capability 9.0. Products of groups of warps read their operands when they are waited for; that
// writes are shown to them by a fence is not checked.
uint32_t sharedAddress(void const* pointer) noexcept;
void initBarrier(uint64_t* barrier, int32_t arrivals) noexcept;
void arriveAt(uint64_t* barrier) noexcept;
void waitFor(uint64_t* barrier, uint32_t parity) noexcept;
void syncSome(int32_t number, int32_t threads) noexcept;
void askProduct(float* d, int32_t columns, uint64_t a, uint64_t b) noexcept;
void endProducts() noexcept;
void waitProducts(int32_t pending) noexcept;

// What a function may use of shared memory; as on a card, it is the function's until it is set again.
void setSharedLimit(void const* function, int bytes);
bool fitsShared(void const* function, size_t bytes);

// The emulated cards, one a device.
struct Card
{
    int multiprocessors;
    int sharedBytesPerBlock;
    int sharedBytesPerMultiprocessor;
    int capability;     // 10 major + minor
    int codeCapability; // for which the code that it runs was compiled
};

inline constexpr Card kCARDS[] = {
    {132, 232448, 233472, 90, 90}, // Hopper: the largest that kernels meet
    {40, 65536, 65536, 75, 75},    // Turing: the smallest
    {132, 232448, 233472, 90, 75}, // Hopper with PTX for Turing
};

inline Card const* currentCard = kCARDS; // set between launches

inline int codeCapability() noexcept
{
    return currentCard->codeCapability;
}

struct Launch
{
    unsigned blocks;
    unsigned threads; // of a block
    unsigned cluster; // blocks that run together
    size_t sharedBytes;
};

// Runs `body(context)` once a thread, cluster after cluster.
void runGrid(Launch const& launch, void (*body)(void const*), void const* context);

} // namespace emulation
} // namespace degmix

// 0: threads run in order; 1: in reverse.
extern "C" __attribute__((visibility("default"))) void degmix_emulation_set_order(int32_t order);

// How often a function's limit of shared memory was set to another value than before.
extern "C" __attribute__((visibility("default"))) int32_t degmix_emulation_limit_changes();

// On which of the emulated cards launches run: 0 is Hopper, 1 is Turing, 2 is Hopper with code for Turing.
extern "C" __attribute__((visibility("default"))) void degmix_emulation_set_device(int32_t device);
