#include "tensorrt/creators.h"

#include "tensorrt/logging.h"
#include "tensorrt/plugin.h"

#include <stdexcept>
#include <utility>

using namespace nvinfer1;

namespace degmix
{
namespace trt
{

Creator::Creator(char const* name, char const* nameSpace, std::vector<Attribute> attributes, Make make)
    : mName(name)
    , mNamespace(nameSpace)
    , mAttributes(std::move(attributes))
    , mMake(make)
{
    for (Attribute const& attribute : mAttributes)
    {
        PluginFieldType const type = attribute.count < 0 ? PluginFieldType::kFLOAT32
            : attribute.count == 0                       ? PluginFieldType::kCHAR
                                                         : PluginFieldType::kINT32;
        mFields.emplace_back(attribute.name, nullptr, type, attribute.count > 0 ? attribute.count : 1);
    }
    mCollection.nbFields = static_cast<int32_t>(mFields.size());
    mCollection.fields = mFields.data();
}

IPluginV3* Creator::createPlugin(char const*, PluginFieldCollection const* fields, TensorRTPhase) noexcept
{
    try
    {
        PluginFieldCollection const none{0, nullptr};
        return mMake(mNamespace, Attributes(mName, mAttributes, fields == nullptr ? none : *fields));
    }
    catch (std::exception const& error)
    {
        report(error.what());
        return nullptr;
    }
}

PluginFieldCollection const* Creator::getFieldNames() noexcept
{
    return &mCollection;
}

char const* Creator::getPluginName() const noexcept
{
    return mName;
}

char const* Creator::getPluginVersion() const noexcept
{
    return kVERSION;
}

char const* Creator::getPluginNamespace() const noexcept
{
    return mNamespace;
}

} // namespace trt
} // namespace degmix
