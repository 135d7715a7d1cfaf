"""The JSON that every verb prints on the shipped network, without times, dates and paths.

`python tests/cli/json_of_verbs.py` writes it anew to verbs.json beside this file; a test compares.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from degmix_edge.cli import invoke

EXPECTED = Path(__file__).with_name("verbs.json")
VOLATILE = {
    *("seconds", "created", "date", "cpu", "cores", "system", "python", "machine", "versions"),
    *(
        "percentiles",
        "total_ms",
        "net_ms",
        "saving_ms",
        "speedup_net",
        "size_bytes",
        "commit",
        "stream",
    ),
    *("checks", "key", "files_sha256", "sha256", "trials", "int8_layers", "median_net_ms"),
    "rounds_ms",
}
"""Keys whose values belong to a machine or a moment; that they are there is compared."""
TINY = ["--set", "steps=2", "--set", "val_every=2", "--set", "data.train=8", "--set", "data.val=2"]
SMALL = ["--model", "baseline", "--backbone", "mobilenetv4_conv_small_050", "--size", "64x96"]
SMALL += ["--tasks", "semseg,depth"]
VERBS = {
    "train": ["train", "degmix_tiny", "--out", "run", "--accelerator", "cpu", *TINY],
    "eval": ["eval", "degmix_tiny", "--data", "synthetic:4", "--out", "scores.md"],
    "export": ["export", "onnx", "degmix_tiny", "--tasks", "semseg,depth", "--out", "a.onnx"],
    "export report": ["export", "onnx", *SMALL, "--report", "--out", "b.onnx"],
    "quantize": ["quantize", "a.onnx", "--calib", "synthetic:8", "--out", "q.onnx"],
    "build": ["build", "engine", "degmix_tiny", "--calib", "synthetic:8"],
    "build fp16": ["build", "engine", "a.onnx", "--precision", "fp16", "--out", "half.degmix"],
    "rebuild": ["build", "engine", "robot.degmix"],
    "emit": ["emit", "triton", "robot.degmix", "--out", "repository"],
    "run": ["run", "robot.degmix", "photo.png", "--out", "maps"],
    "compare": ["compare", "robot.degmix", "--data", "synthetic:4"],
    "save": ["compare", "robot.degmix", "--data", "synthetic:2", "--save-results", "r.json"],
    "load": ["compare", "robot.degmix", "--data", "synthetic:2", "--load-results", "r.json"],
    "bench": ["bench", "robot.degmix", "--against", "torch", "--calls", "3"],
    "bench stream": ["bench", "robot.degmix", "--data", "synthetic:2", "--seconds", "1"],
    "inspect bundle": ["inspect", "robot.degmix", "--nodes"],
    "inspect onnx": ["inspect", "a.onnx"],
    "inspect checkpoint": ["inspect", "degmix_tiny"],
    "inspect model": ["inspect", "--model", "demtg", "--backbone", "resnet18", "--size", "64x96"],
    "verify": ["verify", "robot.degmix"],
    "doctor": ["doctor"],
    "zoo list": ["zoo", "--list"],
    "missing": ["verify", "nothing.degmix"],
    "misspelt": ["build", "engine", "degmix_tiny", "--tasks", "depht"],
    "usage": ["bench"],
}


def stable(value: Any, key: str = "") -> Any:
    """`value` without what changes from run to run."""
    if key in VOLATILE:
        return f"<{type(value).__name__}>"
    if isinstance(value, dict):
        return {k: stable(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [stable(v, key) for v in value]
    if isinstance(value, str):
        value = re.sub(r"(?<!\w)/\S+/", "<folder>/", value)
        value = re.sub(r"\b[0-9a-f]{12,64}\b", "<hash>", value)
        return re.sub(r"\d+(\.\d+)?( s\b| ms\b| MB\b| GB\b)", r"<n>\2", value)
    return value


def collect() -> dict[str, Any]:
    """Run every verb in the current folder, in order; the JSON of each and its exit code."""
    import skimage.data
    from PIL import Image

    Image.fromarray(skimage.data.coffee()).save("photo.png")
    found = {}
    for name, arguments in VERBS.items():
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            code = invoke([*arguments, "--json"])
        found[name] = {"code": code, "json": stable(json.loads(text.getvalue()))}
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        values = collect()
    EXPECTED.write_text(json.dumps(values, indent=1) + "\n")
