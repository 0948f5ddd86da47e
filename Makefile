# make demo         a server and a node on loopback, followed live; Ctrl-C ends everything
# make demo-faults  every fault twice: how it was detected, by whom, how long until READY
# make test         lint, types, import rules and all tests
# make system-deps  what the tests need of the system's packages (Debian, needs root)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo demo-faults test style types imports tests system-deps lock clean bench

demo: $(VENV)/.runtime
	@$(BIN)/python -m server_stub.demo

demo-faults: $(VENV)/.runtime
	@$(BIN)/python -m server_stub.demo --faults

test: style types imports tests

style: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

tests: $(VENV)/.dev
	@command -v cc >/dev/null || echo 'not found: a C compiler; tests with a stand-in GPU library are skipped (make system-deps)'
	@[ "$$(id -u)" = 0 ] || echo 'not root: tests that need it are skipped'
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.dev
	@for each in benchmarks/*.py; do echo "== $$each"; $(BIN)/python $$each || exit 1; done

# The lock files pin every package with its hashes; `make lock` renews them from pyproject.toml.
lock: $(VENV)/.tools
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra server --group build -o requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --extra server --group dev -o requirements-dev.lock pyproject.toml

$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo 'needs Python 3.11 or newer: apt-get install python3'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "$(PYTHON) is older than 3.11: make PYTHON=python3.11, or newer"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	    || { echo 'needs the venv module: apt-get install python3-venv'; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock pyproject.toml | $(VENV)/bin/pip
	@echo 'installing from requirements.lock …'
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q agent nanny server_stub
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/pip
	@echo 'installing from requirements-dev.lock …'
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.tools: | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	@touch $@

system-deps:
	@[ "$$(id -u)" = 0 ] || { echo 'needs root: sudo make system-deps'; exit 1; }
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends gcc libc6-dev git make procps python3 python3-venv

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
