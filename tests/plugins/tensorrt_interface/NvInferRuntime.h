// Just enough of TensorRT's plugin interface to compile our plugins and the mini host where its headers
// are not: names, order of virtual functions and layouts, as facts of the binary interface. Tests build
// against it and load the result into TensorRT-RTX's registry, which would not take it if it were wrong.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace nvinfer1
{

enum class DataType : int32_t { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8, kFP8, kBF16, kINT64 };
enum class TensorFormat : int32_t
{ kLINEAR, kCHW2, kHWC8, kCHW4, kCHW16, kCHW32, kDHWC8, kCDHW32, kHWC, kDLA_LINEAR, kDLA_HWC4, kHWC16, kDHWC };
enum class PluginCapabilityType : int32_t { kCORE, kBUILD, kRUNTIME };
enum class TensorRTPhase : int32_t { kBUILD, kRUNTIME };
enum class APILanguage : int32_t { kCPP };
enum class PluginFieldType : int32_t
{ kFLOAT16, kFLOAT32, kFLOAT64, kINT8, kINT16, kINT32, kCHAR, kDIMS, kUNKNOWN, kBF16, kINT64 };

struct Dims
{
    int32_t nbDims;
    int64_t d[8];
};

class IDimensionExpr;
class IExprBuilder;
class IPluginResourceContext;

struct DimsExprs
{
    int32_t nbDims;
    IDimensionExpr const* d[8];
};

struct PluginTensorDesc
{
    Dims dims;
    DataType type;
    TensorFormat format;
    float scale;
};

struct DynamicPluginTensorDesc
{
    PluginTensorDesc desc;
    Dims min, max, opt;
};

struct PluginField
{
    char const* name;
    void const* data;
    PluginFieldType type;
    int32_t length;

    PluginField(char const* n = nullptr, void const* d = nullptr, PluginFieldType t = PluginFieldType::kUNKNOWN,
        int32_t l = 0) noexcept
        : name(n), data(d), type(t), length(l)
    {
    }
};

struct PluginFieldCollection
{
    int32_t nbFields;
    PluginField const* fields;
};

struct InterfaceInfo
{
    char const* kind;
    int32_t major, minor;
};

// Slots: language, info, destructors.
class IVersionedInterface
{
public:
    virtual APILanguage getAPILanguage() const noexcept { return APILanguage::kCPP; }
    virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
    virtual ~IVersionedInterface() noexcept = default;
};

#define DEGMIX_INFO(name) \
    InterfaceInfo getInterfaceInfo() const noexcept override { return {name, 1, 0}; }

class IPluginCapability : public IVersionedInterface {};
class IPluginCreatorInterface : public IVersionedInterface {};

class IPluginV3 : public IVersionedInterface
{
public:
    DEGMIX_INFO("PLUGIN")
    virtual IPluginCapability* getCapabilityInterface(PluginCapabilityType) noexcept = 0;
    virtual IPluginV3* clone() noexcept = 0;
};

class IPluginV3OneCore : public IPluginCapability
{
public:
    DEGMIX_INFO("PLUGIN_V3ONE_CORE")
    virtual char const* getPluginName() const noexcept = 0;
    virtual char const* getPluginVersion() const noexcept = 0;
    virtual char const* getPluginNamespace() const noexcept = 0;
};

class IPluginV3OneBuild : public IPluginCapability
{
public:
    using Desc = DynamicPluginTensorDesc;
    DEGMIX_INFO("PLUGIN_V3ONE_BUILD")
    virtual int32_t configurePlugin(Desc const*, int32_t, Desc const*, int32_t) noexcept = 0;
    virtual int32_t getOutputDataTypes(DataType*, int32_t, DataType const*, int32_t) const noexcept = 0;
    virtual int32_t getOutputShapes(
        DimsExprs const*, int32_t, DimsExprs const*, int32_t, DimsExprs*, int32_t, IExprBuilder&) noexcept
        = 0;
    virtual bool supportsFormatCombination(int32_t, Desc const*, int32_t, int32_t) noexcept = 0;
    virtual int32_t getNbOutputs() const noexcept = 0;
    virtual size_t getWorkspaceSize(Desc const*, int32_t, Desc const*, int32_t) const noexcept { return 0; }
    virtual int32_t getValidTactics(int32_t*, int32_t) noexcept { return 0; }
    virtual int32_t getNbTactics() noexcept { return 0; }
    virtual char const* getTimingCacheID() noexcept { return nullptr; }
    virtual int32_t getFormatCombinationLimit() noexcept { return 100; }
    virtual char const* getMetadataString() noexcept { return nullptr; }
};

class IPluginV3OneRuntime : public IPluginCapability
{
public:
    using Desc = PluginTensorDesc;
    DEGMIX_INFO("PLUGIN_V3ONE_RUNTIME")
    virtual int32_t setTactic(int32_t) noexcept { return 0; }
    virtual int32_t onShapeChange(Desc const*, int32_t, Desc const*, int32_t) noexcept = 0;
    virtual int32_t enqueue(
        Desc const*, Desc const*, void const* const*, void* const*, void*, cudaStream_t) noexcept
        = 0;
    virtual IPluginV3* attachToContext(IPluginResourceContext*) noexcept = 0;
    virtual PluginFieldCollection const* getFieldsToSerialize() noexcept = 0;
};

class IPluginCreatorV3One : public IPluginCreatorInterface
{
public:
    DEGMIX_INFO("PLUGIN CREATOR_V3ONE")
    virtual IPluginV3* createPlugin(char const*, PluginFieldCollection const*, TensorRTPhase) noexcept = 0;
    virtual PluginFieldCollection const* getFieldNames() noexcept = 0;
    virtual char const* getPluginName() const noexcept = 0;
    virtual char const* getPluginVersion() const noexcept = 0;
    virtual char const* getPluginNamespace() const noexcept = 0;
};

#undef DEGMIX_INFO

class ILogger
{
public:
    enum class Severity : int32_t { kINTERNAL_ERROR, kERROR };
    virtual void log(Severity, char const*) noexcept = 0;
    virtual ~ILogger() = default;
};

class ILoggerFinder
{
public:
    virtual ILogger* findLogger() = 0;

protected:
    virtual ~ILoggerFinder() = default;
};

} // namespace nvinfer1
