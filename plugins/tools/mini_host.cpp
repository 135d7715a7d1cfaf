// Drives a plugin library as TensorRT does, without TensorRT: creator -> plugin -> types, shapes, formats
// -> configure -> tactics -> serialize -> plugin of the runtime phase -> attach -> shapes -> enqueue, and
// checks each result against a slow reference in double precision.
//
//   degmix_mini_host path/to/libdegmix_trt10.so
//
// Prints a line a case and ends with 0 if all are right. Built against the emulation it runs anywhere.
#include <NvInferRuntime.h>

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace
{

int failures = 0;

void expect(bool ok, std::string const& what)
{
    if (!ok)
    {
        std::printf("  FAILED: %s\n", what.c_str());
        ++failures;
    }
}

[[noreturn]] void die(std::string const& what)
{
    std::fprintf(stderr, "degmix_mini_host: %s\n", what.c_str());
    std::exit(2);
}

void cuda(cudaError_t status, char const* what)
{
    if (status != cudaSuccess)
    {
        die(std::string(what) + ": " + cudaGetErrorString(status));
    }
}

// While one lives, what plugins say of refusals that are meant is not shown.
class Quiet
{
public:
    Quiet()
        : mKept(dup(STDERR_FILENO))
    {
        int const nowhere = open("/dev/null", O_WRONLY);
        dup2(nowhere, STDERR_FILENO);
        close(nowhere);
    }
    ~Quiet()
    {
        dup2(mKept, STDERR_FILENO);
        close(mKept);
    }
    Quiet(Quiet const&) = delete;
    Quiet& operator=(Quiet const&) = delete;

private:
    int mKept;
};

int64_t volume(std::vector<int64_t> const& shape)
{
    int64_t count = 1;
    for (int64_t size : shape)
    {
        count *= size;
    }
    return count;
}

// A tensor as doubles in (N, C, H, W), and on the card in a type and format.
struct Tensor
{
    std::vector<int64_t> shape;
    DataType type;
    TensorFormat format;
    std::vector<double> values;
    void* device{nullptr};

    Tensor(std::vector<int64_t> shape_, DataType type_, TensorFormat format_ = TensorFormat::kLINEAR)
        : shape(std::move(shape_))
        , type(type_)
        , format(format_)
        , values(static_cast<size_t>(volume(shape)))
    {
    }

    // Of channels in memory.
    size_t multiple() const
    {
        switch (format)
        {
        case TensorFormat::kHWC8: return 8;
        case TensorFormat::kHWC16: return 16;
        case TensorFormat::kCHW32: return 32;
        default: return 1;
        }
    }

    size_t pitch() const
    {
        return (static_cast<size_t>(shape[1]) + multiple() - 1) / multiple() * multiple();
    }

    size_t elements() const
    {
        return format == TensorFormat::kLINEAR ? values.size()
                                               : static_cast<size_t>(shape[0] * shape[2] * shape[3]) * pitch();
    }

    size_t place(size_t index) const
    {
        if (format == TensorFormat::kLINEAR)
        {
            return index;
        }
        size_t const pixels = static_cast<size_t>(shape[2] * shape[3]);
        size_t const channels = static_cast<size_t>(shape[1]);
        size_t const pixel = index % pixels;
        size_t const channel = index / pixels % channels;
        size_t const image = index / pixels / channels;
        if (format == TensorFormat::kCHW32)
        {
            return ((image * (pitch() / 32) + channel / 32) * pixels + pixel) * 32 + channel % 32;
        }
        return (image * pixels + pixel) * pitch() + channel;
    }

    size_t width() const
    {
        return type == DataType::kFLOAT ? 4 : type == DataType::kHALF ? 2 : 1;
    }

    // To the card; `values` become what the type makes of them.
    void upload()
    {
        std::vector<unsigned char> bytes(elements() * width(), 0);
        for (size_t i = 0; i < values.size(); ++i)
        {
            unsigned char* at = bytes.data() + place(i) * width();
            if (type == DataType::kFLOAT)
            {
                *reinterpret_cast<float*>(at) = static_cast<float>(values[i]);
                values[i] = *reinterpret_cast<float*>(at);
            }
            else if (type == DataType::kHALF)
            {
                *reinterpret_cast<__half*>(at) = __float2half_rn(static_cast<float>(values[i]));
                values[i] = __half2float(*reinterpret_cast<__half*>(at));
            }
            else
            {
                values[i] = std::fmin(127, std::fmax(-127, std::nearbyint(values[i])));
                *reinterpret_cast<int8_t*>(at) = static_cast<int8_t>(values[i]);
            }
        }
        cuda(cudaMalloc(&device, bytes.size() + 16), "cudaMalloc");
        cuda(cudaMemcpy(device, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "upload");
    }

    void download()
    {
        std::vector<unsigned char> bytes(elements() * width());
        cuda(cudaMemcpy(bytes.data(), device, bytes.size(), cudaMemcpyDeviceToHost), "download");
        for (size_t i = 0; i < values.size(); ++i)
        {
            unsigned char const* at = bytes.data() + place(i) * width();
            values[i] = type == DataType::kFLOAT ? *reinterpret_cast<float const*>(at)
                : type == DataType::kHALF        ? __half2float(*reinterpret_cast<__half const*>(at))
                                                 : *reinterpret_cast<int8_t const*>(at);
        }
    }

    PluginTensorDesc desc() const
    {
        PluginTensorDesc result{};
        result.dims.nbDims = static_cast<int32_t>(shape.size());
        for (size_t i = 0; i < shape.size(); ++i)
        {
            result.dims.d[i] = shape[i];
        }
        result.type = type;
        result.format = format;
        result.scale = -1.F;
        return result;
    }

    double at(int64_t n, int64_t c, int64_t y, int64_t x) const
    {
        return values[static_cast<size_t>(((n * shape[1] + c) * shape[2] + y) * shape[3] + x)];
    }
};

std::mt19937 generator(7);

void fill(Tensor& tensor, double deviation)
{
    std::normal_distribution<double> normal(0, deviation);
    for (double& value : tensor.values)
    {
        value = normal(generator);
    }
    tensor.upload();
}

double sample(Tensor const& value, int64_t n, int64_t c, double y, double x)
{
    if (!(y > -1 && x > -1 && y < static_cast<double>(value.shape[2]) && x < static_cast<double>(value.shape[3])))
    {
        return 0;
    }
    double sum = 0;
    for (int64_t i = 0; i < 4; ++i)
    {
        int64_t const row = static_cast<int64_t>(std::floor(y)) + i / 2;
        int64_t const column = static_cast<int64_t>(std::floor(x)) + i % 2;
        double const share
            = (1 - std::fabs(y - static_cast<double>(row))) * (1 - std::fabs(x - static_cast<double>(column)));
        if (row >= 0 && column >= 0 && row < value.shape[2] && column < value.shape[3])
        {
            sum += share * value.at(n, c, row, column);
        }
    }
    return sum;
}

struct Field
{
    std::string name;
    PluginFieldType type;
    std::vector<int32_t> integers;
    std::vector<float> reals;
    std::string text;

    PluginField view() const
    {
        switch (type)
        {
        case PluginFieldType::kFLOAT32: return {name.c_str(), reals.data(), type, static_cast<int32_t>(reals.size())};
        case PluginFieldType::kCHAR: return {name.c_str(), text.data(), type, static_cast<int32_t>(text.size())};
        default: return {name.c_str(), integers.data(), type, static_cast<int32_t>(integers.size())};
        }
    }
};

Field ints(char const* name, std::vector<int32_t> values)
{
    return {name, PluginFieldType::kINT32, std::move(values), {}, ""};
}

Field real(char const* name, float value)
{
    return {name, PluginFieldType::kFLOAT32, {}, {value}, ""};
}

Field text(char const* name, char const* value)
{
    return {name, PluginFieldType::kCHAR, {}, {}, value};
}

struct Case
{
    std::string title;
    char const* op;
    char const* nameSpace;
    std::vector<Field> fields;
    std::vector<Tensor*> inputs;
    std::vector<Tensor*> outputs;
    std::function<double(size_t output, int64_t n, int64_t c, int64_t y, int64_t x)> reference;
    double tolerance; // of the relative L2 error; for int8 outputs, of the largest one
};

template <typename Interface>
Interface* capability(IPluginV3* plugin, PluginCapabilityType type)
{
    return static_cast<Interface*>(plugin->getCapabilityInterface(type));
}

IPluginV3* create(IPluginCreatorV3One* creator, std::vector<Field> const& fields, TensorRTPhase phase)
{
    std::vector<PluginField> views;
    for (Field const& field : fields)
    {
        views.push_back(field.view());
    }
    PluginFieldCollection const collection{static_cast<int32_t>(views.size()), views.data()};
    return creator->createPlugin("plugin", &collection, phase);
}

std::vector<DynamicPluginTensorDesc> dynamic(Case const& test)
{
    std::vector<DynamicPluginTensorDesc> all;
    for (auto const* tensors : {&test.inputs, &test.outputs})
    {
        for (Tensor const* tensor : *tensors)
        {
            PluginTensorDesc const desc = tensor->desc();
            all.push_back(DynamicPluginTensorDesc{desc, desc.dims, desc.dims, desc.dims});
        }
    }
    return all;
}

void checkBuild(Case const& test, IPluginV3* plugin)
{
    auto* core = capability<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
    auto* build = capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
    expect(std::string(core->getPluginName()) == test.op && std::string(core->getPluginNamespace()) == test.nameSpace,
        "the plugin has its creator's name and namespace");
    int32_t const inputs = static_cast<int32_t>(test.inputs.size());
    int32_t const outputs = static_cast<int32_t>(test.outputs.size());
    expect(build->getNbOutputs() == outputs, "number of outputs");

    std::vector<DataType> inTypes;
    for (Tensor const* tensor : test.inputs)
    {
        inTypes.push_back(tensor->type);
    }
    std::vector<DataType> outTypes(test.outputs.size());
    expect(build->getOutputDataTypes(outTypes.data(), outputs, inTypes.data(), inputs) == 0, "output types");

    // Dimensions are opaque expressions here: a plugin that only passes them on never looks inside.
    std::vector<DimsExprs> in(test.inputs.size());
    std::vector<std::vector<int64_t>> sizes;
    for (Tensor const* tensor : test.inputs)
    {
        sizes.push_back(tensor->shape);
    }
    for (size_t i = 0; i < sizes.size(); ++i)
    {
        in[i].nbDims = static_cast<int32_t>(sizes[i].size());
        for (size_t d = 0; d < sizes[i].size(); ++d)
        {
            in[i].d[d] = reinterpret_cast<IDimensionExpr const*>(&sizes[i][d]);
        }
    }
    std::vector<DimsExprs> out(test.outputs.size());
    alignas(IExprBuilder*) static unsigned char unused[64];
    expect(build->getOutputShapes(
               in.data(), inputs, nullptr, 0, out.data(), outputs, *reinterpret_cast<IExprBuilder*>(unused))
            == 0,
        "output shapes");
    for (size_t i = 0; i < out.size(); ++i)
    {
        expect(outTypes[i] == test.outputs[i]->type, "type of output " + std::to_string(i));
        for (size_t d = 0; d < test.outputs[i]->shape.size(); ++d)
        {
            expect(*reinterpret_cast<int64_t const*>(out[i].d[d]) == test.outputs[i]->shape[d],
                "shape of output " + std::to_string(i));
        }
    }

    std::vector<DynamicPluginTensorDesc> descs = dynamic(test);
    for (int32_t pos = 0; pos < inputs + outputs; ++pos)
    {
        expect(build->supportsFormatCombination(pos, descs.data(), inputs, outputs),
            "the format of tensor " + std::to_string(pos) + " is supported");
        DynamicPluginTensorDesc const kept = descs[static_cast<size_t>(pos)];
        descs[static_cast<size_t>(pos)].desc.type = DataType::kINT32;
        expect(!build->supportsFormatCombination(pos, descs.data(), inputs, outputs),
            "int32 is refused for tensor " + std::to_string(pos));
        descs[static_cast<size_t>(pos)] = kept;
    }
    expect(build->configurePlugin(descs.data(), inputs, descs.data() + inputs, outputs) == 0, "configure");
    std::vector<DynamicPluginTensorDesc> wrong = descs;
    wrong[1].desc.dims.d[wrong[1].desc.dims.nbDims - 1 == 3 ? 1 : 0] += 1;
    Quiet const quiet;
    expect(build->configurePlugin(wrong.data(), inputs, wrong.data() + inputs, outputs) != 0,
        "an input of another shape is refused");
    expect(build->getTimingCacheID() != nullptr && *build->getTimingCacheID() != '\0', "timing cache id");
    expect(build->getMetadataString() != nullptr, "metadata");
}

double errorOf(Case const& test)
{
    double worst = 0;
    for (size_t output = 0; output < test.outputs.size(); ++output)
    {
        Tensor& tensor = *test.outputs[output];
        tensor.download();
        double difference = 0;
        double norm = 0;
        double largest = 0;
        size_t index = 0;
        for (int64_t n = 0; n < tensor.shape[0]; ++n)
        {
            for (int64_t c = 0; c < tensor.shape[1]; ++c)
            {
                for (int64_t y = 0; y < tensor.shape[2]; ++y)
                {
                    for (int64_t x = 0; x < tensor.shape[3]; ++x, ++index)
                    {
                        double const want = test.reference(output, n, c, y, x);
                        double const off = tensor.values[index] - want;
                        difference += off * off;
                        norm += want * want;
                        largest = std::fmax(largest, std::fabs(off));
                        if (std::isnan(off))
                        {
                            return NAN;
                        }
                    }
                }
            }
        }
        worst = std::fmax(worst, tensor.type == DataType::kINT8 ? largest : std::sqrt(difference / norm));
    }
    return worst;
}

void enqueue(Case const& test, IPluginV3OneRuntime* runtime, cudaStream_t stream)
{
    std::vector<PluginTensorDesc> in;
    std::vector<PluginTensorDesc> out;
    std::vector<void const*> from;
    std::vector<void*> to;
    for (Tensor const* tensor : test.inputs)
    {
        in.push_back(tensor->desc());
        from.push_back(tensor->device);
    }
    for (Tensor const* tensor : test.outputs)
    {
        out.push_back(tensor->desc());
        to.push_back(tensor->device);
    }
    expect(
        runtime->onShapeChange(in.data(), static_cast<int32_t>(in.size()), out.data(), static_cast<int32_t>(out.size()))
            == 0,
        "shapes are taken");
#if !defined(DEGMIX_EMULATED)
    // Captured and replayed, as a runtime does.
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t instance = nullptr;
    cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture");
    expect(runtime->enqueue(in.data(), out.data(), from.data(), to.data(), nullptr, stream) == 0, "enqueue");
    cuda(cudaStreamEndCapture(stream, &graph), "end capture");
    cuda(cudaGraphInstantiate(&instance, graph, 0), "instantiate");
    cuda(cudaGraphLaunch(instance, stream), "replay");
    cuda(cudaStreamSynchronize(stream), "kernel");
    cudaGraphExecDestroy(instance);
    cudaGraphDestroy(graph);
#else
    expect(runtime->enqueue(in.data(), out.data(), from.data(), to.data(), nullptr, stream) == 0, "enqueue");
#endif
    cuda(cudaStreamSynchronize(stream), "kernel");
}

IPluginCreatorV3One* find(
    std::vector<IPluginCreatorV3One*> const& creators, std::string const& op, std::string const& nameSpace)
{
    for (IPluginCreatorV3One* one : creators)
    {
        if (one->getPluginName() == op && one->getPluginNamespace() == nameSpace)
        {
            return one;
        }
    }
    return nullptr;
}

void run(Case const& test, std::vector<IPluginCreatorV3One*> const& creators, cudaStream_t stream)
{
    std::printf("%s\n", test.title.c_str());
    IPluginCreatorV3One* creator = find(creators, test.op, test.nameSpace);
    if (creator == nullptr)
    {
        expect(false, std::string("a creator of ") + test.op + " in " + test.nameSpace);
        return;
    }
    IPluginV3* plugin = create(creator, test.fields, TensorRTPhase::kBUILD);
    if (plugin == nullptr)
    {
        expect(false, "a plugin is created");
        return;
    }
    {
        Quiet const quiet;
        std::vector<Field> const fewer(test.fields.begin() + 1, test.fields.end());
        expect(create(creator, fewer, TensorRTPhase::kBUILD) == nullptr, "a missing attribute is refused");
    }
    checkBuild(test, plugin);
    auto* build = capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD);
    std::vector<int32_t> tactics(static_cast<size_t>(build->getNbTactics()));
    build->getValidTactics(tactics.data(), static_cast<int32_t>(tactics.size()));
    tactics.insert(tactics.begin(), 0);

    // Through a plan: the fields that are written are all that the runtime's plugin gets.
    auto const* fields
        = capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME)->getFieldsToSerialize();
    IPluginV3* restored = creator->createPlugin("plugin", fields, TensorRTPhase::kRUNTIME);
    delete plugin;
    if (restored == nullptr)
    {
        expect(false, "a plugin is restored from its own fields");
        return;
    }
    IPluginV3* attached
        = capability<IPluginV3OneRuntime>(restored, PluginCapabilityType::kRUNTIME)->attachToContext(nullptr);
    delete restored;
    auto* runtime = capability<IPluginV3OneRuntime>(attached, PluginCapabilityType::kRUNTIME);
    for (int32_t tactic : tactics)
    {
        for (Tensor* tensor : test.outputs)
        {
            cudaFree(tensor->device);
            std::fill(tensor->values.begin(), tensor->values.end(), 99.0);
            tensor->upload();
        }
        expect(runtime->setTactic(tactic) == 0, "tactic");
        enqueue(test, runtime, stream);
        double const error = errorOf(test);
        std::printf("  tactic %d: error %.2e\n", tactic, error);
        expect(error <= test.tolerance, "error at most " + std::to_string(test.tolerance));
    }
    IPluginV3* clone = attached->clone();
    delete attached;
    enqueue(test, capability<IPluginV3OneRuntime>(clone, PluginCapabilityType::kRUNTIME), stream);
    expect(errorOf(test) <= test.tolerance, "a clone gives the same");
    delete clone;
}

