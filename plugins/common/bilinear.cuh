// Where a sample lies and how much each neighbour counts. All kernels and the host reference use this
// one copy. Coordinates are float32 whatever the values are: offsets reach 100 pixels, and half a
// pixel's worth of rounding there is percents of the result.
#pragma once

#include "common/device.cuh"

namespace degmix
{

// The upper left neighbour, in [-1, size], and the fractions towards the lower right one.
struct Place
{
    int32_t row;
    int32_t column;
    float fy;
    float fx;
};

// Clamping comes before the integer conversion: offsets may be anything, infinite too. Between -1 and
// size the clamp changes nothing; at either end all that is sampled is outside, which is zero.
// fmaxf drops a NaN, which therefore samples outside.
__host__ __device__ __forceinline__ float clampCoordinate(float at, float size)
{
    return fminf(fmaxf(at, -1.F), size);
}

__host__ __device__ __forceinline__ Place placeOf(float y, float x, float height, float width)
{
    float const atY = clampCoordinate(y, height);
    float const atX = clampCoordinate(x, width);
    // Down to an integer and back is one conversion less than a floor and a conversion.
    int32_t const row = floorToInt(atY);
    int32_t const column = floorToInt(atX);
    return Place{row, column, atY - static_cast<float>(row), atX - static_cast<float>(column)};
}

// Two products less than four weights, and exact where both neighbours are equal.
__host__ __device__ __forceinline__ float blend(
    float topLeft, float topRight, float bottomLeft, float bottomRight, float fy, float fx)
{
    float const top = topLeft + fx * (topRight - topLeft);
    float const bottom = bottomLeft + fx * (bottomRight - bottomLeft);
    return top + fy * (bottom - top);
}

// The four weights and places of a sample that is read from memory without a ring of zeros around it.
// A neighbour outside has weight zero and is read at a place inside.
struct Corners
{
    int32_t index[4]; // pixels from the plane's first
    float weight[4];
};

__host__ __device__ __forceinline__ Corners cornersOf(Place const& place, int32_t height, int32_t width, float share)
{
    Corners corners;
    for (int32_t i = 0; i < 4; ++i)
    {
        int32_t const row = place.row + (i >> 1);
        int32_t const column = place.column + (i & 1);
        bool const inside = row >= 0 && row < height && column >= 0 && column < width;
        float const fy = (i >> 1) != 0 ? place.fy : 1.F - place.fy;
        float const fx = (i & 1) != 0 ? place.fx : 1.F - place.fx;
        corners.index[i] = inside ? row * width + column : 0;
        corners.weight[i] = inside ? share * fy * fx : 0.F;
    }
    return corners;
}

// One axis of such a sample: both neighbours, at places inside, and their weights, zero outside; the farther one,
// which weighs less, first.
struct Neighbours
{
    int32_t at[2];
    float weight[2];
};

__host__ __device__ __forceinline__ Neighbours neighboursOf(float coordinate, int32_t size)
{
    float const clamped = clampCoordinate(coordinate, size);
    int32_t const first = floorToInt(clamped);
    float const fraction = clamped - static_cast<float>(first);
    float const weight = static_cast<uint32_t>(first) < static_cast<uint32_t>(size) ? 1.F - fraction : 0.F;
    float const next = first + 1 < size ? fraction : 0.F;
    int32_t const at = first < 0 ? 0 : first < size ? first : size - 1;
    int32_t const nextAt = first + 1 < size ? first + 1 : size - 1;
    bool const isNextFar = next < weight;
    return Neighbours{
        {isNextFar ? nextAt : at, isNextFar ? at : nextAt}, {isNextFar ? next : weight, isNextFar ? weight : next}};
}

} // namespace degmix
