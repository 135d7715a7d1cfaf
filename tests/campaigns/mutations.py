"""What can be wrong with bundles, ONNX files, images, settings and command lines, by seed."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import PIL.Image
import skimage.data
import yaml
from onnx import TensorProto, helper, numpy_helper
from outcomes import Case

from degmix_edge import config
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.manifest import digest_line
from degmix_edge.cli import invoke, verbs
from degmix_edge.errors import DegmixError
from degmix_edge.files import sha256
from degmix_edge.preprocess import Fit, fit_image
from degmix_edge.runtime import load
from degmix_edge.workflows.build import Build
from degmix_edge.workflows.describe import describe
from degmix_edge.workflows.engine import rebuild
from degmix_edge.workflows.options import make_options
from degmix_edge.workflows.verify import verify

STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 1e308, math.nan, math.inf, 0.5, [], {}, [[]]),
    *("", "x", "x" * 10_000, "\x1b[31m", "../../etc/passwd", "a\nb", "\ud800", "\0", "/", "1%"),
)
"""Values that nobody means."""


def changed_bytes(data: bytes, random_: random.Random) -> bytes:
    """`data` with a bit turned, cut off, with bytes of zeros, or with more at its end."""
    out = bytearray(data)
    how = random_.randrange(5)
    place = random_.randrange(max(1, len(out)))
    if how == 0 and out:
        out[place] ^= 1 << random_.randrange(8)
    elif how == 1:
        del out[place:]
    elif how == 2:
        out[place : place + 64] = bytes(min(64, len(out) - place))
    elif how == 3:
        out += random_.randbytes(random_.randrange(1, 64))
    else:
        for _ in range(8):
            if out:
                out[random_.randrange(len(out))] = random_.randrange(256)
    return bytes(out)


def strange_leaf(values: Any, random_: random.Random) -> Any:
    """A copy of nested values in which one is strange, missing or one too many."""
    copy = json.loads(json.dumps(values))
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in pairs:
            places.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(copy)
    node, key = random_.choice(places)
    how = random_.randrange(6)
    if how == 0:
        del node[key]
    elif how == 1 and isinstance(node, dict):
        node["surprise"] = random_.choice(STRANGE)
    elif how == 2 and isinstance(node, list):
        node.append(node[key])
    else:
        node[key] = random_.choice(STRANGE)
    return copy


def quietly(function: Callable[[], Any]) -> Any:
    """Call without warnings and prints."""
    silent = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silent):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stderr(silent):
            return function()


def use_bundle(path: Path, image: np.ndarray) -> None:
    """What a robot does with a bundle, at each of its sizes."""
    opened = open_bundle(path)
    for size in opened.sizes:
        with load(opened.at(size)) as session:
            session(image)


def damaged_bundles(bundle: Path, folder: Path) -> Case:
    """Damage that nobody hid: every change must be found."""
    image = skimage.data.coffee()
    names = [p.relative_to(bundle).as_posix() for p in sorted(bundle.rglob("*")) if p.is_file()]

    def case(seed: int) -> str:
        random_ = random.Random(seed)
        copy = folder / "damaged.degmix"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(bundle, copy)
        name = random_.choice(names)
        file, data = copy / name, (copy / name).read_bytes()
        how = random_.randrange(10)
        if how < 5:
            file.write_bytes(changed_bytes(data, random_))
        else:
            file.unlink()
        if how == 5:
            os.mkfifo(file)
        elif how == 6:
            file.symlink_to("/etc/passwd")
        elif how == 7:
            file.symlink_to(bundle / name)  # the very bytes, but behind a link
        elif how == 8:
            file.mkdir()
        elif how == 9:
            other = random_.choice(names)
            file.write_bytes((bundle / other).read_bytes())
        if file.is_file() and not file.is_symlink() and file.read_bytes() == data:
            return "same"
        quietly(lambda: use_bundle(copy, image))
        return f"{name} changed in way {how}"

    return case


def hostile_bundles(bundle: Path, folder: Path) -> Case:
    """Changes by somebody who also writes the hashes anew: no crash, no hang, no flood."""
    image = skimage.data.coffee()
    manifest = json.loads((bundle / "manifest.json").read_text())

    def write_manifest(copy: Path, values: Any) -> None:
        text = json.dumps(values).encode()
        (copy / "manifest.json").write_bytes(text)
        (copy / "manifest.sha256").write_bytes(digest_line(sha256(text)))

    def case(seed: int) -> str:
        random_ = random.Random(seed)
        copy = folder / "hostile.degmix"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(bundle, copy)
        if random_.random() < 0.6:
            write_manifest(copy, strange_leaf(manifest, random_))
        else:
            name = random_.choice(list(manifest["files"]))
            data = changed_bytes((copy / name).read_bytes(), random_)
            if name.endswith(".json") and random_.random() < 0.5:
                data = json.dumps(strange_leaf(json.loads((copy / name).read_bytes()), random_))
                data = data.encode()
            (copy / name).write_bytes(data)
            files = manifest["files"] | {name: sha256(data)}
            write_manifest(copy, manifest | {"files": files})
        problem: DegmixError | None = None
        target = folder / "again.degmix"
        for step in (
            lambda: use_bundle(copy, image),
            lambda: verify(copy),
            lambda: describe(copy),
            lambda: rebuild(open_bundle(copy), target=target, force=True),
        ):
            try:
                quietly(step)
            except DegmixError as error:
                problem = error
        if problem is not None:
            raise problem
        return "harmless"

    return case


def manifest_bits(bundle: Path, folder: Path) -> tuple[Case, int]:
    """Every bit of the manifest, one after the other; and how many there are."""
    copy = folder / "bits.degmix"
    shutil.copytree(bundle, copy)
    text = (copy / "manifest.json").read_bytes()

    def case(seed: int) -> str:
        data = bytearray(text)
        data[seed // 8] ^= 1 << seed % 8
        (copy / "manifest.json").write_bytes(data)
        open_bundle(copy)
        return f"bit {seed % 8} of byte {seed // 8}"

    return case, 8 * len(text)


def onnx_files(model: onnx.ModelProto, folder: Path) -> Case:
    """ONNX files that other programs wrote wrongly, given to what `build` does with them."""

    def case(seed: int) -> str:
        random_ = random.Random(seed)
        path = folder / "odd.onnx"
        if random_.random() < 0.3:
            path.write_bytes(changed_bytes(model.SerializeToString(), random_))
        else:
            odd = onnx.ModelProto()
            odd.CopyFrom(model)
            random_.choice(_WAYS)(odd, random_)
            path.write_bytes(odd.SerializeToString())
        precision = random_.choice(("fp32", "fp16"))
        quietly(lambda: describe(path))
        pipeline = Build(path, make_options(None, None, None, {"precision": precision}), None)
        quietly(lambda: pipeline.run(until="quantize"))
        return "harmless"

    return case


def _without_metadata(odd: onnx.ModelProto, _: random.Random) -> None:
    del odd.metadata_props[:]


def _another_opset(odd: onnx.ModelProto, random_: random.Random) -> None:
    odd.opset_import[0].version = random_.choice((1, 7, 13, 99, 2**31))


def _a_node_less(odd: onnx.ModelProto, random_: random.Random) -> None:
    del odd.graph.node[random_.randrange(len(odd.graph.node))]


def _no_outputs(odd: onnx.ModelProto, _: random.Random) -> None:
    del odd.graph.output[:]


def _two_inputs(odd: onnx.ModelProto, _: random.Random) -> None:
    odd.graph.input.append(helper.make_tensor_value_info("second", 1, [1, 3, 64, 96]))


def _another_input(odd: onnx.ModelProto, random_: random.Random) -> None:
    kind = odd.graph.input[0].type.tensor_type
    if random_.random() < 0.5:
        kind.elem_type = random_.choice((TensorProto.UINT8, TensorProto.STRING, 77))
    else:
        kind.shape.dim[random_.randrange(4)].dim_value = random_.choice((-1, 0, 1, 2**40))


def _long_names(odd: onnx.ModelProto, random_: random.Random) -> None:
    node = odd.graph.node[random_.randrange(len(odd.graph.node))]
    node.name = random_.choice(("x" * 300, "", "\x1b[2J", "a/b/../c"))


def _another_operator(odd: onnx.ModelProto, random_: random.Random) -> None:
    node = odd.graph.node[random_.randrange(len(odd.graph.node))]
    node.op_type = random_.choice(("Loop", "If", "NonZero", "Nothing", "Conv", "Concat", ""))
    if random_.random() < 0.3:
        node.domain = random_.choice(("com.example", "ai.onnx.ml"))


def _a_huge_constant(odd: onnx.ModelProto, random_: random.Random) -> None:
    size = random_.choice(([10**6, 10**6], [2**31], [-5]))
    shape = numpy_helper.from_array(np.array(size, np.int64), "huge_shape")
    odd.graph.initializer.append(shape)
    odd.graph.node.insert(
        0, helper.make_node("ConstantOfShape", ["huge_shape"], ["huge"], name="huge")
    )


def _outside_weights(odd: onnx.ModelProto, random_: random.Random) -> None:
    weight = odd.graph.initializer[random_.randrange(len(odd.graph.initializer))]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(
        key="location", value=random_.choice(("/etc/passwd", "../x", "etc/passwd"))
    )


def _strange_weights(odd: onnx.ModelProto, random_: random.Random) -> None:
    weight = odd.graph.initializer[random_.randrange(len(odd.graph.initializer))]
    how = random_.randrange(3)
    if how == 0 and weight.dims:
        weight.dims[0] = random_.choice((-1, 0, 2**40))
    elif how == 1:
        weight.data_type = random_.choice((0, TensorProto.STRING, 99))
    else:
        weight.raw_data = weight.raw_data[: len(weight.raw_data) // 2]


def _a_circle(odd: onnx.ModelProto, random_: random.Random) -> None:
    first, last = odd.graph.node[0], odd.graph.node[-1]
    first.input[0] = last.output[0]


def _strange_spec(odd: onnx.ModelProto, random_: random.Random) -> None:
    for prop in odd.metadata_props:
        if prop.key == "degmix.network":
            prop.value = json.dumps(strange_leaf(json.loads(prop.value), random_))


_WAYS = (
    *(_without_metadata, _another_opset, _a_node_less, _no_outputs, _two_inputs, _another_input),
    *(_long_names, _another_operator, _a_huge_constant, _outside_weights, _strange_weights),
    *(_a_circle, _strange_spec),
)


def images(folder: Path) -> Case:
    """Damaged pictures of five formats, and arrays of odd types and shapes."""
    fit = Fit(height=64, width=96)
    photo = PIL.Image.fromarray(skimage.data.coffee()).resize((300, 200))
    files = {}
    for kind in ("jpeg", "png", "bmp", "webp", "tiff"):
        buffer = io.BytesIO()
        photo.save(buffer, kind)
        files[kind] = buffer.getvalue()
    dtypes = (
        "u1",
        "i1",
        "u2",
        "i8",
        "f2",
        "f4",
        "f8",
        "c8",
        "?",
        "O",
        "S3",
        "U2",
        "M8[s]",
        "i4,f4",
    )

    def case(seed: int) -> str:
        random_ = random.Random(seed)
        if random_.random() < 0.6:
            kind = random_.choice(list(files))
            path = folder / f"picture.{kind}"
            path.write_bytes(changed_bytes(files[kind], random_))
            quietly(lambda: fit_image(path, fit))
            return "harmless"
        sides = (0, 1, 3, 4, 5, 64, 200)
        shape = [random_.choice(sides) for _ in range(random_.randrange(0, 5))]
        array = np.zeros(shape, random_.choice(dtypes))
        if array.ndim and random_.random() < 0.3:
            array = array[::-1]
        quietly(lambda: fit_image(array, fit))
        return "harmless"

    return case


def settings(folder: Path) -> Case:
    """Settings of a training, as values that nobody means and as damaged text."""
    from degmix_training.config import TrainConfig, network_config, preset

    values = config.load(TrainConfig, preset("degmix_tiny")).model_dump(mode="json")
    text = yaml.safe_dump(values).encode()
    bombs = (b"a: &a [1]\nb: [*a, *a]\n", b"[" * 5000, b"a: {b: " * 200, b"\xff\xfe\x00", b"- 1\n")

    def case(seed: int) -> str:
        random_ = random.Random(seed)
        path = folder / "odd.yaml"
        how = random_.random()
        if how < 0.1:
            path.write_bytes(random_.choice(bombs))
        elif how < 0.4:
            path.write_bytes(changed_bytes(text, random_))
        else:
            path.write_text(json.dumps(strange_leaf(values, random_)))
        found = config.load(TrainConfig, path, ["seed=1"] if random_.random() < 0.5 else [])
        found.task_specs()
        network_config(found.model, found.network, (found.height, found.width))
        return "harmless"

    return case


def command_lines(bundle: Path, folder: Path) -> Case:
    """Flags and budgets with values that nobody means."""
    photo = folder / "photo.png"
    PIL.Image.fromarray(skimage.data.coffee()).save(photo)
    words = ("", "0", "-1", "nan", "inf", "1e400", "x" * 300, "a,b", "../..", "\x1b[31m", "9" * 40)
    budgets = ("1%,2%", "semseg=1%,semseg=2%", "semseg=", "=1%", "depth=-1%", "1e9%", "nan%", "%")
    base: tuple[list[str], ...] = (
        ["run", str(bundle), str(photo)],
        ["bench", str(bundle), "--calls", "1"],
        ["verify", str(bundle)],
        ["inspect", str(bundle)],
        ["compare", str(bundle), "degmix_tiny", "--data", "synthetic:1"],
        ["build", "engine", "none.onnx"],
        ["quantize", "none.onnx"],
        ["export", "onnx", "none"],
        ["train", "degmix_tiny", "--out", str(folder / "run"), "--set", "steps=0"],
    )
    flags = {arguments[0]: _flags(arguments) for arguments in base}
    place = folder / "a" / "b" / "c"  # some values are paths, also of folders above
    place.mkdir(parents=True)

    def case(seed: int) -> str:
        os.chdir(place)
        random_ = random.Random(seed)
        arguments = list(random_.choice(base))
        for _ in range(random_.randrange(1, 4)):
            flag = random_.choice(flags[arguments[0]])
            value = random_.choice(budgets if flag == "--budget" else words)
            if flag == "--calls" and value.isdigit() and len(value) > 4:
                value = "-1"  # so many calls are no mistake, they only take long
            arguments += [flag, value]
        code = quietly(lambda: invoke(arguments))
        return "refused" if code not in (0, 1) else "harmless" if code == 0 else f"exit {code}"

    return case


def _flags(arguments: list[str]) -> list[str]:
    """The options of a verb that take a value."""
    command: Any = verbs.get_command(verbs.make_context("degmix-edge", ["doctor"]), arguments[0])
    while hasattr(command, "commands"):
        command = command.commands[arguments[1]]
    options = [p for p in command.params if p.param_type_name == "option" and not p.is_flag]
    return [option.opts[0] for option in options if option.name != "log_file"]
