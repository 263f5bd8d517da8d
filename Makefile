# make demo   the induction mosaic of the bundled model, from a fresh clone
# make test   the test suite; make test-all: what it holds on smaller settings as it stands, too
# make lint   ruff and pyright
# make bench  what is timed, as ratios

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-all lint bench clean

demo: $(VENV)/.demo
	$(BIN)/python -m probes mosaic --model pico-t5 --out induction_mosaic.html

# Two processes of one thread each: most tests are too small for more threads to help.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not hub and not benchmark"

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright

bench: $(VENV)/.test
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch comes first and by its pinned version, so that no other package draws in another build of it.
$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(PIP) --editable .
	touch $@

$(VENV)/.test: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[test]'
	touch $@ $(VENV)/.demo

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/.demo $(VENV)/.test

clean:
	rm -rf $(VENV) build *.egg-info
