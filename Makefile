# make run: everything installed, the page started. make test: everything installed, the whole suite run.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint docs clean

run: $(VENV)/.product
	$(BIN)/python app.py

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/mypy

$(VENV)/.product: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.product
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

docs: $(VENV)/.dev
	$(BIN)/python docs/readme.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
