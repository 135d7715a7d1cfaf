"""Our sampling as an operator of OpenVINO, which has none for deformable convolutions.

OpenVINO takes operators written in Python. This one calls the library of `_cpu_ops`, and each call
takes milliseconds, so that the way through Python does not matter. It needs no header of OpenVINO,
whose C++ interface is another one in every release.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from degmix_edge.backends import _cpu_ops
from degmix_edge.ops import DOMAIN
from degmix_edge.ops.deform_sample import AT_OP, OP


class Workers:
    """How many threads the operators of one engine may use, which is known once it is loaded."""

    def __init__(self) -> None:
        self.count = 1


class _Loading:
    """The workers of the engine that is loaded now: OpenVINO makes its operators by itself."""

    lock = threading.RLock()
    workers = Workers()


@contextmanager
def loading() -> Iterator[Workers]:
    """Give the operators of the engine that is loaded inside the block their workers."""
    with _Loading.lock:
        _Loading.workers = Workers()
        try:
            yield _Loading.workers
        finally:
            _Loading.workers = Workers()


@cache
def extensions(library: Path) -> tuple[Any, ...]:
    """What a core of OpenVINO must know to read our operators, from ONNX and from its own engines.

    Raises:
        ConfigError: The library is none, or of another machine.
    """
    from openvino.frontend.onnx import ConversionExtension

    operator = _operator(library)

    def convert(node: Any) -> list[Any]:
        inputs = [node.get_input(index) for index in range(node.get_input_size())]
        return [operator(inputs).output(0)]

    return operator, *(ConversionExtension(name, DOMAIN, convert) for name in (OP, AT_OP))


def _operator(library: Path) -> type:
    import openvino

    sample = _cpu_ops.opened(library).degmixCpuSample

    class DegmixDeformSample(openvino.Op):  # type: ignore[misc]
        """Value, offset, and perhaps what a pixel's own position adds; see `ops.deform_sample`."""

        class_type_info = openvino.DiscreteTypeInfo(OP, DOMAIN)

        def __init__(self, inputs: Any = None, workers: Workers | None = None) -> None:
            super().__init__(self)
            self.workers = workers or _Loading.workers
            if inputs is not None:
                self.set_arguments(inputs)
                self.constructor_validate_and_infer_types()

        def validate_and_infer_types(self) -> None:
            value, offset = map(self.get_input_partial_shape, (0, 1))
            shape = openvino.PartialShape([value[0], value[1], offset[2], offset[3]])
            self.set_output_type(0, self.get_input_element_type(0), shape)

        def clone_with_new_inputs(self, inputs: Any) -> Any:
            return DegmixDeformSample(inputs, self.workers)

        def get_type_info(self) -> Any:
            return DegmixDeformSample.class_type_info

        def visit_attributes(self, visitor: Any) -> bool:
            return True

        def has_evaluate(self) -> bool:
            return True

        def evaluate(self, outputs: Any, inputs: Any) -> bool:
            # Views, which live as long as the call.
            value, offset, *position = (tensor.data for tensor in inputs)
            (n, c, height, width), (out_h, out_w) = value.shape, offset.shape[2:]
            outputs[0].shape = [n, c, out_h, out_w]
            addresses = (value, offset, *(position or [None]), outputs[0].data)
            params = _cpu_ops.SampleParams(
                *(None if array is None else array.ctypes.data for array in addresses),
                *(c, height, width, out_h, out_w),
            )
            failed: int = sample(ctypes.byref(params), n * c, self.workers.count)
            return failed == 0

    return DegmixDeformSample
