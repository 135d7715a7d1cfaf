#include "emulation.h"

#include "cuda_fp16.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <ucontext.h>
#include <utility>
#include <vector>

namespace degmix
{
namespace emulation
{
namespace
{

constexpr size_t kSTACK = 128 * 1024;
constexpr unsigned kWARP = 32;
constexpr uint32_t kSHARED_BEGINS = 0x410; // its address: only on 16 bytes

enum class State
{
    kREADY,
    kAT_WARP_BARRIER,
    kAT_BLOCK_BARRIER,
    kAT_CLUSTER_BARRIER,
    kAT_SOME_BARRIER, // of some warps
    kPOLLING,
    kDONE,
};

struct Copy
{
    void* to;
    void const* from;
    bool inside;
};

// A product of a group of four warps that was asked for.
struct GroupProduct
{
    float* d;
    int32_t columns;
    uint64_t a;
    uint64_t b;
};

struct Fiber
{
    ucontext_t start;
    jmp_buf place;
    bool started;
    State state;
    std::unique_ptr<char[]> stack{new char[kSTACK]};
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
    std::vector<GroupProduct> openProducts;
    std::vector<std::vector<GroupProduct>> products;
    int32_t barrier;        // of some warps, at which it waits
    int32_t barrierThreads; // that it waits for
};

struct Warp
{
    void const* published[kWARP];
};

// Shared memory that ends where a page without access begins.
class Shared
{
public:
    explicit Shared(size_t bytes)
    {
        size_t const page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        mInside = (bytes + page - 1) / page * page;
        mLength = mInside + page;
        mMap = static_cast<unsigned char*>(
            mmap(nullptr, mLength, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (mMap == MAP_FAILED)
        {
            std::abort();
        }
        mprotect(mMap + mInside, page, PROT_NONE);
        size_t const aligned = (bytes + 15) / 16 * 16;
        start = mMap + mInside - aligned;
    }
    ~Shared()
    {
        munmap(mMap, mLength);
    }
    Shared(Shared const&) = delete;
    Shared& operator=(Shared const&) = delete;

    void poison()
    {
        std::memset(mMap, 0xFF, mInside);
    }

    unsigned char* start;

private:
    unsigned char* mMap;
    size_t mInside;
    size_t mLength;
};

// The blocks of a cluster run together; a thread's number counts through all of them.
struct Grid
{
    unsigned blocks;
    unsigned threads; // of a block
    unsigned cluster; // blocks that run together
    unsigned block;   // the cluster's first
    unsigned thread;
    std::vector<std::unique_ptr<Shared>> shared;
    void (*body)(void const*);
    void const* context;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    jmp_buf scheduler;
    uint64_t events; // that something waiting may wait for

    unsigned rank() const
    {
        return thread / threads;
    }
    unsigned inBlock() const
    {
        return thread % threads;
    }
    unsigned warpsOfBlock() const
    {
        return (threads + kWARP - 1) / kWARP;
    }
};

thread_local Grid* grid = nullptr;
int32_t order = 0;

[[noreturn]] void stop(char const* why)
{
    std::fprintf(stderr, "emulated kernel, block %u: %s\n", blockIndex(), why);
    std::abort();
}

void yield(State state)
{
    Fiber& fiber = grid->fibers[grid->thread];
    fiber.state = state;
    if (_setjmp(fiber.place) == 0)
    {
        _longjmp(grid->scheduler, 1);
    }
}

void enter()
{
    grid->body(grid->context);
    Fiber& fiber = grid->fibers[grid->thread];
    if (!fiber.open.empty() || !fiber.groups.empty() || !fiber.openProducts.empty() || !fiber.products.empty())
    {
        stop("a thread ended with copies or products that nobody waited for");
    }
    ++grid->events;
    fiber.state = State::kDONE;
    _longjmp(grid->scheduler, 1);
}

void resume(unsigned thread)
{
    Fiber& fiber = grid->fibers[thread];
    grid->thread = thread;
    if (_setjmp(grid->scheduler) != 0)
    {
        return;
    }
    if (fiber.started)
    {
        _longjmp(fiber.place, 1);
    }
    fiber.started = true;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = kSTACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
    setcontext(&fiber.start);
}

unsigned inOrder(unsigned index, unsigned count)
{
    return order == 0 ? index : count - 1 - index;
}

// Runs the warp until all of its lanes wait for the block or are done. True if any lane ran.
bool runWarp(unsigned warp)
{
    unsigned const inBlock = warp % grid->warpsOfBlock() * kWARP;
    unsigned const first = warp / grid->warpsOfBlock() * grid->threads + inBlock;
    unsigned const lanes = grid->threads - inBlock < kWARP ? grid->threads - inBlock : kWARP;
    bool ran = false;
    for (;;)
    {
        unsigned waiting = 0;
        for (unsigned i = 0; i < lanes; ++i)
        {
            unsigned const thread = first + inOrder(i, lanes);
            if (grid->fibers[thread].state == State::kREADY)
            {
                resume(thread);
                ran = true;
            }
        }
        for (unsigned i = 0; i < lanes; ++i)
        {
            waiting += grid->fibers[first + i].state == State::kAT_WARP_BARRIER ? 1 : 0;
        }
        if (waiting == 0)
        {
            return ran;
        }
        if (waiting != lanes)
        {
            stop("a warp-wide operation that not every lane takes part in");
        }
        for (unsigned i = 0; i < lanes; ++i)
        {
            grid->fibers[first + i].state = State::kREADY;
        }
    }
}

// How many threads of [first, first + count) are in a state.
unsigned countOf(State state, unsigned first, unsigned count)
{
    unsigned found = 0;
    for (unsigned i = first; i < first + count; ++i)
    {
        found += grid->fibers[i].state == state ? 1 : 0;
    }
    return found;
}

void release(State state, unsigned first, unsigned count)
{
    for (unsigned i = first; i < first + count; ++i)
    {
        Fiber& fiber = grid->fibers[i];
        fiber.state = fiber.state == state ? State::kREADY : fiber.state;
    }
    grid->events += state == State::kPOLLING ? 0 : 1;
}

// Those of [first, first + count) who wait at a barrier of some warps that is whole.
void releaseSome(unsigned first, unsigned count)
{
    std::map<int32_t, std::vector<Fiber*>> waiting;
    for (unsigned i = first; i < first + count; ++i)
    {
        if (grid->fibers[i].state == State::kAT_SOME_BARRIER)
        {
            waiting[grid->fibers[i].barrier].push_back(&grid->fibers[i]);
        }
    }
    for (auto const& entry : waiting)
    {
        if (static_cast<int32_t>(entry.second.size()) == entry.second.front()->barrierThreads)
        {
            for (Fiber* fiber : entry.second)
            {
                fiber->state = State::kREADY;
            }
            ++grid->events;
        }
    }
}

void runCluster()
{
    unsigned const all = static_cast<unsigned>(grid->fibers.size());
    for (Fiber& fiber : grid->fibers)
    {
        fiber.started = false;
        fiber.state = State::kREADY;
    }
    unsigned const warps = static_cast<unsigned>(grid->warps.size());
    while (countOf(State::kDONE, 0, all) < all)
    {
        uint64_t const before = grid->events;
        for (unsigned i = 0; i < warps; ++i)
        {
            runWarp(inOrder(i, warps));
        }
        for (unsigned first = 0; first < all; first += grid->threads)
        {
            if (countOf(State::kAT_BLOCK_BARRIER, first, grid->threads) == grid->threads)
            {
                release(State::kAT_BLOCK_BARRIER, first, grid->threads);
            }
            releaseSome(first, grid->threads);
        }
        // Threads that have ended are not waited for.
        unsigned const atCluster = countOf(State::kAT_CLUSTER_BARRIER, 0, all);
        if (atCluster != 0 && atCluster + countOf(State::kDONE, 0, all) == all)
        {
            release(State::kAT_CLUSTER_BARRIER, 0, all);
        }
        if (grid->events == before)
        {
            stop("a barrier that some threads have left behind, or never arrive at");
        }
        release(State::kPOLLING, 0, all);
    }
}

Warp& myWarp()
{
    return grid->warps[grid->rank() * grid->warpsOfBlock() + grid->inBlock() / kWARP];
}

float halfAt(uint32_t word, unsigned index)
{
    return __half2float(__half{static_cast<uint16_t>(word >> (16U * index))});
}

int32_t byteAt(uint32_t word, unsigned index)
{
    return static_cast<int8_t>(word >> (8U * index));
}

struct Operands
{
    uint32_t a[4];
    uint32_t b[2];
};

// All products have one shape of fragments, with halves or with pairs of bytes: `kEACH` elements in a
// word, lane 4 r + q holding row r (and r + 8) and the q-th word of each half of the columns. Those of Turing have
// one half of the columns, and of bytes one half of the rows.
template <unsigned kEACH, size_t kSUMS, size_t kSIDES, typename Sum, typename Element>
void multiplyAdd(Sum (&d)[kSUMS], uint32_t const (&a)[kSUMS / 2 * kSIDES], uint32_t const (&b)[kSIDES], Element element)
{
    Operands mine{};
    std::memcpy(mine.a, a, sizeof a);
    std::memcpy(mine.b, b, sizeof b);
    void const* const* all = publish(&mine);
    unsigned const lane = grid->inBlock() % kWARP;
    for (unsigned i = 0; i < kSUMS; ++i)
    {
        unsigned const row = lane / 4 + 8 * (i / 2);
        unsigned const column = 2 * (lane % 4) + i % 2;
        Sum sum = 0;
        for (unsigned k = 0; k < 4 * kSIDES * kEACH; ++k)
        {
            unsigned const side = k / (4 * kEACH);
            unsigned const quarter = (k / kEACH) % 4;
            auto const* left = static_cast<Operands const*>(all[4 * (row % 8) + quarter]);
            auto const* right = static_cast<Operands const*>(all[4 * column + quarter]);
            sum += element(left->a[kSUMS / 2 * side + row / 8], k % kEACH) * element(right->b[side], k % kEACH);
        }
        d[i] += sum;
    }
    syncWarp();
}

} // namespace

unsigned threadIndex() noexcept
{
    return grid->inBlock();
}

unsigned blockIndex() noexcept
{
    return grid->block + grid->rank();
}

unsigned blockSize() noexcept
{
    return grid->threads;
}

unsigned gridSize() noexcept
{
    return grid->blocks;
}

unsigned char* sharedMemory() noexcept
{
    return grid->shared[grid->rank()]->start;
}

unsigned clusterRank() noexcept
{
    return grid->rank();
}

void const* ofCluster(void const* mine, unsigned rank) noexcept
{
    if (rank >= grid->cluster || countOf(State::kDONE, rank * grid->threads, grid->threads) == grid->threads)
    {
        stop("shared memory of a block of the cluster that is not there, or has ended");
    }
    return grid->shared[rank]->start + (static_cast<unsigned char const*>(mine) - sharedMemory());
}

void syncBlock() noexcept
{
    yield(State::kAT_BLOCK_BARRIER);
}

void syncCluster() noexcept
{
    yield(State::kAT_CLUSTER_BARRIER);
}

void syncWarp() noexcept
{
    yield(State::kAT_WARP_BARRIER);
}

void const* const* publish(void const* mine) noexcept
{
    Warp& warp = myWarp();
    warp.published[grid->inBlock() % kWARP] = mine;
    syncWarp();
    return warp.published;
}

void multiplyAddHalf(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2]) noexcept
{
    multiplyAdd<2>(d, a, b, halfAt);
}

void multiplyAddInt8(int32_t (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2]) noexcept
{
    multiplyAdd<4>(d, a, b, byteAt);
}

void multiplyAddHalf(float (&d)[4], uint32_t const (&a)[2], uint32_t const (&b)[1]) noexcept
{
    multiplyAdd<2>(d, a, b, halfAt);
}

void multiplyAddInt8(int32_t (&d)[2], uint32_t const (&a)[1], uint32_t const (&b)[1]) noexcept
{
    multiplyAdd<4>(d, a, b, byteAt);
}

uint32_t fusedHalves(uint32_t a, uint32_t b, uint32_t c) noexcept
{
    uint32_t result = 0;
    for (unsigned i = 0; i < 2; ++i)
    {
        // The product is exact in float64. The sum is rounded there to 53 bits, and to odd on the way to the
        // 24 bits of a float, so that the rounding to half is the only one that counts.
        double const sum = static_cast<double>(halfAt(a, i)) * halfAt(b, i) + halfAt(c, i);
        float near = static_cast<float>(sum);
        uint32_t word;
        std::memcpy(&word, &near, sizeof word);
        if (std::isfinite(sum) && near != sum)
        {
            bool const isLarger = std::fabs(static_cast<double>(near)) > std::fabs(sum);
            word = (isLarger ? word - 1 : word) | 1U;
            std::memcpy(&near, &word, sizeof near);
        }
        result |= static_cast<uint32_t>(__half_as_ushort(__float2half_rn(near))) << (16U * i);
    }
    return result;
}

void loadMatrices(uint32_t (&r)[4], void const* row) noexcept
{
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
    {
        stop("a matrix row that is not on 16 bytes");
    }
    void const* const* all = publish(row);
    unsigned const lane = grid->inBlock() % kWARP;
    for (unsigned matrix = 0; matrix < 4; ++matrix)
    {
        auto const* from = static_cast<unsigned char const*>(all[8 * matrix + lane / 4]);
        std::memcpy(&r[matrix], from + 4 * (lane % 4), sizeof r[matrix]);
    }
    syncWarp();
}

void copyAsync(void* to, void const* from, bool inside) noexcept
{
    if (reinterpret_cast<uintptr_t>(to) % 16 != 0 || (inside && reinterpret_cast<uintptr_t>(from) % 16 != 0))
    {
        stop("an asynchronous copy that is not on 16 bytes");
    }
    grid->fibers[grid->thread].open.push_back(Copy{to, from, inside});
}

void commitCopies() noexcept
{
    Fiber& fiber = grid->fibers[grid->thread];
    fiber.groups.push_back(std::move(fiber.open));
    fiber.open.clear();
}

void waitCopies(int32_t pending) noexcept
{
    Fiber& fiber = grid->fibers[grid->thread];
    while (static_cast<int32_t>(fiber.groups.size()) > pending)
    {
        for (Copy const& copy : fiber.groups.front())
        {
            if (copy.inside)
            {
                std::memcpy(copy.to, copy.from, 16);
            }
            else
            {
                std::memset(copy.to, 0, 16);
            }
        }
        fiber.groups.erase(fiber.groups.begin());
    }
}

namespace
{

// A barrier of shared memory that counts arrivals.
struct Arrivals
{
    uint16_t expected;
    uint16_t left;
    uint32_t phase;
};
static_assert(sizeof(Arrivals) == sizeof(uint64_t), "a barrier is 64 bits");

Arrivals& arrivalsOf(uint64_t* barrier)
{
    if (reinterpret_cast<uintptr_t>(barrier) % 8 != 0)
    {
        stop("a barrier that is not on 8 bytes");
    }
    return *reinterpret_cast<Arrivals*>(barrier);
}

// An element of an operand whose rows are swizzled: PTX manual, "128B swizzle mode" of K-major matrices.
float operandElement(uint64_t operand, unsigned row, unsigned column)
{
    if (operand >> 62U != 1 || ((operand >> 32U) & 0x3FFFU) != 1024 / 16)
    {
        stop("an operand that is no rows of 128 bytes, eight together");
    }
    uint32_t const start = static_cast<uint32_t>(operand & 0x3FFFU) << 4U;
    uint32_t const plain = start + row * 128 + column * 2;
    uint32_t const address = plain ^ (((plain >> 7U) & 7U) << 4U);
    uint16_t word;
    std::memcpy(&word, sharedMemory() + (address - kSHARED_BEGINS), sizeof word);
    return __half2float(__half{word});
}

void multiply(GroupProduct const& product)
{
    unsigned const lane = grid->inBlock() % kWARP;
    unsigned const firstRow = grid->inBlock() / kWARP % 4 * 16;
    for (unsigned i = 0; i < static_cast<unsigned>(product.columns) / 2; ++i)
    {
        unsigned const row = firstRow + lane / 4 + 8 * (i / 2 % 2);
        unsigned const column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
        float sum = 0;
        for (unsigned k = 0; k < 16; ++k)
        {
            sum += operandElement(product.a, row, k) * operandElement(product.b, column, k);
        }
        product.d[i] += sum;
    }
}

} // namespace

uint32_t sharedAddress(void const* pointer) noexcept
{
    return kSHARED_BEGINS + static_cast<uint32_t>(static_cast<unsigned char const*>(pointer) - sharedMemory());
}

void initBarrier(uint64_t* barrier, int32_t arrivals) noexcept
{
    arrivalsOf(barrier) = Arrivals{static_cast<uint16_t>(arrivals), static_cast<uint16_t>(arrivals), 0};
}

void arriveAt(uint64_t* barrier) noexcept
{
    Arrivals& mine = arrivalsOf(barrier);
    if (--mine.left == 0)
    {
        mine.left = mine.expected;
        ++mine.phase;
    }
    ++grid->events;
}

void waitFor(uint64_t* barrier, uint32_t parity) noexcept
{
    while ((arrivalsOf(barrier).phase & 1U) == parity)
    {
        yield(State::kPOLLING);
    }
}

void syncSome(int32_t number, int32_t threads) noexcept
{
    Fiber& fiber = grid->fibers[grid->thread];
    fiber.barrier = number;
    fiber.barrierThreads = threads;
    yield(State::kAT_SOME_BARRIER);
}

void askProduct(float* d, int32_t columns, uint64_t a, uint64_t b) noexcept
{
    grid->fibers[grid->thread].openProducts.push_back(GroupProduct{d, columns, a, b});
}

void endProducts() noexcept
{
    Fiber& fiber = grid->fibers[grid->thread];
    fiber.products.push_back(std::move(fiber.openProducts));
    fiber.openProducts.clear();
}

void waitProducts(int32_t pending) noexcept
{
    Fiber& fiber = grid->fibers[grid->thread];
    while (static_cast<int32_t>(fiber.products.size()) > pending)
    {
        for (GroupProduct const& product : fiber.products.front())
        {
            multiply(product);
        }
        fiber.products.erase(fiber.products.begin());
    }
}

void runGrid(Launch const& launch, void (*body)(void const*), void const* context)
{
    Grid mine{};
    mine.blocks = launch.blocks;
    mine.threads = launch.threads;
    mine.cluster = launch.cluster;
    mine.body = body;
    mine.context = context;
    mine.fibers = std::vector<Fiber>(launch.threads * launch.cluster);
    mine.warps = std::vector<Warp>(mine.warpsOfBlock() * launch.cluster);
    for (unsigned i = 0; i < launch.cluster; ++i)
    {
        mine.shared.push_back(std::make_unique<Shared>(launch.sharedBytes));
    }
    grid = &mine;
    unsigned const clusters = launch.blocks / launch.cluster;
    for (unsigned i = 0; i < clusters; ++i)
    {
        mine.block = inOrder(i, clusters) * launch.cluster;
        for (auto const& shared : mine.shared)
        {
            shared->poison();
        }
        runCluster();
    }
    grid = nullptr;
}

} // namespace emulation
} // namespace degmix

namespace degmix
{
namespace emulation
{
namespace
{

constexpr size_t kWITHOUT_OPT_IN = 48 * 1024;
std::map<std::pair<Card const*, void const*>, int> limits; // of each card's functions
std::mutex limitsMutex;
int32_t limitChanges = 0;

} // namespace

void setSharedLimit(void const* function, int bytes)
{
    std::lock_guard<std::mutex> const lock(limitsMutex);
    auto const entry = limits.emplace(std::make_pair(currentCard, function), bytes);
    if (!entry.second && entry.first->second != bytes)
    {
        ++limitChanges;
        entry.first->second = bytes;
    }
}

bool fitsShared(void const* function, size_t bytes)
{
    std::lock_guard<std::mutex> const lock(limitsMutex);
    auto const entry = limits.find(std::make_pair(currentCard, function));
    return bytes <= (entry == limits.end() ? kWITHOUT_OPT_IN : static_cast<size_t>(entry->second));
}

} // namespace emulation
} // namespace degmix

extern "C" int32_t degmix_emulation_limit_changes()
{
    return degmix::emulation::limitChanges;
}

extern "C" void degmix_emulation_set_order(int32_t order)
{
    degmix::emulation::order = order;
}

extern "C" void degmix_emulation_set_device(int32_t device)
{
    degmix::emulation::currentCard = degmix::emulation::kCARDS + device;
}
