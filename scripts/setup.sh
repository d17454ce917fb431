#!/usr/bin/env bash
# Sets up the environment that the Makefile uses: a virtual environment with MLX, mlx-lm and the build
# tools, and Highway, GoogleTest and clang from Debian where they are missing and can be installed.
#   PYTHON  the interpreter to start from (python3)
#   VENV    the environment's folder (.venv)
set -euo pipefail
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

need() { command -v "$1" >/dev/null 2>&1; }
say() { printf '[setup] %s\n' "$*"; }

need "$PYTHON" || { echo "Python 3.10 or newer is needed ($PYTHON was not found)." >&2; exit 1; }
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  { echo "Python 3.10 or newer is needed; $PYTHON is $("$PYTHON" -V 2>&1)." >&2; exit 1; }
need c++ || need g++ || { echo "A C++20 compiler is needed (Debian: g++; macOS: xcode-select --install)." >&2; exit 1; }

missing=()
[ -e /usr/include/hwy/highway.h ] || missing+=(libhwy-dev)
[ -e /usr/include/gtest/gtest.h ] || missing+=(libgtest-dev)
if [ ${#missing[@]} -gt 0 ] && [ "$(uname -s)" = Linux ]; then
  if [ "$(id -u)" = 0 ] && need apt-get; then
    say "installing ${missing[*]}"
    apt-get install -y -qq "${missing[@]}" >/dev/null 2>&1 ||
      { apt-get update -qq && apt-get install -y -qq "${missing[@]}" >/dev/null; }
  else
    say "not installed: ${missing[*]}. CMake will fetch their sources instead;" \
        "to avoid that: sudo apt-get install ${missing[*]}"
  fi
fi
if [ "$(uname -sm)" = "Linux x86_64" ] && ! need clang++-19; then
  if [ "$(id -u)" = 0 ] && need apt-get; then
    say "installing clang-19"
    apt-get install -y -qq clang-19 >/dev/null 2>&1 ||
      { apt-get update -qq && apt-get install -y -qq clang-19 >/dev/null; } ||
      say "there is no clang-19: the Metal kernels' tests will be skipped"
  else
    say "not installed: clang-19, without which the Metal kernels' tests are skipped"
  fi
fi

if [ ! -x "$VENV/bin/python" ]; then
  say "making $VENV"
  "$PYTHON" -m venv "$VENV" || { echo "The venv module is needed (Debian: python3-venv)." >&2; exit 1; }
fi
mlx="mlx"
[ "$(uname -s)" = Linux ] && mlx="mlx[cpu]"
say "installing MLX, mlx-lm and the tools"
"$VENV/bin/python" -m pip install -q --disable-pip-version-check \
  "$mlx==0.32.4" "mlx-lm==0.32.2" "nanobind==3.1.0" "cmake>=3.25" ninja numpy tqdm \
  pytest jsonschema "ruff==0.14.5" "clang-format==19.1.7" build
# The checkout itself, so that `python -m zmlx` and the tests run from it, and the console script.
site=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
printf '%s\n' "$PWD/python" > "$site/zmlx-checkout.pth"
cat > "$VENV/bin/zmlx" <<SCRIPT
#!$PWD/$VENV/bin/python
import sys
from zmlx.cli import main
sys.exit(main())
SCRIPT
chmod +x "$VENV/bin/zmlx"
say "ready"
