#include "kernels/degmix_kernels.h"

#include "common/bilinear.cuh"

char const* degmix_kernels_version()
{
    return "1";
}

char const* degmix_error_string(int32_t status)
{
    return cudaGetErrorString(static_cast<cudaError_t>(status));
}

int32_t degmix_deform_sample(degmix::DeformSampleParams const* params, void* stream)
{
    return degmix::deformSample(*params, static_cast<cudaStream_t>(stream));
}

char const* degmix_deform_sample_check(degmix::DeformSampleParams const* params)
{
    return degmix::checkDeformSample(*params);
}

void degmix_deform_sample_plan(
    degmix::DeformSampleParams const* params, degmix::DeviceLimits const* limits, degmix::DeformSampleLaunch* plan)
{
    *plan = degmix::planDeformSample(*params, *limits);
}

int32_t degmix_deform_conv2d(degmix::DeformConv2dParams const* params, void* stream)
{
    return degmix::deformConv2d(*params, static_cast<cudaStream_t>(stream));
}

char const* degmix_deform_conv2d_check(degmix::DeformConv2dParams const* params)
{
    return degmix::checkDeformConv2d(*params);
}

void degmix_deform_conv2d_plan(
    degmix::DeformConv2dParams const* params, degmix::DeviceLimits const* limits, degmix::DeformConv2dLaunch* plan)
{
    *plan = degmix::planDeformConv2d(*params, *limits);
}

int32_t degmix_deform_offsets(degmix::DeformOffsetsParams const* params, void* stream)
{
    return degmix::deformOffsets(*params, static_cast<cudaStream_t>(stream));
}

char const* degmix_deform_offsets_check(degmix::DeformOffsetsParams const* params)
{
    return degmix::checkDeformOffsets(*params);
}

int32_t degmix_fit_image(degmix::FitImageParams const* params, void* stream)
{
    return degmix::fitImage(*params, static_cast<cudaStream_t>(stream));
}

char const* degmix_fit_image_check(degmix::FitImageParams const* params)
{
    return degmix::checkFitImage(*params);
}

void degmix_corners(
    float const* y, float const* x, int64_t count, int32_t height, int32_t width, int32_t* index, float* weight)
{
    for (int64_t i = 0; i < count; ++i)
    {
        degmix::Corners const corners
            = degmix::cornersOf(degmix::placeOf(y[i], x[i], height, width), height, width, 1.F);
        for (int32_t corner = 0; corner < 4; ++corner)
        {
            index[4 * i + corner] = corners.index[corner];
            weight[4 * i + corner] = corners.weight[corner];
        }
    }
}
