#include <nanobind/nanobind.h>
#include <nanobind/stl/function.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "zmlx/kernel.h"

namespace nb = nanobind;
namespace mx = mlx::core;
using namespace nb::literals;

namespace {

/// Arrays as they are; Python's numbers in the type of the first array, so that they do not widen
/// the result.
std::vector<mx::array> arrays_of(const zmlx::Kernel& kernel, const nb::args& args) {
  std::optional<mx::Dtype> type;
  for (nb::handle arg : args) {
    if (nb::isinstance<mx::array>(arg)) {
      type = nb::cast<const mx::array&>(arg).dtype();
      break;
    }
  }
  std::vector<mx::array> arrays;
  arrays.reserve(args.size());
  for (nb::handle arg : args) {
    if (nb::isinstance<mx::array>(arg)) {
      arrays.push_back(nb::cast<const mx::array&>(arg));
    } else if (nb::isinstance<nb::float_>(arg) || nb::isinstance<nb::int_>(arg)) {
      arrays.push_back(mx::array(nb::cast<double>(arg), type.value_or(mx::float32)));
    } else {
      throw nb::type_error(("[" + kernel.name() + "] takes arrays and numbers.").c_str());
    }
  }
  return arrays;
}

}  // namespace

void init_kernel(nb::module_& m) {
  nb::class_<zmlx::AutotuneResult>(m, "AutotuneResult", "What autotune chose.")
      .def_ro("best", &zmlx::AutotuneResult::best, "Number of the candidate.")
      .def_ro("remembered", &zmlx::AutotuneResult::remembered,
              "Whether it was measured before, by this process or another.")
      .def_ro("seconds", &zmlx::AutotuneResult::seconds,
              "The median of each candidate; empty if remembered.");
  m.def(
      "autotune",
      [](size_t candidates, const std::function<void(size_t)>& run, const std::string& key,
         double margin, int max_rounds, double max_seconds) {
        return zmlx::autotune(candidates, run, {key, margin, max_rounds, max_seconds});
      },
      "candidates"_a, "run"_a, "key"_a, "margin"_a, "max_rounds"_a, "max_seconds"_a);
  m.def("autotune_cache_directory", &zmlx::autotune_cache_directory);
  m.def("clear_autotune_cache", &zmlx::clear_autotune_cache);

  nb::class_<zmlx::Kernel>(m, "Kernel",
                           "A kernel made of a formula: a differentiable function of arrays.")
      .def(
          "__call__",
          [](const zmlx::Kernel& kernel, const nb::args& args, mx::StreamOrDevice stream) {
            return kernel.call(arrays_of(kernel, args), stream);
          },
          "args"_a, nb::kw_only(), "stream"_a = nb::none(),
          nb::sig("def __call__(self, *args: mlx.core.array | float, stream: mlx.core.Stream | "
                  "mlx.core.Device | None = None) -> mlx.core.array"))
      .def_prop_ro("name", &zmlx::Kernel::name, "The name in errors and the registry.")
      .def_prop_ro("inputs", &zmlx::Kernel::inputs, "Names of the arguments, in their order.")
      .def(
          "source",
          [](const zmlx::Kernel& kernel, const std::string& backend, mx::Dtype type,
             const std::string& of, const std::vector<int>& shape,
             const std::optional<std::vector<mx::array>>& arrays) {
            if (arrays) return kernel.source(backend, *arrays, of);
            return kernel.source(backend, type, of, mx::Shape(shape.begin(), shape.end()));
          },
          "backend"_a, "dtype"_a = mx::float32, "of"_a = "value",
          "shape"_a = std::vector<int>{4096, 4096}, nb::kw_only(), "arrays"_a = nb::none(),
          nb::sig("def source(self, backend: str, dtype: mlx.core.Dtype = mlx.core.float32, of: "
                  "str = 'value', shape: Sequence[int] = (4096, 4096), *, arrays: "
                  "Sequence[mlx.core.array] | None = None) -> str"),
          "The code for 'metal' or 'cuda' of the kernel, or with of='vjp' of its derivative, for "
          "inputs of a type and shape; or for the very arrays, with what follows them in a "
          "derivative (see metal_launch): it depends on their gaps too.")
      .def(
          "metal_launch",
          [](const zmlx::Kernel& kernel, const nb::args& args, const std::string& of) {
            const auto launch = kernel.metal_launch(arrays_of(kernel, args), of);
            nb::dict described;
            described["name"] = launch.name;
            described["header"] = launch.header;
            described["text"] = launch.text;
            described["inputs"] = launch.inputs;
            described["outputs"] = launch.outputs;
            nb::dict numbers;
            for (const auto& [name, value] : launch.numbers) numbers[name.c_str()] = value;
            described["numbers"] = numbers;
            described["threadgroups"] = launch.threadgroups;
            described["threads"] = launch.threads;
            return described;
          },
          "args"_a, nb::kw_only(), "of"_a = "value",
          nb::sig("def metal_launch(self, *args: mlx.core.array | float, of: str = 'value') -> "
                  "dict[str, object]"),
          "What would run for these arrays on Metal: the kernel's text, its buffers and its "
          "launch. "
          "With of='vjp' a cotangent follows the inputs (behind the result, if a given derivative "
          "uses it), with of='jvp' a tangent for each. Needs no GPU.")
      .def(
          "tune",
          [](const zmlx::Kernel& kernel, const nb::args& args) {
            return kernel.tune(arrays_of(kernel, args));
          },
          "args"_a,
          "Measures how the device runs the kernel best on arrays like these, and runs it so from "
          "now "
          "on. The choice is kept on disk; see zmlx.autotune.")
      .def("explain", &zmlx::Kernel::explain,
           "The formula after simplification, its derivatives and how backends run it, as text.")
      .def("__repr__", [](const zmlx::Kernel& kernel) {
        std::string text = "<kernel " + kernel.name() + "(";
        for (size_t i = 0; i < kernel.inputs().size(); ++i) {
          text += (i ? ", " : "") + kernel.inputs()[i];
        }
        return text + ")>";
      });

  m.def(
      "elementwise",
      [](const std::string& expression, const std::string& name,
         const std::vector<std::string>& inputs, const std::vector<std::string>& grad_expr,
         bool use_output, std::optional<mx::Dtype> compute_dtype) {
        return zmlx::elementwise(expression, {name, inputs, grad_expr, use_output, compute_dtype});
      },
      "expression"_a, "name"_a, "inputs"_a, "grad_expr"_a, "use_output"_a,
      "compute_dtype"_a.none());

  m.def(
      "reduce",
      [](const std::string& init, const std::string& update, const std::string& finalize,
         const std::string& name, std::optional<mx::Dtype> compute_dtype) {
        return zmlx::reduce({init, update, finalize, name, compute_dtype});
      },
      "init"_a, "update"_a, "finalize"_a, "name"_a, "compute_dtype"_a.none());
  using Pass = std::tuple<std::string, std::string, std::string>;
  m.def(
      "map_reduce",
      [](const Pass& pass1, const Pass& pass2, const std::string& write, const std::string& name,
         int threadgroup, std::optional<mx::Dtype> compute_dtype) {
        const auto source = [](const Pass& pass) {
          const auto& [init, update, reduce] = pass;
          return zmlx::RowPassSource{init, update, reduce};
        };
        return zmlx::map_reduce(
            {source(pass1), source(pass2), write, name, threadgroup, compute_dtype});
      },
      "pass1"_a, "pass2"_a, "write"_a, "name"_a, "threadgroup"_a, "compute_dtype"_a.none());

  m.def("kernel_registry", [] {
    nb::list records;
    for (const auto& record : zmlx::kernel_registry()) {
      nb::dict entry;
      entry["name"] = record.name;
      entry["kind"] = record.kind;
      entry["formula"] = record.formula;
      entry["definitions"] = record.definitions;
      entry["calls"] = record.calls;
      entry["define_seconds"] = record.define_seconds;
      entry["compile_seconds"] = record.compile_seconds;
      entry["compilations"] = record.compilations;
      records.append(entry);
    }
    return records;
  });
  m.def("clear_kernel_registry", &zmlx::clear_kernel_registry);
}
