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
layer --shapes qwen3-30b-a3b,gpt-oss-20b,glm-4.7-flash --seq-lens 1,16 --no-stock-bf16 0
# Where the machine has AVX-512: what processors without it get.
if "$python" -c 'import zmlx._ext as z, sys; sys.exit(not z.cpu_target().startswith("AVX3"))'; then
  layer --seq-lens 1,64 --cpu-target AVX2 --no-stock-bf16 0
fi
"$python" benchmarks/bench_add_rms_norm.py --capsule "$capsules"
"$python" benchmarks/bench_kernels.py --capsule "$capsules"
"$python" benchmarks/bench_decode.py --capsule "$capsules"
"$python" benchmarks/readme_table.py --write README.md
"$python" benchmarks/readme_demo.py README.md
