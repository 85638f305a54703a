# From a clone, with Python 3.11 or newer and make: `make demo` shows it, `make test` proves it.
PYTHON ?= $(firstword $(foreach python,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(python))))
BIN := .venv/bin
READY := .venv/.installed
# uv trusts its own authorities first, and this machine's where a proxy has one of its own.
SYNC := $(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock

# The tests start hundreds of Python processes. Some images forbid Python to keep what it has compiled;
# then each process compiles every module again: 2.3 s of the processor to import cfflow, not 0.8 s.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit bench bench-scale chaos fuzz sim lock clean

help:
	@echo 'make demo    an OTP sale, two holds, and a capture whose process is killed'
	@echo 'make test    lint, types, and all tests, the built wheel among them'
	@echo 'make lint    ruff           make types   mypy           make unit    pytest'
	@echo 'make bench   the benchmark  make lock    pin anew       make clean   start over'
	@echo 'make bench-scale   how costs grow from 1,000 to 1,000,000 stored orders'
	@echo 'make sim     10,000 simulated worlds: lost messages, dead processes, every one replayable'
	@echo 'make fuzz    100,000 spoiled inputs for everything that reads what others wrote'
	@echo 'make chaos   a minute of killing drivers, workers and Redis, and then the audit'

demo: $(READY)
	@$(BIN)/cfflow demo

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .

types: $(READY)
	$(BIN)/mypy --no-error-summary

# Three at least: tests wait for servers and clocks more than they compute.
unit: $(READY)
	PYTEST_XDIST_AUTO_NUM_WORKERS=$$($(BIN)/python -c 'import os; print(max(3, os.cpu_count() or 1))') $(BIN)/pytest --quiet

bench: $(READY)
	@$(BIN)/python -m bench

bench-scale: $(READY)
	@$(BIN)/python -m bench.scale

chaos: $(READY)
	@$(BIN)/python -m tests.crash.chaos --seconds 60

fuzz: $(READY)
	$(BIN)/pytest --quiet --dist load --hypothesis-profile fuzz tests/fuzz/test_fuzz.py -k spoiled

sim: $(READY)
	@$(BIN)/python -m tests.sim --seeds 10000

# Everything comes from the lock, hash by hash, uv itself too: its lines there are what pip gets. Only
# the project goes in without a hash, as an editable install.
$(READY): requirements.lock pyproject.toml
	@test -n '$(PYTHON)' || { \
	  echo 'cfflow needs Python 3.11 or newer, and none was found: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'cfflow needs Python 3.11 or newer; this is' "$$($(PYTHON) --version 2>&1): $(PYTHON)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@echo 'Installing what requirements.lock pins into .venv, once ...'
	@rm -f $(READY)
	@$(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --require-hashes \
	  --only-binary :all: --requirement .venv/uv.txt
	@$(SYNC) 2>/dev/null || $(SYNC) --system-certs
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $(READY)

lock: $(READY)
	$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-header --output-file requirements.lock

clean:
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/judges/node/node_modules
