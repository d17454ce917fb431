#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "zmlx/zmlx.h"

namespace nb = nanobind;
using namespace nb::literals;

void init_fast(nb::module_& m);
void init_kernel(nb::module_& m);
void init_moe_block(nb::module_& m);

namespace zmlx::python {
void init_attention(nb::module_& m);
void init_short_conv(nb::module_& m);
}  // namespace zmlx::python

NB_MODULE(_ext, m) {
  m.doc() = "The C++ library behind zmlx.";
  // The argument types below come from here.
  nb::module_::import_("mlx.core");

  auto fast = m.def_submodule("fast", "Fused primitives.");
  init_fast(fast);
  init_kernel(m);
  init_moe_block(m);
  zmlx::python::init_attention(m);
  zmlx::python::init_short_conv(m);

  m.def(
      "build_info",
      [] {
        const auto info = zmlx::build_info();
        nb::dict d;
        d["version"] = info.version;
        d["git_commit"] = info.git_commit;
        d["compiler"] = info.compiler;
        d["build_type"] = info.build_type;
        d["mlx_version"] = info.mlx_version;
        d["highway"] = info.highway;
        d["nanobind"] = ZMLX_NANOBIND_VERSION;
        return d;
      },
      "What the library was built with, as a dict of strings.");
  m.def("cpu_target", &zmlx::cpu_target,
        "The instruction set that the CPU kernels use: 'AVX3' (AVX-512), 'AVX3_VNNI', 'AVX2', "
        "'SSE4', 'NEON'.");
  m.def("cpu_targets", &zmlx::cpu_targets,
        "The instruction sets that this build and this machine both have, best first.");
  m.def("set_cpu_target", &zmlx::set_cpu_target, "name"_a,
        "Makes the CPU kernels use one instruction set of `cpu_targets()`; '' means the best one.");
  m.def("num_threads", &zmlx::num_threads, "Threads that a CPU kernel may use.");
  m.def("set_num_threads", &zmlx::set_num_threads, "threads"_a,
        "Sets how many threads a CPU kernel may use.");
  m.def("use_huge_pages", &zmlx::use_huge_pages, "a"_a,
        "Moves an evaluated array's memory into huge pages, in place, where the system can (Linux "
        "6.1). Returns the bytes that lie in such pages now.");
  m.def("read_bandwidth", &zmlx::read_bandwidth, "bytes"_a, "threads"_a, "repeats"_a,
        nb::call_guard<nb::gil_scoped_release>(),
        "Seconds for each of `repeats` plain reads of `bytes` bytes.");
  m.def("copy_bandwidth", &zmlx::copy_bandwidth, "bytes"_a, "threads"_a, "repeats"_a,
        nb::call_guard<nb::gil_scoped_release>(),
        "Seconds for each of `repeats` copies of `bytes` bytes (2 * `bytes` moved).");

  nb::class_<zmlx::Path>(m, "Path", "Which path one call of a fused primitive took, and why.")
      .def_ro("op", &zmlx::Path::op, "The primitive's name.")
      .def_ro("path", &zmlx::Path::path,
              "'cpu', 'cuda', 'metal', or 'fallback': composed of MLX's own ops.")
      .def_ro("reason", &zmlx::Path::reason, "Why the fallback was taken; '' on a fused path.")
      .def("__repr__", [](const zmlx::Path& p) {
        return "Path(op='" + p.op + "', path='" + p.path + "', reason='" + p.reason + "')";
      });
  m.def("begin_recording", &zmlx::detail::begin_recording);
  m.def("end_recording", &zmlx::detail::end_recording);
}
