# Every command makes the environment it needs in $(VENV), from nothing but python3, its venv
# module and make. A stamp records each set of dependencies, and pyproject.toml makes it stale.

PYTHON ?= python3
VENV ?= .venv
PYTHONS ?= python3.11 python3.12 python3.13 python3.14 python3.15
PYTEST_ARGS ?=
LOCKED ?=
# Tests wait as much as they compute, so one more runs at a time than there are cores.
PYTEST_WORKERS ?= $(shell expr $$(nproc) + 1)

BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP_INSTALL := -m pip install --quiet
PARALLEL := -n $(PYTEST_WORKERS) --dist worksteal
STUBS := proto/lit_storage_proto
# These take minutes and root; `make test-cluster` runs them.
NOT_OF_ONE_HOST := --ignore tests/cluster
QUICK := -m "not slow and not soak"
# How long the tests go on that make random trouble: in `make soak` all together, in `make test-cluster` the one.
soak: SOAK_SECONDS ?= 600
test-cluster: SOAK_SECONDS ?= 300
# These try the Makefile, the wheel, the benchmarks and what is in deploy, which are the same for every Python.
NOT_OF_A_PYTHON := $(addprefix --ignore tests/system/,test_benchmarks.py test_deploy.py test_make.py test_requirements.py test_security_table.py test_wheel.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-all coverage soak test-cluster test-pythons test-newer-pythons check bench bench-handover proto proto-check lock audit clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## Make .venv with all that developing needs

demo: $(VENV)/.example ## Train a classifier in one process and hand its checkpoint to another
	@echo "== Running examples/share_checkpoint.py"
	@$(BIN)/python examples/share_checkpoint.py

test: $(VENV)/.dev ## Run the quick tests, in minutes (PYTEST_ARGS="-k name" for some)
	@$(BIN)/pytest $(PARALLEL) $(NOT_OF_ONE_HOST) $(QUICK) $(PYTEST_ARGS)

test-all: $(VENV)/.dev ## Run all tests but the soak and those of several hosts
	@$(BIN)/pytest $(PARALLEL) $(NOT_OF_ONE_HOST) $(PYTEST_ARGS)

coverage: $(VENV)/.dev ## Say how many lines of each package `make test` reaches (COVERAGE_OF=test-all for all tests)
	@rm -rf build/coverage && mkdir -p -m 1777 build/coverage
	@$(BIN)/coverage run -m pytest $(PARALLEL) $(NOT_OF_ONE_HOST) $(if $(filter test-all,$(COVERAGE_OF)),,$(QUICK)) \
		$(PYTEST_ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/python tests/coverage_table.py $(if $(filter test-all,$(COVERAGE_OF)),95,90)

# One after the other, so that the time given is the time taken; each test adds its own beginning and end.
soak: $(VENV)/.dev ## Kill, fuzz and attack at random for SOAK_SECONDS (600); prints how much of it there was
	@SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/pytest tests/hostile tests/faults -m soak \
		--timeout $$(($(SOAK_SECONDS) + 120)) $(PYTEST_ARGS)

# What is skipped elsewhere for want of root, iproute2 or /dev/net/tun fails here.
test-cluster: $(VENV)/.dev ## Run the tests of several hosts, for minutes (SOAK_SECONDS=300 of them the soak)
	@TESTS_NEED_HOSTS=1 SOAK_SECONDS=$(SOAK_SECONDS) \
		$(BIN)/pytest tests/cluster $(PYTEST_ARGS)

test-pythons: ## Run the quick tests on each supported Python that is installed
	@for python in $(PYTHONS); do \
		if $$python -c '' 2>/dev/null; then \
			version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
			echo "== Python $$version"; \
			$(MAKE) --no-print-directory test-python VERSION=$$version PYTHON=$$python || exit 1; \
		else echo "== $$python was not found: nothing is tried on it"; fi; \
	done

.PHONY: test-python
test-python: $(VENV)-$(VERSION)/.test
	@$(VENV)-$(VERSION)/bin/pytest -p no:cacheprovider $(PARALLEL) $(NOT_OF_A_PYTHON) $(NOT_OF_ONE_HOST) \
		$(QUICK) $(PYTEST_ARGS)

test-newer-pythons: ## Run the quick tests on Python 3.14 and 3.15, in a root file system of Debian's (as root)
	@.ci/newer-pythons

# From its cache, lint-imports answered for a module that had moved since.
check: $(VENV)/.dev proto-check ## Check style, types, layers, generated stubs and the wheel
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/pytest -q tests/system/test_wheel.py

bench: $(VENV)/.dev ## Measure against rsync, nginx, scp, cp and others (BENCH_ARGS="--only large" for some)
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-handover: $(VENV)/.dev ## Measure the hand-over from one Work's run to the next one's
	@$(BIN)/python benchmarks/handover.py $(BENCH_ARGS)

# The plugins are named by path, so that those of this environment run and no others.
define generate_stubs
cd proto && $(abspath $(BIN))/python -m grpc_tools.protoc -I . \
	--plugin=protoc-gen-mypy=$(abspath $(BIN))/protoc-gen-mypy \
	--python_out=$(1) --mypy_out=readable_stubs,quiet:$(1) \
	lit_storage_proto/v1/path_storage.proto lit_storage_proto/v1/artifact.proto \
	lit_storage_proto/etcd/v3.proto && \
$(abspath $(BIN))/python -m grpc_tools.protoc -I . \
	--plugin=protoc-gen-mypy_grpc=$(abspath $(BIN))/protoc-gen-mypy_grpc \
	--grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) \
	lit_storage_proto/v1/path_storage.proto
endef

proto: $(VENV)/.dev ## Generate the stubs of the .proto files anew
	$(call generate_stubs,.)

proto-check: $(VENV)/.dev ## Fail if the committed stubs are not those of the .proto files
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && ($(call generate_stubs,$$fresh)) && \
	for stub in "$$fresh"/lit_storage_proto/*/*; do \
		diff -u $(STUBS)/$${stub#"$$fresh"/lit_storage_proto/} $$stub || \
			{ echo "The stubs are stale: run make proto"; exit 1; }; \
	done && echo "The stubs in $(STUBS) are those of its .proto files."

lock: ## Choose anew what CI installs, by version and hash (as root, for the newer Pythons)
	@.ci/lock
	@.ci/newer-pythons python3.14 .ci/lock

# Not a part of CI: a service that did not answer would fail it, and one that answers anew each day does not repeat.
audit: ## Ask an advisory service, over the network, about all that CI installs
	@test -x $(VENV)-audit/bin/pip-audit || { $(PYTHON) -m venv --clear $(VENV)-audit && \
		$(VENV)-audit/bin/python $(PIP_INSTALL) pip-audit; }
	@for list in .ci/requirements/*.txt; do echo "== $$list"; \
		$(VENV)-audit/bin/pip-audit --strict --disable-pip --require-hashes -r $$list || exit 1; \
	done

clean: ## Remove the environments and caches made here
	rm -rf $(VENV) $(VENV)-3.* $(VENV)-audit build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# How an environment is made: $(1) its directory. One that was left half-made is made anew.
define make_environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or newer is needed: name one with make PYTHON=..."; exit 1; }
@test -x $(1)/bin/pip || { echo "== Making $(1) with $(PYTHON)" && $(PYTHON) -m venv --clear $(1); } || \
	{ echo "On Debian and Ubuntu this needs: apt-get install python3-venv"; exit 1; }
endef

# How it is filled: $(1) its directory, $(2) extras of lit-storage, $(3) the list of .ci/requirements that has them.
# With LOCKED=1, as in CI, what that list names by version and hash is installed, only as wheels and nothing else.
define install
@if [ -z "$(LOCKED)" ]; then $(1)/bin/python $(PIP_INSTALL) -e '.[$(2)]'; else \
	list=.ci/requirements/$$($(1)/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')-$(3).txt; \
	test -f $$list || { echo "There is no $$list: add this Python to .ci/lock and run make lock"; exit 1; }; \
	$(1)/bin/python $(PIP_INSTALL) --require-hashes --no-deps --only-binary :all: -r $$list && \
	$(1)/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation -e .; \
fi
endef

$(VENV)/.dev: pyproject.toml
	$(call make_environment,$(VENV))
	@echo "== Installing lit-storage and its development tools into $(VENV) (once)"
	$(call install,$(VENV),dev,dev)
	@touch $@

$(VENV)/.example: pyproject.toml
	$(call make_environment,$(VENV))
	@echo "== Installing lit-storage and what the example needs into $(VENV) (once)"
	$(call install,$(VENV),example,dev)
	@touch $@

$(VENV)-$(VERSION)/.test: pyproject.toml
	$(call make_environment,$(VENV)-$(VERSION))
	@echo "== Installing lit-storage and what its tests need into $(VENV)-$(VERSION) (once)"
	$(call install,$(VENV)-$(VERSION),test,test)
	@touch $@
