# Both main targets set everything up first; they work on a bare machine with Python 3.11+.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto
READY := $(VENV)/.installed
PEERS ?= .venv-peers
PEERS_PYTHON := $(PEERS)/bin/python
PAGE ?= docs/performance.md
MATRIX ?= .venv-matrix
RELIABILITY ?= docs/reliability.md
SOAK ?= runs/soak
# Each of them starts Ray or Flower's processes, so they run one after another, without workers.
RUNTIME_TESTS = $(shell grep -rlE 'mark\.runtime' tests --include='test_*.py')

# Flower and Ray would otherwise call home, install at run time, and fight over the cores.
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION = 1
export RAY_USAGE_STATS_ENABLED = 0
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO = 0
# The theme advertises its successor on each build.
export NO_MKDOCS_2_WARNING = 1
export FLWR_HOME ?= $(CURDIR)/.flwr
# Where this is set, each process of the tests compiles the package and pytest's assertions anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test test-matrix soak wheel-test lint docs notebooks bench bench-peers clean

help:
	@echo "make demo   compare EF-BV, EF21, DIANA and gradient descent on mushrooms"
	@echo "make test   run the tests"
	@echo "make lint   formatting, lint, types"
	@echo "make docs   the documentation as a site: site/index.html"
	@echo "make notebooks  execute them in place, with their pictures"
	@echo "make bench  measure everything (an hour or so), after make bench-peers"
	@echo "make test-matrix  the tests that touch Flower, with its oldest and newest version"
	@echo "make wheel-test  build the archives, install the wheel with the core dependencies alone"
	@echo "make soak   the long runs behind docs/reliability.md (hours)"

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[simulation,data,plots,privacy,language,tensorboard,docs,dev]"
	@touch $@

demo: $(READY)
	$(BIN)/fedstrategies compare efbv ef21 diana gd --compressor rand-k:k=5 \
	  --clients 4062 --l2 0.1 --rounds 300 --out runs/demo --overwrite
	@echo "picture: runs/demo/comparison.png   table: runs/demo/comparison.md"

test: $(READY)
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=120 -n $(WORKERS) -m "not runtime"
	$(BIN)/python -m pytest -m runtime $(RUNTIME_TESTS)

test-matrix: $(READY)
	$(BIN)/python -m tests.soak.flwr_versions --folder $(MATRIX) --output $(RELIABILITY)

wheel-test: $(READY)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[release]"
	$(BIN)/python -m tests.soak.wheel

# Each goes on where its results file ends; delete that to begin anew.
soak: $(READY)
	mkdir -p $(SOAK)
	for name in faults kills hostile deployment ray_cluster quickstart; do \
	  $(BIN)/python -m tests.soak.$$name --results $(SOAK)/$$name.json --output $(RELIABILITY) \
	    || exit 1; \
	done

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

notebooks: $(READY)
	$(BIN)/python notebooks/refresh.py

docs: $(READY)
	$(BIN)/python -m mkdocs build --quiet --strict
	@echo "site: site/index.html"

# pfl needs an attrs that is older than the one the tests run with. FedLab and fluke get what they
# use of their requirements and no torchvision, which the index has for CUDA alone; where one of
# them cannot be installed, the tables do without it.
bench-peers:
	$(PYTHON) -m venv $(PEERS)
	grep -v '^attrs==' constraints.txt >$(PEERS)/constraints.txt
	$(PEERS_PYTHON) -m pip install --quiet -c $(PEERS)/constraints.txt torch pfl==0.6.0
	-$(PEERS_PYTHON) -m pip install --quiet -c $(PEERS)/constraints.txt pandas scikit-learn munch \
	  tqdm rich psutil diskcache omegaconf cerberus matplotlib torchmetrics
	-$(PEERS_PYTHON) -m pip install --quiet --no-deps fedlab==1.3.0
	-$(PEERS_PYTHON) -m pip install --quiet --no-deps fluke-fl==0.8.1

bench: $(READY)
	$(BIN)/python -m benchmarks.simulation --peers $(PEERS_PYTHON) --output $(PAGE)
	$(BIN)/python -m benchmarks.flower_runtime --output $(PAGE)
	$(BIN)/python -m benchmarks.compressors --output $(PAGE)
	$(BIN)/python -m benchmarks.scale --output $(PAGE)
	$(BIN)/python -m benchmarks.efbv_rounds --output $(PAGE)
	$(BIN)/python -m benchmarks.registered_clients --output $(PAGE)
	@if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then \
	  $(BIN)/python -m benchmarks.gpu --output $(PAGE); \
	else echo "no GPU: the section on GPUs stays as it is"; fi

clean:
	rm -rf $(VENV) $(MATRIX) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
