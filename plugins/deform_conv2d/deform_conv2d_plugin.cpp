// TensorRT: DegmixDeformConv2d. Inputs are value, weight (outputs, kH, kW, channels / group), offset,
// bias, then the weights' scales if the values are int8, then the mask if the node has one, for each of
// `items` convolutions of one shape; outputs are those of each item. Values float32, float16 or int8;
// offsets, mask and bias float32 or float16. Values and output may have their channels last, which is what
// the fast kernels read: HWC for float32, HWC8 for float16, CHW32 or HWC16 for int8.
#include "deform_conv2d/deform_conv2d.h"
#include "tensorrt/creators.h"
#include "tensorrt/logging.h"
#include "tensorrt/plugin.h"

#include <algorithm>

using namespace nvinfer1;

namespace degmix
{
namespace trt
{
namespace
{

constexpr char const* kNAME = "DegmixDeformConv2d";

// A format of values or output: its layout, and a multiple that channels are padded to.
struct Format
{
    Layout layout;
    int32_t multiple; // 0 where a type does not have the format
};

Format formatOf(DataType type, TensorFormat format) noexcept
{
    switch (format)
    {
    case TensorFormat::kLINEAR: return {Layout::kPLANAR, 1};
    case TensorFormat::kHWC: return {Layout::kCHANNELS_LAST, type == DataType::kFLOAT ? 1 : 0};
    case TensorFormat::kHWC8: return {Layout::kCHANNELS_LAST, type == DataType::kHALF ? 8 : 0};
    case TensorFormat::kHWC16: return {Layout::kCHANNELS_LAST, type == DataType::kINT8 ? 16 : 0};
    case TensorFormat::kCHW32: return {Layout::kCHANNELS_32, type == DataType::kINT8 ? kBLOCK_CHANNELS : 0};
    default: return {Layout::kPLANAR, 0};
    }
}

int32_t pitchOf(Format const& format, int32_t channels) noexcept
{
    return format.layout == Layout::kCHANNELS_32 ? kBLOCK_CHANNELS
                                                 : (channels + format.multiple - 1) / format.multiple * format.multiple;
}

enum Input : int32_t
{
    kVALUE = 0,
    kWEIGHT = 1,
    kOFFSET = 2,
    kBIAS = 3,
    kREST = 4,
};

class DeformConv2dPlugin final : public Plugin
{
public:
    DeformConv2dPlugin(char const* nameSpace, Attributes const& attributes)
        : Plugin(kNAME, nameSpace, attributes)
        , mNamespace(nameSpace)
        , mHasMask(attributes.integer("mask") != 0)
        , mItems(attributes.integer("items") == 0 ? 1 : attributes.integer("items"))
    {
        if (mItems < 1 || mItems > DeformConv2dParams::kMAX_ITEMS)
        {
            refuse("attribute 'items': got " + std::to_string(mItems) + ", expected 1 to 8");
        }
        int32_t const bottom = attributes.integer("pads", 2);
        int32_t const right = attributes.integer("pads", 3);
        if (attributes.integer("pads", 0) < 0 || attributes.integer("pads", 1) < 0 || bottom < 0 || right < 0)
        {
            refuse("attribute 'pads': expected no negative ones");
        }
    }

    IPluginV3* clone() noexcept override
    {
        auto* copy = new (std::nothrow) DeformConv2dPlugin(mNamespace, mAttributes);
        if (copy != nullptr)
        {
            copy->mTactic = mTactic;
            copy->mIsPrepared = mIsPrepared;
            copy->mParams = mParams;
        }
        return copy;
    }

    int32_t getNbOutputs() const noexcept override
    {
        return mItems;
    }

    int32_t getOutputDataTypes(
        DataType* outputTypes, int32_t outputs, DataType const* inputTypes, int32_t) const noexcept override
    {
        std::fill(outputTypes, outputTypes + outputs, outputType(inputTypes[kVALUE], inputTypes[kBIAS]));
        return 0;
    }

