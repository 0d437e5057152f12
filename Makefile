# `make demo` and `make test` set up what they need; nothing else has to be run first.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Spinning OpenMP threads make training several times slower where cores are shared.
export OMP_WAIT_POLICY := PASSIVE
export PYTHONDONTWRITEBYTECODE := 1

BENCHMARKS := startup timed_loop validation_throughput quantizer_vs_onnxruntime distill_scaling freed_memory

.PHONY: setup demo test test-vision lint types bench bench-distill bench-quantization bench-modelopt bench-faults bench-latency-check data clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

setup: $(VENV)/.installed

demo: setup
	$(BIN)/kdedge demo

test: setup
	$(BIN)/python -m pytest $(PYTEST)

.venv-vision/.installed: pyproject.toml
	test -x .venv-vision/bin/python || $(PYTHON) -m venv .venv-vision
	.venv-vision/bin/python -m pip install --quiet --disable-pip-version-check -e '.[train,onnx,vision]' pytest pytest-timeout hypothesis
	touch $@

test-vision: .venv-vision/.installed
	.venv-vision/bin/python -m pytest -m vision tests/models/test_external.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

bench: setup
	for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python benchmarks/$$name.py || exit 1; done

# Against torchdistill, which needs torchvision: in the vision environment, after `make data`.
bench-distill: .venv-vision/.installed
	.venv-vision/bin/python -m pip install --quiet --disable-pip-version-check torchdistill==1.1.5
	.venv-vision/bin/python benchmarks/distill_speed.py data

# The peers' quantizers in an environment of their own (NNCF wants older packages); they only write files, kdedge's workers run all of them.
.venv-peers/.installed: Makefile
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 openvino==2026.4.1 nncf==3.4.0 \
	    'numpy<2.5' 'networkx<=3.6.1' sympy
	touch $@

# After `make data`. Finished parts are kept in data/benchmarks/quantization, finished models in benchmarks/quantization_runs.jsonl;
# ONLY="--only resnet20 --distill" and the like go to the script.
bench-quantization: setup .venv-peers/.installed
	$(BIN)/python benchmarks/quantization.py $(ONLY)

bench-faults: setup
	$(BIN)/python benchmarks/faults.py

# After `make data`, on a quiet machine; about two hours, resumable. ONLY="--only quiet --minutes 30" and the like go to the script.
bench-latency-check: setup
	$(BIN)/python benchmarks/latency_check.py $(ONLY)

# ModelOpt wants an older onnx and ONNX Runtime's GPU build: an environment of its own, 6.5 GB.
.venv-modelopt/.installed: Makefile
	test -x .venv-modelopt/bin/python || $(PYTHON) -m venv .venv-modelopt
	.venv-modelopt/bin/python -m pip install --quiet --disable-pip-version-check 'nvidia-modelopt[onnx]==0.47.0'
	touch $@

bench-modelopt: setup .venv-modelopt/.installed
	$(BIN)/python benchmarks/quantization_modelopt.py $(ONLY)

# make data DATA=DIR: fills data/ from a folder that holds cifar10/, teachers/ and text_sst2/ (see docs/data.md).
data: setup
	test -n "$(DATA)" || { echo "usage: make data DATA=DIR"; exit 2; }
	$(BIN)/python examples/fetch_data.py "$(DATA)" data

clean:
	rm -rf build dist .kdedge *.egg-info
