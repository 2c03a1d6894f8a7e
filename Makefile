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

# Four processes, two at a time, each with one thread: small models gain nothing from a second one. What starts workers,
# clusters and servers has processes without the threads of other tests, as a user's command has. The longest come first,
# so that both cores are busy to the end.
TESTS_experiments := tests/test_experiments.py
TESTS_starting := tests/engines tests/tracking tests/test_cli.py tests/selection tests/documents
TESTS_sweeping := tests/shapes tests/report tests/sweep
TESTS_rest := $(addprefix --ignore=,$(TESTS_experiments) $(TESTS_starting) $(TESTS_sweeping))
SUITES := $(addprefix test-,rest starting sweeping experiments)
TWO_AT_A_TIME := $(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target

test: setup  ## the whole test suite
	+$(TWO_AT_A_TIME) $(SUITES)

check: setup  ## tests and lint side by side: what every submission has to pass
	+$(TWO_AT_A_TIME) $(SUITES) lint

.PHONY: $(SUITES)
$(SUITES): test-%: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TESTS_$*)

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
