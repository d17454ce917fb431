#pragma once

#include <vector>

#include "kernel/program.h"
#include "kernel/strided.h"

namespace zmlx::kernel {

/// How the CPU evaluator runs a kernel; zeros leave it to the evaluator.
struct CpuLaunch {
  int block = 0;  ///< elements that a thread takes at a time
  int threads = 0;
  bool operator==(const CpuLaunch&) const = default;
};

struct OutputArray {
  void* data;
  Storage storage;
};

/// One element of each output for every element of the shape.
struct ElementwiseCall {
  const Program& program;
  std::vector<int64_t> shape;
  std::vector<StridedArray> inputs;  ///< one for each of the program's inputs
  std::vector<OutputArray> outputs;  ///< contiguous
  CpuLaunch launch;
};
void run_elementwise(const ElementwiseCall& call);

/// Calls that move more bytes than this write past the caches: whoever reads the results next finds
/// none of them there.
constexpr size_t kStreamBytes = size_t{32} << 20;
constexpr size_t kLineBytes = 64;

/// Elements from the one at hand to those that are fetched into the caches meanwhile. One array
/// gains by 16 KiB on Zen 5 while memory is fast: a third less time than with 4 KiB for a norm, 11
/// % for a polynomial. While it is slow a norm gains at most a tenth, a polynomial nothing. Several
/// arrays lose by it, up to 9 %; why was not measured.
constexpr size_t fetch_ahead(size_t inputs) { return inputs > 1 ? 1024 : 4096; }

/// A rough count of a program's floating-point operations an element.
double operations(const Program& program);

}  // namespace zmlx::kernel
