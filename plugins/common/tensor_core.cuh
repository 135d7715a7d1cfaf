// Warp-wide products and copies to shared memory, in PTX. The fragment layouts are those of the PTX manual's
// "Matrix Fragments for mma.m16n8k16" and "...k32". Turing (compute capability 7.5) has smaller products and no
// asynchronous copies: what is different there is different here alone.
#pragma once

#include "common/device.cuh"

namespace degmix
{

// Whether this is the code for Turing.
__device__ __forceinline__ bool isTuring()
{
#if defined(DEGMIX_EMULATED)
    return emulation::codeCapability() < 80;
#else
    return kIS_TURING;
#endif
}

// What Turing has of these operations. Every card has it, so that the tests of the emulated kernels and those on
// later cards reach it.
namespace turing
{

// d += a b: a is 16 x 8 and b is 8 x 8, both halves; d is 16 x 8 floats.
__device__ __forceinline__ void multiplyAdd(float (&d)[4], uint32_t const (&a)[2], uint32_t const (&b)[1])
{
#if defined(DEGMIX_EMULATED)
    emulation::multiplyAddHalf(d, a, b);
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]));
#endif
}

// d += a b: a is 8 x 16 and b is 16 x 8, both int8; d is 8 x 8 int32.
__device__ __forceinline__ void multiplyAdd(int32_t (&d)[2], uint32_t const (&a)[1], uint32_t const (&b)[1])
{
#if defined(DEGMIX_EMULATED)
    emulation::multiplyAddInt8(d, a, b);
#else
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};\n"
        : "+r"(d[0]), "+r"(d[1])
        : "r"(a[0]), "r"(b[0]));
#endif
}

// The larger products, of two halves of the depth.
__device__ __forceinline__ void multiplyAdd(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2])
{
#pragma unroll
    for (int32_t side = 0; side < 2; ++side)
    {
        uint32_t const left[2] = {a[2 * side], a[2 * side + 1]};
        uint32_t const right[1] = {b[side]};
        multiplyAdd(d, left, right);
    }
}

// Those of int8 also of two halves of the rows.
__device__ __forceinline__ void multiplyAdd(int32_t (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2])
{
#pragma unroll
    for (int32_t rows = 0; rows < 2; ++rows)
    {
        int32_t sum[2] = {d[2 * rows], d[2 * rows + 1]};
#pragma unroll
        for (int32_t side = 0; side < 2; ++side)
        {
            uint32_t const left[1] = {a[2 * side + rows]};
            uint32_t const right[1] = {b[side]};
            multiplyAdd(sum, left, right);
        }
        d[2 * rows] = sum[0];
        d[2 * rows + 1] = sum[1];
    }
}

// 16 bytes, through registers.
__device__ __forceinline__ void copy(void* to, void const* from, bool inside)
{
    *static_cast<uint4*>(to) = inside ? __ldg(static_cast<uint4 const*>(from)) : uint4{};
}

} // namespace turing

// d += a b: a is 16 x 16 and b is 16 x 8, both halves; d is 16 x 8 floats.
__device__ __forceinline__ void multiplyAdd(float (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2])
{
#if defined(DEGMIX_EMULATED)
    isTuring() ? turing::multiplyAdd(d, a, b) : emulation::multiplyAddHalf(d, a, b);
#elif defined(DEGMIX_TURING)
    turing::multiplyAdd(d, a, b);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// d += a b: a is 16 x 32 and b is 32 x 8, both int8; d is 16 x 8 int32.
__device__ __forceinline__ void multiplyAdd(int32_t (&d)[4], uint32_t const (&a)[4], uint32_t const (&b)[2])
{
#if defined(DEGMIX_EMULATED)
    isTuring() ? turing::multiplyAdd(d, a, b) : emulation::multiplyAddInt8(d, a, b);
#elif defined(DEGMIX_TURING)
    turing::multiplyAdd(d, a, b);
#else
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8 x 16-byte matrices: lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void loadMatrices(uint32_t (&r)[4], void const* row)
{
#if defined(DEGMIX_EMULATED)
    emulation::loadMatrices(r, row);
#else
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(address));
#endif
}

// 16 bytes from global to shared memory; zeros where `inside` is false. They may arrive at once.
__device__ __forceinline__ void copyAsync(void* to, void const* from, bool inside)
{
#if defined(DEGMIX_EMULATED)
    isTuring() ? turing::copy(to, from, inside) : emulation::copyAsync(to, from, inside);
#elif defined(DEGMIX_TURING)
    turing::copy(to, from, inside);
#else
    uint32_t const address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
    int32_t const bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(address), "l"(from), "r"(bytes));
#endif
}

__device__ __forceinline__ void commitCopies()
{
#if defined(DEGMIX_EMULATED)
    emulation::commitCopies();
#elif !defined(DEGMIX_TURING)
    asm volatile("cp.async.commit_group;\n" ::);
#endif
}

// Until at most `kPENDING` of this thread's groups are under way.
template <int32_t kPENDING>
__device__ __forceinline__ void waitCopies()
{
#if defined(DEGMIX_EMULATED)
    emulation::waitCopies(kPENDING);
#elif !defined(DEGMIX_TURING)
    asm volatile("cp.async.wait_group %0;\n" ::"n"(kPENDING) : "memory");
#endif
}

} // namespace degmix
