# Every target makes its own virtual environment in .venv when there is none.

PYTHON ?= python3
WORKERS ?= 2
KEEP ?= params=70%
# In minutes; `learned` trains for three quarters of an hour.
METHOD ?= oneshot

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Each worker has one core: torch's own threads would only fight over them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format typecheck slow try benchmark readme docs clean

help:
	@echo "make setup      the virtual environment in $(VENV)"
	@echo "make demo       halve a small model that comes with Secateur, into out/demo"
	@echo "make try MODEL=model.nemo SPEECH=speech/ [VALID=transcribed/] [KEEP=$(KEEP)] [METHOD=$(METHOD)]"
	@echo "                prune MODEL on SPEECH into out/try, measured on VALID"
	@echo "make test       lint, format check, types, tests (WORKERS=$(WORKERS))"
	@echo "make slow       the tests that take minutes"
	@echo "make lint | format | typecheck"
	@echo "make benchmark NAME=accuracy [ARGS='--limit 10']"
	@echo "                measure what the README states (see benchmarks/README.md)"
	@echo "make readme     write the measured figures into the README"
	@echo "make docs       the site, with its links checked, into build/docs"
	@echo "make clean      caches and builds; $(VENV) stays"

# What pruning and the demo need, and what working on the code needs.
$(VENV)/.usable: EXTRA := synthetic
$(INSTALLED): EXTRA := dev
$(VENV)/.usable $(INSTALLED): pyproject.toml constraints.txt
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA)]'
	touch $@

setup: $(INSTALLED)

test: lint typecheck
	$(PYTEST) -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(INSTALLED)
	$(BIN)/mypy

slow: $(INSTALLED)
	$(PYTEST) -m slow

demo: $(VENV)/.usable
	$(BIN)/secateur demo --out out/demo

try: $(VENV)/.usable
	@test -n "$(MODEL)" -a -n "$(SPEECH)" || { echo "say which: make try MODEL=model.nemo SPEECH=speech/" >&2; exit 2; }
	$(BIN)/secateur inspect "$(MODEL)" --depth 1
	$(BIN)/secateur prune "$(MODEL)" --data "$(SPEECH)" --keep "$(KEEP)" --method "$(METHOD)" --out out/try $(if $(VALID),--valid "$(VALID)")
	$(BIN)/secateur inspect out/try --depth 1

benchmark: $(INSTALLED)
	@test -n "$(NAME)" || { echo "say which: make benchmark NAME=accuracy" >&2; exit 2; }
	$(BIN)/python -m benchmarks.$(NAME) $(ARGS)

readme: $(INSTALLED)
	$(BIN)/python -m benchmarks.readme

docs: $(INSTALLED)
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs build/docs

clean:
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
