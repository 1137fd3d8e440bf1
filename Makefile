# `make demo` and `make test` need nothing but Python 3.11+ with venv; they set up .venv by themselves.
PYTHON ?= python3
# One wheel of PyTorch runs on the CPU and on NVIDIA GPUs. `make demo TORCH=torch` takes the newest.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test check format clean

help:
	@echo "make demo    a rainy clip, derained: writes demo/ and prints PSNR before and after"
	@echo "make test    run the tests"
	@echo "make check   ruff, mypy, import contracts"
	@echo "make format  let ruff format the code"
	@echo "make clean   remove .venv, demo/ and caches"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("streamderain needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.torch: | $(BIN)/python
	$(PIP) install "$(TORCH)"
	@touch $@

$(VENV)/.run: pyproject.toml $(VENV)/.torch
	$(PIP) install -e .
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.run
	$(PIP) install -e ".[dev]"
	@touch $@

demo: $(VENV)/.run
	$(BIN)/python -m training demo demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples tests/test_typed_program.py
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
