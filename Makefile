# make train: a VAE on the digits, start to figures.   make test: everything that is checked.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/digits-$(shell date +%Y%m%d-%H%M%S)

.PHONY: train test test-fast docs lint imports planted-bugs kill attack clean

train: .venv/installed
	$(BIN)/pyro-vae train --data digits --latent_dim 10 --epochs 150 --optimizer.lr 2e-3 --out $(RUN)

test: .venv/installed
	$(BIN)/pytest -n auto --dist worksteal

test-fast: .venv/installed
	$(BIN)/pytest -n auto --dist worksteal -m "not slow"

docs: .venv/installed
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	@echo docs/_build/html/index.html

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

imports: .venv/installed
	$(BIN)/python -m tools.imports

planted-bugs: .venv/installed
	$(BIN)/python -m tools.planted_bugs

kill: .venv/installed
	$(BIN)/python tools/kill_and_resume.py --kills 20

attack: .venv/installed
	$(BIN)/python -m tools.attack

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "pyro_vae needs Python 3.10 or later")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --editable '.[test]'
	touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
