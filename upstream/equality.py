"""Compares a built tree of MLX with this project's library, bit for bit.

    python upstream/equality.py --path ~/mlx/python --library ~/build [--device gpu]

Inputs are made and computed here, with the library on MLX's wheel; then a second interpreter
computes them with the tree's `mx.fast`. On the CPU only float32 is compared, with the library's
kernels of four lanes (docs/upstream.md says why); on a GPU all three float types. Prints what
differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

FORMS = [("affine", bits, group) for bits in (1, 2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
FORMS += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]
ACTIVATIONS = ("swiglu", "geglu", "swiglu_clamped")
TYPES = {"cpu": ("float32",), "gpu": ("float32", "float16", "bfloat16")}


class Cases:
    """Calls, and the arrays that they take, by name."""

    def __init__(self, mx, device):
        self.mx, self.arrays, self.calls = mx, {}, []
        for type_ in TYPES[device]:
            for mode, bits, group in FORMS:
                if device == "gpu" and bits == 1:  # MLX's CUDA backend has none
                    continue
                self._products(type_, mode, bits, group)
            for width in (7, 31, 64, 100, 512, 2048, 2050, 5000):
                self._norm(type_, width)
            if device == "gpu":  # on the CPU MLX's own ops route
                self._routers(type_)

    def _add(self, operation, arrays, **options):
        names = []
        for array in arrays:
            names.append(None if array is None else f"{len(self.arrays)}")
            if array is not None:
                self.arrays[names[-1]] = array
        self.calls.append((operation, names, options))

    def _products(self, type_, mode, bits, group):
        mx = self.mx
        of = getattr(mx, type_)
        for inner, outer, experts in ((384, 16, 4), (1024, 128, 3), (4224, 8, 3)):
            form = dict(group_size=group, bits=bits, mode=mode)

            def stack(rows, columns, experts=experts, form=form):
                w = (mx.random.normal((experts, rows, columns)) / columns**0.5).astype(of)
                return (*mx.quantize(w, **form), None)[:3]

            gate, up = stack(outer, inner), stack(outer, inner)
            for number, tokens in enumerate((1, 2, 3, 6, 32)):
                indices = mx.random.randint(0, experts, (1, tokens, 2)).astype(mx.uint32)
                x = mx.random.normal((1, tokens, 1, 1, inner)).astype(of)
                bias = mx.random.normal((experts, outer)).astype(of) if number % 2 else None
                self._add(
                    "gather_qmm_swiglu",
                    [x, *gate, *up, None, indices, bias, bias],
                    activation=ACTIVATIONS[number % 3],
                    **form,
                )
                y = mx.random.normal((1, tokens, 2, 1, inner)).astype(of)
                weights = mx.random.uniform(0, 1, (1, tokens, 2)).astype(of)
                self._add("gather_qmm_combine", [y, *gate, indices, weights, bias], **form)

    def _norm(self, type_, width):
        of = getattr(self.mx, type_)
        x, residual = self.mx.random.normal((2, 3, width)).astype(of)
        weight = self.mx.random.normal((width,)).astype(of)
        self._add("add_rms_norm", [x, residual, weight], eps=1e-5)

    def _routers(self, type_):
        of = getattr(self.mx, type_)
        for experts, k in ((8, 2), (64, 6), (128, 8)):
            logits = self.mx.random.normal((4, experts)).astype(of)
            for score in ("softmax", "sigmoid", "topk_softmax"):
                for order in ("descending", "ascending"):
                    options = dict(k=k, score=score, order=order, renormalize=True)
                    self._add("moe_route", [logits], **options)


def compute(mx, fast, arrays, calls):
    """The bits of each call's results."""
    results = []
    for operation, names, options in calls:
        given = [None if name is None else arrays[name] for name in names]
        if operation == "gather_qmm_swiglu":
            *given, gate_bias, up_bias = given
            options = options | dict(gate_bias=gate_bias, up_bias=up_bias)
        elif operation == "gather_qmm_combine":
            *given, bias = given
            options = options | dict(bias=bias)
        outputs = getattr(fast, operation)(*given, **options)
        outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
        mx.eval(outputs)
        results += [mx.view(a, mx.uint8) for a in outputs]
    return results


def read(mx, path):
    arrays = mx.load(str(path / "inputs.safetensors"))
    return arrays, json.loads((path / "calls.json").read_text())


def run_tree(path):
    """In the tree's interpreter."""
    import mlx.core as mx

    arrays, calls = read(mx, path)
    known = [call for call in calls if hasattr(mx.fast, call[0])]
    results = compute(mx, mx.fast, arrays, known)
    mx.save_safetensors(str(path / "tree.safetensors"), {str(i): a for i, a in enumerate(results)})
    (path / "known.json").write_text(json.dumps(sorted({call[0] for call in known})))


def compare(options, folder):
    if options.device == "cpu":
        os.environ.setdefault("ZMLX_CPU_TARGET", options.cpu_target)
    import mlx.core as mx
    from zmlx import fast

    mx.set_default_device(getattr(mx, options.device))
    mx.random.seed(7)
    cases = Cases(mx, options.device)
    mx.save_safetensors(str(folder / "inputs.safetensors"), cases.arrays)
    (folder / "calls.json").write_text(json.dumps(cases.calls))
    environment = os.environ | {"PYTHONPATH": str(options.path)}
    if options.library:
        environment["LD_LIBRARY_PATH"] = str(options.library)
    own = [options.python, __file__, "--device", options.device, "--compute", str(folder)]
    subprocess.run(own, env=environment, check=True)
    known = json.loads((folder / "known.json").read_text())
    calls = [call for call in cases.calls if call[0] in known]
    theirs = mx.load(str(folder / "tree.safetensors"))
    ours = compute(mx, fast, cases.arrays, calls)
    return report(calls, [mx.array_equal(a, theirs[str(i)]).item() for i, a in enumerate(ours)])


def report(calls, equal):
    """Prints counts; returns how many calls differ."""
    same, other, position = Counter(), [], 0
    for operation, _, options in calls:
        outputs = 1 if operation.startswith("gather") else 2
        if all(equal[position : position + outputs]):
            same[operation] += 1
        else:
            other.append((operation, options))
        position += outputs
    for operation, count in same.items():
        print(f"{operation}: {count} calls equal, bit for bit")
    for operation, options in other[:20]:
        print(f"DIFFERENT: {operation} {options}")
    print(f"{len(other)} of {len(calls)} calls differ")
    return len(other)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="equality.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--path", type=Path, help="the tree's folder `python`, with its module built"
    )
    parser.add_argument("--library", type=Path, help="where libmlx is, if it is shared")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the tree's module")
    parser.add_argument("--device", choices=TYPES, default="cpu")
    parser.add_argument("--cpu-target", default="SSE4", help="this library's kernels on the CPU")
    parser.add_argument("--compute", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.compute:
        import mlx.core as mx

        mx.set_default_device(getattr(mx, options.device))
        run_tree(options.compute)
        return 0
    if not options.path:
        parser.error("--path is needed")
    with tempfile.TemporaryDirectory() as folder:
        return 1 if compare(options, Path(folder)) else 0


if __name__ == "__main__":
    sys.exit(main())
