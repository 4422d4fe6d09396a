# Two commands for a fresh machine with Python 3.11+, make and a C compiler:
#   make demo   the main job on a real voice, with a report
#   make test   lint, types and all tests
PYTHON ?= python3
RECIPE ?= small
export PYTHONWARNDEFAULTENCODING = 1
BIN = .venv/bin
READY = .venv/.ready
COVERED = $(shell $(BIN)/python -c "import torch" 2>/dev/null || echo --cov-config=tests/without-torch.ini)

.PHONY: demo test test-fast lint lock clean

demo: $(READY)
	$(BIN)/vivace demo -o demo --force --recipe $(RECIPE)

test: lint
	$(BIN)/pytest -n 2 --dist loadfile --cov $(COVERED) --cov-report=term-missing:skip-covered --cov-fail-under=90

test-fast: $(READY)
	$(BIN)/pytest -n 2 --dist loadfile -m "not voice"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every version and hash comes from the lock file; the project itself is installed in place.
$(READY): requirements.lock pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $(READY)

lock:
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes \
		--no-emit-index-url --no-header --no-annotate --quiet --upgrade -o requirements.lock

clean:
	rm -rf .venv demo .demo.parts build *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache
