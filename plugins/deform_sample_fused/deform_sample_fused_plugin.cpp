// TensorRT: DegmixDeformSampleFused and DegmixDeformMix, float16 and linear. Inputs are value, maps,
// expansion and position, and for Mix the product, bias, scale and shift, for each of `items` maps of one
// shape; outputs are one an item; see the Python contract.
#include "common/launch.h"
#include "deform_sample_fused/deform_sample_fused.h"
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

constexpr char const* kSAMPLE = "DegmixDeformSampleFused";
constexpr char const* kMIX = "DegmixDeformMix";
constexpr int32_t kSAMPLE_INPUTS = 4;
constexpr int32_t kMIX_INPUTS = 8;

template <bool kIS_MIX>
class DeformSampleFusedPlugin final : public Plugin
{
public:
    static constexpr int32_t kINPUTS = kIS_MIX ? kMIX_INPUTS : kSAMPLE_INPUTS;

    DeformSampleFusedPlugin(char const* nameSpace, Attributes const& attributes)
        : Plugin(kIS_MIX ? kMIX : kSAMPLE, nameSpace, attributes)
        , mNamespace(nameSpace)
        , mItems(attributes.integer("items") == 0 ? 1 : attributes.integer("items"))
    {
        if (mItems < 1 || mItems > DeformSampleFusedParams::kMAX_ITEMS)
        {
            refuse("attribute 'items': got " + std::to_string(mItems) + ", expected 1 to 8");
        }
    }

    IPluginV3* clone() noexcept override
    {
        auto* copy = new (std::nothrow) DeformSampleFusedPlugin(mNamespace, mAttributes);
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
                + std::to_string(kINPUTS * mItems));
            return -1;
        }
        for (int32_t i = 0; i < mItems; ++i)
        {
            outputs[i] = inputs[kINPUTS * i];
        }
        return 0;
    }

    bool supportsFormatCombination(
        int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t inputs, int32_t) noexcept override
    {
        PluginTensorDesc const& desc = inOut[pos].desc;
        int32_t const input = pos % kINPUTS;
        bool const isTable = pos < inputs && (input == 3 || (kIS_MIX && input >= 5));
        return desc.type == (isTable ? DataType::kFLOAT : DataType::kHALF) && desc.format == TensorFormat::kLINEAR;
    }

protected:
    void checkShapes(PluginTensorDesc const* in, int32_t inputs) const override
    {
        if (inputs != kINPUTS * mItems)
        {
            refuse("got " + std::to_string(inputs) + " inputs, expected " + std::to_string(kINPUTS * mItems));
        }
        int64_t const c = mAttributes.integer("channels");
        for (int32_t i = 0; i < mItems; ++i)
        {
            checkItem(in + kINPUTS * i, c);
            Dims const& first = in[0].dims;
            expect(in, kINPUTS * i, "value", {first.d[0], first.d[1], first.d[2], first.d[3]});
        }
        // Here, so that a builder says it; a machine that builds for other cards may have none itself.
        int64_t const bytes = sharedBytesOf(static_cast<int32_t>(c), kIS_MIX);
        DeviceLimits limits{};
        if (deviceLimits(limits) == cudaSuccess && bytes > limits.sharedBytesPerBlock)
        {
            refuse(std::to_string(c) + " channels need " + std::to_string(bytes)
                + " bytes of shared memory a block, and this card has " + std::to_string(limits.sharedBytesPerBlock)
                + "; use the plugin form, --dcn plugin");
        }
    }

    void prepare(PluginTensorDesc const* in, int32_t, PluginTensorDesc const*) override
    {
        mParams.items = mItems;
        mParams.n = static_cast<int32_t>(in[0].dims.d[0]);
        mParams.c = static_cast<int32_t>(in[0].dims.d[1]);
        mParams.height = static_cast<int32_t>(in[0].dims.d[2]);
        mParams.width = static_cast<int32_t>(in[0].dims.d[3]);
        mParams.activation = static_cast<Activation>(mAttributes.integer("activation"));
        mParams.residual = mAttributes.integer("residual");
    }

    cudaError_t launch(void const* const* inputs, void* const* outputs, cudaStream_t stream) override
    {
        DeformSampleFusedParams params = mParams;
        for (int32_t i = 0; i < mItems; ++i)
        {
            void const* const* item = inputs + kINPUTS * i;
            params.value[i] = item[0];
            params.maps[i] = item[1];
            params.expand[i] = item[2];
            params.position[i] = static_cast<float const*>(item[3]);
            if (kIS_MIX)
            {
                params.product[i] = item[4];
                params.bias[i] = static_cast<float const*>(item[5]);
                params.scale[i] = static_cast<float const*>(item[6]);
                params.shift[i] = static_cast<float const*>(item[7]);
            }
            params.output[i] = outputs[i];
        }
        if (char const* reason = checkDeformSampleFused(params))
        {
            refuse(reason);
        }
        return deformSampleFused(params, stream);
    }

private:
    void checkItem(PluginTensorDesc const* in, int64_t c) const
    {
        expect(in, 0, "value", {-1, c, -1, -1});
        expect(in, 1, "maps", {in[0].dims.d[0], 2 * DeformSampleFusedParams::kMAPS, in[0].dims.d[2], in[0].dims.d[3]});
        expect(in, 2, "expansion", {2 * c, DeformSampleFusedParams::kDEPTH});
        expect(in, 3, "position", {9, c, 4});
        if (kIS_MIX)
        {
            expect(in, 4, "product", {c, c});
            expect(in, 5, "bias", {c});
            expect(in, 6, "scale", {c});
            expect(in, 7, "shift", {c});
        }
    }

    // A size of -1, on either side, is not known.
    void expect(PluginTensorDesc const* in, int32_t index, char const* name, std::vector<int64_t> const& sizes) const
    {
        Dims const& dims = in[index].dims;
        bool fits = dims.nbDims == static_cast<int32_t>(sizes.size());
        std::string wanted;
        for (size_t i = 0; i < sizes.size(); ++i)
        {
            fits = fits && (sizes[i] < 0 || dims.d[i] < 0 || dims.d[i] == sizes[i]);
            wanted += (i == 0 ? "(" : ", ") + std::to_string(sizes[i]);
        }
        if (!fits)
        {
            refuse(std::string("input '") + name + "': got " + shapeText(dims) + ", expected " + wanted + ")");
        }
    }

    char const* mNamespace;
    int32_t mItems;
    DeformSampleFusedParams mParams{};
};

template <bool kIS_MIX>
IPluginV3* make(char const* nameSpace, Attributes const& attributes)
{
    return new DeformSampleFusedPlugin<kIS_MIX>(nameSpace, attributes);
}

} // namespace

std::vector<IPluginCreatorInterface*> deformSampleFusedCreators()
{
    static Creator sample(kSAMPLE, kNAMESPACE, {{"channels", 1, true, {}}, {"items", 1, false, {}}}, make<false>);
    static Creator mix(kMIX, kNAMESPACE,
        {{"channels", 1, true, {}}, {"activation", 0, true, {"none", "relu", "gelu"}}, {"residual", 1, true, {}},
            {"items", 1, false, {}}},
        make<true>);
    return {&sample, &mix};
}

} // namespace trt
} // namespace degmix
