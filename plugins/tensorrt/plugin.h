// The base of our TensorRT plugins: the glue of IPluginV3, serialization, errors.
//
// Only interfaces of TensorRT's headers are used and nothing of its libraries, so the plugin loads
// wherever the headers' major version is the process's.
#pragma once

#include "common/types.h"
#include "tensorrt/attributes.h"

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace degmix
{
namespace trt
{

constexpr char const* kVERSION = "1";

Type typeOf(nvinfer1::DataType type);

inline bool isFloating(nvinfer1::DataType type) noexcept
{
    return type == nvinfer1::DataType::kFLOAT || type == nvinfer1::DataType::kHALF;
}

// The base of all plugins. Derived classes say what the operator is; this says how a plugin is one.
class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime
{
public:
    Plugin(char const* name, char const* nameSpace, Attributes const& attributes);

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;
    int32_t getNbOutputs() const noexcept override;
    int32_t getNbTactics() noexcept override;
    int32_t getValidTactics(int32_t* tactics, int32_t count) noexcept override;
    int32_t setTactic(int32_t tactic) noexcept override;
    char const* getTimingCacheID() noexcept override;
    char const* getMetadataString() noexcept override;
    int32_t configurePlugin(nvinfer1::DynamicPluginTensorDesc const* in, int32_t inputs,
        nvinfer1::DynamicPluginTensorDesc const* out, int32_t outputs) noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t outputs, nvinfer1::DataType const* inputTypes,
        int32_t inputs) const noexcept override;
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t inputs, nvinfer1::PluginTensorDesc const* out,
        int32_t outputs) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
        void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

protected:
    // Throws std::invalid_argument if the inputs do not fit together. A size of -1 is not known yet.
    virtual void checkShapes(nvinfer1::PluginTensorDesc const* in, int32_t inputs) const = 0;

    // Keeps what a launch needs; called after `checkShapes` with sizes that are all known.
    virtual void prepare(nvinfer1::PluginTensorDesc const* in, int32_t inputs, nvinfer1::PluginTensorDesc const* out)
        = 0;

    virtual cudaError_t launch(void const* const* inputs, void* const* outputs, cudaStream_t stream) = 0;

    // Tactics are kernel variants; 0, which is not among them, leaves the choice to the heuristic.
    virtual std::vector<int32_t> tactics() const;

    [[noreturn]] void refuse(std::string const& what) const;

    Attributes const mAttributes;
    int32_t mTactic{0};
    bool mIsPrepared{false};

private:
    char const* mName;
    char const* mNamespace;
    std::string mTimingCacheId;
    std::string mMetadata;
};

std::string shapeText(nvinfer1::Dims const& dims);

} // namespace trt
} // namespace degmix
