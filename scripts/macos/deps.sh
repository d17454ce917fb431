#!/usr/bin/env bash
# Brings what the macOS build needs besides the environment of scripts/setup.sh: Zig, LIEF and
# scikit-build-core in that environment; in build/macos-deps, MLX's macOS wheels, of the version that is
# installed here, and libc++.tbd.
#   usage: deps.sh PYTHON
set -euo pipefail
python=$1
deps=build/macos-deps
"$python" -m pip install -q --disable-pip-version-check \
  "ziglang==0.16.0" "lief==1.0.0" "scikit-build-core>=0.12" "build"
mlx=$("$python" -c 'from importlib.metadata import version; print(version("mlx"))')
if [ "$(cat "$deps/version" 2>/dev/null)" != "$mlx" ]; then
  rm -rf "$deps"
  mkdir -p "$deps"
  "$python" -m pip install -q --disable-pip-version-check --target "$deps/site" --no-deps \
    --only-binary=:all: --platform macosx_14_0_arm64 "mlx==$mlx" "mlx-metal==$mlx"
  # What pip takes on newer systems is another file of the same version.
  for platform in macosx_15_0_arm64 macosx_26_0_arm64; do
    "$python" -m pip download -q --disable-pip-version-check -d "$deps/$platform" --no-deps \
      --only-binary=:all: --platform "$platform" "mlx-metal==$mlx"
    "$python" -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract("mlx/lib/libmlx.dylib", sys.argv[2])' \
      "$deps/$platform"/*.whl "$deps/$platform"
    rm "$deps/$platform"/*.whl
  done
  echo "$mlx" > "$deps/version"
fi
"$python" scripts/macos/libcxx.py "$deps/site/mlx" cmake/toolchains/aarch64-macos/libcxx.txt "$deps/libc++.tbd"
