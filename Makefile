PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# The kernels are compiled again when one of these changes.
NATIVE := CMakeLists.txt $(shell find src -name '*.cpp' -o -name '*.hpp')
# That of CXX, else the first that works.
COMPILERS := $(if $(filter default,$(origin CXX)),c++ g++ clang++,$(CXX))
# Of `make fuzz`.
SECONDS ?= 60
SEED ?= 1

.PHONY: install wheel demo test test-full fuzz lint bench docs

install: $(STAMP)

# setuptools and wheel build dependencies that are distributed as source only.
$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "permil needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3"; exit 2; }
	@for compiler in $(COMPILERS); do \
	    echo 'int main() { if constexpr (true) return 0; }' | $$compiler -std=c++17 -fsyntax-only -x c++ - 2>/dev/null && exit 0; \
	  done; \
	  echo "permil needs a C++17 compiler to be installed from source; install g++ or clang++, or say which with: make CXX=/path/to/g++"; exit 2
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt cmake nanobind ninja scikit-build-core setuptools wheel
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[report,spots,dev]'
	@touch $@

wheel: install
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

demo: install
	$(BIN)/permil demo demo

# Python keeps compiled modules, whatever the environment says: workers and the processes that tests start do not compile them again.
test test-full: export PYTHONDONTWRITEBYTECODE =

test: install lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-full: install
	$(BIN)/python -m pytest -m full

fuzz: install
	cd tests && ../$(BIN)/python -m fuzz --seconds $(SECONDS) --seed $(SEED)

lint: install
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

# Tutorials are executed; the outputs of pages that have not changed come from build/docs-cache.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

$(VENV)/.docs: $(STAMP)
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[docs,report,spots]'
	@touch $@

bench: install
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[bench]'
	$(BIN)/python benchmarks/run.py
