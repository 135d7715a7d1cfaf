// TensorRT: DegmixDeformSample and DegmixDeformSampleAt. Inputs are value and offset, and for At the table of
// positions, for each of `items` maps of one shape; outputs are the samples. Values float32, float16 or
// int8; offsets float32 or float16; positions float32; linear.
#include "deform_sample/deform_sample.h"
#include "tensorrt/creators.h"
#include "tensorrt/logging.h"
#include "tensorrt/plugin.h"

using namespace nvinfer1;

namespace degmix
{
namespace trt
{
namespace
{

constexpr char const* kNAME = "DegmixDeformSample";
constexpr char const* kAT_NAME = "DegmixDeformSampleAt";

std::vector<Attribute> attributes()
{
    return {{"channels", 1, true, {}}, {"items", 1, false, {}}};
}

template <bool kIS_AT>
class DeformSamplePlugin final : public Plugin
{
public:
    static constexpr int32_t kINPUTS = kIS_AT ? 3 : 2; // of an item

    DeformSamplePlugin(char const* nameSpace, Attributes const& attributes)
        : Plugin(kIS_AT ? kAT_NAME : kNAME, nameSpace, attributes)
        , mNamespace(nameSpace)
        , mItems(attributes.integer("items") == 0 ? 1 : attributes.integer("items"))
    {
        if (mItems < 1 || mItems > DeformSampleParams::kMAX_ITEMS)
        {
            refuse("attribute 'items': got " + std::to_string(mItems) + ", expected 1 to 8");
        }
    }

    IPluginV3* clone() noexcept override
    {
        auto* copy = new (std::nothrow) DeformSamplePlugin(mNamespace, mAttributes);
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

    int32_t getOutputShapes(DimsExprs const* inputs, int32_t count, DimsExprs const*, int32_t, DimsExprs* outputs,
        int32_t, IExprBuilder&) noexcept override
    {
        if (count != kINPUTS * mItems)
        {
            report(std::string(getPluginName()) + ": got " + std::to_string(count) + " inputs, expected "
                + std::to_string(kINPUTS * mItems) + ": value, offset" + (kIS_AT ? ", position" : "")
                + " of each item");
            return -1;
        }
        for (int32_t i = 0; i < mItems; ++i)
        {
            outputs[i] = inputs[kINPUTS * i];
            outputs[i].d[2] = inputs[kINPUTS * i + 1].d[2];
            outputs[i].d[3] = inputs[kINPUTS * i + 1].d[3];
        }
        return 0;
    }

    bool supportsFormatCombination(
        int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t inputs, int32_t) noexcept override
    {
        PluginTensorDesc const& desc = inOut[pos].desc;
        if (kIS_AT && pos < inputs && pos % kINPUTS == 2)
        {
            return desc.type == DataType::kFLOAT && desc.format == TensorFormat::kLINEAR;
        }
        bool const isOffset = pos < inputs && pos % kINPUTS == 1;
        DataType const value = inOut[0].desc.type;
        bool const typed = isOffset ? isFloating(desc.type)
            : pos == 0              ? isFloating(desc.type) || desc.type == DataType::kINT8
                                    : desc.type == value;
        bool const alike = !isOffset || pos == 1 || desc.type == inOut[1].desc.type;
        return typed && alike && desc.format == TensorFormat::kLINEAR;
    }

protected:
    void checkShapes(PluginTensorDesc const* in, int32_t inputs) const override
    {
        if (inputs != kINPUTS * mItems)
        {
            refuse("got " + std::to_string(inputs) + " inputs, expected " + std::to_string(kINPUTS * mItems));
        }
        int64_t const channels = mAttributes.integer("channels");
        for (int32_t i = 0; i < inputs; i += kINPUTS)
        {
            Dims const& value = in[i].dims;
            Dims const& offset = in[i + 1].dims;
            if (value.nbDims != 4 || offset.nbDims != 4)
            {
                refuse(
                    "got value " + shapeText(value) + " and offset " + shapeText(offset) + ", expected 4 dimensions");
            }
            if (value.d[1] != channels || offset.d[1] != 2 * channels)
            {
                refuse("got value " + shapeText(value) + " and offset " + shapeText(offset) + ", expected "
                    + std::to_string(channels) + " and " + std::to_string(2 * channels) + " channels");
            }
            if (value.d[0] >= 0 && offset.d[0] >= 0 && value.d[0] != offset.d[0])
            {
                refuse("value " + shapeText(value) + " and offset " + shapeText(offset) + " are of other batches");
            }
            Dims const& position = in[i + kINPUTS - 1].dims;
            if (kIS_AT
                && (position.nbDims != 3 || position.d[0] != 9 || position.d[1] != channels || position.d[2] != 4))
            {
                refuse("got position " + shapeText(position) + ", expected (9, " + std::to_string(channels) + ", 4)");
            }
        }
    }

    void prepare(PluginTensorDesc const* in, int32_t, PluginTensorDesc const*) override
    {
        mParams.items = mItems;
        mParams.n = static_cast<int32_t>(in[0].dims.d[0]);
        mParams.c = static_cast<int32_t>(in[0].dims.d[1]);
        mParams.height = static_cast<int32_t>(in[0].dims.d[2]);
        mParams.width = static_cast<int32_t>(in[0].dims.d[3]);
        mParams.outHeight = static_cast<int32_t>(in[1].dims.d[2]);
        mParams.outWidth = static_cast<int32_t>(in[1].dims.d[3]);
        mParams.valueType = typeOf(in[0].type);
        mParams.offsetType = typeOf(in[1].type);
    }

    cudaError_t launch(void const* const* inputs, void* const* outputs, cudaStream_t stream) override
    {
        DeformSampleParams params = mParams;
        params.variant = static_cast<DeformSampleVariant>(mTactic);
        for (int32_t i = 0; i < mItems; ++i)
        {
            params.value[i] = inputs[kINPUTS * i];
            params.offset[i] = inputs[kINPUTS * i + 1];
            params.position[i] = kIS_AT ? static_cast<float const*>(inputs[kINPUTS * i + 2]) : nullptr;
            params.output[i] = outputs[i];
        }
        if (char const* reason = checkDeformSample(params))
        {
            refuse(reason);
        }
        return deformSample(params, stream);
    }

    std::vector<int32_t> tactics() const override
    {
        return {static_cast<int32_t>(DeformSampleVariant::kSHARED), static_cast<int32_t>(DeformSampleVariant::kDIRECT),
            static_cast<int32_t>(DeformSampleVariant::kCOMPACT)};
    }

private:
    char const* mNamespace;
    int32_t mItems;
    DeformSampleParams mParams{};
};

template <bool kIS_AT>
IPluginV3* make(char const* nameSpace, Attributes const& attributes)
{
    return new DeformSamplePlugin<kIS_AT>(nameSpace, attributes);
}

} // namespace

std::vector<IPluginCreatorInterface*> deformSampleCreators()
{
    static Creator sample(kNAME, kNAMESPACE, attributes(), make<false>);
    static Creator int8Sample(kNAME, kINT8_NAMESPACE, attributes(), make<false>);
    static Creator sampleAt(kAT_NAME, kNAMESPACE, attributes(), make<true>);
    static Creator int8SampleAt(kAT_NAME, kINT8_NAMESPACE, attributes(), make<true>);
    return {&sample, &int8Sample, &sampleAt, &int8SampleAt};
}

} // namespace trt
} // namespace degmix
