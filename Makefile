# The two commands: `make demo` goes from nothing to a report, `make test` checks everything. `make help` lists all.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
JOBS ?= 2
OUT ?= runs/demo

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OPENGL_PACKAGES := libegl1 libgl1-mesa-dri

# The public boundary: what other code is written against.
TYPED := \
	jepa.checkpoint jepa.checkpoint_format jepa.checkpoint_writer jepa.config jepa.engines.base jepa.interop.load jepa.interop.model jepa.interop.save jepa.loop jepa.optim jepa.pieces jepa.runs jepa.training jepa.models.encoder \
	jepa.masks.base jepa.objectives.base jepa.worlds.base jepa.data.sources.base \
	jepa.data.clip jepa.data.config jepa.data.errors jepa.data.index jepa.data.loader jepa.data.merge jepa.data.order \
	jepa.data.pack jepa.data.sampling jepa.data.store \
	jepa.planning.constraints jepa.planning.envs.base jepa.planning.goals jepa.planning.inverse jepa.planning.planners.base jepa.probes.kinds.base

define OPENGL_CHECK
from jepa.planning.envs.base import make
env = make("tabletop", size=16)
env.reset(seed=0)
env.render_at(16)
env.close()
endef
export OPENGL_CHECK

.PHONY: help demo test faults lint clean-demo setup opengl

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup opengl ## Install, then go from raw video to a robot that reaches goal images: runs/demo/report.html.
	@$(BIN)/jepa demo $(OUT)

test: setup opengl lint ## Install, check style and types, run the tests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

faults: setup ## All faults of data, resume, checkpoints, processes and numbers, many times over (half an hour).
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "fault or slow" -n $(JOBS)

lint: setup ## Check style (ruff) and the types of the public boundary (mypy).
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }
	@# mypy sees the folders as the one package that they are installed as.
	@rm -rf .mypy_cache/tree && mkdir -p .mypy_cache/tree/jepa
	@ln -s "$(CURDIR)"/jepa/* "$(CURDIR)"/{configs,data,planning,probes} .mypy_cache/tree/jepa/
	@MYPYPATH=.mypy_cache/tree $(BIN)/mypy $(addprefix -m ,$(TYPED))

clean-demo: ## Remove what the demo made, to start over.
	rm -rf $(OUT)

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "jepa needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing)." \
			"Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing into $(VENV): about 2 minutes"
	@$(BIN)/python -m pip install -c constraints.txt -e '.[all]' | awk ' \
		/^Collecting/ { width += length($$2) + 1; if (width > 100) { printf "\n"; width = length($$2) + 1 } \
			printf "%s ", $$2; fflush() } \
		/^Installing collected/ { printf "\nunpacking them\n"; fflush() } \
		/^Successfully/ { print "installed"; fflush() }'
	@touch $@

# MuJoCo draws without a screen through OpenGL, which is a system library.
opengl: setup
	@if reason=$$($(BIN)/python -c "$$OPENGL_CHECK" 2>&1 >/dev/null); then exit 0; fi; \
	if [[ "$$reason" == *"OpenGL"* && "$$(id -u)" = 0 ]] && command -v apt-get >/dev/null; then \
		echo "offscreen OpenGL is missing: apt-get install $(OPENGL_PACKAGES)"; \
		apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-upgrade $(OPENGL_PACKAGES) >/dev/null; \
		if reason=$$($(BIN)/python -c "$$OPENGL_CHECK" 2>&1 >/dev/null); then exit 0; fi; \
	fi; \
	tail -n 1 <<<"$$reason" >&2; \
	if [[ "$$reason" == *"OpenGL"* ]]; then \
		echo "jepa cannot draw without a screen. Install the libraries and run make again:" >&2; \
		echo "  Debian, Ubuntu: sudo apt-get install $(OPENGL_PACKAGES)" >&2; \
		echo "  Fedora:         sudo dnf install mesa-libEGL mesa-dri-drivers" >&2; \
	fi; \
	exit 1
