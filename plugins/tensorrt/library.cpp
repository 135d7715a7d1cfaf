// The functions that the plugin library exports.
#include "tensorrt/creators.h"
#include "tensorrt/logging.h"

#include <NvInferVersion.h>

using namespace nvinfer1;

// What TensorRT looks for in a plugin library. The registry keeps the pointers for good.
extern "C" __attribute__((visibility("default"))) IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    static std::vector<IPluginCreatorInterface*> const creators = []
    {
        std::vector<IPluginCreatorInterface*> all;
        for (auto const& some : {degmix::trt::deformSampleCreators(), degmix::trt::deformOffsetsCreators(),
                 degmix::trt::deformConv2dCreators()})
        {
            all.insert(all.end(), some.begin(), some.end());
        }
        return all;
    }();
    count = static_cast<int32_t>(creators.size());
    return creators.data();
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(ILoggerFinder* finder)
{
    degmix::trt::setLoggerFinder(finder);
}

// The major version of the headers that this was compiled with.
extern "C" __attribute__((visibility("default"))) int32_t degmix_tensorrt_major()
{
    return NV_TENSORRT_MAJOR;
}
