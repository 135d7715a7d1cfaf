// Warp-wide products and asynchronous copies: PTX of compute capability 8.0 and later. The fragment
// layouts are those of the PTX manual's "Matrix Fragments for mma.m16n8k16" and "...k32".
#pragma once

#include "common/device.cuh"

namespace degmix
{

#if !defined(DEGMIX_EMULATED)

// d += a b: a is 16 x 16 and b is 16 x 8, both halves; d is 16 x 8 floats.
__device__ __forceinline__ void multiplyAdd(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d += a b: a is 16 x 32 and b is 32 x 8, both int8; d is 16 x 8 int32.
__device__ __forceinline__ void multiplyAdd(int32_t (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2])
{
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 16-byte matrices: lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void loadMatrices(uint32_t (&r)[4], void const* row)
{
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(address));
}

// 16 bytes from global to shared memory; zeros where `inside` is false.
__device__ __forceinline__ void copyAsync(void* to, void const* from, bool inside)
{
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    int32_t const bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(from), "r"(bytes));
}

__device__ __forceinline__ void commitCopies()
{
    asm volatile("cp.async.commit_group;\n" ::);
}

// Until at most `kPENDING` of this thread's groups are under way.
template <int32_t kPENDING>
__device__ __forceinline__ void waitCopies()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPENDING) : "memory");
}

#else

__device__ inline void multiplyAdd(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2])
{
    emulation::multiplyAddHalf(d, a, b);
}

__device__ inline void multiplyAdd(int32_t (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2])
{
    emulation::multiplyAddInt8(d, a, b);
}

__device__ inline void loadMatrices(uint32_t (&r)[4], void const* row)
{
    emulation::loadMatrices(r, row);
}

__device__ inline void copyAsync(void* to, void const* from, bool inside)
{
    emulation::copyAsync(to, from, inside);
}

__device__ inline void commitCopies()
{
    emulation::commitCopies();
}

template <int32_t kPENDING>
__device__ inline void waitCopies()
{
    emulation::waitCopies(kPENDING);
}

#endif

} // namespace degmix
