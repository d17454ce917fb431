"""upstream/apply.py on small trees. What it writes is compiled and run in a checkout of MLX."""

import json
import re
import shutil
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import mlx_tree
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "upstream"))

import apply  # noqa: E402
import evidence  # noqa: E402
from landing import cpp, places, rewrite  # noqa: E402
from landing.change import PRIMITIVES  # noqa: E402
from landing.errors import Missing  # noqa: E402
from landing.fold import fold  # noqa: E402
from zmlx.bench.report import newest_capsules  # noqa: E402


@pytest.fixture
def tree(tmp_path):
    return mlx_tree.write(tmp_path / "mlx")


def run(tree, *arguments):
    return apply.main([str(tree), *arguments])


@pytest.mark.parametrize("operation", PRIMITIVES)
def test_alone(tree, operation):
    before = mlx_tree.contents(tree)
    assert run(tree, "--check", operation) == 0
    assert mlx_tree.contents(tree) == before
    assert run(tree, operation) == 0
    applied = mlx_tree.contents(tree)
    for path in (
        f"python/tests/test_{operation}.py",
        f"tests/{operation}_tests.cpp",
        f"benchmarks/python/{operation}_bench.py",
        f"mlx/backend/metal/{operation}.cpp",
        f"mlx/backend/metal/kernels/fused/{operation}.h",
        f"mlx/backend/cuda/{operation}.cpp",
    ):
        assert path in applied
    for path in ("mlx/fast.h", "mlx/fast.cpp", "python/src/fast.cpp", "docs/src/python/fast.rst"):
        assert operation in applied[path]
    assert run(tree, operation) == 0
    assert mlx_tree.contents(tree) == applied, "a second time changes nothing"
    assert run(tree, "--revert", operation) == 0
    assert mlx_tree.contents(tree) == before
    assert not any(d.is_dir() and not any(d.iterdir()) for d in tree.rglob("*"))


def test_order_does_not_matter(tree, tmp_path):
    assert run(tree, *PRIMITIVES) == 0
    together = mlx_tree.contents(tree)
    for number, order in enumerate(list(permutations(PRIMITIVES))[5::7]):
        other = mlx_tree.write(tmp_path / str(number))
        for operation in order:
            assert run(other, operation) == 0
        assert mlx_tree.contents(other) == together


def test_revert_of_some(tree, tmp_path):
    one = mlx_tree.write(tmp_path / "one")
    run(one, "add_rms_norm")
    run(tree, *PRIMITIVES)
    assert run(tree, "--revert", "moe_route", "gather_qmm_swiglu", "gather_qmm_combine") == 0
    assert mlx_tree.contents(tree) == mlx_tree.contents(one)


def test_a_users_own_changes_stay(tree):
    run(tree, "gather_qmm_swiglu")
    file = tree / "mlx/fast.cpp"
    file.write_text(file.read_text().replace("array norm(", "array mine();\n\narray norm("))
    assert run(tree, "add_rms_norm") == 0
    assert run(tree, "--revert") == 0
    expected = mlx_tree.FILES["mlx/fast.cpp"].replace("array norm(", "array mine();\n\narray norm(")
    assert file.read_text() == expected


@pytest.mark.parametrize("path", [p for p in mlx_tree.FILES if not p.startswith(".")])
def test_a_file_that_is_gone(tree, path, capsys):
    (tree / path).unlink()
    before = mlx_tree.contents(tree)
    assert run(tree, "--check") == 1
    assert run(tree, *PRIMITIVES) == 1
    assert path in capsys.readouterr().err
    assert mlx_tree.contents(tree) == before, "nothing is written unless all can be"


@pytest.mark.parametrize(
    "path, old, new",
    [
        ("mlx/ops.h", "gather_qmm", "gather_matmul"),
        ("mlx/fast.h", "mlx::core::fast", "mlx::fast"),
        ("mlx/fast_primitives.h", '#include "mlx/backend', '#include "backend'),
        ("mlx/CMakeLists.txt", "/fast.cpp", "/quick.cpp"),
        ("mlx/backend/cpu/CMakeLists.txt", "target_sources", "sources"),
        ("mlx/backend/no_gpu/primitives.cpp", "namespace fast", "namespace quick"),
        ("mlx/backend/metal/CMakeLists.txt", "make_jit_source(hadamard)", ""),
        ("mlx/backend/metal/jit/includes.h", "mlx::core::metal", "mlx::core"),
        ("mlx/backend/cuda/jit_module.cpp", "g_headers", "headers"),
        ("python/src/fast.cpp", "init_fast", "init_quick"),
        ("docs/src/python/fast.rst", "scaled_dot_product_attention", "attention"),
        ("tests/CMakeLists.txt", "fft_tests", "fourier_tests"),
    ],
)
def test_a_place_that_is_gone(tree, path, old, new, capsys):
    file = tree / path
    file.write_text(file.read_text().replace(old, new))
    before = mlx_tree.contents(tree)
    assert run(tree, "--check") == 1
    assert path in capsys.readouterr().err
    assert run(tree, *PRIMITIVES) == 1
    assert mlx_tree.contents(tree) == before


