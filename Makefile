# Bitcoin Sprint. Every target prepares what it needs: on a Debian with python3, python3-venv,
# python3-dev, a C compiler and make, nothing has to be run before `make run` or `make test`.
#
#   make run ARGS="--seconds 20"      the engine on its own simulated network, with a live table
#   make test ARGS="-k ring"          linters, types, every test (ARGS go to pytest)
#   make bench SUITE=ring ARGS=--json measurements beside other software
#   make soak ARGS=--short            hours' worth of chain at full speed: does anything grow?
#   make peers                        bring the software that tests and benches compare with

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

NATIVE_FILES := $(shell find native -type f) setup.py pyproject.toml
C_FILES := $(wildcard native/*.c bench/native/*.c)
C_CHECK := -Wall -Wextra -Wshadow -Wpointer-arith -Werror -Inative -Inative/include -fsyntax-only

.PHONY: run test peers native lint bench bench-report prove soak fuzz install-systemd clean

run: .venv/.built
	@exec $(BIN)/sprint demo $(ARGS)

test: peers lint
	@exec $(BIN)/python -m pytest $(ARGS)

peers: .venv/.built
	@PYTHONPATH=tests exec $(BIN)/python -m peers

lint: .venv/.built
	@echo "lint: ruff, mypy, C warnings as errors" >&2
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/mypy
	@PYTHONPATH=tests $(BIN)/mypy $(wildcard bench) tests/peers
	@for file in $(C_FILES); do $${CC:-cc} -std=gnu11 $(C_CHECK) $$file || exit 1; done
	@$${CC:-cc} -std=c11 -Wpedantic $(C_CHECK) -x c native/include/sprint.h
	@if command -v $${CXX:-c++} >/dev/null; \
	then $${CXX:-c++} -std=c++17 $(C_CHECK) -x c++ native/include/sprint.h; \
	else echo "lint: no C++ compiler, sprint.h not tried as C++17" >&2; fi

# Forces a rebuild of the compiled core (SPRINT_SANITIZE=address,undefined|thread is obeyed).
native: .venv/.locked
	@rm -rf build engine/bitcoin_sprint/_*.so .venv/.built
	@$(MAKE) --no-print-directory .venv/.built

bench: .venv/.built
	@test -n "$(SUITE)" || { echo "usage: make bench SUITE=<name> ARGS=--json" >&2; exit 2; }
	@PYTHONPATH=tests exec $(BIN)/python -m bench $(SUITE) $(ARGS)

soak: .venv/.built
	@exec $(BIN)/python -m bench.soak $(ARGS)

bench-report prove fuzz install-systemd:
	@echo "make $@: does not exist yet" >&2; exit 2

clean:
	rm -rf .venv build dist engine/*.egg-info engine/bitcoin_sprint/_*.so
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment, in three steps, each with a stamp that alone decides whether it is up to date.

.venv/.made:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: apt-get install python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	{ echo "$(PYTHON) must be Python 3.11 to 3.13; say make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo "the venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig as s; \
	raise SystemExit(not os.path.exists(s.get_path("include") + "/Python.h"))' || \
	{ echo "the Python headers are missing: apt-get install python3-dev" >&2; exit 1; }
	@command -v $${CC:-cc} >/dev/null || \
	{ echo "a C compiler is missing: apt-get install gcc libc6-dev" >&2; exit 1; }
	@echo "making .venv" >&2
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.locked: tests/requirements.lock | .venv/.made
	@echo "installing the pinned environment" >&2
	@$(BIN)/python -m pip install -q --require-hashes -r tests/requirements.lock >&2
	@touch $@

.venv/.built: $(NATIVE_FILES) .venv/.locked
	@echo "compiling" >&2
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e . >&2
	@touch $@
