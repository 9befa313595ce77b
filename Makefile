# make run: use it. make test: see its tests pass. Both set up what they need, and are offline the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PARALLEL := --numprocesses 3 --dist loadfile --durations 20
PYTEST ?=

.PHONY: run test system test-busy test-postgres lint format lock bench bench-growth bench-trees bench-long lines manners hostile streams edge contract contract-tools faults chaos mutations help clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

run: $(VENV)/installed  ## set up, then start everything on this machine
	@$(BIN)/deskledger serve

test: lint  ## set up, lint, then run the tests, on all cores
	@$(BIN)/python -m pytest --ignore tests/system $(PARALLEL) $(PYTEST)

system: $(VENV)/installed  ## the tests that start whole processes, kill them, or search for minutes
	@$(BIN)/python -m pytest tests/system $(PARALLEL) $(PYTEST)

test-busy: $(VENV)/installed  ## make test three times, each in another order, beside two busy loops
	@$(BIN)/python -m tests.busy

test-postgres: $(VENV)/installed  ## every test, one after another, on a PostgreSQL of yours: DATABASE_URL=postgresql://user@host/postgres
	@test -n "$$DATABASE_URL" || { echo "Name the server: make test-postgres DATABASE_URL=postgresql://user@host/postgres"; exit 1; }
	@DESKLEDGER_TEST_DATABASE_URL="$$DATABASE_URL" $(BIN)/python -m pytest -rs

lint: $(VENV)/installed  ## ruff, mypy, import-linter
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

format: $(VENV)/installed  ## let ruff mend what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: $(VENV)/installed  ## measure it beside others, write docs/performance.md; ONLY=append for one group
	@$(BIN)/python -m tests.benchmarks.run $(ONLY)

bench-growth: $(VENV)/installed  ## the same requests with 1,000, 100,000 and 1,000,000 tickets; takes longer
	@$(BIN)/python -m tests.benchmarks.run million

bench-trees: $(VENV)/installed  ## this tree beside an earlier one, in turns: OLD=/path/to/worktree
	@test -n "$(OLD)" || { echo "Name the earlier tree: make bench-trees OLD=/path/to/worktree"; exit 1; }
	@$(BIN)/python -m tests.benchmarks.trees "$(OLD)"

bench-long: $(VENV)/installed  ## commands and reads on tickets of 10, 1,000 and 10,000 events, by turns
	@$(BIN)/python -m tests.benchmarks.long_tickets

lines: $(VENV)/installed  ## how large the product is, by room; beside another tree: OLD=/path/to/worktree
	@$(BIN)/python -m tests.support.logical_lines $(OLD)

contract: $(VENV)/installed  ## schemathesis against a running desk: at least 20,000 cases, none of them unlike the contract
	@$(BIN)/python -m tests.support.contract_check

manners: $(VENV)/installed  ## what keys, authentication, log lines and metrics cost commands, by turns
	@$(BIN)/python -m tests.benchmarks.manners

hostile: $(VENV)/installed  ## how long others wait beside slow and bad connections
	@$(BIN)/python -m tests.benchmarks.hostile

streams: $(VENV)/installed  ## commands beside 50 idle streams, and the memory that a million events take
	@$(BIN)/python -m tests.benchmarks.streams idle && $(BIN)/python -m tests.benchmarks.streams memory

edge: $(VENV)/installed  ## reads by time at the edge of the present, each asked again: READS=10000
	@$(BIN)/python -m tests.benchmarks.edge_of_time $(READS)

contract-tools: $(VENV)/installed  ## linters and client generators of others, for tests/system/test_other_tools.py; needs npm and Java
	mkdir -p .contract-tools && cp tests/contract_tools/package.json tests/contract_tools/package-lock.json .contract-tools
	cd .contract-tools && npm ci --ignore-scripts --no-audit --no-fund
	$(BIN)/python -m venv .contract-tools/venv
	.contract-tools/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r tests/contract_tools/requirements.txt

faults: $(VENV)/installed  ## kills, failovers and restores under load, each checked; SEED=1 repeats the choices of a run
	@$(BIN)/python -m tests.faults.run $(if $(SEED),--seed $(SEED))

chaos: $(VENV)/installed  ## 2,000 commands through a proxy that cuts connections: each is recorded once; SEED=1 repeats the choices
	@$(BIN)/python -m tests.faults.connection_cuts $(if $(SEED),--seed $(SEED))

mutations: $(VENV)/installed  ## take each mechanism out of a copy of the tree: the tests that guard it must fail; ONLY=fence for some
	@$(BIN)/python -m tests.mutations $(ONLY)

lock:  ## write requirements.lock and that of the contract's tools anew (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url \
		--custom-compile-command 'make lock' --extra dev pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
		--custom-compile-command 'make lock' tests/contract_tools/requirements.in -o tests/contract_tools/requirements.txt

clean:  ## remove the virtual environment and the caches; data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage

$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Deskledger needs Python 3.11 or later: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing: on Debian, apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
