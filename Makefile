# One command for each thing people do, the same here and in CI. `make` alone lists them.
#
#   PYTHON=python3.13 make run     another interpreter for the virtual environment (3.11 or newer)
#   make run ARGS="--limit 50"     more options for the command behind the target

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Some machines set it; the tests start a hundred Pythons, and bytecode that is kept halves what each costs.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
ARGS ?=
# Much of the time the tests wait for servers, disks and processes.
WORKERS ?= $(shell echo $$((2 + $$(getconf _NPROCESSORS_ONLN))))
VENV := .venv
PEERS := .venv-peers
TOOLS := .tools
BIN := $(VENV)/bin
# What the Dockerfile installs, for the Python of its image. Both processors have the same versions: tests/test_supply.py.
LOCK = $(TOOLS)/lock/bin/uv pip compile --quiet --no-config --custom-compile-command "make lock" --no-emit-index-url --no-emit-find-links --no-annotate \
  --generate-hashes --only-binary :all: --python-version 3.13 --python-platform x86_64-manylinux_2_28
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help run test cost flaws lint types format audit lock fuzz bench instructions growth streams kill politeness frontier redis fleet simulate flood processes soak durable hostile \
  guards secrets clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/installed ## crawl the demo bookshop, from nothing to a file of items
	@mkdir -p outputs
	$(BIN)/crawler run books --demo --fresh --job jobs/books -O outputs/books.jsonl $(ARGS)

test: $(VENV)/installed-dev ## everything CI checks: lint, types, what a page costs, tests
	@tests/install-debian-packages
	@$(MAKE) --jobs 2 lint cost types flaws
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# `make test` runs two of these at a time, none of which uses more than one processor.
cost: $(VENV)/installed-dev
	$(BIN)/python benchmarks/instructions/count.py --check --if-possible

flaws: $(VENV)/installed-dev
	$(BIN)/python tests/audit.py --if-possible

lint: $(VENV)/installed-dev ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/installed-dev ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/installed-dev ## rewrite the files as ruff wants them
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

audit: $(VENV)/installed-dev ## pip-audit: has anybody reported a flaw in what the container installs?
	$(BIN)/python tests/audit.py $(ARGS)

lock: $(VENV)/installed-dev ## requirements/ anew, with hashes (ARGS=--upgrade: with the newest versions)
	@$(PIP_INSTALL) --target $(TOOLS)/lock --upgrade 'uv>=0.9'
	@$(LOCK) --extra speed --extra xpath --extra redis --extra postgres --extra metrics --output-file requirements/container.txt $(ARGS) pyproject.toml
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
	  | $(LOCK) --output-file requirements/build.txt $(ARGS) -

secrets: ## passwords for docker compose's engine and status pages, in secrets/, unless they are there
	@mkdir -p secrets && chmod 700 secrets
	@umask 022; test -e secrets/engine.conf -a -e secrets/frontier-url || { password=$$($(PYTHON) -c 'import secrets; print(secrets.token_hex(32))'); \
	  echo "requirepass $$password" >secrets/engine.conf; \
	  echo "redis://:$$password@engine:6379/0" >secrets/frontier-url; }
	@umask 022; test -e secrets/status-token || $(PYTHON) -c 'import secrets; print(secrets.token_hex(32))' >secrets/status-token

fuzz: $(VENV)/installed-dev ## many properties, and 20,000 mutated answers through each of aiohttp's parsers (ARGS="--minutes 60")
	$(BIN)/python benchmarks/fuzz.py $(ARGS)

bench: $(VENV)/installed-bench ## what crawls cost, beside hand-written loops, Scrapy and Crawlee (ARGS=--quick: does it work?)
	@tests/install-debian-packages
	$(BIN)/python benchmarks/bench.py $(ARGS)

instructions: $(VENV)/installed-dev ## what a page costs in instructions, beside the record (ARGS=--why, --record, --profile)
	@tests/install-debian-packages
	$(BIN)/python benchmarks/instructions/count.py $(or $(ARGS),--check)

growth: $(VENV)/installed ## what a page costs as queue and hosts grow
	$(BIN)/python benchmarks/growth.py $(ARGS)

streams: $(VENV)/installed ## what 1 GiB to disk costs, beside a hand-written aiohttp loop
	$(BIN)/python benchmarks/streams.py $(ARGS)

kill: $(VENV)/installed ## 50 kills, 20 SIGTERMs, kills while recovering, 300 torn files: is every item there once?
	$(BIN)/python benchmarks/kill.py $(ARGS)

politeness: $(VENV)/installed ## what hosts see of a crawl's manners, and what of their patience it uses (ARGS=--quick: does it work?)
	$(BIN)/python benchmarks/politeness.py $(ARGS)

frontier: $(VENV)/installed ## what the frontier costs from 10,000 to 10 million URLs (ARGS="--sizes 1e4,1e5" is quicker)
	$(BIN)/python benchmarks/frontier.py $(ARGS)

processes: $(VENV)/installed ## what a page costs in one process and in several, and what of it the parent pays
	$(BIN)/python benchmarks/processes.py $(ARGS)

redis: $(VENV)/installed-dev ## what the shared frontier costs its engine, in memory and CPU (ARGS=--quick: does it work?)
	@tests/install-debian-packages
	$(BIN)/python benchmarks/redis_frontier.py $(ARGS)

fleet: $(VENV)/installed-dev ## many workers, while workers and engine die: what the hosts saw of it (ARGS="--only kill", --quick)
	@tests/install-debian-packages
	$(BIN)/python benchmarks/fleet/fleet.py $(ARGS)

simulate: $(VENV)/installed-dev ## a thousand workers over the real frontiers, in a time of their own (ARGS=--check is quick)
	@tests/install-debian-packages
	$(BIN)/python benchmarks/simulate.py $(ARGS)

flood: $(VENV)/installed ## what a page costs that gives a million items or requests
	$(BIN)/python benchmarks/flood.py $(ARGS)

soak: $(VENV)/installed ## everything that goes wrong, at once, for half an hour
	$(BIN)/python benchmarks/soak.py $(ARGS)

durable: $(VENV)/installed ## what durability costs, beside memory://
	$(BIN)/python benchmarks/durable.py $(ARGS)

hostile: $(VENV)/installed-dev ## what hostile answers do, here and to aiohttp's plain client (ARGS="--only bombs", --quick)
	$(BIN)/python benchmarks/hostile.py $(ARGS)

guards: $(VENV)/installed-dev ## what the guards cost on honest pages, in instructions and CPU seconds (ARGS=--each, --quick)
	@tests/install-debian-packages
	$(BIN)/python benchmarks/guards.py $(ARGS)

clean: ## remove the virtual environment, caches and builds; jobs/ and outputs/ stay
	rm -rf $(VENV) $(PEERS) $(TOOLS) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- the virtual environment: made once, installed into again when pyproject.toml changes ---------------------------------

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Python 3.11 or newer is needed." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1 | head -n 1)" >&2; \
	  for newer in python3.14 python3.13 python3.12 python3.11; do \
	    if $$newer --version >/dev/null 2>&1; then echo "Try: make $(MAKECMDGOALS) PYTHON=$$newer" >&2; break; fi; \
	  done; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/installed: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) ..."
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), with what the tests need ..."
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/installed $@

$(VENV)/installed-bench: pyproject.toml benchmarks/peers.txt | $(BIN)/python
	@echo "installing into $(VENV) and, the frameworks to compare with, into $(PEERS) ..."
	@$(PIP_INSTALL) --editable '.[speed,bench]'
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	@touch $(VENV)/installed $@
