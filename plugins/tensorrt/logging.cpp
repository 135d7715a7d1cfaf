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

// Loggers changed their layout with TensorRT 11: one of another major version must not be called. The version
// is asked of the library that the finder's code is in: bindings load it where RTLD_DEFAULT does not look.
bool isOurMajor(ILoggerFinder const* finder) noexcept
{
    Dl_info info{};
    if (dladdr(*reinterpret_cast<void* const*>(finder), &info) == 0)
    {
        return false;
    }
    void* library = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr)
    {
        return false;
    }
    using Version = int32_t (*)();
    auto const version = reinterpret_cast<Version>(dlsym(library, "getInferLibVersion"));
    constexpr int32_t kPER_MAJOR = 10000;
    bool const isOurs = version != nullptr && version() / kPER_MAJOR == NV_TENSORRT_MAJOR;
    dlclose(library);
    return isOurs;
}

} // namespace

void setLoggerFinder(ILoggerFinder* finder) noexcept
{
    loggerFinder = finder;
}

void report(std::string const& message) noexcept
{
    std::string const line = "degmix: " + message;
    if (loggerFinder != nullptr && isOurMajor(loggerFinder))
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
