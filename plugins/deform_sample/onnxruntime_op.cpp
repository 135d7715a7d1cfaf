// DegmixDeformSample as a custom operator of ONNX Runtime's CPU backend, on its own threads.
#include "deform_sample_cpu.h"
#include "onnxruntime_abi.h"

#include <array>
#include <atomic>
#include <new>
#include <string>

#define DEGMIX_EXPORT __attribute__((visibility("default")))

namespace degmix
{
namespace
{

using Shape = std::array<int64_t, 4>;

struct Kernel
{
    Ort ort;
    Isa isa;
};

struct Work
{
    DeformSampleParams params;
    Isa isa;
    std::atomic<bool> failed;
};

OrtStatus* read(Ort const& ort, OrtKernelContext const* context, size_t index, Shape& shape, float const** data)
{
    OrtValue const* value = nullptr;
    if (OrtStatus* status = ort.getInput(context, index, &value))
    {
        return status;
    }
    OrtTensorTypeAndShapeInfo* info = nullptr;
    if (OrtStatus* status = ort.getTensorTypeAndShape(value, &info))
    {
        return status;
    }
    size_t count = 0;
    OrtStatus* status = ort.getDimensionsCount(info, &count);
    if (status == nullptr && count == shape.size())
    {
        status = ort.getDimensions(info, shape.data(), count);
    }
    ort.releaseTensorTypeAndShapeInfo(info);
    if (status != nullptr)
    {
        return status;
    }
    if (count != shape.size())
    {
        std::string const text = "DegmixDeformSample: input " + std::to_string(index) + " has " + std::to_string(count)
            + " dimensions, expected 4 (N, C, H, W)";
        return ort.createStatus(kORT_INVALID_ARGUMENT, text.c_str());
    }
    void* raw = nullptr;
    status = ort.getTensorMutableData(const_cast<OrtValue*>(value), &raw);
    *data = static_cast<float const*>(raw);
    return status;
}

std::string text(Shape const& shape)
{
    return "(" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) + ", " + std::to_string(shape[2]) + ", "
        + std::to_string(shape[3]) + ")";
}

OrtStatus* compute(void* opaque, OrtKernelContext* context)
{
    auto const& kernel = *static_cast<Kernel*>(opaque);
    Ort const& ort = kernel.ort;
    Shape value{};
    Shape offset{};
    Work work{{}, kernel.isa, {false}};
    if (OrtStatus* status = read(ort, context, 0, value, &work.params.value))
    {
        return status;
    }
    if (OrtStatus* status = read(ort, context, 1, offset, &work.params.offset))
    {
        return status;
    }
    if (offset[0] != value[0] || offset[1] != 2 * value[1])
    {
        std::string const message = "DegmixDeformSample: value is " + text(value) + " and offset " + text(offset)
            + ", expected an offset of (N, 2 C, h, w)";
        return ort.createStatus(kORT_INVALID_ARGUMENT, message.c_str());
    }
    Shape const shape{value[0], value[1], offset[2], offset[3]};
    OrtValue* output = nullptr;
    if (OrtStatus* status = ort.getOutput(context, 0, shape.data(), shape.size(), &output))
    {
        return status;
    }
    void* raw = nullptr;
    if (OrtStatus* status = ort.getTensorMutableData(output, &raw))
    {
        return status;
    }
    work.params.output = static_cast<float*>(raw);
    work.params.channels = value[1];
    work.params.height = value[2];
    work.params.width = value[3];
    work.params.outHeight = offset[2];
    work.params.outWidth = offset[3];
    int64_t const planes = value[0] * value[1];
    if (planes * offset[2] * offset[3] == 0)
    {
        return nullptr;
    }
    auto const run = [](void* data, size_t plane)
    {
        auto& each = *static_cast<Work*>(data);
        if (!deformSamplePlane(each.params, static_cast<int64_t>(plane), each.isa))
        {
            each.failed = true;
        }
    };
    if (OrtStatus* status = ort.parallelFor(context, run, static_cast<size_t>(planes), 0, &work))
    {
        return status;
    }
    return work.failed ? ort.createStatus(kORT_FAIL, "DegmixDeformSample: no memory for a plane's copy") : nullptr;
}

OrtStatus* createKernel(OrtCustomOp const*, OrtApi* api, OrtKernelInfo const*, void** out)
{
    *out = new (std::nothrow) Kernel{Ort(api), chooseIsa()};
    return *out == nullptr ? Ort(api).createStatus(kORT_FAIL, "DegmixDeformSample: out of memory") : nullptr;
}

OrtCustomOp const& op()
{
    static OrtCustomOp const made = []
    {
        OrtCustomOp custom{};
        custom.version = kORT_API_VERSION;
        custom.getName = [](OrtCustomOp const*) { return "DegmixDeformSample"; };
        custom.getExecutionProviderType = [](OrtCustomOp const*) -> char const* { return "CPUExecutionProvider"; };
        custom.getInputType = [](OrtCustomOp const*, size_t) { return kORT_FLOAT; };
        custom.getInputTypeCount = [](OrtCustomOp const*) -> size_t { return 2; };
        custom.getOutputType = [](OrtCustomOp const*, size_t) { return kORT_FLOAT; };
        custom.getOutputTypeCount = [](OrtCustomOp const*) -> size_t { return 1; };
        custom.getInputCharacteristic = [](OrtCustomOp const*, size_t) { return kORT_REQUIRED; };
        custom.getOutputCharacteristic = [](OrtCustomOp const*, size_t) { return kORT_REQUIRED; };
        custom.getInputMemoryType = [](OrtCustomOp const*, size_t) { return 0; };
        custom.getVariadicInputMinArity = [](OrtCustomOp const*) { return 1; };
        custom.getVariadicInputHomogeneity = [](OrtCustomOp const*) { return 1; };
        custom.getVariadicOutputMinArity = [](OrtCustomOp const*) { return 1; };
        custom.getVariadicOutputHomogeneity = [](OrtCustomOp const*) { return 1; };
        custom.createKernelV2 = createKernel;
        custom.kernelComputeV2 = compute;
        custom.kernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
        custom.getStartVersion = [](OrtCustomOp const*) { return 1; };
        custom.getEndVersion = [](OrtCustomOp const*) { return 2147483647; };
        return custom;
    }();
    return made;
}

} // namespace
} // namespace degmix

extern "C"
{
    // ONNX Runtime calls this when the library is registered with a session.
    DEGMIX_EXPORT OrtStatus* RegisterCustomOps(OrtSessionOptions* options, OrtApiBase const* base)
    {
        OrtApi* api = base->getApi(degmix::kORT_API_VERSION);
        if (api == nullptr)
        {
            return nullptr; // older than 1.17: the session then says that the operator is unknown
        }
        degmix::Ort const ort(api);
        OrtCustomOpDomain* domain = nullptr;
        if (OrtStatus* status = ort.createCustomOpDomain("degmix", &domain))
        {
            return status;
        }
        if (OrtStatus* status = ort.customOpDomainAdd(domain, &degmix::op()))
        {
            return status;
        }
        return ort.addCustomOpDomain(options, domain); // the domain lives as long as the process
    }
}
