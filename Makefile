# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Test processes side by side; each may start an engine of its own (2-3 GB).
TEST_WORKERS ?= 2
# One thread each: threads of two processes that wait for each other are many times slower.
test test-fast soak goldens: export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo compare miniature real lint test test-fast goldens clean soak docs package gpu-check

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## virtual environment with everything, for this machine's GPU or CPU

$(VENV)/.ready: pyproject.toml scripts/set_up.py
	$(PYTHON) scripts/set_up.py $(VENV)

demo: setup  ## RL-tune the embedded model with Dr. GRPO through vLLM: minutes on two CPU cores
	$(PY) train.py experiment=demo

compare: setup  ## GRPO beside Dr. GRPO on the embedded model, three seeds each: prints the length bias in minutes
	$(PY) scripts/miniature.py --design compare

miniature: setup  ## the paper in miniature: a verdict per claim on two CPU cores, one HTML report
	$(PY) scripts/miniature.py

real: setup  ## SmolLM2-135M on ASDiv, GRPO beside Dr. GRPO: make real DATA=asdiv.jsonl [MODEL=folder]; up to 3 hours
	$(PY) scripts/real.py --data $(DATA) $(if $(MODEL),--model $(MODEL))

lint: setup  ## ruff check, ruff format, mypy, direction of imports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: lint  ## lint, types and all tests, with coverage of src/
	$(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile --cov=src --cov-report=term:skip-covered -q --durations=15

test-fast: setup  ## tests that start no engine and need no real model
	$(PY) -m pytest -q -m "not slow and not vllm and not ray"

soak: setup  ## 500 rollout steps with vLLM and 20 kills: is memory flat, are the weights the same?
	R1ZERO_SOAK=500 $(PY) -m pytest -q -s tests/e2e/test_soak.py tests/rollout/test_ray_cluster.py
	R1ZERO_WRITE_POINTS=all R1ZERO_SIGNALS=all R1ZERO_ZOO=all R1ZERO_PYTHONS=all $(PY) -m pytest -q -s \
		tests/e2e/test_write_points.py tests/e2e/test_stop_table.py tests/rollout/test_zoo.py tests/launch/test_set_up.py
	R1ZERO_FUZZ=2000 $(PY) -m pytest -q -s tests/e2e/test_config_fuzz.py

gpu-check: setup  ## is this machine ready, and what only a GPU can settle: eight minutes on one card, no internet
	-$(PY) scripts/doctor.py
	$(PY) scripts/gpu_check.py

docs: setup  ## the documentation as a site (site/), every link checked
	$(PY) -m mkdocs build --strict

package: setup  ## the wheel, installed in a fresh environment, trains in an empty folder
	rm -rf build/package && $(PY) -m hatchling build -t wheel -d build/package
	$(PYTHON) -m venv build/package/env && build/package/env/bin/pip install -q "$$(ls build/package/*.whl)[cpu]"
	build/package/env/bin/pip uninstall -q -y torchvision torchaudio torchcodec  # as scripts/set_up.py does, and why
	mkdir -p build/package/empty && cd build/package/empty && ../env/bin/r1zero train experiment=demo steps=5

goldens: setup  ## write the golden numbers again, after a change that is meant to change results
	$(PY) scripts/update_goldens.py

clean:  ## remove the virtual environment and caches (outputs/ stays)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .coverage .coverage.*
