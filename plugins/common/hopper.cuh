// What only compute capability 9.0 has: barriers of shared memory that count arrivals, and products of whole
// groups of four warps, whose operands lie in shared memory. Compiled for sm_90a alone.
#pragma once

#include "common/block.cuh"

namespace degmix
{

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(DEGMIX_EMULATED)
#define DEGMIX_HAS_GROUPS 1
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ uint32_t sharedAddress(void const* pointer)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void initBarrier(uint64_t* barrier, int32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(sharedAddress(barrier)), "r"(arrivals) : "memory");
}

// New barriers are seen by all.
__device__ __forceinline__ void showBarriers()
{
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

__device__ __forceinline__ void arriveAt(uint64_t* barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(sharedAddress(barrier)) : "memory");
}

// Until the phase of a parity is complete.
__device__ __forceinline__ void waitFor(uint64_t* barrier, uint32_t parity)
{
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "AGAIN:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra DONE;\n"
        "bra AGAIN;\n"
        "DONE:\n"
        "}\n" ::"r"(sharedAddress(barrier)),
        "r"(parity)
        : "memory");
}

// A barrier of some warps, by number; 0 is that of the block.
template <int32_t kNUMBER, int32_t kTHREADS>
__device__ __forceinline__ void syncSome()
{
    asm volatile("bar.sync %0, %1;\n" ::"n"(kNUMBER), "n"(kTHREADS) : "memory");
}

template <int32_t kREGISTERS>
__device__ __forceinline__ void takeRegisters()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(kREGISTERS));
}

template <int32_t kREGISTERS>
__device__ __forceinline__ void giveRegisters()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(kREGISTERS));
}

// What was written to shared memory before, by this thread or by those it has waited for, is seen by products that
// it issues after.
__device__ __forceinline__ void showToProducts()
{
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
}

__device__ __forceinline__ void beginProducts()
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

__device__ __forceinline__ void endProducts()
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

template <int32_t kPENDING>
__device__ __forceinline__ void waitProducts()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(kPENDING) : "memory");
}

// d += a b: a is 64 x 16 and b is 64 x 16 halves; d is 64 x 64 floats, 16 rows a warp.
__device__ __forceinline__ void multiplyAddGroup(float (&d)[1][8][4], uint64_t a, uint64_t b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, 1, 1, 1, 0, 0;\n"
        : "+f"(d[0][0][0]), "+f"(d[0][0][1]), "+f"(d[0][0][2]), "+f"(d[0][0][3]), "+f"(d[0][1][0]), "+f"(d[0][1][1]),
        "+f"(d[0][1][2]), "+f"(d[0][1][3]), "+f"(d[0][2][0]), "+f"(d[0][2][1]), "+f"(d[0][2][2]), "+f"(d[0][2][3]),
        "+f"(d[0][3][0]), "+f"(d[0][3][1]), "+f"(d[0][3][2]), "+f"(d[0][3][3]), "+f"(d[0][4][0]), "+f"(d[0][4][1]),
        "+f"(d[0][4][2]), "+f"(d[0][4][3]), "+f"(d[0][5][0]), "+f"(d[0][5][1]), "+f"(d[0][5][2]), "+f"(d[0][5][3]),
        "+f"(d[0][6][0]), "+f"(d[0][6][1]), "+f"(d[0][6][2]), "+f"(d[0][6][3]), "+f"(d[0][7][0]), "+f"(d[0][7][1]),
        "+f"(d[0][7][2]), "+f"(d[0][7][3])
        : "l"(a), "l"(b));
}

