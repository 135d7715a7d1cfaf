// The kernels behind a C interface, for tests and benchmarks; plugins call the C++ functions.
//
// Parameters are the operators' structs, which are plain C. Functions that launch return a cudaError_t:
// 0 is success, and they do not wait for the stream.
#pragma once

#include "deform_conv2d/deform_conv2d.h"
#include "deform_offsets/deform_offsets.h"
#include "deform_sample/deform_sample.h"
#include "fit_image/fit_image.h"

#define DEGMIX_API extern "C" __attribute__((visibility("default")))

DEGMIX_API char const* degmix_kernels_version();
DEGMIX_API char const* degmix_error_string(int32_t status);

DEGMIX_API int32_t degmix_deform_sample(degmix::DeformSampleParams const* params, void* stream);
DEGMIX_API char const* degmix_deform_sample_check(degmix::DeformSampleParams const* params);
DEGMIX_API void degmix_deform_sample_plan(
    degmix::DeformSampleParams const* params, degmix::DeviceLimits const* limits, degmix::DeformSampleLaunch* plan);

DEGMIX_API int32_t degmix_deform_conv2d(degmix::DeformConv2dParams const* params, void* stream);
DEGMIX_API char const* degmix_deform_conv2d_check(degmix::DeformConv2dParams const* params);
DEGMIX_API void degmix_deform_conv2d_plan(
    degmix::DeformConv2dParams const* params, degmix::DeviceLimits const* limits, degmix::DeformConv2dLaunch* plan);

DEGMIX_API int32_t degmix_deform_offsets(degmix::DeformOffsetsParams const* params, void* stream);
DEGMIX_API char const* degmix_deform_offsets_check(degmix::DeformOffsetsParams const* params);

DEGMIX_API int32_t degmix_fit_image(degmix::FitImageParams const* params, void* stream);
DEGMIX_API char const* degmix_fit_image_check(degmix::FitImageParams const* params);

// The index and weight arithmetic alone, on the host: for each of `count` places the four pixel indices
// and weights.
DEGMIX_API void degmix_corners(
    float const* y, float const* x, int64_t count, int32_t height, int32_t width, int32_t* index, float* weight);
