"""Use our own data sets and importers beside a package whose entries are broken: `FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from degmix_training import authors
from safetensors.torch import save_file

from degmix_edge.errors import CheckpointError, ConfigError
from degmix_edge.workflows.models import specs

folder = Path(sys.argv[1])
save_file({"other.weight": torch.zeros(1)}, folder / "other.safetensors")
found = {"classes_of": specs(("semseg", "depth"), None)[0]}
try:
    specs(("semseg",), "fog")
except ConfigError as error:
    found["fog"] = str(error)
try:
    authors.import_checkpoint(folder / "other.safetensors")
except CheckpointError as error:
    found["refused"] = str(error)
print(json.dumps(found))
