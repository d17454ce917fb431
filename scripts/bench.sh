#!/usr/bin/env bash
# Runs the benchmarks behind the README's tables, leaves their capsules, and writes the tables. Takes some
# ten minutes on two cores; other work on the machine shows in the results.
#   usage: bench.sh PYTHON
set -uo pipefail
python=$1
capsules=benchmarks/repro_capsules
layer() { "$python" benchmarks/bench_moe_layer.py --capsule "$capsules" "$@"; }
layer --seq-lens 1,4,64,512 --dtype bfloat16,float32 --no-stock-bf16 1
layer --seq-lens 1 --bits 8 --no-stock-bf16 0
layer --seq-lens 1 --mode mxfp4 --bits 4 --group-size 32 --no-stock-bf16 0
"$python" benchmarks/bench_add_rms_norm.py --capsule "$capsules"
"$python" benchmarks/bench_kernels.py --capsule "$capsules"
"$python" benchmarks/bench_decode.py --capsule "$capsules"
"$python" benchmarks/readme_table.py --write README.md
