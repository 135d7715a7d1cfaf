// Creators: what TensorRT's registry lists, and what makes a plugin of a node or of a plan.
#pragma once

#include "tensorrt/attributes.h"

#include <NvInferRuntime.h>

#include <vector>

namespace degmix
{
namespace trt
{

constexpr char const* kNAMESPACE = "degmix";
constexpr char const* kINT8_NAMESPACE = "degmix.int8";         // the domain of nodes that sample INT8
constexpr char const* kINT8_OUT_NAMESPACE = "degmix.int8.out"; // of convolutions that store INT8 too

// A creator of one operator in one namespace.
class Creator : public nvinfer1::IPluginCreatorV3One
{
public:
    using Make = nvinfer1::IPluginV3* (*)(char const* nameSpace, Attributes const& attributes);

    Creator(char const* name, char const* nameSpace, std::vector<Attribute> attributes, Make make);

    nvinfer1::IPluginV3* createPlugin(char const* name, nvinfer1::PluginFieldCollection const* fields,
        nvinfer1::TensorRTPhase phase) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldNames() noexcept override;
    char const* getPluginName() const noexcept override;
    char const* getPluginVersion() const noexcept override;
    char const* getPluginNamespace() const noexcept override;

private:
    char const* mName;
    char const* mNamespace;
    std::vector<Attribute> mAttributes;
    Make mMake;
    std::vector<nvinfer1::PluginField> mFields;
    nvinfer1::PluginFieldCollection mCollection;
};

// One function an operator: its creators, in the operator's own file.
std::vector<nvinfer1::IPluginCreatorInterface*> deformSampleCreators();
std::vector<nvinfer1::IPluginCreatorInterface*> deformOffsetsCreators();
std::vector<nvinfer1::IPluginCreatorInterface*> deformConv2dCreators();

} // namespace trt
} // namespace degmix
