#include "tensorrt/attributes.h"

#include <cstring>
#include <sstream>
#include <stdexcept>

using namespace nvinfer1;

namespace degmix
{
namespace trt
{
namespace
{

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

Attributes::Attributes(std::string const& op, std::vector<Attribute> const& known, PluginFieldCollection const& given)
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

} // namespace trt
} // namespace degmix
