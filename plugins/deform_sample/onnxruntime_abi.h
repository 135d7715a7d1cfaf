// The part of ONNX Runtime's C interface that the operator needs, declared anew: its Python wheel has
// no headers. The interface only grows at its end, so a function's place in the table is fixed; the
// places are of API version 17, the first with KernelContext_ParallelFor.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C"
{
    struct OrtStatus;
    struct OrtSessionOptions;
    struct OrtCustomOpDomain;
    struct OrtKernelInfo;
    struct OrtKernelContext;
    struct OrtValue;
    struct OrtTensorTypeAndShapeInfo;
    struct OrtShapeInferContext;

    using OrtApi = void* const;

    struct OrtApiBase
    {
        OrtApi* (*getApi)(uint32_t version);
        char const* (*getVersionString)();
    };

    struct OrtCustomOp
    {
        uint32_t version;
        void* (*createKernel)(OrtCustomOp const*, OrtApi*, OrtKernelInfo const*);
        char const* (*getName)(OrtCustomOp const*);
        char const* (*getExecutionProviderType)(OrtCustomOp const*);
        int (*getInputType)(OrtCustomOp const*, size_t);
        size_t (*getInputTypeCount)(OrtCustomOp const*);
        int (*getOutputType)(OrtCustomOp const*, size_t);
        size_t (*getOutputTypeCount)(OrtCustomOp const*);
        void (*kernelCompute)(void*, OrtKernelContext*);
        void (*kernelDestroy)(void*);
        int (*getInputCharacteristic)(OrtCustomOp const*, size_t);
        int (*getOutputCharacteristic)(OrtCustomOp const*, size_t);
        int (*getInputMemoryType)(OrtCustomOp const*, size_t);
        int (*getVariadicInputMinArity)(OrtCustomOp const*);
        int (*getVariadicInputHomogeneity)(OrtCustomOp const*);
        int (*getVariadicOutputMinArity)(OrtCustomOp const*);
        int (*getVariadicOutputHomogeneity)(OrtCustomOp const*);
        OrtStatus* (*createKernelV2)(OrtCustomOp const*, OrtApi*, OrtKernelInfo const*, void**);
        OrtStatus* (*kernelComputeV2)(void*, OrtKernelContext*);
        OrtStatus* (*inferOutputShapeFn)(OrtCustomOp const*, OrtShapeInferContext*);
        int (*getStartVersion)(OrtCustomOp const*);
        int (*getEndVersion)(OrtCustomOp const*);
    };
}

namespace degmix
{

constexpr uint32_t kORT_API_VERSION = 17;
constexpr int kORT_FLOAT = 1;
constexpr int kORT_REQUIRED = 0;
constexpr int kORT_FAIL = 1;
constexpr int kORT_INVALID_ARGUMENT = 2;

// Each function by its place in the table.
class Ort
{
public:
    explicit Ort(OrtApi* api)
        : mApi(api)
    {
    }

    OrtStatus* createStatus(int code, char const* message) const
    {
        return at<OrtStatus*(int, char const*)>(0)(code, message);
    }
    OrtStatus* createCustomOpDomain(char const* domain, OrtCustomOpDomain** out) const
    {
        return at<OrtStatus*(char const*, OrtCustomOpDomain**)>(26)(domain, out);
    }
    OrtStatus* customOpDomainAdd(OrtCustomOpDomain* domain, OrtCustomOp const* op) const
    {
        return at<OrtStatus*(OrtCustomOpDomain*, OrtCustomOp const*)>(27)(domain, op);
    }
    OrtStatus* addCustomOpDomain(OrtSessionOptions* options, OrtCustomOpDomain* domain) const
    {
        return at<OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)>(28)(options, domain);
    }
    OrtStatus* getTensorMutableData(OrtValue* value, void** out) const
    {
        return at<OrtStatus*(OrtValue*, void**)>(51)(value, out);
    }
    OrtStatus* getDimensionsCount(OrtTensorTypeAndShapeInfo const* info, size_t* out) const
    {
        return at<OrtStatus*(OrtTensorTypeAndShapeInfo const*, size_t*)>(61)(info, out);
    }
    OrtStatus* getDimensions(OrtTensorTypeAndShapeInfo const* info, int64_t* out, size_t count) const
    {
        return at<OrtStatus*(OrtTensorTypeAndShapeInfo const*, int64_t*, size_t)>(62)(info, out, count);
    }
    OrtStatus* getTensorTypeAndShape(OrtValue const* value, OrtTensorTypeAndShapeInfo** out) const
    {
        return at<OrtStatus*(OrtValue const*, OrtTensorTypeAndShapeInfo**)>(65)(value, out);
    }
    OrtStatus* getInput(OrtKernelContext const* context, size_t index, OrtValue const** out) const
    {
        return at<OrtStatus*(OrtKernelContext const*, size_t, OrtValue const**)>(90)(context, index, out);
    }
    OrtStatus* getOutput(
        OrtKernelContext* context, size_t index, int64_t const* shape, size_t count, OrtValue** out) const
    {
        return at<OrtStatus*(OrtKernelContext*, size_t, int64_t const*, size_t, OrtValue**)>(91)(
            context, index, shape, count, out);
    }
    void releaseTensorTypeAndShapeInfo(OrtTensorTypeAndShapeInfo* info) const
    {
        at<void(OrtTensorTypeAndShapeInfo*)>(99)(info);
    }
    OrtStatus* parallelFor(
        OrtKernelContext const* context, void (*run)(void*, size_t), size_t total, size_t batches, void* data) const
    {
        return at<OrtStatus*(OrtKernelContext const*, void (*)(void*, size_t), size_t, size_t, void*)>(274)(
            context, run, total, batches, data);
    }

private:
    template <typename Function>
    Function* at(size_t place) const
    {
        return reinterpret_cast<Function*>(mApi[place]);
    }

    OrtApi* mApi;
};

} // namespace degmix
