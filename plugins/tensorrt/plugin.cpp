#include "tensorrt/plugin.h"

#include "tensorrt/logging.h"

#include <stdexcept>

using namespace nvinfer1;

namespace degmix
{
namespace trt
{

Type typeOf(DataType type)
{
    switch (type)
    {
    case DataType::kFLOAT: return Type::kFLOAT;
    case DataType::kHALF: return Type::kHALF;
    case DataType::kINT8: return Type::kINT8;
    default: throw std::invalid_argument("unsupported type; expected float32, float16 or int8");
    }
}

std::string shapeText(Dims const& dims)
{
    std::string text = "(";
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        text += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
    }
    return text + ")";
}

Plugin::Plugin(char const* name, char const* nameSpace, Attributes const& attributes)
    : mAttributes(attributes)
    , mName(name)
    , mNamespace(nameSpace)
    , mTimingCacheId(std::string(name) + " " DEGMIX_KERNELS_DIGEST + mAttributes.json())
    , mMetadata(std::string("{\"op\": \"") + name + "\", \"attributes\": " + mAttributes.json() + "}")
{
}

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept
{
    switch (type)
    {
    case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
    case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
    case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

char const* Plugin::getPluginName() const noexcept
{
    return mName;
}

char const* Plugin::getPluginVersion() const noexcept
{
    return kVERSION;
}

char const* Plugin::getPluginNamespace() const noexcept
{
    return mNamespace;
}

int32_t Plugin::getNbOutputs() const noexcept
{
    return 1;
}

std::vector<int32_t> Plugin::tactics() const
{
    return {};
}

int32_t Plugin::getNbTactics() noexcept
{
    return static_cast<int32_t>(tactics().size());
}

int32_t Plugin::getValidTactics(int32_t* tactics, int32_t count) noexcept
{
    std::vector<int32_t> const have = this->tactics();
    for (int32_t i = 0; i < count && i < static_cast<int32_t>(have.size()); ++i)
    {
        tactics[i] = have[static_cast<size_t>(i)];
    }
    return 0;
}

int32_t Plugin::setTactic(int32_t tactic) noexcept
{
    mTactic = tactic;
    return 0;
}

char const* Plugin::getTimingCacheID() noexcept
{
    return mTimingCacheId.c_str();
}

char const* Plugin::getMetadataString() noexcept
{
    return mMetadata.c_str();
}

int32_t Plugin::configurePlugin(
    DynamicPluginTensorDesc const* in, int32_t inputs, DynamicPluginTensorDesc const*, int32_t) noexcept
{
    try
    {
        std::vector<PluginTensorDesc> descs;
        for (int32_t i = 0; i < inputs; ++i)
        {
            descs.push_back(in[i].desc);
        }
        checkShapes(descs.data(), inputs);
        return 0;
    }
    catch (std::exception const& error)
    {
        report(error.what());
        return -1;
    }
}

int32_t Plugin::getOutputDataTypes(
    DataType* outputTypes, int32_t outputs, DataType const* inputTypes, int32_t) const noexcept
{
    for (int32_t i = 0; i < outputs; ++i)
    {
        outputTypes[i] = inputTypes[0];
    }
    return 0;
}

int32_t Plugin::onShapeChange(PluginTensorDesc const* in, int32_t inputs, PluginTensorDesc const* out, int32_t) noexcept
{
    try
    {
        checkShapes(in, inputs);
        prepare(in, inputs, out);
        mIsPrepared = true;
        return 0;
    }
    catch (std::exception const& error)
    {
        report(error.what());
        return -1;
    }
}

int32_t Plugin::enqueue(PluginTensorDesc const*, PluginTensorDesc const*, void const* const* inputs,
    void* const* outputs, void*, cudaStream_t stream) noexcept
{
    try
    {
        if (!mIsPrepared)
        {
            refuse("enqueued before its shapes are known");
        }
        cudaError_t const status = launch(inputs, outputs, stream);
        if (status != cudaSuccess)
        {
            refuse(std::string("CUDA: ") + cudaGetErrorString(status));
        }
        return 0;
    }
    catch (std::exception const& error)
    {
        report(error.what());
        return -1;
    }
}

IPluginV3* Plugin::attachToContext(IPluginResourceContext*) noexcept
{
    return clone();
}

PluginFieldCollection const* Plugin::getFieldsToSerialize() noexcept
{
    return mAttributes.fields();
}

void Plugin::refuse(std::string const& what) const
{
    throw std::invalid_argument(std::string(mName) + ": " + what);
}

} // namespace trt
} // namespace degmix
