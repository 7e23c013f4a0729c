# make demo   set up, then see the whole job on small images (no downloads besides Python packages)
# make test   set up, then run the test suite
# make check  set up, then lint and type-check
# make docs   set up, then build the documentation site into site/; a warning is an error
# make pretrain   set up, then make the embedded backbones from nothing (about 95 minutes on 2 cores; needs npm)
VENV := .venv
PY := $(VENV)/bin/python
BASE ?= python3
export OMP_NUM_THREADS ?= 1
# In any locale, names and files are UTF-8.
export PYTHONUTF8 = 1
# Each test process would compile all tests anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check docs pretrain clean

# uv installs several times faster; plain pip does as well where uv cannot be had.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(BASE) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check uv \
	  && $(VENV)/bin/uv pip install -p $(PY) -c constraints.txt --compile-bytecode -e ".[dev]" \
	  || $(PY) -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: $(VENV)/.ready
	$(PY) -m selfprompt demo

test: $(VENV)/.ready
	HF_HUB_OFFLINE=1 $(PY) -m pytest -n 2 --dist worksteal --durations 8

check: $(VENV)/.ready
	$(VENV)/bin/ruff check src perf tests pretraining experiments examples
	$(VENV)/bin/ruff format --check src perf tests pretraining experiments examples
	$(VENV)/bin/mypy

docs: $(VENV)/.ready
	$(VENV)/bin/uv pip install -q -p $(PY) -c constraints.txt -e ".[dev,docs]" \
	  || $(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev,docs]"
	$(VENV)/bin/zensical build --strict --clean

pretrain: $(VENV)/.ready
	$(PY) -m pretraining

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-output site
