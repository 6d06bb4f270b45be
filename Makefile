# Both main targets set everything up first; they work on a bare machine with Python 3.11+.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto
READY := $(VENV)/.installed

# Flower and Ray would otherwise call home, install at run time, and fight over the cores.
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION = 1
export RAY_USAGE_STATS_ENABLED = 0
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO = 0
export FLWR_HOME ?= $(CURDIR)/.flwr

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo "make demo   compare EF-BV, EF21, DIANA and gradient descent on mushrooms"
	@echo "make test   run the tests"
	@echo "make lint   formatting, lint, types"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[simulation,data,plots,privacy,dev]"
	@touch $@

demo: $(READY)
	$(BIN)/fedstrategies compare efbv ef21 diana gd --compressor rand-k:k=5 \
	  --clients 4062 --l2 0.1 --rounds 300 --out runs/demo --overwrite
	@echo "picture: runs/demo/comparison.png   table: runs/demo/comparison.md"

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) -m "not runtime"
	$(BIN)/python -m pytest -m runtime

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
