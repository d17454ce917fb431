"""mlx-lm's routers on Metal, by MLX's own kernels out of its wheel.

The sequence of ops is that of `compose` in src/fast/moe_route.cpp. Kernels, arguments and grids are
restated from MLX's public softmax.cpp, sort.cpp (`gpu_merge_sort`, `single_block_sort`) and
reduce.cpp (`row_reduce_small`, `all_reduce_dispatch`) in mlx/backend/metal. What only moves values
(negation, gathering by index, broadcasting) is NumPy's.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from arrays import METAL_TYPES, rounded, to_float, unwritten

from .sequence import Stock, _i32, _i64, _includes, _library, elementwise_library

_BLOCKS = (32, 64, 128, 256)


@cache
def _softmax_library(options):
    types = [(t, a) for t in METAL_TYPES.values() for a in {t, "float"}]
    entries = [f"softmax_single_row<{t}, {a}>" for t, a in types]
    return _library(_includes("utils", "softmax"), sorted(entries), options)


@cache
def _sort_library(options):
    entries = [
        f"block_sort<{t}, {'uint' if arg else t}, {'true' if arg else 'false'}, {block}, 4>"
        for t in METAL_TYPES.values()
        for arg in (True, False)
        for block in _BLOCKS
    ]
    return _library(_includes("utils", "sort"), entries, options)


@cache
def _reduce_library(options):
    entries = []
    for t in ("float", "half", "bfloat16_t"):
        entries.append(f"row_reduce_small<{t}, {t}, Sum<{t}>, int, 1>")
        entries.append(f"all_reduce<{t}, {t}, Sum<{t}>, int64_t>")
    names = ("utils", "atomic", "reduction/ops", "reduction/reduce_row", "reduction/reduce_all")
    return _library(_includes(*names), entries, options)


@dataclass(frozen=True)
class Router:
    """A router's options, as in src/fast/primitives.h."""

    score: str
    k: int
    groups: int = 1
    topk_group: int = 1
    renormalize: bool = False
    scale: float = 1.0
    eps: float = 0.0
    ascending: bool = False
    group_max: bool = False
    fill: float = 0.0
    precise: bool = False
    score_type: str = "float32"
    weights_type: str = "float32"


def promoted(a, b):
    return a if a == b else "float32"


