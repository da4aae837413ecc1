# make repro   the whole pipeline, to report/report.html
# make label   the labelling page, on http://127.0.0.1:8642 (options: make label OPTIONS='--port 9000')
# make studio  the face studio, on http://127.0.0.1:8643
# make diff    what the working tree changes against main, as Markdown (another revision: make diff BASE=HEAD~1)
# make compare the report of main and that of what is here on one page (another revision: make compare BASE=HEAD~1)
# make test    linters, type checker and tests
# make lock    requirements*.txt anew from pyproject.toml (needs uv)
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
READY := .venv/.ready
TEST_READY := .venv/.ready-test
BASE ?= main
# files tested at once, each with one thread: one more than cores, since some wait for a browser; up to 2.5 GB each
JOBS ?= $(shell n=$$(nproc); echo $$((n < 8 ? n + 1 : 8)))

.PHONY: repro label studio diff compare test lint types tests lock

repro: $(READY)
	PATH="$(BIN):$$PATH" dvc repro

# A person labels images: where there are none yet, the pipeline makes them, and the annotator's suggestions.
label: $(READY)
	@test -f data/label/annotator.csv || PATH="$(BIN):$$PATH" dvc repro label
	$(BIN)/python -m ohlora.web label $(OPTIONS)

# A person draws faces and moves their expressions: where there are no vectors yet, the pipeline finds them.
studio: $(READY)
	@test -f models/vectors/vectors.npz || PATH="$(BIN):$$PATH" dvc repro test_vectors
	$(BIN)/python -m ohlora.web studio $(OPTIONS)

diff: $(READY)
	@$(BIN)/python -m ohlora diff $(BASE)

compare: $(READY)
	@$(BIN)/python -m ohlora compare $(BASE)

# The type checker keeps one core busy for half a minute: it runs beside the tests.
test: $(TEST_READY)
	@$(MAKE) --no-print-directory --jobs=2 lint types tests

lint: $(TEST_READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(TEST_READY)
	$(BIN)/mypy

tests: $(TEST_READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "error: Python 3.11 to 3.13 is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "error: Python's venv is missing; install it with: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# What the tests need besides: linters, and the packages of the face world.
$(TEST_READY): $(READY) requirements-test.txt
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	@touch $@

LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 \
  --no-emit-index-url --no-annotate --no-header --quiet --upgrade

lock:
	$(LOCK) --extra web -o requirements.txt
	$(LOCK) --extra dev --extra faces --extra web -c requirements.txt -o requirements-test.txt
