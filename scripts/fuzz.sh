#!/usr/bin/env bash
# Fuzzes the parser of kernel expressions with libFuzzer (clang), address and undefined-behaviour
# sanitizers.
#   $1  seconds (60)
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}

fuzzer_links() {
  printf 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n' |
    clang++ -fsanitize=fuzzer,address,undefined -x c++ - -o /dev/null 2>/dev/null
}
if ! fuzzer_links; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get install -y -qq clang libclang-rt-dev >/dev/null 2>&1 ||
      { apt-get update -qq && apt-get install -y -qq clang libclang-rt-dev >/dev/null; }
  else
    echo "clang with libFuzzer is needed (Debian: clang libclang-rt-dev)." >&2
    exit 1
  fi
fi

mkdir -p build/fuzz/corpus
clang++ -std=c++20 -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
  -fno-sanitize=float-cast-overflow -Isrc -o build/fuzz/kernel_parser_fuzz \
  tests/fuzz/kernel_parser_fuzz.cpp src/kernel/{derivative,expression,functions,half_types,lexer,parser,simplify,syntax_error}.cpp
build/fuzz/kernel_parser_fuzz -max_total_time="$seconds" -timeout=5 -rss_limit_mb=2048 -max_len=4096 \
  -dict=tests/fuzz/kernel_parser.dict -seed=1 -print_final_stats=1 -artifact_prefix=build/fuzz/ \
  build/fuzz/corpus 2>&1 | tail -15
