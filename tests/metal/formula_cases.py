"""Calls of kernels made of formulas: those of tests of the CPU and of GPUs, and of the tutorial."""

import math
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import zmlx
from formulas import Call
from kernel_cases import (
    FLOATS,
    FORMULAS,
    LENGTHS,
    MANY,
    UNARY,
    layer_norm,
    many_arrays,
    normal,
    sixteen_bits,
    strided_pairs,
)
from zmlx.bench.kernels import softmax

ROOT = Path(__file__).parents[2]
# Above a threadgroup of 1,024 with 64 elements a thread.
MORE_LENGTHS = (65_536, 70_001)
# Besides those whose accuracy is stated.
MORE_FUNCTIONS = ("abs", "exp10", "fract", "gelu", "gelu_tanh", "isfinite", "isinf", "isnan")
MORE_FUNCTIONS += ("reciprocal", "relu", "round", "saturate", "sign", "signbit", "square")
_WRITTEN = re.compile(r'\belementwise\(\s*"((?:[^"\\]|\\.)*)"')


def types_and_sizes():
    kernel = zmlx.elementwise("a * b + 0.5f * a - abs(b)")
    ints = zmlx.elementwise("(x * 1664525 + 7) % 1000 ^ x >> 3 | -x / 9", compute_dtype=mx.int32)
    words = zmlx.elementwise("x << 13 | x >> 19 ^ ~x % 7u", compute_dtype=mx.uint32)
    for size in (1, 2, 3, 4, 5, 7, 8, 9, 31, 100, 1023, 4096, 4097, (1 << 20) + 13):
        few = FLOATS[:2] if size > 5000 else (*FLOATS, mx.int32, mx.uint32)
        for dtype in few:
            a, b = normal((size,), dtype, 1, 50), normal((size,), dtype, 2, 50)
            yield Call(kernel, [a, b], atol=1e-3)
            yield Call(kernel, [a, normal((size,), mx.float32, 3)], atol=1e-3)
        x = mx.random.randint(-(2**31), 2**31 - 1, (min(size, 5000),), key=mx.random.key(4))
        yield Call(ints, [x])
        yield Call(words, [x.astype(mx.uint32)])


def integers_at_their_ends():
    ends = [0, 1, -1, 7, -7, 2**31 - 1, -(2**31), -(2**31) + 1, 31, 32, 33]
    a, b = (mx.array(x.ravel(), mx.int32) for x in np.meshgrid(ends, ends))
    for op in ("+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>", "<", "=="):
        for dtype in (mx.int32, mx.uint32):
            kernel = zmlx.elementwise(f"T(a {op} b)", compute_dtype=dtype)
            yield Call(kernel, [a.astype(dtype), b.astype(dtype)])
    x = mx.array([0.5, -0.5, 1e10, -1e10, math.nan, math.inf, -math.inf, 2147483648.0, 4294967296])
    for text in (
        "int(x)",
        "uint(x)",
        "int(-x)",
        "float(uint(x)) + float(int(x))",
        "float(bool(x))",
    ):
        yield Call(zmlx.elementwise(f"float({text})"), [x])


def ends_of_functions():
    values = [0.0, -0.0, math.inf, -math.inf, math.nan, 1, -1, 89, -110, 0.5, 1e4, -1e4]
    for dtype in FLOATS:
        x = mx.array(values, dtype)
        for name in (*UNARY, *MORE_FUNCTIONS):
            yield Call(zmlx.elementwise(f"float({name}(x))"), [x], atol=2e-38)
        a, b = (mx.array(side.ravel(), dtype) for side in np.meshgrid(values, values))
        for text in ("max(a, b) + 2 * min(a, b)", "pow(a, b)", "atan2(a, b)", "fmod(a, b)"):
            yield Call(zmlx.elementwise(text), [a, b])
    yield from exponents_and_neighbours()


