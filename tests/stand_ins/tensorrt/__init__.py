"""A stand-in for TensorRT, whose libraries are on no registry: a plan is ONNX, run by ONNX Runtime.

It has what `degmix_edge/nvidia/trt/` uses; another test holds that the real one has those names.
"""

import ctypes
import enum
import functools
import weakref
from collections import Counter

import numpy as np

__version__ = "10.3.0"
MAGIC = b"stand-in plan"
CAPTURE_FAILS: list[str] = []
"""Why no engine can be captured, if anything."""
IMAGES: list[np.ndarray] = []
"""What engines have run on."""


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __str__(self):
            return f"Severity.{self.name}"


class NetworkDefinitionCreationFlag(enum.IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    DETAILED = 1


class BuilderFlag(enum.Enum):
    VERSION_COMPATIBLE, GPU_FALLBACK, TF32 = range(3)


class LayerType(enum.Enum):
    CONSTANT, PLUGIN_V3 = range(2)


class HardwareCompatibilityLevel(enum.Enum):
    AMPERE_PLUS = 1


class DeviceType(enum.Enum):
    DLA = 1


class TensorIOMode(enum.Enum):
    INPUT, OUTPUT = range(2)


class IProgressMonitor:
    pass


class _Config:
    def __init__(self):
        self.flags, self.progress_monitor, self.pool = [BuilderFlag.TF32], None, None  # a default

    def set_memory_pool_limit(self, pool, pool_size):
        self.pool = pool_size

    def set_flag(self, flag):
        self.flags.append(flag)

    def clear_flag(self, flag):
        self.flags = [f for f in self.flags if f is not flag]

    def add_optimization_profile(self, profile):
        assert profile.shapes == ("x", (1, 2), (4, 2), (8, 2))

    def create_timing_cache(self, data):
        return _Cache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        return cache.data in (b"", b"measured")


class _Cache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return b"measured"


class _Profile:
    def set_shape(self, name, min, opt, max):  # noqa: A002
        self.shapes = (name, min, opt, max)


class _Network:
    layers = ()
    inputs = ()

    @property
    def num_layers(self):
        return len(self.layers)

    def get_layer(self, index):
        return self.layers[index]

    @property
    def num_inputs(self):
        return len(self.inputs)

    def get_input(self, index):
        return self.inputs[index]


class _Layer:
    num_outputs = 0

    def __init__(self, name, kind):
        self.name, self.type = name, kind


class _Input:
    def __init__(self, value):
        self.name = value.name
        self.shape = [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]


class Builder:
    num_DLA_cores = 0

    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return _Network()

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return _Profile()

    def build_serialized_network(self, network, config):
        assert config.pool == 1 << 28  # half of what is free
        assert BuilderFlag.TF32 not in config.flags  # offsets are pixels: ten bits are too few
        if config.progress_monitor is not None:
            config.progress_monitor.phase_start("Building", None, 4)
            config.progress_monitor.phase_start("Tactics", "Building", 9)
            for step in range(4):
                config.progress_monitor.step_complete("Building", step)
            config.progress_monitor.phase_finish("Building")
        return MAGIC + network.model


class _ParserError:
    def __init__(self, node):
        self.node = node

    def node_name(self):
        return self.node.name

    def node_operator(self):
        return self.node.op_type

    def desc(self):
        return "Plugin not found"


class OnnxParser:
    def __init__(self, network, logger):
        self.network, self.errors = network, []

    def parse(self, model):
        import onnx

        loaded = onnx.load_from_string(model)
        graph, local = loaded.graph, {f.name for f in loaded.functions}
        # 10.0 to 10.6 take a function of the model's own before a plugin of that name.
        ours = [n for n in graph.node if n.op_type.startswith("Degmix") and n.op_type not in local]
        known = {creator.name for creator in _REGISTRY.all_creators}
        self.errors = [_ParserError(n) for n in ours if n.op_type not in known]
        plugins = {n.name for n in ours}
        kinds = {True: LayerType.PLUGIN_V3, False: LayerType.CONSTANT}
        self.network.layers = [_Layer(n.name, kinds[n.name in plugins]) for n in graph.node]
        self.network.model = model
        self.network.inputs = [_Input(value) for value in graph.input]
        return not self.errors

    @property
    def num_errors(self):
        return len(self.errors)

    def get_error(self, index):
        return self.errors[index]


class _Creator:
    def __init__(self, name):
        self.name, self.plugin_namespace = name, "degmix"


class _Registry:
    def __init__(self):
        self.all_creators = []

    def get_creator(self, name, version, namespace):
        return next((c for c in self.all_creators if c.name == name), None)

    def load_library(self, path):
        count = ctypes.c_int32()
        ctypes.CDLL(path).getCreators(ctypes.byref(count))
        names = [
            "DegmixDeformSample",
            "DegmixDeformSampleAt",
            "DegmixDeformConv2d",
            "DegmixDeformOffsets",
        ]
        self.all_creators = [_Creator(name) for name in names]
        return self if count.value else None


_REGISTRY = _Registry()


def get_plugin_registry():
    return _REGISTRY


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        if not plan.startswith(MAGIC):
            self.logger.log(ILogger.Severity.ERROR, "the plan's magic tag does not match")
            return None
        engine = _Engine(plan[len(MAGIC) :])
        engine.logger = self.logger
        return engine


COUNTS: Counter[str] = Counter()
"""What was made and not given back, by kind."""


@functools.cache
def _libcuda():
    return ctypes.CDLL("libcuda.so.1")


class _Counted:
    """Of the driver's context: made and destroyed while that is current."""

    def __init__(self):
        assert _libcuda().stand_in_depth(), "made without a current context"
        COUNTS[type(self).__name__] += 1

    def __del__(self):
        if _libcuda().stand_in_depth() and ctypes.c_int.in_dll(_libcuda(), "stand_in_contexts"):
            COUNTS[type(self).__name__] -= 1


class _Engine(_Counted):
    def __init__(self, model):
        super().__init__()
        import onnx
        import onnxruntime

        from degmix_edge import ops

        model = ops.attach(onnx.load_from_string(model)).SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.tensors = {t.name: (t, TensorIOMode.INPUT) for t in self.session.get_inputs()}
        self.tensors |= {t.name: (t, TensorIOMode.OUTPUT) for t in self.session.get_outputs()}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return self.tensors[name][1]

    def get_tensor_dtype(self, name):
        return (
            "DataType."
            + {"tensor(float)": "FLOAT", "tensor(uint8)": "UINT8"}[self.tensors[name][0].type]
        )

    def get_tensor_shape(self, name):
        return self.tensors[name][0].shape

    def create_execution_context(self):
        return _Context(self)

    def create_engine_inspector(self):
        return _Inspector()


class LayerInformationFormat(enum.Enum):
    JSON = 1


class _Inspector:
    def get_engine_information(self, kind):
        return (
            '{"Layers": ["backbone.a/Conv + backbone.b/Relu", {"Name": "x", "LayerType": '
            '"PluginV3", "Metadata": "[ONNX Layer: mixers.depth.0/Gelu][ONNX Layer: q]"}]}'
        )


_Call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_CALLS: list[object] = []
"""What streams and graphs may call."""


class _Context(_Counted):
    def __init__(self, engine):
        super().__init__()
        self.engine, self.addresses = engine, {}

    def set_tensor_address(self, name, pointer):
        assert pointer % 256 == 0, "TensorRT asks for addresses on 256 bytes"
        self.addresses[name] = pointer
        return pointer != 0

    def execute_async_v3(self, handle):
        stream, capturing = ctypes.c_void_p(handle), ctypes.c_int()
        _libcuda().cuStreamIsCapturing(stream, ctypes.byref(capturing))
        if capturing.value and CAPTURE_FAILS:
            self.engine.logger.log(ILogger.Severity.ERROR, CAPTURE_FAILS[0])
            _libcuda().cuStreamSynchronize(stream)  # no capture allows that
            return False
        addresses = dict(self.addresses)
        # What is recorded does not keep the context.
        run = weakref.WeakMethod(self._run)
        _CALLS.append(_Call(lambda _: run()(addresses)))
        return _libcuda().cuLaunchHostFunc(stream, _CALLS[-1], None) == 0

    def _run(self, addresses):
        tensors = self.engine.tensors.items()
        inputs = [name for name, (_, mode) in tensors if mode is TensorIOMode.INPUT]
        feed = {name: self._view(name, addresses) for name in inputs}
        IMAGES.append(feed["image"].copy())
        names = [name for name, (_, mode) in tensors if mode is TensorIOMode.OUTPUT]
        for name, value in zip(names, self.engine.session.run(names, feed), strict=True):
            self._view(name, addresses)[...] = value

    def _view(self, name, addresses):
        shape = self.engine.tensors[name][0].shape
        kinds = {"DataType.FLOAT": np.float32, "DataType.UINT8": np.uint8}
        dtype = np.dtype(kinds[self.engine.get_tensor_dtype(name)])
        size = int(np.prod(shape)) * dtype.itemsize
        data = (ctypes.c_ubyte * size).from_address(addresses[name])
        return np.frombuffer(data, dtype).reshape(shape)