void sampleCases(std::vector<IPluginCreatorV3One*> const& creators, cudaStream_t stream)
{
    struct Kind
    {
        DataType value;
        DataType offset;
        double deviation;
        double tolerance;
        char const* nameSpace;
        bool isAt;
    };
    for (Kind const& kind : {Kind{DataType::kFLOAT, DataType::kFLOAT, 1, 1e-6, "degmix", false},
             Kind{DataType::kHALF, DataType::kFLOAT, 1, 5e-4, "degmix", false},
             Kind{DataType::kHALF, DataType::kHALF, 1, 5e-4, "degmix", false},
             Kind{DataType::kHALF, DataType::kHALF, 1, 5e-4, "degmix", true},
             Kind{DataType::kINT8, DataType::kFLOAT, 40, 0.51, "degmix.int8", false},
             Kind{DataType::kINT8, DataType::kHALF, 40, 0.51, "degmix.int8", true}})
    {
        std::vector<Tensor> positions;
        std::vector<Tensor> values;
        std::vector<Tensor> offsets;
        std::vector<Tensor> outs;
        std::vector<Tensor*> inputs;
        std::vector<Tensor*> outputs;
        constexpr int kITEMS = 2;
        for (int i = 0; i < kITEMS; ++i)
        {
            values.emplace_back(std::vector<int64_t>{2, 4, 9, 11}, kind.value);
            offsets.emplace_back(std::vector<int64_t>{2, 8, 9, 11}, kind.offset);
            positions.emplace_back(std::vector<int64_t>{9, 4, 4}, DataType::kFLOAT);
            outs.emplace_back(std::vector<int64_t>{2, 4, 9, 11}, kind.value);
        }
        for (int i = 0; i < kITEMS; ++i)
        {
            fill(values[static_cast<size_t>(i)], kind.deviation);
            fill(offsets[static_cast<size_t>(i)], 4);
            outs[static_cast<size_t>(i)].upload();
            inputs.push_back(&values[static_cast<size_t>(i)]);
            inputs.push_back(&offsets[static_cast<size_t>(i)]);
            if (kind.isAt)
            {
                fill(positions[static_cast<size_t>(i)], 0.5);
                inputs.push_back(&positions[static_cast<size_t>(i)]);
            }
            outputs.push_back(&outs[static_cast<size_t>(i)]);
        }
        auto const reference = [&](size_t i, int64_t n, int64_t c, int64_t y, int64_t x)
        {
            double dy = offsets[i].at(n, 2 * c, y, x);
            double dx = offsets[i].at(n, 2 * c + 1, y, x);
            if (kind.isAt)
            {
                int64_t const border = 3 * (y == 0 ? 0 : y == 8 ? 2 : 1) + (x == 0 ? 0 : x == 10 ? 2 : 1);
                double const* line = &positions[i].values[static_cast<size_t>((border * 4 + c) * 4)];
                double const along = static_cast<double>(c < 2 ? y : x);
                dy += line[0] * along + line[1];
                dx += line[2] * along + line[3];
            }
            return sample(values[i], n, c, static_cast<double>(y) + dy, static_cast<double>(x) + dx);
        };
        char const* op = kind.isAt ? "DegmixDeformSampleAt" : "DegmixDeformSample";
        run(Case{std::string(op) + ", type " + std::to_string(static_cast<int>(kind.value)), op, kind.nameSpace,
                {ints("channels", {4}), ints("items", {kITEMS})}, inputs, outputs, reference, kind.tolerance},
            creators, stream);
    }
}

