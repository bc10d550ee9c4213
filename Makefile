# The commands of tlab. Any of them works first on a fresh clone: each sets up .venv if it has to.
# Needs Python 3.11 or newer, git and make; another interpreter: make setup PYTHON=python3.12

PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
DEV_READY := .venv/.ready-dev
UV_HTTP_TIMEOUT ?= 300
SIZE ?= quick

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help setup demo test test-all lint format bench docs lock clean

# Whatever the shell has: UTF-8 text, our own environment, and waiting for large wheels.
export PYTHONUTF8 := 1
export UV_HTTP_TIMEOUT
unexport VIRTUAL_ENV PYTHONHOME

help:  ## list these commands
	@echo "tlab: transfer learning on folders of images"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

setup: $(READY)  ## build .venv from requirements.lock; does nothing when it is up to date

# A good backbone without a network, which comes with setup.
OFFLINE := backbone=efficientnet_lite0 backbone.weights=packaged

# The run's directory, kept in outputs/.demo until it is over, so that make demo goes on with one that was stopped; with
# other settings than then it begins anew.
DEMO_RUN = $(shell [ -f outputs/.demo ] && [ -z "$$(find conf -newer outputs/.demo)" ] || \
	{ mkdir -p outputs && date +outputs/runs/%Y-%m-%d_%H-%M-%S_demo > outputs/.demo; }; cat outputs/.demo)

demo: setup  ## train on the built-in sample, offline: freeze, train the head, unfreeze, compare
	@env TLAB_COMMAND="make demo" $(PY) -m tlab.train experiment=demo hydra.run.dir=$(DEMO_RUN)
	@rm -f outputs/.demo
	@echo "See its curves:    .venv/bin/tensorboard --logdir outputs"
	@echo "Use your photos, in FOLDER/<class>/:    $(PY) -m tlab.train data.root=FOLDER $(OFFLINE)"

test: $(DEV_READY)  ## run the tests, without those marked slow
	@$(PY) -m pytest -n 2 --dist worksteal -m "not slow"

test-all: $(DEV_READY)  ## run every test
	@$(PY) -m pytest -n 2 --dist worksteal

lint: $(DEV_READY)  ## check style (ruff) and types (mypy)
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

format: $(DEV_READY)  ## sort imports, fix what ruff can fix, format
	@$(PY) -m ruff check --fix
	@$(PY) -m ruff format

bench: $(DEV_READY)  ## time against Lightning, fastai, timm and plain loops; SIZE=full ROOT=DIR WEIGHTS=resnet18.pth for all of it
	@$(PY) benchmarks/speed.py --size "$(SIZE)" $(if $(ROOT),--root "$(ROOT)") $(if $(WEIGHTS),--weights "$(WEIGHTS)") \
		$(if $(FASTAI_PYTHON),--fastai-python "$(FASTAI_PYTHON)") $(ARGS)

docs: $(DEV_READY)  ## build the site, without a network: open outputs/site/index.html
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict --config-file docs/mkdocs.yml
	@echo "site: outputs/site/index.html"

COMPILE := -m uv pip compile --quiet --universal --upgrade --python-version 3.11 --group setup \
	--no-annotate --no-emit-index-url --custom-compile-command "make lock" pyproject.toml

lock: setup  ## renew requirements.lock and requirements-dev.lock from pyproject.toml
	@$(PY) $(COMPILE) --extra dev -o requirements-dev.lock
	@$(PY) $(COMPILE) --extra offline --constraint requirements-dev.lock -o requirements.lock

clean:  ## remove caches and built packages; .venv and outputs/ stay
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	@find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps hold the folder that .venv was made in: a moved or copied folder is set up anew.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
.PHONY: $(READY)
endif

# Installs what a lock names, and tlab. What the lock before named and this one does not goes, first, since packages
# may share files; what was added (pip install) stays, with a remark where the new versions do not suit it.
NAMES := sed -n 's/[[; ]*==.*//p'
define INSTALL
	if [ -t 2 ]; then quiet=; else quiet=--quiet; fi; \
		gone=$$($(NAMES) .venv/.lock 2>/dev/null | grep -vxF "$$($(NAMES) $$lock)"); \
		{ [ -z "$$gone" ] || $(PY) -m uv pip uninstall $$quiet --python $(PY) $$gone; } && \
		$(PY) -m uv pip install $$quiet --compile-bytecode --python $(PY) --no-deps --requirement $$lock && \
		$(PY) -m uv pip install --quiet --python $(PY) --no-deps --no-build-isolation --editable . && \
		cp $$lock .venv/.lock && \
		{ $(PY) -m uv pip check --quiet --python $(PY) || echo "Install anew what was added and does not fit." >&2; }
endef

# A stamp goes first and comes back last: with it .venv is brought up to date, without it (new, interrupted, moved)
# made anew. pip brings uv, and uv the rest, because uv chooses torch and torchvision as a pair.
$(READY): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "tlab needs Python 3.11 or newer, and $(PYTHON) is not: name one, as in make setup PYTHON=python3.12" >&2; \
		exit 1; }
	@echo "Setting up .venv (the first time fetches torch: a few minutes) ..."
	@stamp=$$(cat $(READY) 2>/dev/null); rm -f $(READY); \
		[ "$$stamp" = "$$(pwd -P)" ] && $(PY) -m uv --version >/dev/null 2>&1 || { \
			"$(PYTHON)" -m venv --clear .venv && \
			$(PY) -m pip install --quiet --disable-pip-version-check --constraint requirements.lock uv; }
	@if [ -f $(DEV_READY) ]; then lock=requirements-dev.lock; else lock=requirements.lock; fi; $(INSTALL)
	@pwd -P > $(READY)
	@echo "Ready."

# requirements-dev.lock has all of requirements.lock, at the same versions, so this only adds to .venv.
$(DEV_READY): requirements-dev.lock $(READY)
	@echo "Adding to .venv what tests and checks need ..."
	@rm -f $(READY) $(DEV_READY)
	@lock=requirements-dev.lock; $(INSTALL)
	@pwd -P > $(READY)
	@cp $(READY) $(DEV_READY)
	@echo "Ready."
