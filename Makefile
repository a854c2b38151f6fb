# Few words. `make demo` and `make test` are all that a new machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.geoscale-installed

.PHONY: demo install check test slow bench reliability docs schema clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev]'
	@touch $@

install: $(STAMP)  ## environment in .venv, editable, with every extra

demo: $(STAMP)  ## a real map on a local cluster, offline, with a page to look at
	$(BIN)/geoscale demo

check: $(STAMP)  ## format, lint, types, floors, docstrings, file sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/numpydoc lint $$(git ls-files 'geoscale/*.py')
	$(BIN)/python tools/check_sizes.py

test: $(STAMP)  ## the default suite, doctests included
	$(BIN)/python -m pytest -q -n 2

slow: $(STAMP)  ## kills, memory, every cut on Dask; minutes
	$(BIN)/python -m pytest -q -m "slow and not gpu and not infra"

bench: $(STAMP)  ## against the peers; hours; writes benchmarks/README.md
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,dev,bench]'
	$(BIN)/python -m benchmarks

reliability: $(STAMP)  ## everything is broken on purpose; writes docs/reliability-results.md
	$(BIN)/python tools/reliability.py

docs: $(STAMP)  ## README and docs: snippets run, links hold
	$(BIN)/python -m pytest -q tests/test_docs.py

schema: $(STAMP)  ## JSON Schema of the job file, for editors
	$(BIN)/geoscale schema > docs/job.schema.json

clean:  ## remove the environment and the demo's output
	rm -rf $(VENV) demo-output
