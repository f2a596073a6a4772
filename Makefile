PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Of `make fuzz`.
SECONDS ?= 60
SEED ?= 1

.PHONY: install demo test test-full fuzz lint bench

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "permil needs Python 3.11 or newer; say which with: make PYTHON=/path/to/python3"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[report,spots,dev]'
	@touch $@

demo: install
	$(BIN)/permil demo demo

test: install lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-full: install
	$(BIN)/python -m pytest -m full

fuzz: install
	cd tests && ../$(BIN)/python -m fuzz --seconds $(SECONDS) --seed $(SEED)

lint: install
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

bench: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/run.py
