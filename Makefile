# Every target makes its own virtual environment in .venv when there is none.

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Each worker has one core: torch's own threads would only fight over them.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS)

.DEFAULT_GOAL := help
.PHONY: help setup test lint format typecheck slow try clean

help:
	@echo "make setup      the virtual environment in $(VENV)"
	@echo "make test       lint, format check, types, tests (WORKERS=$(WORKERS))"
	@echo "make slow       the tests that take minutes"
	@echo "make lint | format | typecheck"
	@echo "make try MODEL=model.nemo AUDIO='a.wav b.flac'"
	@echo "                look inside a model and transcribe with it"
	@echo "make clean      caches and builds; $(VENV) stays"

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
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

try: $(INSTALLED)
	@test -n "$(MODEL)" -a -n "$(AUDIO)" || { echo "say which: make try MODEL=model.nemo AUDIO='a.wav b.flac'" >&2; exit 2; }
	$(BIN)/secateur inspect "$(MODEL)"
	$(BIN)/secateur transcribe "$(MODEL)" $(AUDIO)

clean:
	rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
