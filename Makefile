# Two commands: `make demo` shows the whole thing, `make test` checks it. Each makes .venv first when needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: test demo check slow docs clean

test: .venv/installed check
	$(BIN)/pytest --numprocesses auto --dist loadfile

demo: .venv/installed
	HF_HUB_OFFLINE=1 QDRANT_URL= INDEX_PATH= $(BIN)/python -m ingest demo
	@echo 'to type such commands yourself: . .venv/bin/activate'

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

slow: .venv/installed
	$(BIN)/pytest -m slow

docs: .venv/installed
	$(BIN)/python tests/commands_page.py
	PYTHONPATH=. $(BIN)/python tests/models_page.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q eval ingest search
	touch $@

clean:
	rm -rf .venv demo build *.egg-info