def exponents_and_neighbours():
    """Exactly, of subnormal numbers too."""
    ends = [
        0.0,
        -0.0,
        math.inf,
        -math.inf,
        math.nan,
        1,
        -1,
        1e-45,
        -1e-45,
        1.1754942e-38,
        3.4028235e38,
    ]
    bits = np.random.default_rng(4).integers(0, 2**32, 300, np.uint32).view(np.float32)
    x = mx.array(np.concatenate([np.array(ends, np.float32), bits[~np.isnan(bits)]]))
    for power in (0, 1, -1, 24, -24, 126, -127, 150, -150, 277, -277, 400, -400):
        yield Call(zmlx.elementwise(f"ldexp(x, {power})"), [x], rtol=0, atol=0)
    yield Call(zmlx.elementwise("float(ilogb(x))"), [x], rtol=0, atol=0)
    for y in ends:
        for a, b in ((x, mx.full(x.shape, y)), (mx.full(x.shape, y), x)):
            yield Call(zmlx.elementwise("nextafter(a, b)"), [a, b], rtol=0, atol=0)


def broadcasts_and_strides():
    kernel = zmlx.elementwise("a * b + 2 * a - b")
    for name, a, b in strided_pairs():
        if name != "nothing":
            yield Call(kernel, [a, b])
            if a.shape == b.shape:
                yield Call(kernel, [a, b, a], "vjp")
    yield Call(zmlx.elementwise(MANY), many_arrays(), atol=1e-5)


def transforms():
    for text in FORMULAS.values():
        kernel = zmlx.elementwise(text)
        for dtype in FLOATS:
            a, b, g, t = (normal((37, 65), dtype, seed) for seed in range(4))
            yield Call(kernel, [a, b])
            yield Call(kernel, [a, b, g], "vjp")
            yield Call(kernel, [a, b, t, g], "jvp")
    given = zmlx.elementwise("sigmoid(x)", grad_expr="g * y * (1 - y)")
    x = normal((1000,))
    with mx.stream(mx.cpu):
        yield Call(given, [x, given(x), normal((1000,), seed=1)], "vjp")


def types_of_16_bits():
    x, y, g = (normal((3, 1001), dtype, seed) for seed, dtype in enumerate(FLOATS))
    for kernel, tolerance in sixteen_bits():
        yield Call(kernel, [x, y], **tolerance)
        yield Call(kernel, [x, y, g], "vjp")
    for dtype in FLOATS:
        x = normal((5, 300), mx.bfloat16, 3)
        kernel = zmlx.reduce(init="0", update="acc + v * v", finalize="2 * s", compute_dtype=dtype)
        yield Call(kernel, [x], rtol=1e-2)  # sums may be rounded either way
        kernel = zmlx.map_reduce(
            pass1={"init": "-INFINITY", "update": "max(acc1, x)", "reduce": "max(a, b)"},
            pass2={"init": "INFINITY", "update": "min(acc2, half(x))", "reduce": "min(a, b)"},
            write="(T)(x - s1) * T(x - s2)",
            compute_dtype=dtype,
        )
        yield Call(kernel, [x], rtol=0, atol=0)


