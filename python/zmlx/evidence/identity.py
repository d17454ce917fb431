"""Fused results against MLX's own ops, over modes, types, sizes and numbers of tokens.

On a GPU they must be equal bit for bit, and whatever falls through to MLX's ops is listed with its
reason. On a CPU there is nothing to compare bit for bit, because MLX sums in the model's type
there: the contract of docs/numerics.md is checked instead.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from zmlx import explain, fast, lm
from zmlx.arguments import EXIT_FAIL, guarded
from zmlx.bench.layer import MoELayer, build_layer, in_type
from zmlx.bench.shapes import LayerShape
from zmlx.evidence import contract
from zmlx.progress import Progress

_EPS = 1e-5
_EXPERTS, _TOP_K = 16, 4


@dataclass(frozen=True)
class Sweep:
    """What is compared.

    Attributes:
        formats: mode, bits and group size.
        dtypes: names of types.
        tokens: every M.
        sizes: model width D and expert width H.
        routed: experts to choose from.
    """

    formats: tuple[tuple[str, int, int], ...]
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    tokens: tuple[int, ...] = (1, 2, 3, 4, 8, 16, 32)
    # Multiples of every block of MLX's kernels, and of none but the group.
    sizes: tuple[tuple[int, int], ...] = ((2048, 1024), (640, 384))
    routed: tuple[int, ...] = (8, 32, 60, 128)


_AFFINE = tuple(("affine", bits, 64) for bits in (1, 2, 3, 4, 5, 6, 8))
FULL = Sweep(
    (*_AFFINE, ("affine", 4, 32), ("affine", 4, 128), ("mxfp4", 4, 32), ("mxfp8", 8, 32),
     ("nvfp4", 4, 16))
)  # fmt: skip
QUICK = Sweep(
    (("affine", 3, 64), ("affine", 4, 64), ("affine", 8, 64), ("mxfp4", 4, 32)),
    tokens=(1, 4, 16),
    sizes=((640, 384),),
    routed=(32,),
)
# The float64 oracle takes time.
CPU = Sweep(FULL.formats, tokens=(1, 4, 32), sizes=((640, 384),), routed=(8, 128))


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        op: what was compared.
        case: of which sizes and types.
        path: which path the fused call took.
        reason: why it fell through to MLX's ops, if it did.
        wrong: what is wrong; "" if nothing is.
    """

    op: str
    case: str
    path: str
    reason: str = ""
    wrong: str = ""

    def __str__(self) -> str:
        path = f"{self.path} ({self.reason})" if self.reason else self.path
        return f"{self.op}, {self.case}: {path}" + (f": {self.wrong}" if self.wrong else "")


def on_gpu() -> bool:
    """Whether MLX computes on a GPU here."""
    return mx.default_device().type == mx.DeviceType.gpu


def count(sweep: Sweep) -> int:
    """How many comparisons a sweep makes, at least."""
    experts = len(sweep.formats) * len(sweep.sizes)
    return len(sweep.dtypes) * len(sweep.tokens) * (experts + len(sweep.sizes) + len(sweep.routed))


def compare(sweep: Sweep) -> Iterator[Finding]:
    """Makes all comparisons of a sweep on the default device."""
    experts = _experts_bits if on_gpu() else _experts_contract
    for shape in _shapes(sweep):
        base = build_layer(shape, mx.float32)
        for dtype in map(lm.parse_dtype, sweep.dtypes):
            yield from experts(in_type(base, dtype), shape, dtype, sweep.tokens)
    for dtype, tokens in itertools.product(map(lm.parse_dtype, sweep.dtypes), sweep.tokens):
        for width, _ in sweep.sizes:
            yield _norm(width, dtype, tokens)
        for experts_count in sweep.routed:
            yield from _routes(experts_count, dtype, tokens)


def _shapes(sweep: Sweep) -> Iterator[LayerShape]:
    for (mode, bits, group), (width, hidden) in itertools.product(sweep.formats, sweep.sizes):
        name = f"{mode} {bits}-bit, group {group}, D {width}, H {hidden}"
        shape = LayerShape(name, width, hidden, _EXPERTS, _TOP_K, mode, bits, group)
        yield shape
        if mode == "mxfp4" and on_gpu():
            name += ", clamped, biases"  # as in GPT-OSS
            yield replace(shape, name=name, activation="swiglu_clamped", bias=True)


def _random(shape: tuple[int, ...], dtype: mx.Dtype, scale: float = 1.0) -> mx.array:
    rng = np.random.default_rng(shape)
    return mx.array(scale * rng.standard_normal(shape, dtype=np.float32)).astype(dtype)


def _inputs(shape: LayerShape, dtype: mx.Dtype, tokens: int) -> tuple[mx.array, ...]:
    """Rows, experts and their weights: (M, D), (M, K), (M, K)."""
    rng = np.random.default_rng(tokens)
    chosen = np.stack([rng.permutation(shape.experts)[: shape.top_k] for _ in range(tokens)])
    scores = mx.softmax(_random((tokens, shape.top_k), mx.float32), -1).astype(dtype)
    return _random((tokens, shape.width), dtype), mx.array(chosen.astype(np.uint32)), scores


