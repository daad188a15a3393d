# Each environment is built once, and again when what it is built from changes; both side by side.
PYTHON ?= python3
JOBS ?= 2
MAKEFLAGS += --jobs=$(JOBS)

SPIKINGJELLY := spikingjelly==2.0.0
SNNTORCH := snntorch==1.0.0
# its monitors need tensorboard, which it does not declare
SPIKINGJELLY_OLD := spikingjelly==0.0.0.0.14 tensorboard
SNNTORCH_OLD := snntorch==0.9.4

INSTALL := -m pip install --quiet --no-compile --constraint constraints.txt --editable
PYTEST := -m pytest -n $(JOBS)

# Python keeps what it compiles on the first import (--no-compile leaves it to that): the tests start many processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test lint format bench clean

demo: .venv/ready
	.venv/bin/pascal-ext demo

test: lint .venv-sj14/ready
	.venv/bin/python $(PYTEST)
	.venv-sj14/bin/python $(PYTEST) tests/adapters

lint: .venv/ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	@# mypy looks for packages where they lie, and adapters/ is pascal_ext.adapters only once installed: link it there.
	@rm -rf build/typing && mkdir -p build/typing/pascal_ext
	@ln -s $(CURDIR)/pascal_ext/* $(CURDIR)/adapters build/typing/pascal_ext/
	@ln -s $(CURDIR)/benchmarks build/typing/
	cd build/typing && $(CURDIR)/.venv/bin/mypy --config-file $(CURDIR)/pyproject.toml -p pascal_ext -p benchmarks

format: .venv/ready
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# A minute and a half, to see that nothing became slow; docs/speed.md has the commands whose rows are kept.
bench: .venv/ready
	@mkdir -p build/bench
	.venv/bin/python -m benchmarks.ops --rounds 3 --output build/bench/ops.jsonl --plot build/bench/ops.png
	.venv/bin/python -m benchmarks.networks resnet20-32 --rounds 3 --no-memory --output build/bench/networks.jsonl

clean:
	rm -rf .venv .venv-sj14 build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/ready: pyproject.toml constraints.txt
	@echo "Installing into .venv (about two minutes)"
	@$(PYTHON) -m venv .venv
	@.venv/bin/python $(INSTALL) ".[snntorch,report,bench,test]" $(SPIKINGJELLY) $(SNNTORCH)
	@touch $@

.venv-sj14/ready: pyproject.toml constraints.txt
	@echo "Installing into .venv-sj14 (about a minute)"
	@$(PYTHON) -m venv .venv-sj14
	@.venv-sj14/bin/python $(INSTALL) ".[snntorch,report,test]" $(SPIKINGJELLY_OLD) $(SNNTORCH_OLD)
	@touch $@
