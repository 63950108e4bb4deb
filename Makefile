# Set-up, training, tests, checks. `make` alone prints the targets.

PYTHON ?= python3
ARGS ?=
# Processes of `make test`, one torch thread each; 0 runs the tests in one process.
WORKERS ?= logical
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

.DEFAULT_GOAL := help
.PHONY: help env train test test-slow check format results zoo plots docs regression gpu-check clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Variables: PYTHON=$(PYTHON) (interpreter for .venv), ARGS='trainer.max_steps=10' (appended to the command)"

env: $(STAMP) ## create .venv with the pinned dependencies (does nothing when current)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "mosear needs Python 3.11, 3.12 or 3.13, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another interpreter: make env PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --compile-bytecode -c constraints.txt -e '.[dev,quant,deepspeed]'
	@touch $@

train: env ## tune and test the embedded backbone, write a report (ARGS="key=value ..." overrides)
	$(BIN)/python train.py +experiment=mosear $(ARGS)

test: env ## run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: env ## run the slow and the multi-process tests
	$(BIN)/python -m pytest -m "slow or multinode" $(ARGS)

check: env ## lint, formatting, types, links of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy mosear
	$(BIN)/python -m pytest -q tests/docs/test_doc_links.py

format: env ## format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: env ## rerun the tables of docs/results.md (hours; ARGS='--test-clips 300 --seeds 0' for a quick look)
	$(BIN)/python -m benchmarks.results $(ARGS)

zoo: env ## train every fusion model on the embedded corpus, three seeds, and write their tables
	$(BIN)/python -m benchmarks.zoo $(ARGS)
	$(BIN)/python -m benchmarks.plots

plots: env ## draw the pictures of the documentation from its tables
	$(BIN)/python -m benchmarks.plots

docs: env ## build the documentation as a site, in site/index.html
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

regression: env ## compare measured ratios with the stored ones (minutes; exit code 1 if one rose)
	$(BIN)/python -m benchmarks.regression $(ARGS)

gpu-check: env ## measure a 7B backbone with random weights on one GPU (17 GB of disk)
	$(BIN)/python -m benchmarks.gpu_check $(ARGS)

clean: ## remove caches and build leftovers (keeps .venv and outputs)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
