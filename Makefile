# make demo   from nothing to a report (DATASET=mimic_iv_demo|cinc2012|cinc2019|simulator, DATA=folder or zip, ARGS="key=value …")
# make test   the test suite        make chaos   the fault tests in full, and all other long tests        make clean
# make lint   ruff check, ruff format --check, mypy        make docs   the documentation as a site, in build/site
#
# PYTHON=python3.12       another interpreter (3.11 or newer)
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                         where torch comes from; the CPU build there avoids some 3 GB of CUDA libraries on a machine without GPU
# TORCH_LOCK=locks/torch.txt
#                         compare torch's hash too: only for the build of the Python package index, with CUDA on Linux
# make lock   the hashes in locks/ anew        make audit   known faults of the locked packages

SHELL := bash
.SHELLFLAGS := -euo pipefail -c

PYTHON ?= python3
VENV ?= .venv
DATASET ?= mimic_iv_demo
DATA ?=
ARGS ?=
TORCH_INDEX ?=
TORCH_LOCK ?=
UV ?= uv

BIN := $(VENV)/bin
TORCH := $(shell grep -m1 '^torch==' constraints.txt)
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet
LOCKED := $(INSTALL) --no-deps --require-hashes

export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_OFFLINE := 1

config_mimic_iv_demo := configs/demo.yaml
config_cinc2012 := configs/demo_cinc2012.yaml
config_cinc2019 := configs/demo_cinc2019.yaml
config_simulator := configs/demo_simulator.yaml
open_data_mimic_iv_demo := mimic-iv-demo-meds
open_data_cinc2012 := cinc2012
open_data_cinc2019 := cinc2019

CONFIG := $(config_$(DATASET))
ifeq ($(CONFIG),)
$(error DATASET=$(DATASET) is not known; use mimic_iv_demo, cinc2012, cinc2019 or simulator)
endif
OPEN_DATA := $(if $(DATA),,$(open_data_$(DATASET)))

.PHONY: demo test lint docs chaos clean setup setup-dev lock audit

demo: setup
	$(if $(OPEN_DATA),$(BIN)/clinjepa data get $(OPEN_DATA) data/$(OPEN_DATA))
	$(BIN)/clinjepa run $(CONFIG) $(if $(DATA),'source.path=$(DATA)') $(ARGS)

test: setup-dev
	$(BIN)/python -m tests.support.run_suite $(ARGS)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup-dev
	$(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

chaos: setup-dev
	$(BIN)/python -m pytest -m 'long or chaos' $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

# Everything but torch is compared with the SHA-256 in locks/; torch too with TORCH_LOCK. The project itself is built by the locked setuptools.
$(VENV)/.installed: pyproject.toml constraints.txt locks/packages.txt locks/torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; set PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing $(TORCH), then the project; this takes some minutes the first time."
	$(if $(TORCH_LOCK),$(LOCKED) -r $(TORCH_LOCK),$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)')
	$(LOCKED) -r locks/packages.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed locks/dev.txt
	$(LOCKED) -r locks/dev.txt
	@touch $@

# After a change of constraints.txt or of the dependencies in pyproject.toml. Needs uv (pip install uv) and a package index.
# Not locks/torch_cpu.txt, whose one wheel is on another index: `pip download --no-deps` and `pip hash` give its line.
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	--custom-compile-command 'make lock' --constraints constraints.txt pyproject.toml
NAMES = sed -n 's/^\([a-z0-9._-]*\)==.*/\1/p'
WITHOUT = sed 's/^/--no-emit-package /'

lock:
	runtime=$$($(COMPILE) | $(NAMES)); \
	torch=$$(grep -E '^(torch|triton|(nvidia|cuda)-.*)$$' <<< "$$runtime"); \
	others=$$(grep -vxF "$$torch" <<< "$$runtime"); \
	$(COMPILE) -o locks/torch.txt $$($(WITHOUT) <<< "$$others") > /dev/null; \
	$(COMPILE) -o locks/packages.txt $$($(WITHOUT) <<< "$$torch") > /dev/null; \
	$(COMPILE) -o locks/launcher.txt --extra launcher $$($(WITHOUT) <<< "$$runtime") > /dev/null; \
	$(COMPILE) -o locks/dev.txt --extra dev --extra search --extra trackers $$($(WITHOUT) <<< "$$runtime") > /dev/null

# Known faults of the locked packages. Asks the advisory database of the Python Packaging Authority, so it needs the network.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --disable-pip-version-check --quiet pip-audit
	$(VENV)-audit/bin/pip-audit --strict --disable-pip --require-hashes -r locks/packages.txt -r locks/torch.txt -r locks/launcher.txt -r locks/dev.txt
