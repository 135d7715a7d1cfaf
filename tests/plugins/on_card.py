"""The kernels' tests on a card: a pytest plugin for a machine with CUDA, torch and torchvision.

    DEGMIX_KERNELS=build/libdegmix_kernels.so PYTHONPATH=.:tests/plugins \
        python3 -m pytest --noconftest -o addopts= -p on_card tests/plugins/test_kernels.py

The library is built for that card, as plugins/bench/device.sh does.
"""

import os

import pytest
from launches import native


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "slow: as in the conftest, which a card's machine cannot load"
    )


@pytest.fixture(scope="session")
def kernels():
    """The kernels of the library that DEGMIX_KERNELS names, on the first card."""
    import torch

    assert torch.cuda.is_available(), "no CUDA device here"
    return native.Kernels(os.environ["DEGMIX_KERNELS"])
