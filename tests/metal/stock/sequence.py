"""What stock mlx-lm computes on Metal, by MLX's own kernels out of its wheel.

Which kernel runs, with which arguments and grid, is restated from MLX's public sources:
`gather_qmv` and `GatherQMM::eval_gpu` in mlx/backend/metal/quantized.cpp, `strided_reduce_small` in
reduce.cpp, `RMSNorm::eval_gpu` in normalization.cpp.
"""

from functools import cache
from pathlib import Path

import numpy as np
from arrays import METAL_TYPES, rounded, unwritten
from msl import PLAIN, Library

from .wheel import include_folder

_HERE = Path(__file__).parent
_KERNELS = "mlx/backend/metal/kernels"


def _includes(*names):
    return "".join(f'#include "{_KERNELS}/{name}.h"\n' for name in names)


def _library(source, entries, options):
    return Library(source, entries, include=[include_folder()], options=options)


def _i32(*values):
    return np.array(values, np.int32)


def _i64(*values):
    return np.array(values, np.int64)


def fast_alignment(bits):
    """`qmv_fast_k_alignment` in quantized.cpp."""
    pack = 8 if bits in (3, 5) else 4 if bits == 6 else 32 // bits
    return pack * (1 if bits == 2 else 2) * 32


def product_entry(q, type_, fast):
    kernel = f"{'affine' if q.affine else 'fp'}_gather_qmv{'_fast' if fast else ''}"
    return f"{kernel}<{METAL_TYPES[type_]}, {q.group}, {q.bits}>"


@cache
def product_library(affine, bits, groups, options):
    """The products for all types, groups and variants of a kernel, compiled together."""
    from arrays import Quantization

    modes = [Quantization("affine" if affine else "fp", bits, group) for group in groups]
    entries = [product_entry(q, t, f) for q in modes for t in METAL_TYPES for f in (True, False)]
    source = _includes("utils", "steel/gemm/gemm", "quantized_utils")
    return _library(source + _includes("quantized" if affine else "fp_quantized"), entries, options)


@cache
def elementwise_library(options):
    entries = []
    for t in METAL_TYPES.values():
        entries += [f"compiled_swiglu<{t}>", f"compiled_swiglu_clamped<{t}>"]
        entries.append(f"compiled_geglu<{t}>")
        entries += [f"binary_vv<{t}, {t}, {op}>" for op in ("Multiply", "Add", "Divide")]
        entries.append(f"unary_v<{t}, {t}, Sigmoid>")
        entries.append(f"copy_converted<{t}, float>")
    return _library((_HERE / "elementwise.metal").read_text(), entries, options)


@cache
def sum_library(options):
    entries = [
        f"col_reduce_small<{t}, {t}, Sum<{t}>, int, 1>" for t in ("float", "half", "bfloat16_t")
    ]
    source = _includes("utils", "atomic", "reduction/ops", "reduction/reduce_col")
    return _library(source, entries, options)


@cache
def norm_library(options):
    entries = [f"rms_row<{t}>" for t in METAL_TYPES.values()]
    return _library((_HERE / "rms_norm.metal").read_text(), entries, options)


def groups_of(q):
    return (32, 64, 128) if q.affine else (q.group,)


