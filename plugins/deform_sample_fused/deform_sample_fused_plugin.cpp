// TensorRT: DegmixDeformSampleFused and DegmixDeformMix, float16 and linear. Inputs are value, maps,
// expansion and position, and for Mix the product, bias, scale and shift; see the Python contract.
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
    {
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

    int32_t getOutputShapes(DimsExprs const* inputs, int32_t count, DimsExprs const*, int32_t, DimsExprs* outputs,
        int32_t, IExprBuilder&) noexcept override
    {
        if (count != kINPUTS)
        {
            report(std::string(getPluginName()) + ": got " + std::to_string(count) + " inputs, expected "
                + std::to_string(kINPUTS));
            return -1;
        }
        outputs[0] = inputs[0];
        return 0;
    }

    bool supportsFormatCombination(
        int32_t pos, DynamicPluginTensorDesc const* inOut, int32_t, int32_t) noexcept override
    {
        PluginTensorDesc const& desc = inOut[pos].desc;
        bool const isTable = pos == 3 || (kIS_MIX && pos >= 5 && pos < kMIX_INPUTS);
        return desc.type == (isTable ? DataType::kFLOAT : DataType::kHALF) && desc.format == TensorFormat::kLINEAR;
    }

protected:
    void checkShapes(PluginTensorDesc const* in, int32_t inputs) const override
    {
        if (inputs != kINPUTS)
        {
            refuse("got " + std::to_string(inputs) + " inputs, expected " + std::to_string(kINPUTS));
        }
        int64_t const c = mAttributes.integer("channels");
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

    void prepare(PluginTensorDesc const* in, int32_t, PluginTensorDesc const*) override
    {
        mParams.items = 1;
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
        params.value[0] = inputs[0];
        params.maps[0] = inputs[1];
        params.expand[0] = inputs[2];
        params.position[0] = static_cast<float const*>(inputs[3]);
        if (kIS_MIX)
        {
            params.product[0] = inputs[4];
            params.bias[0] = static_cast<float const*>(inputs[5]);
            params.scale[0] = static_cast<float const*>(inputs[6]);
            params.shift[0] = static_cast<float const*>(inputs[7]);
        }
        params.output[0] = outputs[0];
        if (char const* reason = checkDeformSampleFused(params))
        {
            refuse(reason);
        }
        return deformSampleFused(params, stream);
    }

private:
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
    static Creator sample(kSAMPLE, kNAMESPACE, {{"channels", 1, true, {}}}, make<false>);
    static Creator mix(kMIX, kNAMESPACE,
        {{"channels", 1, true, {}}, {"activation", 0, true, {"none", "relu", "gelu"}}, {"residual", 1, true, {}}},
        make<true>);
    return {&sample, &mix};
}

} // namespace trt
} // namespace degmix