def test_all_that_is_gone_is_named(tree, capsys):
    for path in ("mlx/CMakeLists.txt", "tests/CMakeLists.txt"):
        (tree / path).write_text("")
    assert run(tree, "--check", "gather_qmm_swiglu") == 1
    error = capsys.readouterr().err
    assert "mlx/CMakeLists.txt has no longer the entry fast.cpp" in error
    assert "tests/CMakeLists.txt has no longer the entry fft_tests.cpp" in error


def test_changed_by_hand(tree, capsys):
    run(tree, "add_rms_norm")
    for path, old in [("mlx/fast.h", "add_rms_norm("), ("mlx/backend/cpu/lanes.h", "Lanes")]:
        file = tree / path
        written = file.read_text()
        file.write_text(written.replace(old, old + " /* mine */ ", 1))
        assert run(tree, "--revert") == 1
        assert path in capsys.readouterr().err
        file.write_text(written)
    assert run(tree, "--revert") == 0


def test_a_file_of_the_same_name(tree, capsys):
    (tree / "mlx/backend/cpu/lanes.h").write_text("mine")
    assert run(tree, "add_rms_norm") == 1
    assert "mlx/backend/cpu/lanes.h is there already" in capsys.readouterr().err
    assert (tree / "mlx/backend/cpu/lanes.h").read_text() == "mine"


def test_wrong_arguments(tree, tmp_path, capsys):
    assert run(tree, "rope") == 1
    assert "rope is no primitive" in capsys.readouterr().err
    assert run(tree) == 1
    assert run(tmp_path / "nowhere", "add_rms_norm") == 1
    assert "no checkout of MLX" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_:
        run(tree, "--help")
    assert exit_.value.code == 0


def test_mlx_with_and_without_global_scale(tree):
    run(tree, "gather_qmm_combine")
    assert "std::nullopt, sorted_indices" in (tree / "mlx/fast_experts.cpp").read_text()
    run(tree, "--revert")
    (tree / "mlx/ops.h").write_text("array gather_qmm(const array& x);\n")
    run(tree, "gather_qmm_combine")
    assert "std::nullopt, sorted_indices" not in (tree / "mlx/fast_experts.cpp").read_text()


def test_nothing_of_this_project_is_left(tree):
    run(tree, *PRIMITIVES)
    for path, text in mlx_tree.contents(tree).items():
        for word in ("zmlx", "mx::" if path.startswith("mlx/") else "zmlx", "hwy", "src/cuda"):
            assert word not in text.lower(), f"{path} has {word}"
        for word in ("kExact", "numerics", "max_rows", "x_is_tokens", "note_path", "kOp"):
            assert word not in text, f"{path} has {word}"


NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
@pytest.mark.parametrize("family", ["rows", "mma", "route"])
def test_cuda_kernels_compile_as_they_land(tree, tmp_path, family):
    from landing.cuda import DEVICE, device_name

    run(tree, *PRIMITIVES)
    instances = ROOT / "tests/cuda"
    for file in [*instances.glob("*.cuh"), instances / f"{family}.cu"]:
        text = file.read_text()
        for source in (ROOT / "src/cuda").glob("*.cuh"):
            landed = f'"{DEVICE}{device_name(source.name)}"'
            text = text.replace(f'#include "{source.name}"', f"#include {landed}")
        text = text.replace("MoeRoute", "MoERoute")
        (tmp_path / file.name).write_text(re.sub(r"\bzmlx\b", "fused", text))
    done = subprocess.run(
        [NVCC, "-std=c++17", "-c", "-gencode=arch=compute_90a,code=sm_90a", "-I", tree]
        + ["-o", tmp_path / "out.o", tmp_path / f"{family}.cu"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


# -- evidence --------------------------------------------------------------------------------------


def test_evidence(capsys):
    capsules = ROOT / "benchmarks/repro_capsules"
    assert evidence.main([]) == 0
    text = capsys.readouterr().out
    for backend in ("CPU", "CUDA", "Metal"):
        assert f"## {backend}" in text  # once for each machine
    kinds = evidence._EVIDENCE_OF
    for path, capsule in newest(capsules):
        assert (path.name in text) == (capsule["kind"] in kinds), path.name
        for entry in capsule["measurements"] if capsule["kind"] == "cuda_chain" else []:
            assert f"M = {entry['case']['tokens']}: same bits" in text
    assert "python benchmarks/bench_moe_layer.py" in text
    assert evidence.main(["add_rms_norm"]) == 0
    text = capsys.readouterr().out
    assert "add_rms_norm-64MiB" in text and "moe_layer" not in text


def newest(folder):
    return [entry for found in newest_capsules(folder).values() for entry in found]


def test_evidence_says_what_failed(tmp_path, capsys):
    source = next((ROOT / "benchmarks/repro_capsules").glob("cuda_chain-*.json"))
    capsule = json.loads(source.read_text())
    capsule["passed"] = False
    next(iter(capsule["results"].values()))["equal"] = False
    (tmp_path / source.name).write_text(json.dumps(capsule))
    assert evidence.main(["--capsules", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "other bits" in text and "did not pass" in text
    assert text.count("Nothing is measured yet") == 2


def test_evidence_of_nothing(tmp_path, capsys):
    assert evidence.main(["rope"]) == 1
    assert "rope is no primitive" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{}")
    assert evidence.main(["--capsules", str(tmp_path)]) == 1


# -- the parts -------------------------------------------------------------------------------------

SOURCE = """#pragma once

#include <vector>

namespace a::b {
namespace {

/// What f does, with a brace }.
int f(int x) {
  return x ? 1 : '}';
}

constexpr int kOne[] = {1, 2};

}  // namespace

/// A class.
class C : public D {
 public:
  C(int x) : x_{x}, y_(2) {}
  int get() const { return x_; }  // has a comment; with a semicolon

 private:
  int x_, y_;
};

template <typename T>
std::vector<T> C::g(T (&x)[2]) {
  if (x) { return {}; }
  return R"({ " ;)";
}
enum class E { one, two };
int f(float x);
}  // namespace a::b
"""


def test_items():
    items = cpp.parse(SOURCE)
    assert [i.name for i in items] == ["f", "kOne", "C", "C::g", "E", "f"]
    assert items[0].text.startswith("/// What f does") and items[0].text.endswith("'}';\n}")
    assert items[2].text.endswith("int x_, y_;\n};")
    assert cpp.member(items[2].text, "get") == "int get() const { return x_; }"
    with pytest.raises(Missing, match="no member 'set'"):
        cpp.member(items[2].text, "set")
    with pytest.raises(Missing, match="has no 'gone'"):
        cpp.take("src/fast/inputs.h", "gone")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("x = o.exact ? f(a, b) : g;", "x = f(a, b);"),
        ("x = !o->exact ? f : g ? h : i;", "x = g ? h : i;"),
        ("call(a, exact ? 1 : 2, b)", "call(a, 1, b)"),
        ("y = exact && z;", "y = z;"),
        ("y = z && exact;", "y = z ;"),
        ("y = !exact || z;", "y = z;"),
        ("if (exact) { a(); } else { b(); }", "a();"),
        ("if constexpr (!C::exact) a(); else b();", "b();"),
        ("f() { if (z && !exact) { a(); } b(); }", "f() {  b(); }"),
        ("struct S {\n  bool exact;  // why\n  int x;\n};", "struct S {\n  int x;\n};"),
        ('"o.exact ? a : b"', '"o.exact ? a : b"'),
        ("inexact ? a : b", "inexact ? a : b"),
    ],
)
def test_fold(text, expected):
    assert fold(text, exact=True) == expected


def test_what_follows_a_return_goes():
    text = "int f() {\n  if (exact) {\n    return 1;\n  }\n  g();\n  return 2;\n}"
    assert " ".join(fold(text, exact=True).split()) == "int f() { return 1; }"


def test_fold_refuses_what_it_does_not_know():
    with pytest.raises(Missing, match="cannot be folded"):
        fold("f(exact + 1);", exact=True)


def test_host():
    text = "mx::array f(const mx::array& sum) { return mx::sum(mx::exp(sum), -1); }"
    expected = "array f(const array& sum) { return mlx::core::sum(exp(sum), -1); }"
    assert rewrite.host(text) == expected
    assert rewrite.host("/// A.\nzmlx::fast::MoeRoute x;  ///< y") == "// A.\nMoERoute x;  // y"


def test_edit():
    assert rewrite.edit("a  b\n c", ("b c", "d")) == "a  d"
    with pytest.raises(Missing, match="2 times instead of 1"):
        rewrite.edit("a a", ("a", "b"))


def test_places():
    text = "namespace x {\nint a; // }\n}\nnamespace x {\nint b;\n}\n"
    assert text[places.before_namespace_end("x")(text) :] == "}\n"
    text = "int t[] = {\n  1,\n};\n"
    assert text[places.before_array_end("t")(text) :] == "};\n"
    text = "other(x\n  b.cpp)\nlist(x\n  a.cpp\n  b.cpp\n  c.cpp)\n"
    assert text[places.after_source("list", "b.cpp")(text) :] == "  c.cpp)\n"
    with pytest.raises(Missing):  # the last one, behind which the list ends
        places.after_source("list", "c.cpp")(text)
