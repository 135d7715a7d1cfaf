// IEEE half in software, rounding to nearest even.
#pragma once

#include <cstdint>
#include <cstring>

struct __half
{
    uint16_t word;
};

inline unsigned short __half_as_ushort(__half value)
{
    return value.word;
}

inline __half __ushort_as_half(unsigned short word)
{
    return __half{word};
}

inline float __half2float(__half value)
{
    uint32_t const sign = static_cast<uint32_t>(value.word & 0x8000U) << 16U;
    uint32_t const exponent = (value.word >> 10U) & 0x1FU;
    uint32_t const fraction = value.word & 0x3FFU;
    float result;
    if (exponent == 0)
    {
        result = static_cast<float>(fraction) * 0x1p-24F; // zero and subnormals
        uint32_t word;
        std::memcpy(&word, &result, sizeof word);
        word |= sign;
        std::memcpy(&result, &word, sizeof word);
        return result;
    }
    uint32_t const word = sign | (exponent == 31 ? 0x7F800000U : (exponent + 112U) << 23U) | (fraction << 13U);
    std::memcpy(&result, &word, sizeof word);
    return result;
}

inline __half __float2half_rn(float value)
{
    uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    uint16_t const sign = static_cast<uint16_t>((word >> 16U) & 0x8000U);
    uint32_t const magnitude = word & 0x7FFFFFFFU;
    if (magnitude > 0x7F800000U)
    {
        return __half{static_cast<uint16_t>(sign | 0x7FFFU)};
    }
    if (magnitude >= 0x477FF000U) // rounds to infinity
    {
        return __half{static_cast<uint16_t>(sign | 0x7C00U)};
    }
    if (magnitude < 0x38800000U) // below the smallest normal: multiples of 2^-24, ties to even
    {
        float scaled;
        std::memcpy(&scaled, &magnitude, sizeof scaled);
        scaled = scaled * 0x1p24F + 0x1p23F; // adding 2^23 rounds to an integer
        uint32_t rounded;
        std::memcpy(&rounded, &scaled, sizeof rounded);
        return __half{static_cast<uint16_t>(sign | (rounded & 0xFFFFU))};
    }
    uint32_t const even = (magnitude >> 13U) & 1U;
    return __half{static_cast<uint16_t>(sign | ((magnitude - 0x38000000U + 0xFFFU + even) >> 13U))};
}
