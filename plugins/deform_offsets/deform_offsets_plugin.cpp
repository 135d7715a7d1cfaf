// TensorRT: DegmixDeformOffsets, float16 and linear. Inputs are maps and packed weights, for each of `items`
// convolutions of one shape; outputs are the offsets of each. See the Python contract.
#include "deform_offsets/deform_offsets.h"
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

constexpr char const* kNAME = "DegmixDeformOffsets";
constexpr int32_t kINPUTS = 2; // of an item

class DeformOffsetsPlugin final : public Plugin
{
public:
    DeformOffsetsPlugin(char const* nameSpace, Attributes const& attributes)
        : Plugin(kNAME, nameSpace, attributes)
        , mNamespace(nameSpace)
        , mItems(attributes.integer("items") == 0 ? 1 : attributes.integer("items"))
    {
        if (mItems < 1 || mItems > DeformOffsetsParams::kMAX_ITEMS)
        {
            refuse("attribute 'items': got " + std::to_string(mItems) + ", expected 1 to 8");
        }
        int32_t const channels = mAttributes.integer("channels");
        if (channels < 1 || channels % DeformOffsetsParams::kROWS != 0)
        {
            refuse("attribute 'channels': got " + std::to_string(channels) + ", expected a multiple of 16");
        }
    }

    IPluginV3* clone() noexcept override
    {
        auto* copy = new (std::nothrow) DeformOffsetsPlugin(mNamespace, mAttributes);
        if (copy != nullptr)
        {
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
                + std::to_string(kINPUTS * mItems) + ": maps, weights of each item");
            return -1;
        }
        for (int32_t i = 0; i < mItems; ++i)
        {
            outputs[i] = inputs[kINPUTS * i];
            outputs[i].d[1] = inputs[kINPUTS * i + 1].d[0];
        }
        return 0;
    }

    bool supportsFormatCombination(
        int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t, int32_t) noexcept override
    {
        PluginTensorDesc const& desc = inOut[pos].desc;
        return desc.type == DataType::kHALF && desc.format == TensorFormat::kLINEAR;
    }

protected:
    void checkShapes(PluginTensorDesc const* in, int32_t inputs) const override
    {
        if (inputs != kINPUTS * mItems)
        {
            refuse("got " + std::to_string(inputs) + " inputs, expected " + std::to_string(kINPUTS * mItems));
        }
        int64_t const c = mAttributes.integer("channels");
        Dims const& first = in[0].dims;
        for (int32_t i = 0; i < inputs; i += kINPUTS)
        {
            Dims const& maps = in[i].dims;
            if (maps.nbDims != 4 || maps.d[1] != 2 * DeformOffsetsParams::kMAPS)
            {
                refuse("got maps " + shapeText(maps) + ", expected (n, 18, height, width)");
            }
            for (int32_t axis = 0; axis < 4; ++axis)
            {
                // A size of -1, on either side, is not known.
                if (maps.d[axis] >= 0 && first.d[axis] >= 0 && maps.d[axis] != first.d[axis])
                {
                    refuse("got maps " + shapeText(maps) + ", expected " + shapeText(first) + " as of the first item");
                }
            }
            Dims const& weight = in[i + 1].dims;
            if (weight.nbDims != 2 || weight.d[0] != 2 * c || weight.d[1] != DeformOffsetsParams::kDEPTH)
            {
                refuse("got weights " + shapeText(weight) + ", expected (" + std::to_string(2 * c) + ", 96)");
            }
        }
    }

    void prepare(PluginTensorDesc const* in, int32_t, PluginTensorDesc const*) override
    {
        mParams.items = mItems;
        mParams.n = static_cast<int32_t>(in[0].dims.d[0]);
        mParams.c = mAttributes.integer("channels");
        mParams.height = static_cast<int32_t>(in[0].dims.d[2]);
        mParams.width = static_cast<int32_t>(in[0].dims.d[3]);
    }

    cudaError_t launch(void const* const* inputs, void* const* outputs, cudaStream_t stream) override
    {
        DeformOffsetsParams params = mParams;
        for (int32_t i = 0; i < mItems; ++i)
        {
            params.maps[i] = inputs[kINPUTS * i];
            params.weight[i] = inputs[kINPUTS * i + 1];
            params.offset[i] = outputs[i];
        }
        if (char const* reason = checkDeformOffsets(params))
        {
            refuse(reason);
        }
        return deformOffsets(params, stream);
    }

private:
    char const* mNamespace;
    int32_t mItems;
    DeformOffsetsParams mParams{};
};

IPluginV3* make(char const* nameSpace, Attributes const& attributes)
{
    return new DeformOffsetsPlugin(nameSpace, attributes);
}

} // namespace

std::vector<IPluginCreatorInterface*> deformOffsetsCreators()
{
    static Creator offsets(kNAME, kNAMESPACE, {{"channels", 1, true, {}}, {"items", 1, false, {}}}, make);
    return {&offsets};
}

} // namespace trt
} // namespace degmix