def _case(shape: LayerShape, dtype: mx.Dtype, tokens: int) -> str:
    return f"{shape.name}, {lm.dtype_name(dtype)}, M = {tokens}"


def _path(f: Callable[[], Any]) -> tuple[str, str]:
    """The path of a call and why it is not a fused one; the worst, if it has several."""
    taken = [(path.path, path.reason) for path in explain(f)]
    return max(taken, key=lambda path: path[0] == "fallback", default=("fallback", "not called"))


def _difference(got: mx.array, want: mx.array) -> str:
    """Says in how many bits' places two arrays differ; "" if in none."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{got.dtype} {got.shape}, not {want.dtype} {want.shape}"
    unsigned = {2: mx.uint16, 4: mx.uint32}[got.dtype.size]
    unequal = mx.sum(got.view(unsigned) != want.view(unsigned)).item()
    return f"{unequal} of {got.size} values differ" if unequal else ""


def _experts_bits(
    stock: MoELayer, shape: LayerShape, dtype: mx.Dtype, every: tuple[int, ...]
) -> Iterator[Finding]:
    """A layer of mlx-lm's against the same layer patched, bit for bit."""
    from zmlx.patch import patch

    patched = patch(in_type(stock, dtype), ["moe_experts", "moe_combine"])
    for tokens in every:
        x, indices, scores = (each[None] for each in _inputs(shape, dtype, tokens))
        case = _case(shape, dtype, tokens)
        try:
            want = stock(x, indices, scores)
            mx.eval(want)
        except (RuntimeError, ValueError) as error:  # affine with one bit on CUDA
            yield Finding("experts", case, "none", f"MLX has no kernel: {error}")
            continue
        path, reason = _path(lambda arguments=(x, indices, scores): patched(*arguments))
        wrong = _difference(patched(x, indices, scores), want)
        yield Finding("experts", case, path, reason, wrong)


def _experts_contract(
    layer: MoELayer, shape: LayerShape, dtype: mx.Dtype, every: tuple[int, ...]
) -> Iterator[Finding]:
    """Both products of a layer, each by itself, against the oracle."""
    switch = layer.switch_mlp
    for tokens in every:
        x, indices, scores = _inputs(shape, dtype, tokens)
        case = _case(shape, dtype, tokens)

        def swiglu(x=x, indices=indices):
            return _swiglu(switch, x, indices)

        hidden = swiglu()
        reference = _stock_swiglu(in_type(layer, mx.float32), x, indices)
        wrong = contract.broken(hidden, reference, *contract.exact_swiglu(switch, x, indices))
        yield Finding("gather_qmm_swiglu", case, *_path(swiglu), wrong)

        def combine(hidden=hidden, indices=indices, scores=scores):
            return _combine(switch.down_proj, hidden, indices, scores)

        reference = _stock_combine(in_type(layer, mx.float32), hidden, indices, scores)
        exact = contract.exact_combine(
            switch.down_proj, hidden.reshape(tokens, shape.top_k, -1), indices, scores
        )
        wrong = contract.broken(combine(), reference, *exact)
        yield Finding("gather_qmm_combine", case, *_path(combine), wrong)


def _format(linear: Any) -> dict[str, Any]:
    return {"group_size": linear.group_size, "bits": linear.bits, "mode": linear.mode}


def _arrays(linear: Any) -> tuple[mx.array | None, ...]:
    return linear.weight, linear.scales, linear.biases


def _swiglu(switch: Any, x: mx.array, indices: mx.array) -> mx.array:
    gate, up = switch.gate_proj, switch.up_proj
    rows = mx.expand_dims(x, (-2, -3))
    return fast.gather_qmm_swiglu(
        rows, *_arrays(gate), *_arrays(up), None, indices, **_format(gate)
    )


def _combine(down: Any, hidden: mx.array, indices: mx.array, scores: mx.array) -> mx.array:
    return fast.gather_qmm_combine(hidden, *_arrays(down), indices, scores, **_format(down))


def _stock_swiglu(layer: MoELayer, x: mx.array, indices: mx.array) -> mx.array:
    switch, rows = layer.switch_mlp, mx.expand_dims(x.astype(mx.float32), (-2, -3))
    return switch.activation(switch.up_proj(rows, indices), switch.gate_proj(rows, indices))


def _stock_combine(
    layer: MoELayer, hidden: mx.array, indices: mx.array, scores: mx.array
) -> mx.array:
    y = layer.switch_mlp.down_proj(hidden.astype(mx.float32), indices).squeeze(-2)
    return (y * scores.astype(mx.float32)[..., None]).sum(axis=-2)