class Stock:
    """MLX's kernels, compiled one way and run in one variant (see README.md)."""

    def __init__(self, options=PLAIN, variant=0):
        self.options, self.variant = options, variant

    def _run(self, library, name, buffers, grid, threadgroup):
        library(name, buffers, grid=grid, threadgroup=threadgroup, variant=self.variant)

    def product(self, x, rows, experts, indices):
        """`gather_qmm(x, experts, lhs_indices=rows, rhs_indices=indices)`, and the bias.

        x: (P, K); rows, indices: (M, top_k); returns (M, top_k, N).
        """
        q, type_ = experts.quantization, experts.type
        count, n, k = experts.shape
        fast = n % 8 == 0 and k % fast_alignment(q.bits) == 0
        out = unwritten((*indices.shape, n), type_)
        strides = [a[0].size for a in (experts.w, experts.scales)]
        buffers = [experts.w, experts.scales, experts.biases, x]
        buffers += [rows, indices, out, _i32(k), _i32(n)]
        # x has the shape (P, 1, K).
        buffers += [_i32(1), _i32(len(x), 1, k), _i64(k, k, 1)]
        buffers += [_i32(1), _i32(*experts.w.shape), _i64(strides[0]), _i64(strides[1])]
        if q.affine:
            buffers.append(_i64(strides[1]))
        # Both index arrays are contiguous, so their axes collapse to one.
        buffers += [_i32(1), _i32(indices.size), _i64(1), _i64(1)]
        library = product_library(q.affine, q.bits, groups_of(q), self.options)
        grid = (32, 2 * ((n + 7) // 8), indices.size)
        self._run(library, product_entry(q, type_, fast), buffers, grid, (32, 2, 1))
        if experts.bias is None:
            return out
        return self.binary("Add", out, np.ascontiguousarray(experts.bias[indices]), type_)

    def binary(self, op, a, b, type_):
        """An element-wise operation of arrays of one shape (broadcasting changes no arithmetic)."""
        out = unwritten(a.shape, type_)
        t = METAL_TYPES[type_]
        buffers = [a, b, out, np.array([a.size], np.uint32)]
        each = 8 // a.itemsize  # elements of a thread
        name = f"binary_vv<{t}, {t}, {op}>"
        grid = (a.size + each - 1) // each
        self._run(elementwise_library(self.options), name, buffers, grid, 64)
        return out

    def swiglu(self, gate, up, type_, activation="swiglu", alpha=1.702, limit=7.0):
        out = unwritten(gate.shape, type_)
        size = np.array([gate.size], np.uint32)
        name = f"compiled_{activation}<{METAL_TYPES[type_]}>"
        scalars = [np.array([v], np.float32) for v in (alpha, limit)]
        buffers = [gate, up, out, *(scalars if activation == "swiglu_clamped" else []), size]
        self._run(elementwise_library(self.options), name, buffers, gate.size, 64)
        return out

    def to_float32(self, a, type_):
        if type_ == "float32":
            return a
        out = unwritten(a.shape, "float32")
        name = f"copy_converted<{METAL_TYPES[type_]}, float>"
        buffers = [a, out, np.array([a.size], np.uint32)]
        self._run(elementwise_library(self.options), name, buffers, a.size, 64)
        return out

    def sum_over_experts(self, a, type_):
        """`a.sum(-2)` of (M, top_k, N) with N > 1 and top_k < 32."""
        m, count, n = a.shape
        if count == 1:  # MLX copies
            return a[:, 0].copy()
        out = unwritten((m, n), type_)
        t = {"bfloat16": "bfloat16_t"}.get(type_, METAL_TYPES[type_])
        size = lambda v: np.array([v], np.uint64)  # noqa: E731
        buffers = [a, out, size(count), _i64(n), _i32(m), _i64(count * n), _i32(1)]
        buffers += [_i32(count), _i64(n), _i32(1), size(1)]
        blocks = (n + 3) // 4
        wide = min(blocks, 32)
        high = min(8, 1024 // wide, count)
        grid = ((blocks + wide - 1) // wide * wide, m * high, 1)
        name = f"col_reduce_small<{t}, {t}, Sum<{t}>, int, 1>"
        self._run(sum_library(self.options), name, buffers, grid, (wide, high, 1))
        return out

    def weighted_sum(self, y, type_, weights, weights_type):
        """`(y * weights[..., None]).sum(-2)`: y (M, top_k, N), weights (M, top_k)."""
        if weights_type != type_:
            y, weights = self.to_float32(y, type_), self.to_float32(weights, weights_type)
            type_ = "float32"
        spread = np.ascontiguousarray(np.broadcast_to(weights[..., None], y.shape))
        return self.sum_over_experts(self.binary("Multiply", y, spread, type_), type_)

    def rms_norm(self, x, weight, eps, type_):
        """Rows of up to 4096 elements; weight may be None."""
        m, width = x.shape
        out = unwritten(x.shape, type_)
        stride = np.array([0 if weight is None else 1], np.uint32)
        if weight is None:
            weight = rounded([1.0], type_)
        simdgroups = ((width + 3) // 4 + 31) // 32
        buffers = [
            x,
            weight,
            out,
            np.array([eps], np.float32),
            np.array([width], np.uint32),
            stride,
        ]
        self._run(
            norm_library(self.options),
            f"rms_row<{METAL_TYPES[type_]}>",
            buffers,
            m * 32 * simdgroups,
            32 * simdgroups,
        )
        return out
