# make demo   the induction mosaics of two bundled models, from a fresh clone
# make test   the whole test suite, with the versions of constraints.txt
# make test-oldest, make test-newest   the same with the oldest versions that pyproject.toml allows, and with the newest
# make versions   the tests of what hangs on other packages, with the oldest and with the newest versions
# make test-all   make test, and what it holds on smaller settings as it stands
# make lint   ruff and pyright
# make docs   the documentation site, in site/; it runs the notebooks, and a broken link or reference fails
# make bench  what is timed, as ratios

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := python -m pip install --quiet --disable-pip-version-check
PIP := $(BIN)/$(INSTALL) --constraint constraints.txt

.PHONY: demo test test-all test-oldest test-newest versions lint docs bench clean

demo: $(VENV)/.demo
	$(BIN)/python -m probes mosaic --model pico-t5 --model pico-t5-current --out induction_mosaic.html

# Two processes of one thread each: most tests are too small for more threads to help.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not hub and not benchmark"

test-oldest test-newest: test-%: .venv-%/.test
	OMP_NUM_THREADS=1 .venv-$*/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

versions: .venv-oldest/.test .venv-newest/.test
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 --dist loadfile -m 'versions and not long'
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2 --dist loadfile -m 'versions and not long'

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright
	$(BIN)/python -m pyright --project tests

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

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

$(VENV)/.docs: $(VENV)/.torch pyproject.toml
	$(PIP) --editable '.[docs]'
	touch $@ $(VENV)/.demo

.venv-oldest/.test: constraints-oldest.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/$(INSTALL) --constraint constraints-oldest.txt "$$(grep '^torch==' constraints-oldest.txt)"
	.venv-oldest/bin/$(INSTALL) --constraint constraints-oldest.txt --editable '.[test]'
	touch $@

# torch alone is held: the rest is what the index has today. `make clean` first takes what is newer than the last time.
.venv-newest/.test: constraints.txt pyproject.toml
	$(PYTHON) -m venv --clear .venv-newest
	grep '^torch==' constraints.txt > .venv-newest/torch.txt
	.venv-newest/bin/$(INSTALL) --constraint .venv-newest/torch.txt torch
	.venv-newest/bin/$(INSTALL) --constraint .venv-newest/torch.txt --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest build site *.egg-info