def _norm(width: int, dtype: mx.Dtype, tokens: int) -> Finding:
    x, residual = _random((tokens, width), dtype, 3), _random((tokens, width, 1), dtype, 3)[..., 0]
    weight = _random((width,), dtype)
    case = f"D {width}, {lm.dtype_name(dtype)}, M = {tokens}"

    def fused():
        return fast.add_rms_norm(x, residual, weight, _EPS)

    normed, total = fused()
    wrong = _difference(total, x + residual)
    if on_gpu():
        wrong = wrong or _difference(normed, mx.fast.rms_norm(x + residual, weight, _EPS))
    else:
        reference = mx.fast.rms_norm(total.astype(mx.float32), weight.astype(mx.float32), _EPS)
        exact = contract.exact_rms_norm(total, weight, _EPS)
        wrong = wrong or contract.broken(normed, reference, *exact)
    return Finding("add_rms_norm", case, *_path(fused), wrong)


def _routes(experts: int, dtype: mx.Dtype, tokens: int) -> Iterator[Finding]:
    """The routers of Qwen3 and of DeepSeek-V3, whose experts mlx-lm selects with argpartition."""
    k = min(8, experts)
    logits = _random((1, tokens, experts), dtype, 2)
    bias = _random((experts,), mx.float32, 0.1)
    softmax, sigmoid = mx.softmax(logits, axis=-1, precise=True), mx.sigmoid(logits)
    for name, options, scores, keys in (
        ("softmax", {"score": "softmax"}, softmax, softmax),
        ("sigmoid", {"score": "sigmoid", "select_bias": bias}, sigmoid, sigmoid + bias),
    ):
        want = mx.argpartition(-keys, k - 1, axis=-1)[..., :k]
        weights = mx.take_along_axis(scores, want, axis=-1)
        weights = weights / weights.sum(axis=-1, keepdims=True)

        def fused(options=options):
            return fast.moe_route(logits, k, renormalize=True, **options)

        got, got_weights = fused()
        wrong = _difference(got, want) or _difference(got_weights, weights)
        case = f"{name}, {k} of {experts}, {lm.dtype_name(dtype)}, M = {tokens}"
        yield Finding("moe_route", case, *_path(fused), wrong)


def failures(findings: list[Finding]) -> list[str]:
    """What is wrong: results, and primitives that have kernels here and ran none."""
    found = [str(finding) for finding in findings if finding.wrong]
    for op in dict.fromkeys(finding.op for finding in findings):
        # CPUs have no kernel for routers, and MLX's ops are compared with themselves.
        if op == "moe_route" and not on_gpu():
            continue
        if not any(each.path in ("cpu", "cuda", "metal") for each in findings if each.op == op):
            reasons = Counter(each.reason for each in findings if each.op == op)
            found.append(f"{op}: no case took a fused path ({reasons.most_common(1)[0][0]})")
    return found


def report_lines(findings: list[Finding]) -> list[str]:
    """How many cases of each primitive took which path."""
    from zmlx.table import format_table

    paths = Counter((each.op, each.path, each.reason) for each in findings)
    wrong = Counter((each.op, each.path, each.reason) for each in findings if each.wrong)
    rows = [
        [op, path, str(number), str(number - wrong[op, path, reason]), reason]
        for (op, path, reason), number in paths.items()
    ]
    right = "equal" if on_gpu() else "within contract"
    return format_table(["primitive", "path", "cases", right, "reason"], rows, right=(2, 3))


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m zmlx.evidence.identity``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m zmlx.evidence.identity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer formats, sizes and tokens")
    parser.add_argument("--capsule", metavar="DIR", help="write a repro capsule into this folder")
    parser.add_argument("--no-progress", action="store_true")
    arguments = parser.parse_args(argv)
    return guarded("zmlx evidence", lambda: _main(arguments))


def _main(arguments: argparse.Namespace) -> int:
    from zmlx.capsule import write_capsule

    sweep = QUICK if arguments.quick else FULL if on_gpu() else CPU
    if not on_gpu():
        print("MLX has no GPU here, so no bits are compared: CPU results are held to the contract.")
    findings, begin = [], time.perf_counter()
    with Progress("identity", count(sweep), enabled=not arguments.no_progress, unit="case") as bar:
        for finding in compare(sweep):
            findings.append(finding)
            bar.advance()
    wrong = failures(findings)
    print("\n".join(report_lines(findings)))
    for failure in wrong[:20]:
        print(f"FAIL {failure}")
    if arguments.capsule:
        capsule = make_report(findings, wrong, time.perf_counter() - begin, arguments.quick)
        print(f"Capsule   {write_capsule(capsule, arguments.capsule)}")
    return EXIT_FAIL if wrong else 0


def make_report(
    findings: list[Finding], wrong: list[str], seconds: float, quick: bool
) -> dict[str, Any]:
    """The capsule of a sweep."""
    from zmlx.capsule import make_capsule, measurement

    return make_capsule(
        "identity",
        "gpu" if on_gpu() else "cpu",
        parameters={"quick": quick, "judged_by": "bits" if on_gpu() else "contract"},
        measurements=[measurement("sweep", "all", "s", [seconds], {"cases": len(findings)})],
        results={"failures": wrong, "cases": [str(finding) for finding in findings]},
        passed=not wrong,
    )


if __name__ == "__main__":
    sys.exit(main())