void convolutionCases(std::vector<IPluginCreatorV3One*> const& creators, cudaStream_t stream)
{
    struct Kind
    {
        DataType type;
        TensorFormat format;
        DataType outType;
        TensorFormat outFormat;
        double tolerance;
        char const* name;
        char const* nameSpace;
    };
    constexpr DataType kFLOAT = DataType::kFLOAT;
    constexpr DataType kHALF = DataType::kHALF;
    constexpr DataType kINT8 = DataType::kINT8;
    constexpr TensorFormat kLINEAR = TensorFormat::kLINEAR;
    constexpr TensorFormat kHWC = TensorFormat::kHWC;
    constexpr TensorFormat kHWC8 = TensorFormat::kHWC8;
    constexpr TensorFormat kHWC16 = TensorFormat::kHWC16;
    constexpr TensorFormat kCHW32 = TensorFormat::kCHW32;
    // An int8 sample is rounded by 0.29 in the mean; masks and weights leave 14 of a deviation of 40.
    for (Kind const& kind : {Kind{kFLOAT, kLINEAR, kFLOAT, kLINEAR, 1e-6, "float32", "degmix"},
             Kind{kHALF, kLINEAR, kHALF, kLINEAR, 5e-4, "float16 linear", "degmix"},
             Kind{kHALF, kHWC8, kHALF, kHWC8, 5e-4, "float16 HWC8", "degmix"},
             Kind{kFLOAT, kHWC, kFLOAT, kHWC, 1e-6, "float32 HWC", "degmix"},
             Kind{kINT8, kLINEAR, kFLOAT, kLINEAR, 2.5e-2, "int8", "degmix.int8"},
             Kind{kINT8, kHWC16, kFLOAT, kLINEAR, 2.5e-2, "int8 HWC16", "degmix.int8"},
             Kind{kINT8, kCHW32, kFLOAT, kLINEAR, 2.5e-2, "int8 CHW32", "degmix.int8"},
             Kind{kINT8, kHWC16, kINT8, kHWC16, 1, "int8 HWC16 to int8", "degmix.int8.out"},
             Kind{kINT8, kCHW32, kINT8, kCHW32, 1, "int8 CHW32 to int8", "degmix.int8.out"}})
    {
        bool const isInt8 = kind.type == kINT8;
        double const unit = isInt8 ? 40 : 1;
        double const outScale = kind.outType == kINT8 ? 0.5 : 1;
        constexpr int64_t kC = 64;
        constexpr int64_t kO = 24;
        constexpr int kITEMS = 2;
        // Strides, pads and dilations differ along the axes, and the pads at their ends.
        int64_t const outH = (9 + 1 + 2 - 3) / 2 + 1;
        int64_t const outW = 12 + 2 + 0 - 3 + 1;
        struct Item
        {
            Tensor value;
            Tensor weight;
            Tensor offset;
            Tensor bias;
            Tensor scale;
            Tensor mask;
            Tensor out;
        };
        std::vector<Item> items;
        for (int i = 0; i < kITEMS; ++i)
        {
            items.push_back(Item{Tensor({2, kC, 9, 12}, kind.type, kind.format), Tensor({kO, 3, 2, kC}, kind.type),
                Tensor({2, 2 * 2 * 6, outH, outW}, kFLOAT), Tensor({kO}, kFLOAT), Tensor({kO}, kFLOAT),
                Tensor({2, 2 * 6, outH, outW}, kFLOAT), Tensor({2, kO, outH, outW}, kind.outType, kind.outFormat)});
        }
        std::vector<Tensor*> inputs;
        std::vector<Tensor*> outputs;
        for (Item& item : items)
        {
            fill(item.value, unit);
            fill(item.weight, 0.2 * unit);
            fill(item.offset, 3);
            fill(item.bias, 1);
            fill(item.mask, 1);
            std::fill(item.scale.values.begin(), item.scale.values.end(), 0.02 + 0.01 * (&item - items.data()));
            item.scale.upload();
            item.out.upload();
            inputs.insert(inputs.end(), {&item.value, &item.weight, &item.offset, &item.bias});
            if (isInt8)
            {
                inputs.push_back(&item.scale);
            }
            inputs.push_back(&item.mask);
            outputs.push_back(&item.out);
        }
        auto const reference = [&](size_t i, int64_t n, int64_t o, int64_t y, int64_t x)
        {
            Item const& item = items[i];
            double sum = 0;
            for (int64_t tap = 0; tap < 6; ++tap)
            {
                for (int64_t c = 0; c < kC; ++c)
                {
                    int64_t const plane = c / (kC / 2) * 6 + tap;
                    double const atY = static_cast<double>(y * 2 - 1 + tap / 2) + item.offset.at(n, 2 * plane, y, x);
                    double const atX
                        = static_cast<double>(x - 2 + 2 * (tap % 2)) + item.offset.at(n, 2 * plane + 1, y, x);
                    double const share = 1 / (1 + std::exp(-item.mask.at(n, plane, y, x)));
                    sum += share * sample(item.value, n, c, atY, atX)
                        * item.weight.values[static_cast<size_t>((o * 6 + tap) * kC + c)];
                }
            }
            double const real = isInt8 ? sum * 0.05 * item.scale.values[static_cast<size_t>(o)] : sum;
            double const result = real + item.bias.values[static_cast<size_t>(o)];
            return result > 0 ? result / outScale : 0;
        };
        std::vector<Field> fields{ints("kernel_shape", {3, 2}), ints("strides", {2, 1}), ints("pads", {1, 2, 2, 0}),
            ints("dilations", {1, 2}), ints("group", {1}), ints("offset_group", {2}), ints("mask", {1}),
            ints("items", {kITEMS}), text("activation", "relu"), ints("sigmoid_mask", {1})};
        if (isInt8)
        {
            fields.push_back(real("value_scale", 0.05F));
        }
        if (kind.outType == kINT8)
        {
            fields.push_back(real("output_scale", static_cast<float>(outScale)));
        }
        run(Case{std::string("DegmixDeformConv2d, ") + kind.name, "DegmixDeformConv2d", kind.nameSpace, fields, inputs,
                outputs, reference, kind.tolerance},
            creators, stream);
    }
}

