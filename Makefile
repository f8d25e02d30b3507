# Two commands do everything: `make quickstart` and `make test`. Both set .venv up by themselves.
# The newest supported Python that starts: a name on the path can be a shim that refuses. From 3.12 on jax has oneDNN.
PYTHON ?= $(or $(shell for p in python3.13 python3.12 python3.11 python3; do $$p -c 0 2>/dev/null && echo $$p && break; done),python3)
CONSTRAINTS = $(shell $(PYTHON) -c 'import sys; print("constraints.txt" if sys.version_info < (3, 12) else "constraints-3.12.txt")')
VENV := .venv
BIN := $(VENV)/bin
OUT ?= results/quickstart

.PHONY: help quickstart mpc test tests test-onednn test-slow lint style types clean
.DEFAULT_GOAL := help
help:
	@echo "make quickstart   set up .venv, run the study on the embedded digits, write $(OUT)/report/report.html"
	@echo "make test         set up .venv, lint, check types and run the tests"
	@echo "make mpc          set up .venv-mpc for private inference, with the Python 3.10 or 3.11 that SPU needs"
	@echo "make test-onednn  the tests of what computes, by oneDNN's kernels instead of XLA's; Python 3.12 or newer"
	@echo "make test-slow    all tests, with full optimization and run-time type checks; about an hour"

$(VENV)/.core: pyproject.toml constraints.txt constraints-3.12.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"jaxfair needs Python 3.11 or newer, this is {v[0]}.{v[1]}; set another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.core
	$(BIN)/python -m experiments.linearization --preset quickstart --out "$(OUT)"

mpc: $(VENV)/.core
	$(BIN)/python -m experiments.private setup

lint: style types

style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright

# A file's tests share fixtures and so a worker, of which two took 4.4 GB of memory each; the heaviest folders come first.
PYTEST = $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

tests: $(VENV)/.dev
	$(PYTEST)

test: style
	@$(MAKE) --no-print-directory --jobs 2 types tests  # types take a minute of one core

# The tests of all that computes with networks, by oneDNN's kernels instead of XLA's; tests/test_kernels.py sees to it.
COMPUTING = networks curvature training linearize compress
COMPUTING += $(addprefix test_,$(addsuffix .py,kernels margins taylor bounds change deepfool sensitivity))
test-onednn: $(VENV)/.dev
	@flags=$$($(BIN)/python -c 'import sys; from jaxfair import kernels; print(kernels.ONEDNN if kernels.has_onednn() else sys.exit("This jaxlib has no oneDNN, 0.11 and 0.12 have, with Python 3.12: make test-onednn VENV=.venv-3.12 PYTHON=python3.12"))') \
	&& XLA_FLAGS="$$XLA_FLAGS $$flags" TF_CPP_MIN_LOG_LEVEL=3 $(PYTEST) $(addprefix tests/,$(COMPUTING))

# All tests, the slow ones too, with all of XLA's optimization and with run-time type checks; an hour on two cores.
test-slow: $(VENV)/.dev
	JAXFAIR_CHECK_TYPES=1 XLA_FLAGS=--xla_backend_optimization_level=3 $(PYTEST) -m ""

clean:
	rm -rf $(VENV) results
