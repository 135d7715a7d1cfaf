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
#include <vector>

namespace degmix
{
namespace emulation
{
namespace
{

constexpr size_t kSTACK = 128 * 1024;
constexpr unsigned kWARP = 32;

enum class State
{
    kREADY,
    kAT_WARP_BARRIER,
    kAT_BLOCK_BARRIER,
    kDONE,
};

struct Copy
{
    void* to;
    void const* from;
    bool inside;
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

struct Grid
{
    unsigned blocks;
    unsigned threads;
    unsigned block;
    unsigned thread;
    unsigned char* shared;
    void (*body)(void const*);
    void const* context;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    jmp_buf scheduler;
};

thread_local Grid* grid = nullptr;
int32_t order = 0;

[[noreturn]] void stop(char const* why)
{
    std::fprintf(stderr, "emulated kernel, block %u: %s\n", grid->block, why);
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
    if (!fiber.open.empty() || !fiber.groups.empty())
    {
        stop("a thread ended with copies that nobody waited for");
    }
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
    unsigned const first = warp * kWARP;
    unsigned const lanes = grid->threads - first < kWARP ? grid->threads - first : kWARP;
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

void runBlock()
{
    for (Fiber& fiber : grid->fibers)
    {
        fiber.started = false;
        fiber.state = State::kREADY;
    }
    unsigned const warps = static_cast<unsigned>(grid->warps.size());
    for (;;)
    {
        for (unsigned i = 0; i < warps; ++i)
        {
            runWarp(inOrder(i, warps));
        }
        unsigned done = 0;
        for (Fiber const& fiber : grid->fibers)
        {
            done += fiber.state == State::kDONE ? 1 : 0;
        }
        if (done == grid->threads)
        {
            return;
        }
        if (done != 0)
        {
            stop("a barrier of the block that some threads have left behind");
        }
        for (Fiber& fiber : grid->fibers)
        {
            fiber.state = State::kREADY;
        }
    }
}

Warp& myWarp()
{
    return grid->warps[grid->thread / kWARP];
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

// Both products have one shape of fragments, with halves or with pairs of bytes: `kEACH` elements in a
// word, lane 4 r + q holding row r (and r + 8) and the q-th word of each half of the columns.
template <unsigned kEACH, typename Sum, typename Element>
void multiplyAdd(Sum (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2], Element element)
{
    Operands mine;
    std::memcpy(mine.a, a, sizeof mine.a);
    std::memcpy(mine.b, b, sizeof mine.b);
    void const* const* all = publish(&mine);
    unsigned const lane = grid->thread % kWARP;
    for (unsigned i = 0; i < 4; ++i)
    {
        unsigned const row = lane / 4 + 8 * (i / 2);
        unsigned const column = 2 * (lane % 4) + i % 2;
        Sum sum = 0;
        for (unsigned k = 0; k < 8 * kEACH; ++k)
        {
            unsigned const side = k / (4 * kEACH);
            unsigned const quarter = (k / kEACH) % 4;
            auto const* left = static_cast<Operands const*>(all[4 * (row % 8) + quarter]);
            auto const* right = static_cast<Operands const*>(all[4 * column + quarter]);
            sum += element(left->a[2 * side + row / 8], k % kEACH) * element(right->b[side], k % kEACH);
        }
        d[i] += sum;
    }
    syncWarp();
}

} // namespace

unsigned threadIndex() noexcept
{
    return grid->thread;
}

unsigned blockIndex() noexcept
{
    return grid->block;
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
    return grid->shared;
}

void syncBlock() noexcept
{
    yield(State::kAT_BLOCK_BARRIER);
}

void syncWarp() noexcept
{
    yield(State::kAT_WARP_BARRIER);
}

void const* const* publish(void const* mine) noexcept
{
    Warp& warp = myWarp();
    warp.published[grid->thread % kWARP] = mine;
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
    unsigned const lane = grid->thread % kWARP;
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

void runGrid(unsigned blocks, unsigned threads, size_t sharedBytes, void (*body)(void const*), void const* context)
{
    Shared shared(sharedBytes);
    Grid mine{};
    mine.blocks = blocks;
    mine.threads = threads;
    mine.shared = shared.start;
    mine.body = body;
    mine.context = context;
    mine.fibers = std::vector<Fiber>(threads);
    mine.warps = std::vector<Warp>((threads + kWARP - 1) / kWARP);
    grid = &mine;
    for (unsigned i = 0; i < blocks; ++i)
    {
        mine.block = inOrder(i, blocks);
        shared.poison();
        runBlock();
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
std::map<void const*, int> limits;
std::mutex limitsMutex;
int32_t limitChanges = 0;

} // namespace

void setSharedLimit(void const* function, int bytes)
{
    std::lock_guard<std::mutex> const lock(limitsMutex);
    auto const entry = limits.emplace(function, bytes);
    if (!entry.second && entry.first->second != bytes)
    {
        ++limitChanges;
        entry.first->second = bytes;
    }
}

bool fitsShared(void const* function, size_t bytes)
{
    std::lock_guard<std::mutex> const lock(limitsMutex);
    auto const entry = limits.find(function);
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