class StockRouter(Stock):
    def convert(self, a, from_, to):
        if from_ == to:
            return a
        if to == "float32":
            return self.to_float32(a, from_)
        return rounded(to_float(a, from_), to)  # a conversion is one rounding

    def softmax(self, x, type_, precise):
        rows, width = x.shape
        out = unwritten(x.shape, type_)
        t = METAL_TYPES[type_]
        name = f"softmax_single_row<{t}, {'float' if precise else t}>"
        threads = ((width + 3) // 4 + 31) // 32 * 32
        library = _softmax_library(self.options)
        self._run(library, name, [x, out, _i32(width)], rows * threads, threads)
        return out

    def sort(self, x, type_, arg):
        """`argsort` (uint32) or `sort` along the last axis of (rows, up to 1024)."""
        rows, width = x.shape
        t = METAL_TYPES[type_]
        out = np.empty(x.shape, np.uint32) if arg else unwritten(x.shape, type_)
        block = next(b for b in _BLOCKS if (width + 3) // 4 <= b)
        name = f"block_sort<{t}, {'uint' if arg else t}, {'true' if arg else 'false'}, {block}, 4>"
        buffers = [x, out, *(_i32(v) for v in (width, 1, 1, width, width))]
        self._run(_sort_library(self.options), name, buffers, (block, rows, 1), (block, 1, 1))
        return out

    def row_sums(self, x, type_, one_axis=False):
        """Sums along the last axis of (rows, up to 64), or of a single array of one axis."""
        rows, width = x.shape
        if width == 1:
            return x[:, 0].copy()
        out = unwritten((rows,), type_)
        t = {"bfloat16": "bfloat16_t"}.get(type_, METAL_TYPES[type_])
        library = _reduce_library(self.options)
        if one_axis:
            size = np.array([width], np.uint64)
            threads = ((width + 3) // 4 + 31) // 32 * 32
            name = f"all_reduce<{t}, {t}, Sum<{t}>, int64_t>"
            self._run(library, name, [x, out, size, size], threads, threads)
            return out
        buffers = [x, out, _i64(width), _i64(1), _i32(rows), _i64(width), _i32(1)]
        buffers += [_i32(0), _i64(0), _i32(0)]
        name = f"row_reduce_small<{t}, {t}, Sum<{t}>, int, 1>"
        self._run(library, name, buffers, rows, min(rows, 1024))
        return out

    def unary(self, op, a, type_):
        out = unwritten(a.shape, type_)
        t = METAL_TYPES[type_]
        each = 8 // a.itemsize
        buffers = [a, out, np.array([a.size], np.uint32)]
        grid = (a.size + each - 1) // each
        self._run(elementwise_library(self.options), f"unary_v<{t}, {t}, {op}>", buffers, grid, 64)
        return out

    def scalar(self, op, a, value, type_):
        other = np.broadcast_to(rounded([value], type_), a.shape)
        return self.binary(op, a, np.ascontiguousarray(other), type_)

    def _negated(self, a, type_):
        sign = {2: 0x8000, 4: 0x80000000}[a.itemsize]
        view = {2: np.uint16, 4: np.uint32}[a.itemsize]
        return (a.view(view) ^ view(sign)).view(a.dtype)

    def _fill_groups(self, selection, type_, router):
        rows, experts = selection.shape
        groups = selection.reshape(rows, router.groups, -1)
        flat = np.ascontiguousarray(groups.reshape(rows * router.groups, -1))
        ordered = self.sort(flat, type_, arg=False)
        if router.group_max:
            best = ordered[:, -1].copy()
        else:
            best = self.row_sums(np.ascontiguousarray(ordered[:, -2:]), type_)
        worst = self.sort(best.reshape(rows, -1), type_, arg=True)
        worst = worst[:, : router.groups - router.topk_group]
        groups = groups.copy()
        np.put_along_axis(
            groups, worst[..., None].astype(np.int64), rounded([router.fill], type_), 1
        )
        return groups.reshape(rows, experts)

    def route(self, logits, type_, bias, bias_type, router, one_axis=False):
        """logits (rows, E); bias (E,) or None. Returns indices (uint32) and weights."""
        s = router.score_type
        scores = self.convert(logits, type_, s)
        if router.score == "softmax":
            scores = self.softmax(scores, s, router.precise)
        elif router.score == "sigmoid":
            scores = self.unary("Sigmoid", scores, s)
        selection, select_type = scores, s
        if bias is not None:
            select_type = promoted(s, bias_type)
            spread = np.ascontiguousarray(np.broadcast_to(bias, scores.shape))
            parts = (
                self.convert(scores, s, select_type),
                self.convert(spread, bias_type, select_type),
            )
            selection = self.binary("Add", *parts, select_type)
        if router.topk_group < router.groups:
            selection = self._fill_groups(selection, select_type, router)
            if router.group_max:
                scores = selection
        if router.ascending:
            indices = self.sort(selection, select_type, arg=True)[:, -router.k :]
        else:
            negated = self._negated(selection, select_type)
            indices = self.sort(negated, select_type, arg=True)[:, : router.k]
        indices = np.ascontiguousarray(indices)
        weights = np.take_along_axis(scores, indices.astype(np.int64), 1)
        if router.score == "topk_softmax":
            weights = self.softmax(weights, s, router.precise)
        if router.renormalize:
            total = self.row_sums(weights, s, one_axis)
            if router.eps:
                total = self.scalar("Add", total, router.eps, s)
            spread = np.ascontiguousarray(np.broadcast_to(total[:, None], weights.shape))
            weights = self.binary("Divide", weights, spread, s)
        if router.scale != 1:
            weights = self.scalar("Multiply", weights, router.scale, s)
        return indices, self.convert(weights, s, router.weights_type)
