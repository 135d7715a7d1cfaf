"""Parameters of isaac_ros_tensor_rt's TensorRTNode, as a ROS 2 parameter file.

The names of parameters are those of Isaac ROS 3 and 4. Its image encoder does not fit our graphs,
and the file says what has to take its place.
"""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from degmix_edge.bundle.contract import one_line
from degmix_edge.bundle.manifest import MODEL
from degmix_edge.preprocess import Fit
from degmix_edge.workflows.emit._base import PLAN, Emission, commented, heading

FORMAT = "nitros_tensor_list_nhwc"
_RESIZED = ["  enable_padding: true", "  keep_aspect_ratio: false"]
_FITS = {
    "letterbox": ["  enable_padding: true", "  keep_aspect_ratio: true"],
    "stretch": _RESIZED,
    "crop": _RESIZED,
}
"""The encoder's launch arguments by the fit; without enable_padding it cuts off borders itself."""


def render(source: Emission) -> dict[str, bytes]:
    """Return NAME.yaml, model.onnx, and engine.plan if the bundle has a plan."""
    source.check_one_image("isaac")
    return {f"{source.name}.yaml": _parameters(source).encode(), **source.models}


def _parameters(source: Emission) -> str:
    inputs = [tensor.name for tensor in source.contract.inputs]
    outputs = [tensor.name for tensor in source.contract.outputs]
    notes = [*heading(source), "", *_engine_notes(source), "", *_encoder_notes(source)]
    return "\n".join(
        [
            commented(notes),
            "tensor_rt_node:",
            "  ros__parameters:",
            "    # Relative to the folder in which the node is started; absolute paths are safer.",
            f"    model_file_path: {_quoted(MODEL)}",
            f"    engine_file_path: {_quoted(PLAN)}",
            "    force_engine_update: false",
            "    # Names of tensors in ROS messages, then names in the model; here they are equal.",
            f"    input_tensor_names: {_list(inputs)}",
            f"    input_binding_names: {_list(inputs)}",
            f"    input_tensor_formats: {_list([FORMAT])}",
            f"    output_tensor_names: {_list(outputs)}",
            f"    output_binding_names: {_list(outputs)}",
            f"    output_tensor_formats: {_list([FORMAT])}",
            "    # The model has a fixed batch of one image.",
            "    max_batch_size: 1",
            "    # The precision of every layer is written in the graph.",
            "    enable_fp16: false",
            "    verbose: false",
            *_plugin(source),
            "",
        ]
    )


def _plugin(source: Emission) -> list[str]:
    if not source.has_plugin:
        return []
    return [
        "    # The plan was built where our plugin was. If TensorRT misses an operator, set the",
        "    # path of the library that `make plugin` compiles.",
        '    # custom_plugin_lib: "/path/to/libdegmix_trtN.so"',
    ]


def _engine_notes(source: Emission) -> list[str]:
    if source.engine is not None:
        return [
            f"{PLAN} runs on the card and the TensorRT version that it was built for:",
            one_line(f"TensorRT {source.engine.version}, {source.engine.device}."),
        ]
    return [
        f"The bundle has no TensorRT plan. Make {PLAN} on the robot before the node starts:",
        f"  trtexec --onnx={MODEL} --saveEngine={PLAN} --stronglyTyped",
        "or run `degmix-edge build engine BUNDLE --backend tensorrt` there and emit again.",
        "Without the plan the node builds one itself, with weak typing up to TensorRT 10. Then the "
        "precisions in the graph are not kept, and an INT8 graph may be refused.",
    ]


def _encoder_notes(source: Emission) -> list[str]:
    image, network = source.image, source.manifest.network
    height, width = source.manifest.fit.size
    swapped = "" if network.color == "rgb" else ", with its channels in the order BGR"
    return [
        f"TensorRTNode needs a tensor {image.name!r}, {image.dtype} {tuple(image.shape)}, on its "
        "topic tensor_pub, and does not check the type of what it gets. DnnImageEncoderNode cannot "
        "make this tensor: it publishes float32 NCHW that is already normalised, and this graph "
        "normalises inside. ImageToTensorNode publishes float32, too. A small node of your own has "
        "to publish the bytes of the resized rgb8 image as a TensorList of "
        "isaac_ros_tensor_list_interfaces, with data type 2 (uint8) and the shape above.",
        "",
        "What would fit of DnnImageEncoderNode, should it gain a uint8 NHWC output:",
        f"  network_image_width: {width}",
        f"  network_image_height: {height}",
        f"  input_encoding: rgb8{swapped}",
        *_FITS[source.manifest.fit.mode],
        "What does not fit:",
        "  image_mean, image_stddev: the graph applies them, so pixels would be normalised twice",
        *_what_differs(source.manifest.fit),
    ]


def _what_differs(fit: Fit) -> list[str]:
    """What the encoder cannot do as the bundle's own sessions do it."""
    if fit.mode == "letterbox":
        return [
            f"  the colour of padding: the encoder fills with black, this bundle with RGB {fit.pad}"
        ]
    if fit.mode == "crop":
        return [
            f"  the crop: without padding, the encoder cuts {fit.width}x{fit.height} pixels out of "
            "a larger picture. A CropNode of isaac_ros_image_proc in front of it, with crop_mode "
            f"CENTER, has to cut the camera's largest window of the proportions "
            f"{fit.width}:{fit.height}"
        ]
    return []


def _list(names: Sequence[str]) -> str:
    return "[" + ", ".join(map(_quoted, names)) + "]"


def _quoted(text: str) -> str:
    quoted = yaml.dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return str(quoted).strip()
