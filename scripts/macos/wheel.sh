#!/usr/bin/env bash
# Cross-builds the macOS wheel into dist/macos and checks it; see docs/macos.md.
#   usage: wheel.sh PYTHON
set -euo pipefail
python=$1
bash scripts/macos/deps.sh "$python"
root=$PWD
rm -rf dist/macos
# scikit-build-core takes the wheel's platform and the extension's suffix from these two.
_PYTHON_HOST_PLATFORM=macosx-14.0-arm64 \
SETUPTOOLS_EXT_SUFFIX=$("$python" -c 'import sys; print(".cpython-%d%d-darwin.so" % sys.version_info[:2])') \
  "$python" -m build --wheel --no-isolation --skip-dependency-check -o dist/macos \
  -C build-dir=build/macos-wheel \
  -C install.strip=false \
  -C cmake.define.CMAKE_TOOLCHAIN_FILE="$root/cmake/toolchains/aarch64-macos.cmake" \
  -C cmake.define.MLX_ROOT="$root/build/macos-deps/site/mlx/share/cmake/MLX" .
"$python" scripts/macos/check.py dist/macos/*.whl build/macos-deps
