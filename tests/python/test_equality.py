"""upstream/equality.py, with this project's library in the place of a tree of MLX."""

import os
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import mlx.core as mx
import pytest
from zmlx import fast

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "upstream"))

import equality  # noqa: E402
import equality_cases  # noqa: E402
from equality_cases import Cases  # noqa: E402

SHARE = (0, 23)

# What an interpreter runs first: it gives MLX the fused primitives, as a tree has them.
# The library here has chosen its kernels already; there it shall choose the same.
TARGET = {k: v for k, v in os.environ.items() if k == "ZMLX_CPU_TARGET"}
TREE = f"""
import os, sys
os.environ.pop("ZMLX_CPU_TARGET", None)
os.environ.update({TARGET!r})
sys.path.insert(0, {str(ROOT / "python")!r})
import mlx.core as mx
from zmlx import fast
for name in ("gather_qmm_swiglu", "gather_qmm_combine", "add_rms_norm"):
    setattr(mx.fast, name, getattr(fast, name))
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("ZMLX_CPU_TARGET", "MLX_PTX_CACHE_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def compare(tmp_path, text, share=SHARE):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "sitecustomize.py").write_text(text)
    options = Namespace(
        device="cpu", cpu_target="SSE4", path=tree, library=None, python=sys.executable
    )
    return equality.compare(options, tmp_path, share)


def counts(found):
    return Counter(equality.verdict(entry) for entry in found["entries"])


def test_equal(tmp_path, capsys):
    found = compare(tmp_path, TREE)
    calls = len(Cases(mx, "cpu", SHARE).calls)
    assert counts(found) == {"fused, equal": calls}
    # The same module on both sides proves nothing.
    assert equality.report(found) == 1
    text = capsys.readouterr().out
    assert "both sides are the same MLX" in text
    assert f"{calls} fused calls equal, bit for bit; 1 of" in text
    found["sides"][1]["module"] = "another"
    assert equality.report(found) == 0
    assert f"MLX {mx.__version__} on Device(cpu, 0)" in capsys.readouterr().out


def test_another_bit(tmp_path, capsys):
    flipped = """
def wrong(x, *arguments, **options):
    bits = mx.view(fast.gather_qmm_combine(x, *arguments, **options), mx.uint32)
    last = mx.arange(bits.size).reshape(bits.shape) == bits.size - 1
    return mx.view(mx.where(last, mx.bitwise_xor(bits, 1), bits), mx.float32)
mx.fast.gather_qmm_combine = wrong
"""
    found = compare(tmp_path, TREE + flipped)
    of = Counter((e["operation"], equality.verdict(e)) for e in found["entries"])
    assert {how for operation, how in of if operation == "gather_qmm_combine"} == {
        "fused, different"
    }
    assert of["gather_qmm_swiglu", "fused, equal"]
    found["sides"][1]["module"] = "another"
    wrong = of["gather_qmm_combine", "fused, different"]
    assert equality.report(found) == wrong + 1
    text = capsys.readouterr().out
    assert "FUSED, DIFFERENT: gather_qmm_combine of (1, 1, 2, 1," in text
    assert "no fused call of gather_qmm_combine was equal" in text


def test_fused_on_one_side(tmp_path, capsys):
    composed = """
mx.fast.gather_qmm_swiglu = lambda x, *rest, **options: fast.gather_qmm_swiglu(
    mx.stop_gradient(x), *rest, **options) + 0
def add_rms_norm(x, residual, weight, eps):
    return mx.fast.rms_norm(x + residual, weight, eps), x + residual
def gather_qmm_combine(*arguments, **options):
    raise ValueError("not today")