    int32_t getOutputShapes(DimsExprs const* inputs, int32_t count, DimsExprs const*, int32_t, DimsExprs* outputs,
        int32_t, IExprBuilder&) noexcept override
    {
        int32_t const perItem = count / mItems;
        if (count % mItems != 0 || perItem < kREST + (mHasMask ? 1 : 0))
        {
            report(std::string(kNAME) + ": got " + std::to_string(count)
                + " inputs, expected value, weight, offset, bias" + (mHasMask ? " and mask" : "") + " of each of "
                + std::to_string(mItems) + " items");
            return -1;
        }
        for (int32_t i = 0; i < mItems; ++i)
        {
            DimsExprs const* const item = inputs + i * perItem;
            outputs[i] = item[kOFFSET];
            outputs[i].d[0] = item[kVALUE].d[0];
            outputs[i].d[1] = item[kWEIGHT].d[0];
        }
        return 0;
    }

    bool supportsFormatCombination(
        int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t inputs, int32_t) noexcept override
    {
        if (inputs < mItems || inputs % mItems != 0)
        {
            return false;
        }
        PluginTensorDesc const& desc = inOut[pos].desc;
        // Items are alike: what stands in the first one's place is what all have.
        int32_t const perItem = inputs / mItems;
        int32_t const first = pos < inputs ? pos % perItem : inputs;
        if (pos != first)
        {
            PluginTensorDesc const& same = inOut[first].desc;
            return desc.type == same.type && desc.format == same.format;
        }
        DataType const value = inOut[kVALUE].desc.type;
        bool const isLinear = desc.format == TensorFormat::kLINEAR;
        bool const isFormat = formatOf(desc.type, desc.format).multiple != 0;
        if (pos == kVALUE)
        {
            return (isFloating(desc.type) || desc.type == DataType::kINT8) && isFormat;
        }
        if (pos == inputs)
        {
            return desc.type == outputType(value, inOut[kBIAS].desc.type) && isFormat;
        }
        if (pos == kWEIGHT)
        {
            return desc.type == value && isLinear;
        }
        if (pos == kREST && value == DataType::kINT8)
        {
            return desc.type == DataType::kFLOAT && isLinear;
        }
        bool const isMask = pos >= kREST;
        return (isMask ? desc.type == inOut[kOFFSET].desc.type : isFloating(desc.type)) && isLinear;
    }

protected:
    void checkShapes(PluginTensorDesc const* in, int32_t inputs) const override
    {
        bool const isInt8 = in[kVALUE].type == DataType::kINT8;
        int32_t const perItem = inputsOfItem(isInt8);
        if (inputs != perItem * mItems)
        {
            refuse("got " + std::to_string(inputs) + " inputs, expected " + std::to_string(perItem * mItems)
                + ": value, weight, offset, bias" + (isInt8 ? ", weight scale" : "") + (mHasMask ? ", mask" : "")
                + (mItems > 1 ? " of each item" : ""));
        }
        checkItem(in, perItem);
        for (int32_t i = perItem; i < inputs; ++i)
        {
            Dims const& dims = in[i].dims;
            Dims const& same = in[i % perItem].dims;
            bool isSame = dims.nbDims == same.nbDims;
            for (int32_t axis = 0; isSame && axis < dims.nbDims; ++axis)
            {
                // A size of -1, on either side, is not known.
                isSame = dims.d[axis] < 0 || same.d[axis] < 0 || dims.d[axis] == same.d[axis];
            }
            if (!isSame)
            {
                refuse("got " + shapeText(dims) + " as input " + std::to_string(i) + ", expected " + shapeText(same)
                    + " as of the first item");
            }
        }
    }

