"""A model repository for Triton Inference Server.

`tritonserver --model-repository OUT` serves it. The plan of a bundle is preferred to model.onnx,
because it is what the bundle's own session runs on that card.
"""

from __future__ import annotations

from degmix_edge.bundle.contract import Input, Output
from degmix_edge.workflows.emit._base import (
    Emission,
    c_string,
    class_maps,
    commented,
    heading,
    label_file,
    labels,
)

TYPES = {"float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64"}
"""Triton's names of dtypes that it does not just spell in capitals."""


def render(source: Emission) -> dict[str, bytes]:
    """Return the repository: NAME/config.pbtxt, NAME/1/model.*, and a label file a class map."""
    name = source.name
    files = {f"{name}/config.pbtxt": _config(source).encode()}
    if source.plan is not None:
        files[f"{name}/1/model.plan"] = source.plan
    else:
        files[f"{name}/1/model.onnx"] = source.model
    for output in class_maps(source):
        files[f"{name}/{label_file(output)}"] = labels(output)
    return files


def _config(source: Emission) -> str:
    backend = "onnxruntime" if source.plan is None else "tensorrt"
    labelled = {output.name for output in class_maps(source)}
    return "\n".join(
        [
            commented([*heading(source), "", *_notes(source)]),
            f"name: {c_string(source.name)}",
            f"backend: {c_string(backend)}",
            "",
            f"# The first dimension is always {source.manifest.network.batch}, so Triton must not "
            "add a batch dimension.",
            "max_batch_size: 0",
            "",
            *(_tensor("input", tensor) for tensor in source.contract.inputs),
            *(
                _tensor("output", tensor, label_file(tensor) if tensor.name in labelled else "")
                for tensor in source.contract.outputs
            ),
        ]
    )


def _tensor(field: str, tensor: Input | Output, labels_of: str = "") -> str:
    lines = [
        f"{field} {{",
        f"  name: {c_string(tensor.name)}",
        f"  data_type: {TYPES.get(tensor.dtype, f'TYPE_{tensor.dtype.upper()}')}",
        f"  dims: [ {', '.join(map(str, tensor.shape))} ]",
    ]
    if labels_of:
        lines.append(f"  label_filename: {c_string(labels_of)}")
    return "\n".join([*lines, "}", ""])


def _notes(source: Emission) -> list[str]:
    if source.engine is None:
        return [
            "model.onnx is standard ONNX. Deformable convolutions need ONNX Runtime 1.25 or later.",
        ]
    notes = [
        f"model.plan runs on the card and the TensorRT version that it was built for: "
        f"{source.engine.version}, {source.engine.device}.",
    ]
    if source.has_plugin:
        notes.append(
            "It may need our plugin: --backend-config=tensorrt,plugins=/path/to/libdegmix_trtN.so"
        )
    return notes
