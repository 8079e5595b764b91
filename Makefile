# Everything a newcomer or a developer types. `make help` lists it.
# The virtual environment is made once; it is brought up to date when setup.cfg or constraints.txt change.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# -c constraints.txt keeps pip to the tested versions: without it, torch may come with gigabytes of GPU libraries.
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
SPEC   := setup.cfg pyproject.toml constraints.txt
# One thread per process: the arrays are small, the tests already run in parallel, and on a busy machine threads that
# wait for each other are many times slower.
ONE    := OMP_NUM_THREADS=1
PYTEST := $(ONE) $(BIN)/python -m pytest
WORKERS ?= auto
# The variable silences an advertisement; every warning of its own stops the build.
MKDOCS := $(ONE) NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test test-all coverage lint format docs docs-check numbers clean distclean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## install, then map a trained VAE: a table here, a page in demo/
	@$(ONE) $(BIN)/latentgeo demo

test: $(VENV)/.test ## all tests but the slow ones
	$(PYTEST) -n $(WORKERS) -m "not slow"

test-all: $(VENV)/.test ## all tests
	$(PYTEST) -n $(WORKERS)

coverage: $(VENV)/.test $(VENV)/.dev ## the tests, and which lines they reach
	$(PYTEST) -n $(WORKERS) -m "not slow" --cov=latentgeo --cov-report=term

lint: $(VENV)/.test $(VENV)/.dev ## style, format, types, import direction, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.dev ## mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs ## the documentation, notebooks executed, into site/; open site/index.html
	LATENTGEO_NOTEBOOKS=all $(MKDOCS)
	$(BIN)/python docs/_site/links.py site

docs-check: $(VENV)/.docs ## the same, without executing the notebooks
	LATENTGEO_NOTEBOOKS=none $(MKDOCS)
	$(BIN)/python docs/_site/links.py site

numbers: $(VENV)/.test ## measure the figures of docs/numbers.md again (an hour, machine idle); PEERS=PYTHON compares stochman
	$(ONE) $(BIN)/python benchmarks/numbers_page.py $(if $(PEERS),--peers-python $(PEERS))

clean: ## remove caches and what the demo wrote; keep the environment
	rm -rf build dist *.egg-info demo site .coverage* htmlcov .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The order-only prerequisite makes the environment without reinstalling whenever its date changes.
$(VENV)/.demo: $(SPEC) | $(BIN)/python
	@echo "Installing latentgeo and what it needs into $(VENV) (some minutes the first time) ..."
	$(PIP) -e '.[png]'
	@touch $@

$(VENV)/.test: $(SPEC) | $(BIN)/python
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.demo

$(VENV)/.docs: $(SPEC) | $(BIN)/python
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.dev: $(SPEC) | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $@