    void prepare(PluginTensorDesc const* in, int32_t, PluginTensorDesc const* out) override
    {
        auto const at
            = [](PluginTensorDesc const& desc, int32_t axis) { return static_cast<int32_t>(desc.dims.d[axis]); };
        mParams.items = mItems;
        mParams.n = at(in[kVALUE], 0);
        mParams.c = at(in[kVALUE], 1);
        mParams.height = at(in[kVALUE], 2);
        mParams.width = at(in[kVALUE], 3);
        mParams.outChannels = at(in[kWEIGHT], 0);
        mParams.outHeight = at(in[kOFFSET], 2);
        mParams.outWidth = at(in[kOFFSET], 3);
        mParams.kernelHeight = mAttributes.integer("kernel_shape", 0);
        mParams.kernelWidth = mAttributes.integer("kernel_shape", 1);
        mParams.strideHeight = mAttributes.integer("strides", 0);
        mParams.strideWidth = mAttributes.integer("strides", 1);
        mParams.padTop = mAttributes.integer("pads", 0);
        mParams.padLeft = mAttributes.integer("pads", 1);
        mParams.dilationHeight = mAttributes.integer("dilations", 0);
        mParams.dilationWidth = mAttributes.integer("dilations", 1);
        mParams.groups = mAttributes.integer("group");
        mParams.offsetGroups = mAttributes.integer("offset_group");
        mParams.valueType = typeOf(in[kVALUE].type);
        mParams.offsetType = typeOf(in[kOFFSET].type);
        mParams.biasType = typeOf(in[kBIAS].type);
        mParams.outputType = typeOf(out[0].type);
        Format const valueFormat = formatOf(in[kVALUE].type, in[kVALUE].format);
        Format const outputFormat = formatOf(out[0].type, out[0].format);
        mParams.valueLayout = valueFormat.layout;
        mParams.outputLayout = outputFormat.layout;
        mParams.valuePitch = pitchOf(valueFormat, mParams.c);
        mParams.outputPitch = pitchOf(outputFormat, mParams.outChannels);
        mParams.activation = static_cast<Activation>(mAttributes.integer("activation"));
        mParams.sigmoidMask = mAttributes.integer("sigmoid_mask");
        mParams.valueScale = mAttributes.real("value_scale", 0.F);
        mParams.outputScale = mAttributes.real("output_scale", 0.F);
    }

    cudaError_t launch(void const* const* inputs, void* const* outputs, cudaStream_t stream) override
    {
        DeformConv2dParams params = mParams;
        params.tileN = mTactic == kHEURISTIC ? 0 : mTactic;
        bool const isInt8 = params.valueType == Type::kINT8;
        int32_t const perItem = inputsOfItem(isInt8);
        for (int32_t i = 0; i < mItems; ++i)
        {
            void const* const* const item = inputs + i * perItem;
            params.value[i] = item[kVALUE];
            params.weight[i] = item[kWEIGHT];
            params.offset[i] = item[kOFFSET];
            params.bias[i] = item[kBIAS];
            params.weightScale[i] = isInt8 ? static_cast<float const*>(item[kREST]) : nullptr;
            params.mask[i] = mHasMask ? item[perItem - 1] : nullptr;
            params.output[i] = outputs[i];
        }
        if (char const* reason = checkDeformConv2d(params))
        {
            refuse(reason);
        }
        return deformConv2d(params, stream);
    }

    std::vector<int32_t> tactics() const override
    {
        return {kHEURISTIC, 64, 128, 256};
    }

private:
    // A tactic is a number of output channels, or leaves all to the heuristic, which also splits tiles.
    static constexpr int32_t kHEURISTIC = 1;

    int32_t inputsOfItem(bool isInt8) const noexcept
    {
        return kREST + (isInt8 ? 1 : 0) + (mHasMask ? 1 : 0);
    }

    // The bias says what leaves an int8 product, unless it is quantized again.
    DataType outputType(DataType value, DataType bias) const noexcept
    {
        bool const staysInt8 = mAttributes.real("output_scale", 0.F) > 0.F;
        return value == DataType::kINT8 && !staysInt8 ? bias : value;
    }