// d += a b: a is 64 x 16 and b is 128 x 16 halves; d is 64 x 128 floats, 16 rows a warp.
__device__ __forceinline__ void multiplyAddGroup(float (&d)[1][16][4], uint64_t a, uint64_t b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, 1, 1, 1, 0, 0;\n"
        : "+f"(d[0][0][0]), "+f"(d[0][0][1]), "+f"(d[0][0][2]), "+f"(d[0][0][3]), "+f"(d[0][1][0]), "+f"(d[0][1][1]),
        "+f"(d[0][1][2]), "+f"(d[0][1][3]), "+f"(d[0][2][0]), "+f"(d[0][2][1]), "+f"(d[0][2][2]), "+f"(d[0][2][3]),
        "+f"(d[0][3][0]), "+f"(d[0][3][1]), "+f"(d[0][3][2]), "+f"(d[0][3][3]), "+f"(d[0][4][0]), "+f"(d[0][4][1]),
        "+f"(d[0][4][2]), "+f"(d[0][4][3]), "+f"(d[0][5][0]), "+f"(d[0][5][1]), "+f"(d[0][5][2]), "+f"(d[0][5][3]),
        "+f"(d[0][6][0]), "+f"(d[0][6][1]), "+f"(d[0][6][2]), "+f"(d[0][6][3]), "+f"(d[0][7][0]), "+f"(d[0][7][1]),
        "+f"(d[0][7][2]), "+f"(d[0][7][3]), "+f"(d[0][8][0]), "+f"(d[0][8][1]), "+f"(d[0][8][2]), "+f"(d[0][8][3]),
        "+f"(d[0][9][0]), "+f"(d[0][9][1]), "+f"(d[0][9][2]), "+f"(d[0][9][3]), "+f"(d[0][10][0]), "+f"(d[0][10][1]),
        "+f"(d[0][10][2]), "+f"(d[0][10][3]), "+f"(d[0][11][0]), "+f"(d[0][11][1]), "+f"(d[0][11][2]),
        "+f"(d[0][11][3]), "+f"(d[0][12][0]), "+f"(d[0][12][1]), "+f"(d[0][12][2]), "+f"(d[0][12][3]),
        "+f"(d[0][13][0]), "+f"(d[0][13][1]), "+f"(d[0][13][2]), "+f"(d[0][13][3]), "+f"(d[0][14][0]),
        "+f"(d[0][14][1]), "+f"(d[0][14][2]), "+f"(d[0][14][3]), "+f"(d[0][15][0]), "+f"(d[0][15][1]),
        "+f"(d[0][15][2]), "+f"(d[0][15][3])
        : "l"(a), "l"(b));
}

#elif defined(DEGMIX_EMULATED)

using emulation::arriveAt;
using emulation::endProducts;
using emulation::initBarrier;
using emulation::sharedAddress;
using emulation::waitFor;

template <int32_t kNUMBER, int32_t kTHREADS>
inline void syncSome()
{
    emulation::syncSome(kNUMBER, kTHREADS);
}

template <int32_t kREGISTERS>
inline void takeRegisters()
{
}

template <int32_t kREGISTERS>
inline void giveRegisters()
{
}

inline void showBarriers() {}

inline void showToProducts() {}

inline void beginProducts() {}

template <int32_t kPENDING>
inline void waitProducts()
{
    emulation::waitProducts(kPENDING);
}

template <int32_t kFRAGMENTS>
inline void multiplyAddGroup(float (&d)[1][kFRAGMENTS][4], uint64_t a, uint64_t b)
{
    emulation::askProduct(&d[0][0][0], 8 * kFRAGMENTS, a, b);
}

#endif

#if defined(DEGMIX_HAS_GROUPS)

// Rows of 128 bytes, the 16-byte parts of row r at places part ^ (r & 7); the first row on 1024 bytes.
__device__ __forceinline__ uint64_t operandAt(void const* rows)
{
    constexpr uint64_t kEIGHT_ROWS = 1024 / 16;
    constexpr uint64_t kSWIZZLE_128 = 1;
    return (static_cast<uint64_t>(sharedAddress(rows) & 0x3FFFFU) >> 4U) | (1ULL << 16U) | (kEIGHT_ROWS << 32U)
        | (kSWIZZLE_128 << 62U);
}

#endif

} // namespace degmix