def written_formulas():
    """Those that tests, examples and the tutorial write as they are, with derivatives."""
    files = [*ROOT.glob("tests/cpp/*.cpp"), *ROOT.glob("tests/python/test_*.py")]
    files += [*ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*"), *ROOT.glob("python/zmlx/*/*.py")]
    texts = {t for f in files if f.is_file() for t in _WRITTEN.findall(f.read_text())}
    for text in sorted(texts):
        try:
            kernel = zmlx.elementwise(text)
        except ValueError:  # what tests of errors write, or what is of integers
            continue
        arrays = [normal((3, 77), seed=seed) for seed in range(len(kernel.inputs))]
        yield Call(kernel, arrays)
        yield Call(kernel, [*arrays, normal((3, 77), seed=9)], "vjp", 1e-5, 1e-5)


def norm2():
    return zmlx.reduce(init="0", update="acc + v * v", finalize="sqrt(s)")


def rows_of_any_length():
    for length in (*LENGTHS, *MORE_LENGTHS):
        for i, rows in enumerate((1, 3, 130) if length < 1000 else (1, 5)):
            for dtype in FLOATS if i else (FLOATS[length % 3],):
                x = normal((rows, length), dtype, length)
                yield Call(softmax(), [x], rtol=1e-5, atol=2e-6)
                yield Call(norm2(), [x], rtol=1e-5)
                if rows == 5 or length < 1000:
                    yield Call(layer_norm(length), [x], rtol=1e-5, atol=1e-5)


def reductions_of_every_kind():
    for length in (1, 7, 33, 1000, 4097):
        x = normal((9, length), scale=3)
        for update in ("acc * (1 + v / 4096)", "min(acc, v)", "max(acc, abs(v))", "acc + sin(v)"):
            yield Call(zmlx.reduce(init="1", update=update), [x], rtol=1e-5, atol=1e-5)
        yield Call(zmlx.reduce(init="0", update="acc * 0.5f + v"), [x])
        for dtype in (mx.int32, mx.uint32):
            n = (100 * x).astype(mx.int32).astype(dtype)
            for update in (
                *("acc + v", "acc * (v | 1)", "min(acc, v)", "max(acc, v)", "acc & v", "acc | v"),
                *("acc ^ v", "(acc << 1) + v"),
            ):
                yield Call(zmlx.reduce(init="5", update=update, compute_dtype=dtype), [n])
    partial = zmlx.map_reduce(
        pass1={"init": "0", "update": "fma(acc1, 0.5f, x)", "reduce": "a + 2 * b"},
        pass2={"init": "0", "update": "acc2 + x * s1", "reduce": "a + b"},
        write="x - s2",
    )
    yield Call(partial, [normal((3, 1))])


def threadgroups():
    for threadgroup in (1, 32, 64, 128, 256, 512, 1024, "auto"):
        kernel = zmlx.map_reduce(
            pass1={"init": "-INFINITY", "update": "max(acc1, x)", "reduce": "max(a, b)"},
            pass2={"init": "0.0f", "update": "acc2 + exp(x - s1)", "reduce": "a + b"},
            write="exp(x - s1) / s2",
            threadgroup=threadgroup,
        )
        for length in (20, 700, 4096, 10_001):
            yield Call(kernel, [normal((33, length), mx.bfloat16, 5)])


def transforms_of_rows():
    for length in (3, 64, 1000, 4096, 20_001):
        for dtype in FLOATS:
            x, g = normal((6, length), dtype, 1), normal((6, length), dtype, 2)
            for kernel in (softmax(), layer_norm(length)):
                yield Call(kernel, [x, g], "vjp", 1e-4, 1e-5)
                yield Call(kernel, [x, g], "jvp", 1e-4, 1e-5)
            per_row = normal((6,), dtype, 3)
            yield Call(norm2(), [x, per_row], "vjp", 1e-4, 1e-5)
            yield Call(norm2(), [x, g], "jvp", 1e-4, 1e-5)
            for update in ("max(acc, v)", "acc * v", "acc + v"):
                kernel = zmlx.reduce(init="1", update=update)
                near_one = (1 + x / 64).astype(dtype)
                yield Call(kernel, [near_one, per_row], "vjp", 1e-4, 1e-5)


def divisors_of_any_magnitude():
    """A row's divisor becomes an inverse, with a scale that keeps it from over- and underflow."""
    kernel = zmlx.map_reduce(
        pass1={"init": "0", "update": "max(acc1, abs(x))", "reduce": "max(a, b)"},
        pass2={"init": "0", "update": "acc2", "reduce": "a"},
        write="x / s1",
        threadgroup="auto",
    )
    for exponent in (-149, -140, -126, -120, -101, -100, -99, 0, 99, 100, 101, 120, 126, 127):
        x = np.ldexp(np.float32([[1, 0.5, -1, 0]]), exponent).astype(np.float32)
        yield Call(kernel, [mx.array(x)])
    yield Call(kernel, [mx.array([[0.0, 0, 0], [math.inf, 1, -1], [math.nan, 1, 2]])])


GROUPS = (
    types_and_sizes,
    integers_at_their_ends,
    ends_of_functions,
    broadcasts_and_strides,
    transforms,
    types_of_16_bits,
    written_formulas,
    rows_of_any_length,
    reductions_of_every_kind,
    threadgroups,
    transforms_of_rows,
    divisors_of_any_magnitude,
)
