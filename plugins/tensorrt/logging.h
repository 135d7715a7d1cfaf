// Messages of our plugins, to the logger of the process's TensorRT.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace degmix
{
namespace trt
{

// To TensorRT's logger if it is one of the major version that this was compiled for, else to stderr.
void report(std::string const& message) noexcept;

// Keeps the finder for good; nullptr sends all messages to stderr.
void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

} // namespace trt
} // namespace degmix
