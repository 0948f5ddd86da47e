# make demo         a server and a node on loopback, followed live; Ctrl-C ends everything
# make demo-faults  every fault twice: how it was detected, by whom, how long until READY
# make test         lint, types, import rules and all tests, lane by lane (make units, simulation, foreign, …)
# make simulate     a fleet on a virtual clock under random faults            SIMULATE_ARGS="--faults 1000000"
# make faults       the fault campaign on real processes, as a table          FAULTS_ARGS="--only …"
# make soak         random faults on real nodes for a while                   MINUTES=10
# make fuzz         every parser under a coverage-guided fuzzer               SECONDS=60
# make bench        our numbers beside the targets and the peers              BENCH_ARGS="--quick"
# make system-deps  what the tests need of the system's packages (Debian, needs root)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo demo-faults test style types imports tests system-deps lock clean bench simulate faults soak fuzz \
    units simulation foreign faults-lane systemd fuzz-lane

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

tests: units simulation foreign faults-lane systemd fuzz-lane

# One lane: pytest over some directories. With AGAIN=1 (CI) what failed is run once more, alone: a real failure fails
# again, what passes then is named as flaky and has to be looked into.
define lane
	@echo '== lane: $@'
	@$(BIN)/python -m pytest -o cache_dir=.pytest_cache/$@ $(1) $(PYTEST_ARGS) || { \
	    [ -n "$(AGAIN)" ] && echo '== once more, alone' && \
	    $(BIN)/python -m pytest -o cache_dir=.pytest_cache/$@ --last-failed --last-failed-no-failures none $(1) && \
	    echo '== FLAKY in $@: the tests just named failed among others and passed alone'; }
endef
LANES := simulation foreign faults systemd fuzz

units: $(VENV)/.dev
	@command -v cc >/dev/null || echo 'not found: a C compiler; tests with a stand-in GPU library are skipped (make system-deps)'
	@[ "$$(id -u)" = 0 ] || echo 'not root: tests that need it are skipped'
	$(call lane,tests $(LANES:%=--ignore=tests/%))

simulation: $(VENV)/.dev
	$(call lane,tests/simulation)

foreign: $(VENV)/.dev
	$(call lane,tests/foreign)

faults-lane: $(VENV)/.dev
	$(call lane,tests/faults)

systemd: $(VENV)/.dev
	$(call lane,tests/systemd)

fuzz-lane: $(VENV)/.dev
	$(call lane,tests/fuzz)

simulate: $(VENV)/.dev
	@$(BIN)/python -m tests.simulation $(SIMULATE_ARGS)

faults: $(VENV)/.dev
	@$(BIN)/python -m tests.faults $(FAULTS_ARGS)

MINUTES ?= 10
soak: $(VENV)/.dev
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) $(SOAK_ARGS)

SECONDS ?= 60
fuzz: $(VENV)/.dev
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(FUZZ_ARGS)

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks --json benchmarks.json --plots docs/plots $(BENCH_ARGS)

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
	apt-get install -y -qq --no-install-recommends gcc libc6-dev git make procps python3 python3-venv faketime \
	    mmdebstrap iproute2 util-linux e2fsprogs runit s6 postgresql \
	    $$(command -v systemd-notify >/dev/null || echo systemd)
	@# Of prometheus only promtool: the package would start a server.
	command -v promtool >/dev/null || { set -e; cd "$$(mktemp -d)"; apt-get download -qq prometheus; \
	    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xO ./usr/bin/promtool >promtool; \
	    install -m 755 promtool /usr/local/bin/promtool; rm -r "$$PWD"; }

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