mx.fast.add_rms_norm, mx.fast.gather_qmm_combine = add_rms_norm, gather_qmm_combine
"""
    found = compare(tmp_path, TREE + composed, (0, 5))
    of = Counter((e["operation"], equality.verdict(e)) for e in found["entries"])
    assert set(of) == {
        ("gather_qmm_swiglu", "fused, equal"),
        ("gather_qmm_combine", "fused on one side"),
        ("add_rms_norm", "fused on one side"),
    }
    assert equality.report(found) > of["gather_qmm_combine", "fused on one side"]
    text = capsys.readouterr().out
    assert "FUSED ON ONE SIDE: gather_qmm_combine of" in text and "not today" in text


def test_a_tree_without_primitives_or_with_a_fault(tmp_path, capsys):
    found = compare(tmp_path, "")
    assert found["entries"] == [] and found["sides"][1]["version"] == mx.__version__
    found["sides"][1]["module"] = "another"
    assert equality.report(found) == 1
    assert "nothing was compared" in capsys.readouterr().out
    fault = "mx.fast.add_rms_norm = lambda *a, **o: os._exit(7)\n"
    (tmp_path / "other").mkdir()
    with pytest.raises(RuntimeError, match=r"ended with 7, at call \d+ of"):
        compare(tmp_path / "other", TREE + fault, (0, 5))


def entry(here, there, equal, *errors):
    sides = [
        dict(fused=fused, outputs=[], error=error)
        for fused, error in zip((here, there), errors or ("", ""), strict=True)
    ]
    return dict(operation="moe_route", what="moe_route", equal=equal, here=sides[0], there=sides[1])


@pytest.mark.parametrize(
    "what, expected",
    [
        (entry(True, True, True), "fused, equal"),
        (entry(True, True, False), "fused, different"),
        (entry(True, False, True), "fused on one side"),
        (entry(False, False, False), "composed, different"),
        (entry(True, True, True, "", "out of memory"), "fused, error"),
        (entry(False, False, True, "none", ""), "composed, error"),
        (entry(False, False, True, "none", "none"), "composed, refused"),
        (entry(None, None, True, "none", "none"), "composed, refused"),
    ],
)
def test_verdict(what, expected):
    assert equality.verdict(what) == expected


def test_only_mlx_ops_is_no_comparison(capsys):
    sides = [dict(module=name, libraries=[], version="1", device="gpu", name="x") for name in "ab"]
    assert equality.report(dict(sides=sides, entries=[entry(False, False, True)])) == 1
    assert "no fused call of moe_route was equal" in capsys.readouterr().out


def test_no_gpu():
    if mx.is_available(mx.gpu):
        pytest.skip("there is one")
    with pytest.raises(RuntimeError, match="has no GPU here"):
        equality.use(mx, "gpu")


def test_shares_are_all_calls():
    whole = Cases(mx, "cpu")
    shares = [Cases(mx, "cpu", (i, 3)).calls for i in range(3)]
    assert sum(map(len, shares)) == len(whole.calls) == 728
    seen = Counter((op, str(options)) for part in shares for op, _, options in part)
    assert seen == Counter((op, str(options)) for op, _, options in whole.calls)


def test_calls_for_gpus(monkeypatch):
    """All types, forms, counts of tokens and options; those that MLX's ops compute if asked."""
    monkeypatch.setattr(equality_cases, "MODELS", ())
    monkeypatch.setattr(equality_cases, "GPU_SHAPES", ((384, 16, 4),))
    cases = Cases(mx, "gpu")
    tokens, forms, types = set(), set(), Counter()
    for operation, names, options in cases.calls:
        first = cases.arrays[names[0]]
        types[operation, first.dtype] += 1
        if operation == "gather_qmm_combine":
            tokens.add(first.size // first.shape[-1] // first.shape[-3])
            forms.add((options["mode"], options["bits"], options["group_size"]))
    assert tokens >= {*range(1, 34), 64}
    assert forms == {form for form in equality_cases.FORMS if form[1] > 1}
    assert len(types) == 12 and min(types.values()) > 40
    few = Cases(mx, "gpu", fused=lambda *call: False)
    assert 0 < len(few.calls) < len(cases.calls) / 10
    routes = {str(call[2]): call for call in cases.calls if call[0] == "moe_route"}
    for operation, names, options in (*routes.values(), cases.calls[0]):
        given = [None if name is None else cases.arrays[name] for name in names]
        for gaps in ({}, {"gaps": True}):
            equality.build(mx, fast, operation, given, options | gaps)  # refused by none
