// Attributes of an operator: read from ONNX or from a plan, refused loudly, serialized.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace degmix
{
namespace trt
{

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
    Attributes(
        std::string const& op, std::vector<Attribute> const& known, nvinfer1::PluginFieldCollection const& given);

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

} // namespace trt
} // namespace degmix
