"""A configuration file of DeepStream's Gst-nvinfer, which attaches every map as tensor metadata.

Gst-nvinfer's own pre-processing writes float32 tensors, and our graphs take uint8. The file
therefore reads prepared tensors, and says which elements can prepare them.
"""

from __future__ import annotations

from degmix_edge.bundle.contract import one_line
from degmix_edge.bundle.manifest import MODEL
from degmix_edge.workflows.emit._base import (
    PLAN,
    Emission,
    class_maps,
    commented,
    heading,
    label_file,
    labels,
)

NETWORK_MODES = {"fp32": 0, "int8": 1, "fp16": 2, "fp8": 2}


def render(source: Emission) -> dict[str, bytes]:
    """Return config_infer_primary_NAME.txt, the model files, and a label file a class map."""
    source.check_one_image("deepstream")
    files = {f"config_infer_primary_{source.name}.txt": _config(source).encode(), **source.models}
    for output in class_maps(source):
        files[label_file(output)] = labels(output, separator=";")
    return files


def _config(source: Emission) -> str:
    fit = source.manifest.fit
    height, width = fit.size
    letterbox = int(fit.mode == "letterbox")
    maps = class_maps(source)
    lines = [
        commented([*heading(source), "", *_input_notes(source), "", *_output_notes()]),
        "[property]",
        "gpu-id=0",
        "gie-unique-id=1",
        "process-mode=1",
        f"onnx-file={MODEL}",
        *_engine(source),
        "# The first dimension of every tensor is 1.",
        "batch-size=1",
        "",
        "# Tensors that an element upstream prepared: see above. The settings of images below are",
        "# then without effect; they say what that element has to do.",
        "input-tensor-from-meta=1",
        "# Height, width, channels; 1 is NHWC; 0 is RGB. Plain bytes go in: no factor, no offsets.",
        f"infer-dims={height};{width};3",
        "network-input-order=1",
        "model-color-format=0",
        "net-scale-factor=1.0",
        f"maintain-aspect-ratio={letterbox}",
        f"symmetric-padding={letterbox}",
        "# Bilinear.",
        "scaling-filter=1",
        "",
        "# 100 is `other`: nvinfer parses nothing and attaches all outputs.",
        "network-type=100",
        "output-tensor-meta=1",
        f"output-blob-names={';'.join(output.name for output in source.contract.outputs)}",
    ]
    if maps:
        lines += [
            "# One file is all that nvinfer takes; line k is class k-1. For your own code.",
            f"labelfile-path={label_file(maps[0])}",
        ]
    return "\n".join([*lines, ""])


def _engine(source: Emission) -> list[str]:
    if source.engine is not None:
        plugin = "It may need our plugin: LD_PRELOAD=/path/to/libdegmix_trtN.so"
        return [
            f"# Built for TensorRT {one_line(source.engine.version)}, "
            f"{one_line(source.engine.device)}.",
            *([f"# {plugin}"] if source.has_plugin else []),
            f"model-engine-file={PLAN}",
        ]
    return [
        "# Make the plan before the first start. The precision of every layer is written in the",
        "# graph, and a plan that nvinfer builds up to TensorRT 10 does not keep it:",
        f"#   trtexec --onnx={MODEL} --saveEngine={PLAN} --stronglyTyped",
        f"model-engine-file={PLAN}",
        "# Used only where nvinfer builds the plan itself: 0 FP32, 1 INT8, 2 FP16.",
        f"network-mode={NETWORK_MODES[source.manifest.precision]}",
    ]


def _input_notes(source: Emission) -> list[str]:
    image, fit = source.image, source.manifest.fit
    notes = [
        "The input is uint8, and Gst-nvinfer cannot fill it by itself: its pre-processing writes",
        "float32 into the input, in NCHW and in NHWC. So does the library that Gst-nvdspreprocess",
        "comes with. By their documentation, two ways remain:",
        "  1. Gst-nvdspreprocess with a custom library that writes the resized RGB bytes, with",
        "     tensor-data-type=1 (UINT8), network-input-order=1 (NHWC), network-color-format=0,",
        f"     network-input-shape={';'.join(map(str, image.shape))}, tensor-name={image.name}.",
        "     This file reads its tensors (input-tensor-from-meta=1).",
        "  2. Gst-nvinferserver with the repository of `degmix-edge emit triton`. It writes UINT8:",
        "     tensor_order: TENSOR_ORDER_NHWC, network_format: IMAGE_FORMAT_RGB, scale_factor: 1.",
    ]
    if fit.mode == "letterbox":
        notes.append(f"DeepStream pads with black; the bundle's own sessions, with RGB {fit.pad}.")
    if fit.mode == "crop":
        notes += [
            "Gst-nvinfer cannot crop. Cut the middle of the image out upstream: the largest window",
            f"of the proportions {fit.width}:{fit.height}, with src-crop=LEFT:TOP:WIDTH:HEIGHT of",
            "Gst-nvvideoconvert. Without that, the image is stretched, and maps are wrong.",
        ]
    return notes


def _output_notes() -> list[str]:
    return [
        "Your probe reads the maps from NvDsInferTensorMeta (NVDSINFER_TENSOR_OUTPUT_META). A",
        "DeepStream whose NvDsInferDataType has no UINT8 cannot describe class maps; check yours.",
    ]
