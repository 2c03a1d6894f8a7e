# Set-up is part of every target: a fresh machine with Python >= 3.11, pip and make needs nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
REWARDS_READY := $(VENV)/.rewards-ready

.PHONY: demo test check setup lint bench rewards clean

demo: setup  ## the main job: generate, score, sweep, report on the shapes world
	$(BIN)/probe-lab demo

SUITES := $(addprefix test-,servers images pages sweeping commands rest training experiments)

test: setup  ## the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python tests/suites.py

check: setup  ## tests and lint side by side: what every submission has to pass
	+$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target test lint

.PHONY: $(SUITES)
$(SUITES): test-%: setup  # one part of the test suite
	OMP_NUM_THREADS=1 $(BIN)/python tests/suites.py $*

setup: $(READY)  ## prepare .venv

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --progress-bar off --constraint constraints.txt --quiet --editable '.[dev]'
	touch $@

lint: setup  ## ruff, mypy, and that imports run one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py

$(BENCH_READY): $(READY)
	$(BIN)/python -m pip install --quiet --progress-bar off --constraint constraints.txt --editable '.[bench]'
	touch $@

bench: $(BENCH_READY)  ## every measurement of the README, as a table and as JSON
	$(BIN)/python -m benchmarks

# uv, because pip cannot override what these packages pin: an override is the whole main stack, as it is.
$(REWARDS_READY): $(READY) rewards/overrides.txt rewards/constraints.txt
	$(BIN)/python -m pip install --quiet --progress-bar off --constraint rewards/constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint rewards/constraints.txt \
		--override constraints.txt --override rewards/overrides.txt --editable '.[rewards]'
	touch $@

rewards: $(REWARDS_READY)  ## the original packages of ImageReward and HPSv2, for `backend: reference`

clean:  ## remove the environment; caches, runs and reports stay
	rm -rf $(VENV)
