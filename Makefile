# Every target makes .venv on its first call, from requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
CPP_FILES := find plugins -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' | xargs
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo campaign corpus test lint format fast coverage docs lock weights bundle cpu-ops plugin zoo-smoke builder-table ros-test

demo: .venv/installed
	$(BIN)/degmix-edge demo --out demo

# What continuous integration runs.
test: lint
	$(PYTEST) --durations=10

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(CPP_FILES) $(BIN)/clang-format --dry-run -Werror

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(CPP_FILES) $(BIN)/clang-format -i

# The tests that need no training, no process of their own and no native build.
fast: .venv/installed
	$(PYTEST) -m "not slow"

# Bad input, faults and races by the thousand: a table, in about fifteen minutes.
campaign: .venv/installed
	cd tests/campaigns && OMP_NUM_THREADS=1 ../../$(BIN)/python campaign.py

# The exact passes on public architectures, compared by ONNX Runtime: a table in build/corpus, in
# about an hour. Finished rows are kept.
corpus: .venv/corpus
	cd tests/corpus && HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 ../../$(BIN)/python corpus.py

# The fast tests again, with the share of lines that they run: 61 % when the floor was set.
coverage: .venv/installed
	$(PYTEST) -m "not slow" --cov=degmix_edge --cov=degmix_calibration --cov=degmix_training \
	  --cov-report=term:skip-covered --cov-fail-under=58

# The documentation as a site in build/docs, built without the network; every warning is an error.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Pins every package that `make` installs, with hashes; needs uv.
lock:
	uv pip compile pyproject.toml --extra dev --generate-hashes --universal --python-version 3.11 \
	  --no-strip-extras --no-emit-index-url --custom-compile-command "make lock" --upgrade --output-file requirements.lock

# Nine networks, two minutes of training each on two cores, in one table: runs/zoo/zoo.html
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

# The ROS 2 node with the real rclpy: wheels of Kilted from PyPI, in an environment of their own.
ros-test: .venv/installed .venv-ros/installed
	DEGMIX_TEST_RCLPY=$(CURDIR)/.venv-ros/bin/python $(PYTEST) tests/ros

.venv-ros/installed:
	$(PYTHON) -m venv .venv-ros
	.venv-ros/bin/pip install --quiet ros-rclpy==9.1.2 ros-sensor-msgs==5.5.1 \
	  ros-diagnostic-msgs==5.5.1 ros-rmw-fastrtps-cpp==9.3.3 --editable ".[cpu]"
	touch $@

# What NVIDIA's builder makes of every model, precision and form, without a GPU: a table in
# build/builder.md, in about five minutes.
builder-table: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python tests/nvidia/builder_table.py

# Trains the checkpoint that ships with the package, with the command that users have.
weights: .venv/installed
	$(BIN)/degmix-edge train degmix_tiny --out runs/degmix_tiny --force
	$(BIN)/python training/ship.py runs/degmix_tiny/last.safetensors degmix_tiny

# Builds the bundle that ships with the package, in half a minute.
bundle: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/degmix-edge build engine degmix_tiny --calib synthetic:64 --share-weights \
	  --out degmix_edge/ready/degmix_tiny.degmix --force

# Not in the lock file: nothing but the corpus needs these.
.venv/corpus: .venv/installed
	$(BIN)/pip install --quiet --editable ".[corpus]"
	touch $@

# The lock file has setuptools, so that the package itself is built with a pinned one too.
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
