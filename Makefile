# Two commands need no set-up: `make demo` and `make test`. Both make .venv on their first call.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test weights cpu-ops plugin zoo-smoke

demo: .venv/installed
	$(BIN)/degmix-edge demo --out demo

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

# Seven networks, two minutes of training each on two cores, in one table: runs/zoo/zoo.html
zoo-smoke: .venv/installed
	$(BIN)/degmix-edge zoo smoke --out runs/zoo

# Operators for ONNX Runtime's CPU backend; needs cmake and a C++ compiler.
cpu-ops:
	cmake -S . -B build -DCMAKE_BUILD_TYPE=Release
	cmake --build build
	cmake --install build

# The TensorRT plugin and its kernels; needs nvcc and TensorRT's headers (TENSORRT_ROOT=... if elsewhere).
plugin:
	cmake -S plugins -B build/plugins -DDEGMIX_CPU_OPS=OFF -DTENSORRT_ROOT=$(TENSORRT_ROOT)
	cmake --build build/plugins --parallel 2
	cmake --install build/plugins

# Trains the checkpoint that ships with the package, with the command that users have.
weights: .venv/installed
	$(BIN)/degmix-edge train degmix_tiny --out runs/degmix_tiny --force
	$(BIN)/python training/ship.py runs/degmix_tiny degmix_tiny

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@
