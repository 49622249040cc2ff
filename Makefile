# Both targets need Python 3.11 or newer, make and a package index; they create .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint docs clean

demo: .venv/.users
	$(BIN)/python examples/demo.py

# Two processes with a thread each: most tests are too small for more.
test: .venv/.developers lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: .venv/.developers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/.developers
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

# pip 25.1 brought dependency groups.
.venv/.pip:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q "pip>=25.1"
	touch $@

# torch and torchvision go first and together: timm imports torchvision, and the two must match.
.venv/.users: .venv/.pip pyproject.toml
	$(BIN)/python -m pip install -q torch torchvision timm
	$(BIN)/python -m pip install -q -e ".[all]" --group demo
	touch $@

# What is there stays as it is: pip would otherwise bring versions that do not go with it, or look for them for minutes.
.venv/.developers: .venv/.users
	$(BIN)/python -m pip freeze --exclude-editable > .venv/.versions
	$(BIN)/python -m pip install -q -c .venv/.versions --group dev
	touch $@

clean:
	rm -rf .venv demo docs/_build docs/api
