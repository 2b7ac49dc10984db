# Two commands do all the set-up: `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3
BIN := .venv/bin
# On a CPU-only machine the CPU build of torch is enough; override with TORCH="torch" for a CUDA build.
TORCH ?= torch==2.13.0

.PHONY: demo test test-all check bench clean

demo: .venv/ready ## correct a real small vision-language model again and again, then the lifelong test
	$(BIN)/liveedit demo --out runs/demo

test: .venv/ready ## the test suite
	$(BIN)/python -m pytest

test-all: test ## and every editor on every family
	$(BIN)/python -m pytest -m slow --dist loadgroup

check: .venv/ready ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready ## speed, as ratios measured in one run
	$(BIN)/python recipes/bench.py

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv build dist runs *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
