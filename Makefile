# make demo     environment, install, and the main job on the embedded corpus
# make test     environment, install, lint, types, fast tests       (.ci/run calls this)
# make help     the rest
#
# PYTHON=python3.12   another interpreter, in its own environment (.venv-3.12)
# JAX=0.11            another JAX line, in its own environment    (.venv-3.12-jax0.11)
# ARGS="-k mel -x"    more arguments for pytest

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
JAX ?=
JOBS ?= 2
ARGS ?=

# The interpreter: as named, else the newest one of that version that pyenv keeps.
PY := $(shell for p in $(PYTHON) $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$(patsubst python%,%,$(notdir $(PYTHON)))*/bin/python 2>/dev/null | sort -rV); do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
VERSION := $(if $(filter-out python3,$(PYTHON)),$(if $(PY),$(shell $(PY) -c 'import sys; print("-%d.%d" % sys.version_info[:2])'),-none))
VENV := .venv$(VERSION)$(if $(JAX),-jax$(JAX))
BIN := $(VENV)/bin
HEAR := .venv-hear$(VERSION)
PIN := $(if $(JAX),'jax==$(JAX).*')

# Two test processes on two cores: one thread for each of the many pools that would otherwise fight.
# Tests start many processes; uv installs no bytecode, and compiling it took each of them ten seconds.
TEST_ENV := env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX=$(CURDIR)/.cache/bytecode \
	JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES= TF_CPP_MIN_LOG_LEVEL=2 MPLBACKEND=Agg \
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NPROC=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest

.PHONY: help demo test test-slow test-faults soak test-torch test-export test-hear bench lint format env clean distclean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | column -t -s '|'

demo: $(VENV)/.core  ## pre-train a small model on the embedded corpus: curve, picture, k-NN before and after
	@$(BIN)/python -m experiments.pretrain --config demo --workdir runs/demo

# Half of these tests' time would be spent on optimising programs that run once.
test: lint  ## lint, types and every fast test
	@XLA_FLAGS="--xla_backend_optimization_level=0 $${XLA_FLAGS:-}" $(PYTEST) -q -n $(JOBS) --dist worksteal $(ARGS)

test-slow: $(VENV)/.torch  ## the proofs that take minutes, and parity with PyTorch, live
	@$(PYTEST) -q -n $(JOBS) --dist worksteal -m "slow or torch" $(ARGS)

test-faults: $(VENV)/.torch  ## kill -9, full disks, damaged files; ends with a table
	@$(PYTEST) -q -m "faults or fault" $(ARGS)

soak: $(VENV)/.core  ## half an hour of the pipeline and the step: memory, handles and threads must stay flat
	@$(BIN)/python -m experiments.soak --minutes 30 --workdir runs/soak $(ARGS)

test-torch: $(VENV)/.torch  ## the quick ones of these with PyTorch
	@$(PYTEST) -q -n $(JOBS) --dist worksteal -m "torch and not slow" $(ARGS)

test-export: $(VENV)/.export  ## LiteRT, int8 and ONNX files beside the JAX models
	@$(PYTEST) -q -m "slow or not slow" tests/experiments/test_export.py $(ARGS)

# The sizes go by the environment, because the validator passes a path alone.
test-hear: $(HEAR)/.hear  ## the public HEAR validator on MN, DyMN and Dasheng
	@$(HEAR)/bin/python -m tests.experiments.hear_files .cache/hear
	@for pair in mn:mn01 dymn:dymn04 dasheng:; do \
		PYTHONPATH=. HEAR_MODEL=$${pair#*:} $(HEAR)/bin/hear-validator experiments.hear.$${pair%:*} \
			--model .cache/hear/$${pair%:*}.safetensors; \
	done

bench: $(VENV)/.dev  ## the speed figures of the README
	@$(BIN)/python -m experiments.bench_pipeline
	@$(BIN)/python -m experiments.bench $(ARGS)

lint: $(VENV)/.dev  ## ruff (lint, format) and mypy
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "make: files above are not formatted; run: make format"; exit 1; }
	@$(BIN)/mypy --no-error-summary

format: $(VENV)/.dev  ## format, and mend what lint can mend
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

env: $(VENV)/.dev  ## only the environment

# Each stamp is newer than what it was made from, so set-up runs again only when that changes.
# uv resolves and unpacks several times faster than pip; where it cannot be had or fails, pip does the same.
# Behind a proxy only the system's certificates hold; uv by itself looks at its own.
install = { [ -x $(BIN)/uv ] && UV_SYSTEM_CERTS=$${UV_SYSTEM_CERTS-1} $(BIN)/uv pip install --quiet --python $(BIN)/python $(1); } || \
	$(BIN)/python -m pip install --quiet $(1)

$(BIN)/python:
	@[ -n "$(PY)" ] || { echo "make: $(PYTHON) is no Python 3.11 or newer; try make PYTHON=/path/to/python3.12"; exit 2; }
	@echo "make: new environment in $(VENV)"
	@$(PY) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet uv || echo "make: no uv here, so pip installs"

$(VENV)/.core: pyproject.toml requirements.txt | $(BIN)/python
	@echo "make: installing into $(VENV)"
	@$(call install,-e . $(PIN))
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "make: installing the development tools"
	@$(call install,-e '.[dev]' $(PIN))
	@touch $@

# pip alone: its settings may name a smaller CPU build of PyTorch.
$(VENV)/.torch: $(VENV)/.dev
	@echo "make: installing PyTorch"
	@$(BIN)/python -m pip install --quiet -e '.[torch]' $(PIN)
	@touch $@

$(VENV)/.export: $(VENV)/.dev
	@echo "make: installing the export runtimes"
	@$(call install,-e '.[export]' $(PIN))
	@touch $@

# The validator asks for Python below 3.9 for no reason that shows, and for TensorFlow by another name.
$(HEAR)/.hear: requirements.txt
	@[ -n "$(PY)" ] || { echo "make: $(PYTHON) is no Python 3.11 or newer; try make PYTHON=/path/to/python3.12"; exit 2; }
	@echo "make: new environment in $(HEAR), with PyTorch"
	@$(PY) -m venv $(HEAR)
	@$(HEAR)/bin/python -m pip install --quiet -r requirements.txt 'torch>=2.6,<3'
	@$(HEAR)/bin/python -m pip install --quiet --no-deps --ignore-requires-python hearvalidator==2021.0.6
	@touch $@

clean:  ## caches and build products
	@rm -rf build dist *.egg-info .cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean  ## and every environment
	@rm -rf .venv .venv-*
