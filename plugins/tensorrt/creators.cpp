#include "tensorrt/plugin.h"

#include <NvInferVersion.h>

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <new>
#include <sstream>
#include <stdexcept>

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

std::vector<int32_t> integersOf(PluginField const& field)
{
    std::vector<int32_t> values;
    for (int32_t i = 0; i < field.length; ++i)
    {
        switch (field.type)
        {
        case PluginFieldType::kINT32: values.push_back(static_cast<int32_t const*>(field.data)[i]); break;
        case PluginFieldType::kINT64:
            values.push_back(static_cast<int32_t>(static_cast<int64_t const*>(field.data)[i]));
            break;
        default: throw std::invalid_argument("expected integers");
        }
    }
    return values;
}

int32_t wordOf(PluginField const& field, std::vector<char const*> const& words)
{
    if (field.type == PluginFieldType::kINT32 && field.length == 1) // as we serialize it
    {
        return *static_cast<int32_t const*>(field.data);
    }
    std::string const text(static_cast<char const*>(field.data),
        strnlen(static_cast<char const*>(field.data), static_cast<size_t>(field.length)));
    std::string have;
    for (size_t i = 0; i < words.size(); ++i)
    {
        if (text == words[i])
        {
            return static_cast<int32_t>(i);
        }
        have += std::string(i == 0 ? "" : ", ") + words[i];
    }
    throw std::invalid_argument("got '" + text + "', expected one of " + have);
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

Attributes::Attributes(
    std::string const& op, std::vector<Attribute> const& known, PluginFieldCollection const& given)
{
    for (Attribute const& attribute : known)
    {
        PluginField const* found = nullptr;
        for (int32_t i = 0; i < given.nbFields; ++i)
        {
            if (std::strcmp(given.fields[i].name, attribute.name) == 0)
            {
                found = &given.fields[i];
            }
        }
        std::string const what = op + ": attribute '" + attribute.name + "': ";
        if (found == nullptr || found->data == nullptr || found->length == 0)
        {
            if (attribute.isRequired)
            {
                throw std::invalid_argument(what + "missing. Export the graph again with this version of degmix-edge");
            }
            continue;
        }
        try
        {
            if (attribute.count < 0)
            {
                if (found->type != PluginFieldType::kFLOAT32)
                {
                    throw std::invalid_argument("expected a float32");
                }
                mReals[attribute.name] = *static_cast<float const*>(found->data);
            }
            else if (attribute.count == 0)
            {
                mIntegers[attribute.name] = {wordOf(*found, attribute.words)};
            }
            else
            {
                std::vector<int32_t> const values = integersOf(*found);
                if (values.size() != static_cast<size_t>(attribute.count))
                {
                    throw std::invalid_argument("got " + std::to_string(values.size()) + " values, expected "
                        + std::to_string(attribute.count));
                }
                mIntegers[attribute.name] = values;
            }
        }
        catch (std::invalid_argument const& error)
        {
            throw std::invalid_argument(what + error.what());
        }
    }
    index();
}

Attributes::Attributes(Attributes const& other)
    : mIntegers(other.mIntegers)
    , mReals(other.mReals)
{
    index();
}

void Attributes::index()
{
    for (auto const& entry : mIntegers)
    {
        mFields.emplace_back(entry.first.c_str(), entry.second.data(), PluginFieldType::kINT32,
            static_cast<int32_t>(entry.second.size()));
    }
    for (auto const& entry : mReals)
    {
        mFields.emplace_back(entry.first.c_str(), &entry.second, PluginFieldType::kFLOAT32, 1);
    }
    mCollection.nbFields = static_cast<int32_t>(mFields.size());
    mCollection.fields = mFields.data();
}

int32_t Attributes::integer(char const* name, int32_t index) const
{
    auto const found = mIntegers.find(name);
    return found == mIntegers.end() ? 0 : found->second[static_cast<size_t>(index)];
}

float Attributes::real(char const* name, float otherwise) const
{
    auto const found = mReals.find(name);
    return found == mReals.end() ? otherwise : found->second;
}

std::string Attributes::json() const
{
    std::ostringstream text;
    text << '{';
    char const* comma = "";
    for (auto const& entry : mIntegers)
    {
        text << comma << '"' << entry.first << "\": [";
        for (size_t i = 0; i < entry.second.size(); ++i)
        {
            text << (i == 0 ? "" : ", ") << entry.second[i];
        }
        text << ']';
        comma = ", ";
    }
    for (auto const& entry : mReals)
    {
        text << comma << '"' << entry.first << "\": " << entry.second;
        comma = ", ";
    }
    text << '}';
    return text.str();
}

PluginFieldCollection const* Attributes::fields() const noexcept
{
    return &mCollection;
}

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
    , mTimingCacheId(std::string(name) + mAttributes.json())
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

int32_t Plugin::onShapeChange(
    PluginTensorDesc const* in, int32_t inputs, PluginTensorDesc const* out, int32_t) noexcept
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

// What TensorRT looks for in a plugin library. The registry keeps the pointers for good.
extern "C" __attribute__((visibility("default"))) IPluginCreatorInterface* const* getCreators(int32_t& count)
{
    static std::vector<IPluginCreatorInterface*> const creators = []
    {
        std::vector<IPluginCreatorInterface*> all;
        for (auto const& some : {degmix::trt::deformSampleCreators(), degmix::trt::deformSampleFusedCreators(),
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
