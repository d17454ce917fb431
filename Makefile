# Everything a developer or a first-time user runs. Needs a C++20 compiler, CMake, Python 3.10 or newer
# and access to Debian's and Python's package registries.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
STAMP := $(VENV)/.ready

.PHONY: help demo test test-cpp test-python test-metal build bench lint format asan fuzz wheel clean
help:
	@echo "make demo    validate and time the model in models/, stock against patched"
	@echo "make test    all tests, C++ and Python"
	@echo "make test-metal   the Metal kernels on the CPU against MLX's own (needs clang 19)"
	@echo "make build   the library, its tests and the Python extension, in place"
	@echo "make bench   the benchmarks behind the README's tables (tens of minutes; needs a quiet machine)"
	@echo "make lint    clang-format and ruff, checking only (make format applies them)"
	@echo "make asan    C++ tests under address and undefined-behaviour sanitizers (some five minutes)"
	@echo "make fuzz    the parser of kernel expressions under libFuzzer, a minute (needs clang)"
	@echo "make wheel   a wheel in dist/, installed into a fresh environment and tried"
	@echo "make evidence  unit tests, bit identity, a long validation and the layer benchmark, on a GPU if there is one"
	@echo "make macos   the macOS wheel in dist/macos/, cross-built on Linux and checked (docs/macos.md)"

$(STAMP): scripts/setup.sh pyproject.toml
	PYTHON="$(PYTHON)" VENV="$(VENV)" bash scripts/setup.sh
	@touch $@

build: $(STAMP)
	@cmake --preset release -DPython_EXECUTABLE="$(CURDIR)/$(PY)" --log-level=WARNING
	@cmake --build build/release

demo: build
	@$(PY) -m zmlx demo

test: test-cpp test-python test-metal

test-cpp: build
	cd build/release && ctest --output-on-failure -j2 --no-tests=error

test-python: build
	$(PY) -m pytest -q tests/python

test-metal: build
	$(PY) -m pytest -q tests/metal

bench: build
	bash scripts/bench.sh "$(PY)"

lint: $(STAMP)
	$(VENV)/bin/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp')
	$(VENV)/bin/ruff check python scripts tests benchmarks examples upstream
	$(VENV)/bin/ruff format --check python scripts tests benchmarks examples upstream

format: $(STAMP)
	$(VENV)/bin/clang-format -i $$(git ls-files '*.h' '*.cpp')
	$(VENV)/bin/ruff check --fix python scripts tests benchmarks examples upstream
	$(VENV)/bin/ruff format python scripts tests benchmarks examples upstream

asan: $(STAMP)
	cmake --preset asan -DPython_EXECUTABLE="$(CURDIR)/$(PY)"
	cmake --build build/asan
	cd build/asan && ctest --output-on-failure -j2 --no-tests=error

fuzz:
	bash scripts/fuzz.sh

wheel: $(STAMP)
	bash scripts/wheel.sh "$(PY)"

.PHONY: evidence macos
evidence: build
	@$(PY) -m zmlx evidence

macos: $(STAMP)
	bash scripts/macos/wheel.sh "$(PY)"
	$(PY) -m pytest -q tests/macos

clean:
	rm -rf build dist $(VENV) python/zmlx/*.so