    // What the shapes of one item's inputs say of each other.
    void checkItem(PluginTensorDesc const* in, int32_t inputs) const
    {
        bool const isInt8 = in[kVALUE].type == DataType::kINT8;
        Dims const& value = in[kVALUE].dims;
        Dims const& weight = in[kWEIGHT].dims;
        Dims const& offset = in[kOFFSET].dims;
        if (value.nbDims != 4 || weight.nbDims != 4 || offset.nbDims != 4)
        {
            refuse("got value " + shapeText(value) + ", weight " + shapeText(weight) + ", offset " + shapeText(offset)
                + ", expected 4 dimensions each");
        }
        int64_t const group = mAttributes.integer("group");
        int64_t const taps
            = static_cast<int64_t>(mAttributes.integer("kernel_shape", 0)) * mAttributes.integer("kernel_shape", 1);
        if (weight.d[1] != mAttributes.integer("kernel_shape", 0)
            || weight.d[2] != mAttributes.integer("kernel_shape", 1) || weight.d[3] * group != value.d[1])
        {
            refuse("got weight " + shapeText(weight) + " for value " + shapeText(value)
                + ", expected (outputs, kernel height, kernel width, channels / group)");
        }
        int64_t const offsets = 2 * taps * mAttributes.integer("offset_group");
        if (offset.d[1] != offsets)
        {
            refuse("got offset " + shapeText(offset) + ", expected " + std::to_string(offsets)
                + " channels: 2 x offset_group x taps");
        }
        if (in[kBIAS].dims.nbDims != 1 || in[kBIAS].dims.d[0] != weight.d[0])
        {
            refuse("got bias " + shapeText(in[kBIAS].dims) + ", expected (" + std::to_string(weight.d[0]) + ")");
        }
        if (isInt8 && (in[kREST].dims.nbDims != 1 || in[kREST].dims.d[0] != weight.d[0]))
        {
            refuse(
                "got weight scale " + shapeText(in[kREST].dims) + ", expected (" + std::to_string(weight.d[0]) + ")");
        }
        Dims const& mask = in[inputs - 1].dims;
        if (mHasMask && (mask.nbDims != 4 || mask.d[1] * 2 != offsets))
        {
            refuse("got mask " + shapeText(mask) + ", expected half the offset's channels");
        }
        for (int32_t axis = 0; axis < 2; ++axis)
        {
            int64_t const size = value.d[2 + axis];
            int64_t const spread
                = mAttributes.integer("dilations", axis) * (mAttributes.integer("kernel_shape", axis) - 1) + 1;
            int64_t const padded = size + mAttributes.integer("pads", axis) + mAttributes.integer("pads", axis + 2);
            int64_t const out = (padded - spread) / mAttributes.integer("strides", axis) + 1;
            if (size >= 0 && offset.d[2 + axis] >= 0 && offset.d[2 + axis] != out)
            {
                refuse("offset " + shapeText(offset) + " does not fit value " + shapeText(value)
                    + " under the strides, pads and dilations: expected " + std::to_string(out) + " along axis "
                    + std::to_string(2 + axis));
            }
        }
    }

    char const* mNamespace;
    bool mHasMask;
    int32_t mItems;
    DeformConv2dParams mParams{};
};

IPluginV3* make(char const* nameSpace, Attributes const& attributes)
{
    return new DeformConv2dPlugin(nameSpace, attributes);
}

} // namespace

std::vector<IPluginCreatorInterface*> deformConv2dCreators()
{
    std::vector<Attribute> const attributes{{"kernel_shape", 2, true, {}}, {"strides", 2, true, {}},
        {"pads", 4, true, {}}, {"dilations", 2, true, {}}, {"group", 1, true, {}}, {"offset_group", 1, true, {}},
        {"mask", 1, true, {}}, {"items", 1, false, {}}, {"activation", 0, false, {"none", "relu", "gelu"}},
        {"sigmoid_mask", 1, false, {}}, {"value_scale", -1, false, {}}, {"output_scale", -1, false, {}}};
    static Creator creator(kNAME, kNAMESPACE, attributes, make);
    static Creator int8Creator(kNAME, kINT8_NAMESPACE, attributes, make);
    static Creator int8OutCreator(kNAME, kINT8_OUT_NAMESPACE, attributes, make);
    return {&creator, &int8Creator, &int8OutCreator};
}

} // namespace trt
} // namespace degmix
