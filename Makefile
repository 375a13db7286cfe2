# Needs Python 3.11 or newer with pip and venv, and make. Everything else is installed below.
#
#   make demo        compile the example network, verify it, run and time it without torch
#   make test        every test, the architecture's contracts among them
#   make test-quick  the tests without the slow ones
#   make bench       the example network against eager PyTorch and torch.compile
#   make lint        style and architecture checks, for those who change the code

PYTHON ?= python3
# The CPU build where pip knows one; set TORCH="torch==2.13.0 --index-url ..." to choose another.
TORCH ?= torch==2.13.0

VENV := .venv
VENV_RUNTIME := .venv-runtime
BIN := $(VENV)/bin
READY := $(VENV)/.installed
READY_RUNTIME := $(VENV_RUNTIME)/.installed
DEMO := examples/digits_early_exit
# One process per file of tests, two at a time: a file's tests share what they compiled.
PYTEST ?= -n 2 --dist loadfile

.PHONY: demo test test-quick bench lint
.DELETE_ON_ERROR:

demo: $(READY) $(READY_RUNTIME)
	$(BIN)/python $(DEMO)/demo.py --runtime-python $(VENV_RUNTIME)/bin/python

test: $(READY)
	$(BIN)/python -m pytest $(PYTEST)

test-quick: $(READY)
	$(BIN)/python -m pytest $(PYTEST) -m "not slow"

bench: $(READY)
	mkdir -p out
	$(BIN)/elastic-compile compile $(DEMO)/model.py:factory -o out/digits-onnxruntime.elastic
	$(BIN)/elastic-compile compile $(DEMO)/model.py:factory -o out/digits-tvm.elastic --backend tvm
	$(BIN)/elastic-compile bench out/digits-onnxruntime.elastic out/digits-tvm.elastic \
	    --source $(DEMO)/model.py:factory --allow-native --json out/bench.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/lint-imports

# The compiler's environment: torch first, so that no other package chooses its build.
$(READY): pyproject.toml runtime/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "needs Python 3.11 or newer: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable './runtime[tvm]' --editable '.[tvm,test]'
	touch $@

# The application's environment: the runtime and nothing of the compiler.
$(READY_RUNTIME): runtime/pyproject.toml
	test -x $(VENV_RUNTIME)/bin/python || $(PYTHON) -m venv $(VENV_RUNTIME)
	$(VENV_RUNTIME)/bin/python -m pip install --quiet --editable './runtime[tvm]'
	touch $@
