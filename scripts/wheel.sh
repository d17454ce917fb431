#!/usr/bin/env bash
# Builds a wheel as `pip install .` does and tries it in an environment of its own, away from the
# checkout: the import, the console script, and a C++ program that finds the installed CMake package.
#   usage: wheel.sh PYTHON
set -euo pipefail
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -f dist/zmlx-*.whl
# Isolated from the environment's packages only where nothing is gained by building them again.
"$python" -m pip install -q --disable-pip-version-check "scikit-build-core>=0.10"
"$python" -m pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w dist .
"$python" -m venv "$work/venv"
mlx="mlx"
[ "$(uname -s)" = Linux ] && mlx="mlx[cpu]"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check "$mlx==0.32.4" dist/zmlx-*.whl
cd "$work"
venv/bin/zmlx info
venv/bin/python - <<'P'
import mlx.core as mx
import zmlx

w, scales, biases = mx.quantize(mx.random.normal((64, 128)))
x = mx.random.normal((2, 128))
ours = zmlx.fast.quantized_matmul(x, w, scales, biases)
assert mx.allclose(ours, mx.quantized_matmul(x, w, scales, biases), atol=1e-4), "wrong product"
assert [p.path for p in zmlx.explain(zmlx.fast.quantized_matmul, x, w, scales, biases)] == ["cpu"]
print("the wheel works")
P
cmake -S "$root/examples/cpp" -B example -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -Dzmlx_DIR="$(venv/bin/zmlx --cmake-dir)" -DPython_EXECUTABLE="$work/venv/bin/python" >/dev/null
cmake --build example >/dev/null
./example/moe_layer
