// What happens to a sum before it is stored.
#pragma once

#include "common/device.cuh"
#include "common/types.h"

namespace degmix
{

__device__ __forceinline__ float activate(float value, Activation activation)
{
    if (activation == Activation::kRELU)
    {
        return fmaxf(value, 0.F);
    }
    if (activation == Activation::kGELU)
    {
        constexpr float kONE_OVER_ROOT_TWO = 0.70710678118654752F;
        return 0.5F * value * (1.F + erff(value * kONE_OVER_ROOT_TWO));
    }
    return value;
}

__device__ __forceinline__ float loadAs(void const* data, int64_t index, Type type)
{
    return type == Type::kFLOAT ? static_cast<float const*>(data)[index]
                                : toFloat(static_cast<__half const*>(data)[index]);
}

__device__ __forceinline__ void storeAs(void* data, int64_t index, float value, Type type, float scale)
{
    switch (type)
    {
    case Type::kFLOAT: static_cast<float*>(data)[index] = value; break;
    case Type::kHALF: static_cast<__half*>(data)[index] = fromFloat<__half>(value); break;
    case Type::kINT8: static_cast<int8_t*>(data)[index] = fromFloat<int8_t>(value / scale); break;
    }
}

} // namespace degmix
