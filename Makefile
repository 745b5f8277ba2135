# ossia: `make` lists the targets. Everything is installed into .venv, from pyproject.toml.
# PYTHON=python3.12 chooses the interpreter the environment is made from (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable
# What setting up prints goes to stderr, and it must not read the stdin that is meant for the program.
QUIETLY := >&2 </dev/null
LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
# Modules stay compiled, whatever the environment says: pytest rewrites every assertion
# of theirs, which takes a minute, and the tests start Python some fifty times.
# One more than there are cores: some tests wait for servers and processes.
WORKERS = $(shell $(PYTHON) -c 'import os; print(min(8, (os.cpu_count() or 1) + 1))')
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help chat test test-all format nano recipe recipe-smoke reason bench-cpu clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

chat: $(VENV)/with-base  ## talk to the embedded model; piped input is answered and that is all
	@$(BIN)/ossia chat

test: $(VENV)/with-dev  ## lint, types, tests; a few minutes
	$(LINT)
	$(PYTEST) $(ARGS)

test-all: $(VENV)/with-dev  ## the same with slow tests and full amounts. ARGS=--clients: other programs too
	$(LINT)
	$(PYTEST) --slow --thorough $(ARGS)

format: $(VENV)/with-dev  ## lay out the code, mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

nano: $(VENV)/with-train  ## make the embedded model again, from nothing, in runs/nano
	$(BIN)/ossia train recipes/nano.py --out runs/nano --resume

recipe: $(VENV)/with-train  ## the same and every experiment, standard profile; writes docs/recipe
	$(BIN)/ossia train recipes/report.py --out runs/standard --resume

recipe-smoke: $(VENV)/with-train  ## every stage and experiment on a micro model, about five minutes
	$(BIN)/ossia train recipes/report.py --out runs/smoke --fresh profile=smoke

reason: $(VENV)/with-train  ## seeds, rewards, engines, tools, a teacher, on nano; writes docs/recipe/reasoning.md
	$(BIN)/ossia train recipes/reason.py --out runs/reason --resume

bench-cpu: $(VENV)/with-base  ## measure this machine; writes docs/bench. ARGS='--model DIR --cache DIR --fork DIR'
	@$(BIN)/python bench/cpu_page.py $(ARGS)

clean:  ## remove the environment and every cache; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp a set of dependencies; pip runs again only when pyproject.toml has changed.
$(VENV)/with-base: pyproject.toml | $(BIN)/python
	@echo "ossia: installing into $(VENV), once; torch takes a minute or more" >&2
	@$(INSTALL) . $(QUIETLY)
	@touch $@

$(VENV)/with-%: pyproject.toml | $(BIN)/python
	@echo "ossia: installing into $(VENV) for '$*', once; torch takes a minute or more" >&2
	@$(INSTALL) '.[$*]' $(QUIETLY)
	@touch $(VENV)/with-base $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' $(QUIETLY) || \
	  { echo "ossia needs Python 3.11 or newer as $(PYTHON); set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) $(QUIETLY)
