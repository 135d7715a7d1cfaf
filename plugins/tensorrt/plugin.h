// What our TensorRT plugins share: attributes that fail loudly, serialization, the glue of IPluginV3.
//
// Only interfaces of TensorRT's headers are used and nothing of its libraries, so the plugin loads
// wherever the headers' major version is the process's.
#pragma once

#include "common/types.h"

#include <NvInferRuntime.h>

#include <map>
#include <string>
#include <vector>

namespace degmix
{
namespace trt
{

constexpr char const* kVERSION = "1";
constexpr char const* kNAMESPACE = "degmix";
constexpr char const* kINT8_NAMESPACE = "degmix.int8"; // the domain of nodes that sample INT8

// To TensorRT's logger if it is one of the major version that this was compiled for, else to stderr.
void report(std::string const& message) noexcept;
void setLoggerFinder(nvinfer1::ILoggerFinder* finder) noexcept;

// One attribute of an operator. Text is an index into `words`.
struct Attribute
{
    char const* name;
    int32_t count; // of integers; -1 is one float, and 0 is one of `words`
    bool isRequired;
    std::vector<char const*> words;
};

// Attributes by name, as integers; floats apart. The same form is read from ONNX and from a plan.
class Attributes
{
public:
    // Throws std::invalid_argument that names the attribute, what it got and what was expected.
    Attributes(std::string const& op, std::vector<Attribute> const& known, nvinfer1::PluginFieldCollection const& given);

    Attributes(Attributes const& other);
    Attributes& operator=(Attributes const&) = delete;

    int32_t integer(char const* name, int32_t index = 0) const;
    float real(char const* name, float otherwise) const;
    std::string json() const;
    nvinfer1::PluginFieldCollection const* fields() const noexcept;

private:
    void index();

    std::map<std::string, std::vector<int32_t>> mIntegers;
    std::map<std::string, float> mReals;
    std::vector<nvinfer1::PluginField> mFields; // point into the maps
    nvinfer1::PluginFieldCollection mCollection;
};

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
    int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t outputs,
        nvinfer1::DataType const* inputTypes, int32_t inputs) const noexcept override;
    int32_t onShapeChange(nvinfer1::PluginTensorDesc const* in, int32_t inputs,
        nvinfer1::PluginTensorDesc const* out, int32_t outputs) noexcept override;
    int32_t enqueue(nvinfer1::PluginTensorDesc const* inputDesc, nvinfer1::PluginTensorDesc const* outputDesc,
        void const* const* inputs, void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    nvinfer1::PluginFieldCollection const* getFieldsToSerialize() noexcept override;

protected:
    // Throws std::invalid_argument if the inputs do not fit together. A size of -1 is not known yet.
    virtual void checkShapes(nvinfer1::PluginTensorDesc const* in, int32_t inputs) const = 0;

    // Keeps what a launch needs; called after `checkShapes` with sizes that are all known.
    virtual void prepare(
        nvinfer1::PluginTensorDesc const* in, int32_t inputs, nvinfer1::PluginTensorDesc const* out)
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

// A creator of one operator in one namespace.
class Creator : public nvinfer1::IPluginCreatorV3One
{
public:
    using Make = nvinfer1::IPluginV3* (*) (char const* nameSpace, Attributes const& attributes);

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
std::vector<nvinfer1::IPluginCreatorInterface*> deformSampleFusedCreators();
std::vector<nvinfer1::IPluginCreatorInterface*> deformConv2dCreators();

} // namespace trt
} // namespace degmix
