# headrace: `make up` serves a model from this checkout, `make test` proves it. Everything lives in .venv.
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
FILE ?= examples/smollm2.yaml
SOURCES := src gateway runtimes tests bench

.PHONY: up test lint format crds bench clean help
help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

up: $(VENV)/.installed-local ## serve $(FILE) on this machine (Ctrl-C stops it)
	@$(BIN)/headrace up -f $(FILE)

test: $(VENV)/.installed-dev ## run every test that needs no cluster
	@$(BIN)/pytest -q $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix -q $(SOURCES) || true
	@$(BIN)/ruff format -q $(SOURCES)

crds: $(VENV)/.installed-dev ## write crds/*.yaml from headrace.api
	@$(BIN)/headrace dev crds

bench: $(VENV)/.installed-dev ## measure; every result is a line `bar NAME VALUE GOAL ok|short`
	@$(BIN)/python bench/main.py

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "headrace needs Python 3.11 or newer as '$(PYTHON)': install it, or run 'make PYTHON=/path/to/python3.11 ...'"; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null \
	  || { rm -rf $(VENV); echo "headrace needs Python's venv module: install python3-venv"; exit 1; }

# A second run costs nothing: pip runs again only when what it would install has changed.
$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "installing headrace[$*] into $(VENV) (the first time takes some minutes, most of it torch)"
	@started=$$(date +%s); $(BIN)/pip install --disable-pip-version-check --no-input -c constraints.txt $(PIP_ARGS) -e '.[$*]' \
	  | grep --line-buffered -E '^(Collecting|Downloading|Installing collected|Successfully|ERROR)' | cut -c1-100; \
	  test -x $(BIN)/headrace || { echo "the installation failed: see the last lines above; PIP_ARGS passes options to pip"; exit 1; }; \
	  $(BIN)/python -c 'import headrace, torch' || { echo "the installation is incomplete: run 'make clean' and try again"; exit 1; }; \
	  echo "installed in $$(( $$(date +%s) - started )) s"
	@touch $@
