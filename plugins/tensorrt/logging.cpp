#include "tensorrt/logging.h"

#include <NvInferVersion.h>

#include <dlfcn.h>

#include <cstdio>

using namespace nvinfer1;

namespace degmix
{
namespace trt
{
namespace
{

ILoggerFinder* loggerFinder = nullptr;

// Loggers changed their layout with TensorRT 11: one of another major version must not be called.
bool isOurMajor() noexcept
{
    using Version = int32_t (*)();
    auto const version = reinterpret_cast<Version>(dlsym(RTLD_DEFAULT, "getInferLibVersion"));
    constexpr int32_t kPER_MAJOR = 10000;
    return version != nullptr && version() / kPER_MAJOR == NV_TENSORRT_MAJOR;
}

} // namespace

void setLoggerFinder(ILoggerFinder* finder) noexcept
{
    loggerFinder = finder;
}

void report(std::string const& message) noexcept
{
    std::string const line = "degmix: " + message;
    if (loggerFinder != nullptr && isOurMajor())
    {
        ILogger* logger = loggerFinder->findLogger();
        if (logger != nullptr)
        {
            logger->log(ILogger::Severity::kERROR, line.c_str());
            return;
        }
    }
    std::fprintf(stderr, "%s\n", line.c_str());
}

} // namespace trt
} // namespace degmix
