"""A card that is a stand-in for CUDA's driver: how it is, and what was left on it."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from degmix_edge.nvidia import cuda

STAND_INS = Path(__file__).parent / "stand_ins"
KINDS = ("contexts", "streams", "events", "allocations", "graphs", "executables")
"""What the driver counts: what was made and not given back."""
FRESH = {"driver": 13000, "capability": 87, "integrated": 0, "instantiate_status": 0}
FRESH |= {"fails_from": 0, "elsewhere": 0, "waited": 0, "defaults": 0, "launches": 0}
FRESH |= {"fits": 0, "kernel_status": 0}


class Card:
    """Numbers of the stand-in by name, such as `card.integrated`, and what it counts."""

    def __init__(self, path: Path) -> None:
        vars(self)["library"] = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)

    def _number(self, name: str) -> ctypes.c_int:
        kind = ctypes.c_size_t if name in ("waited", "elsewhere") else ctypes.c_int
        return kind.in_dll(self.library, f"stand_in_{name}")

    def __getattr__(self, name: str) -> int:
        return self._number(name).value

    def __setattr__(self, name: str, value: int) -> None:
        self._number(name).value = value

    def current(self) -> int:
        """The calling thread's context; 0 is none."""
        self.library.stand_in_current.restype = ctypes.c_void_p
        return self.library.stand_in_current() or 0

    def depth(self) -> int:
        """Number of contexts on the calling thread's stack."""
        return self.library.stand_in_depth()

    def leaks(self) -> dict[str, int]:
        """What was made and not given back."""
        return {kind: count for kind in KINDS if (count := getattr(self, kind))}


CARDS: list[Card] = []
LIBRARY = "DEGMIX_TEST_LIBCUDA"
"""Names another stand-in for the driver, which the real PyCUDA needs; that is on the path then."""


def compile_stand_in(path: Path, others: Sequence[str] = ()) -> None:
    """Compile the stand-in for CUDA's driver; `others` are functions that nobody calls."""
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wl,-soname,libcuda.so.1", "-x", "c", "-"]
    source = (STAND_INS / "libcuda.c").read_text()
    source += "".join(f"EXPORT {name}(void) {{ return 801; }}\n" for name in others)
    command += ["-o", str(path), "-lpthread", "-ldl"]
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def compile_kernels(path: Path, emulated: Path) -> None:
    """Compile our kernels' library for the stand-in card, over the emulated one."""
    plugins = STAND_INS.parents[1] / "plugins"
    command = ["c++", "-std=c++17", "-shared", "-fPIC", "-DDEGMIX_EMULATED", "-Wall", "-Werror"]
    command += [f'-DEMULATED="{emulated}"', f"-I{plugins / 'emulation'}", f"-I{plugins}"]
    command += [str(STAND_INS / "kernels.cpp"), "-o", str(path), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def the_card() -> Card:
    """The one card of this process, which has no devices until `devices` is set."""
    if not CARDS:
        from conftest import shared_file

        path = os.environ.get(LIBRARY) or shared_file("libcuda.stand_in.so", compile_stand_in)
        card = Card(Path(path))
        # PyTorch remembers that there are no devices, else it would take the stand-in for a card.
        import torch

        card.devices = 0
        assert not torch.cuda.is_available()
        CARDS.append(card)
    card = CARDS[0]
    for name, value in FRESH.items():
        setattr(card, name, value)
    return card


@contextmanager
def a_card(package: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    """One device, reached through one binding; nothing may be left on it.

    PyCUDA is a stand-in, as it has no wheels, or the one that is on the path; cuda-bindings is the
    real package.
    """
    if LIBRARY not in os.environ:
        monkeypatch.syspath_prepend(STAND_INS)
    monkeypatch.setattr(cuda, "BINDINGS", {package: cuda.BINDINGS[package]})
    cuda.load_driver.cache_clear()
    card = the_card()
    card.devices = 1
    yield card
    card.devices = 0
    cuda.load_driver.cache_clear()
    depth, left = card.depth(), card.leaks()
    for kind in KINDS:
        setattr(card, kind, 0)  # the next test's are its own
    if LIBRARY not in os.environ:
        for name in [name for name in sys.modules if name.split(".")[0] == "pycuda"]:
            del sys.modules[name]
    assert depth == 0, "a context is left on this thread's stack"
    assert not left, f"made and not given back: {left}"


@pytest.fixture(params=["pycuda", "cuda.bindings"])
def binding(request) -> str:
    """Each binding of the driver in turn."""
    return request.param