// Fragment order, as degmix_edge/ops/deform_offsets.py packs it.
std::vector<double> pack(std::vector<double> const& matrix, int64_t rows, int64_t depth)
{
    std::vector<double> packed(matrix.size());
    for (int64_t n = 0; n < rows; ++n)
    {
        for (int64_t k = 0; k < depth; ++k)
        {
            int64_t const fragment = (n / 16 * (depth / 16) + k / 16) * 256;
            int64_t const lane = n % 8 * 4 + k % 8 / 2;
            int64_t const word = k % 16 / 8 * 2 + n % 16 / 8;
            packed[static_cast<size_t>(fragment + lane * 8 + word * 2 + k % 2)]
                = matrix[static_cast<size_t>(n * depth + k)];
        }
    }
    return packed;
}

void offsetCases(std::vector<IPluginCreatorV3One*> const& creators, cudaStream_t stream)
{
    constexpr int64_t kC = 32;
    constexpr int64_t kH = 9;
    constexpr int64_t kW = 19;
    constexpr int kITEMS = 2;
    std::vector<Tensor> maps;
    std::vector<Tensor> weights;
    std::vector<Tensor> outs;
    std::vector<std::vector<double>> matrices;
    std::vector<Tensor*> inputs;
    std::vector<Tensor*> outputs;
    std::normal_distribution<double> normal(0, 0.2);
    for (int i = 0; i < kITEMS; ++i)
    {
        maps.emplace_back(std::vector<int64_t>{2, 18, kH, kW}, DataType::kHALF);
        weights.emplace_back(std::vector<int64_t>{2 * kC, 96}, DataType::kHALF);
        outs.emplace_back(std::vector<int64_t>{2, 2 * kC, kH, kW}, DataType::kHALF);
        // Packed order is a permutation: what the reference reads is put back from what was rounded.
        std::vector<double> matrix(2 * kC * 96, 0.0);
        for (int64_t n = 0; n < 2 * kC; ++n)
        {
            for (int64_t k = 0; k < 90; ++k)
            {
                double const weight = k % 10 < 9 ? normal(generator) : 0.0;
                matrix[static_cast<size_t>(n * 96 + k)] = __half2float(__float2half_rn(static_cast<float>(weight)));
            }
        }
        matrices.push_back(matrix);
    }
    for (int i = 0; i < kITEMS; ++i)
    {
        size_t const at = static_cast<size_t>(i);
        fill(maps[at], 0.5);
        weights[at].values = pack(matrices[at], 2 * kC, 96);
        weights[at].upload();
        outs[at].upload();
        inputs.push_back(&maps[at]);
        inputs.push_back(&weights[at]);
        outputs.push_back(&outs[at]);
    }
    auto const reference = [&](size_t i, int64_t n, int64_t o, int64_t y, int64_t x)
    {
        double sum = 0;
        for (int64_t k = 0; k < 90; ++k)
        {
            int64_t const row = y + k / 10 / 3 - 1;
            int64_t const column = x + k / 10 % 3 - 1;
            if (k % 10 < 9 && row >= 0 && row < kH && column >= 0 && column < kW)
            {
                sum += matrices[i][static_cast<size_t>(o * 96 + k)]
                    * maps[i].at(n, (o < kC ? 0 : 9) + k % 10, row, column);
            }
        }
        return sum;
    };
    run(Case{"DegmixDeformOffsets", "DegmixDeformOffsets", "degmix", {ints("channels", {kC}), ints("items", {kITEMS})},
            inputs, outputs, reference, 1e-3},
        creators, stream);
}

} // namespace

int main(int argc, char** argv)
{
    if (argc != 2)
    {
        die("expected one argument, the plugin library");
    }
    void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
    {
        die(dlerror());
    }
    using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
    auto const getCreators = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
    if (getCreators == nullptr)
    {
        die(std::string(argv[1]) + " has no getCreators: it is no plugin library");
    }
    int32_t count = 0;
    IPluginCreatorInterface* const* found = getCreators(count);
    std::vector<IPluginCreatorV3One*> creators;
    for (int32_t i = 0; i < count; ++i)
    {
        creators.push_back(static_cast<IPluginCreatorV3One*>(found[i]));
    }
    cudaStream_t stream = nullptr;
    cuda(cudaStreamCreate(&stream), "cudaStreamCreate");
    sampleCases(creators, stream);
    convolutionCases(creators, stream);
    offsetCases(creators, stream);
    std::printf("%s: %d creators, %d failures\n", argv[1], count, failures);
    return failures == 0 ? 0 : 1;
}
