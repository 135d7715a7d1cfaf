"""Find the first node of a graph that produces NaN or infinity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from degmix_edge import ort
from degmix_edge.errors import BuildError
from degmix_edge.ort import cpu_session
from degmix_edge.tasks import logits_name


def first_nonfinite(model: bytes, feed: Mapping[str, np.ndarray]) -> None:
    """Run `model` on `feed` and check that its logits are finite.

    The check reads logits and not maps, because an argmax hides a NaN.

    Args:
        model: ONNX bytes of a deployed graph.
        feed: Its inputs by name; fewer images than the batch are repeated.

    Raises:
        BuildError: Logits are not finite. The message names the first node that produces such a
            value.
        BackendError: ONNX Runtime cannot run it.
    """
    proto = onnx.load_from_string(model)
    watched = [n for node in proto.graph.node for n in node.output if n.endswith(logits_name(""))]

    def run(names: list[str]) -> dict[str, np.ndarray]:
        observed = onnx.ModelProto()
        observed.CopyFrom(proto)
        del observed.graph.output[:]
        observed.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, names))
        session = cpu_session(observed.SerializeToString(), optimization="none")
        with ort.errors():
            return dict(zip(names, session.run(None, ort.filled(session, feed)), strict=True))

    def broken(array: np.ndarray) -> bool:
        return array.dtype.kind == "f" and not bool(np.isfinite(array).all())

    if not any(broken(array) for array in run(watched).values()):
        return
    everything = run([n for node in proto.graph.node for n in node.output if n])
    for node in proto.graph.node:
        for name in node.output:
            if name and broken(everything[name]):
                weights = "; its weights hold one" if _weights_broken(proto, node) else ""
                raise BuildError(
                    f"NaN or infinity in the network's outputs; the first node that makes one is "
                    f"{node.name!r} ({node.op_type}){weights}. Check the checkpoint, or "
                    f"keep that node float with --keep-float"
                )


def _weights_broken(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    inputs = set(node.input)
    for tensor in proto.graph.initializer:
        if tensor.name in inputs:
            values = onnx.numpy_helper.to_array(tensor)
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                return True
    return False
