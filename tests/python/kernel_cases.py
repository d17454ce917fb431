"""Arrays and kernels that tests of several backends share."""

import math

import mlx.core as mx
import numpy as np
import zmlx

FLOATS = (mx.float32, mx.float16, mx.bfloat16)
# Half a unit in the last place of each type, relative.
HALF_UNIT = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}
LENGTHS = (1, 2, 3, 5, 8, 31, 32, 33, 64, 100, 127, 129, 256, 1000, 1001, 1024, 2048, 4095, 4096)
LENGTHS += (4097, 8192, 20_000, 32_768, 32_769, 100_003)


def normal(shape, dtype=mx.float32, seed=0, scale=1.0):
    x = scale * mx.random.normal(shape, key=mx.random.key(seed), stream=mx.cpu)
    return mx.abs(x).astype(dtype) if dtype == mx.uint32 else x.astype(dtype)


def doubles(x):
    return np.array(x.astype(mx.float32) if x.dtype in FLOATS else x).astype(np.float64)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


# Units in the last place that a GPU may be off, and where: docs/kernels.md has the CPU's.
UNARY = {
    "exp": (math.exp, 2, -87, 88), "exp2": (lambda x: 2.0**x, 2, -125, 127),
    "expm1": (math.expm1, 4, -20, 88), "log": (math.log, 2, 1e-30, 1e30),
    "log2": (math.log2, 3, 1e-30, 1e30), "log10": (math.log10, 3, 1e-30, 1e30),
    "log1p": (math.log1p, 3, -0.99, 1e30), "sqrt": (math.sqrt, 0.5, 0, 1e30),
    "rsqrt": (lambda x: 1 / math.sqrt(x), 2, 1e-30, 1e30), "sin": (math.sin, 3, -1e5, 1e5),
    "cos": (math.cos, 3, -1e5, 1e5), "tan": (math.tan, 6, -1e5, 1e5),
    "asin": (math.asin, 4, -1, 1), "acos": (math.acos, 4, -1, 1), "atan": (math.atan, 4, -1e9, 1e9),
    "sinh": (math.sinh, 5, -88, 88), "cosh": (math.cosh, 4, -88, 88),
    "tanh": (math.tanh, 5, -20, 20), "asinh": (math.asinh, 4, -1e18, 1e18),
    "acosh": (math.acosh, 4, 1, 1e18), "atanh": (math.atanh, 4, -0.9999, 0.9999),
    "cbrt": (np.cbrt, 2, -1e30, 1e30), "erfc": (math.erfc, 5, -5, 9),
    "erf": (math.erf, 4, -5, 5), "sigmoid": (sigmoid, 4, -87, 87),
    "softplus": (softplus, 4, -87, 1e10), "silu": (lambda x: x * sigmoid(x), 5, -80, 1e10),
    "floor": (math.floor, 0, -1e6, 1e6), "ceil": (math.ceil, 0, -1e6, 1e6),
    "trunc": (math.trunc, 0, -1e6, 1e6), "rint": (round, 0, -1e6, 1e6),
}  # fmt: skip


def sweep(low, high, count=4000):
    """Numbers between both, evenly and by magnitude."""
    rng = np.random.default_rng(7)
    parts = [rng.uniform(low, high, count)]
    for side in (low, high):
        least = low if low > 0 else 1e-6
        if abs(side) > least:
            magnitudes = rng.uniform(math.log(least), math.log(abs(side)), count)
            parts.append(math.copysign(1, side) * np.exp(magnitudes))
    return np.clip(np.concatenate(parts), low, high).astype(np.float32)


def strided_pairs():
    x, y = normal((6, 7, 40), seed=1), normal((40, 7, 6), mx.bfloat16, 2)
    long = normal((4096, 24), seed=3)
    yield "transposed", x, y.T
    yield "transposed, first", x.T, y
    yield "last axis broadcast", x, x[:, :, :1]
    yield "first axis broadcast", x[:1], x
    yield "middle axis broadcast", x[:, :1], x
    yield "a number", x, mx.array(3.0)
    yield "steps", x[::2, 1::3, 3::5], y[1:4, :2, :4].transpose(0, 2, 1)[:, :2, :1]
    yield "backwards", x[::-1, ::-1, ::-1], x
    yield "numbers", mx.array(1.5), mx.array(2.5)
    yield "nothing", mx.zeros((0, 3)), mx.zeros((3,))
    yield "a row for all", long, long[7]
    yield "a column for all", long, long[:, 5:6]
    yield "an odd offset", long.reshape(-1)[3:], long.reshape(-1)[:-3]
    yield "every second row", long[::2], long[1::2, :]
    yield "a number from within", long, mx.broadcast_to(long[5, 3], long.shape)
    yield "columns and rows", long[:, :8], long[:, 16:]
    yield "a few from an odd offset", x.reshape(-1)[3:], x.reshape(-1)[:-3]
    yield "rows from an odd offset", x[:, :, 1:37], x[:, :, 4:]
    yield "rows of odd length", x[:, :, :39], x[:, :1, 1:]
    wide = normal((5, 6, 7, 4, 16), mx.bfloat16, 4)
    turned = wide.transpose(2, 0, 1, 3, 4)
    yield "axes that do not join", turned[:, :, :1], turned[..., ::-1, :]
    yield "five axes", wide[::2, ::2, ::2, ::2, ::2], normal((3, 3, 4, 2, 8), seed=5)
    yield "many axes", x.reshape(2, 3, 7, 1, 5, 8), y.T.reshape(2, 3, 7, 1, 5, 8)[..., :1]


def many_arrays():
    """More arrays with gaps than a launch has parameters for."""
    return [normal((7, 5, 12), seed=k)[::2, ::-1, k % 3 : k % 3 + 8] for k in range(11)]


MANY = " + ".join(f"{k + 1} * {chr(97 + k)}" for k in range(11))
FORMULAS = {
    "swiglu": "a / (1 + exp(-a)) * b",
    "mish": "a * tanh(log(1 + exp(a))) + 0 * b",
    "choice": "a < b ? a * b : exp(-a * a) + max(a, 0.3f * b)",
}


# Of operations that are exact in float32, or rounded as IEEE 754 has it.
SIXTEEN_BITS = {
    "typed": "x * x + x / 3 - T(0.1) * abs(y) + max(x, y) * sqrt(abs(y))",
    "casts": "float(half(x)) + bfloat(y) * half(x * y) + (bfloat)x",
    "bound": "half h = x; bfloat b = y; (T)(h * h) - b * 3 + float(half(b))",
    "ends": "half(x * 20000) + half(y * 1e-6f) + bfloat(x * 3e38f)",
}


def sixteen_bits():
    """Kernels of x and y, and how far results may be off: sums and products in float32 are fused
    here and not there."""
    for dtype in FLOATS:
        for name, text in SIXTEEN_BITS.items():
            exact = dtype != mx.float32 and name != "casts"
            tolerance = {"rtol": 0, "atol": 0} if exact else {}
            yield zmlx.elementwise(text, inputs=["x", "y"], compute_dtype=dtype), tolerance


def layer_norm(length):
    return zmlx.map_reduce(
        pass1={"init": "0.0f", "update": "acc1 + x", "reduce": "a + b"},
        pass2={
            "init": "0.0f",
            "update": f"acc2 + (x - s1 / {length}) * (x - s1 / {length})",
            "reduce": "a + b",
        },
        write=f"(x - s1 / {length}) * rsqrt(s2 / {length} + 1e-5f)",
        threadgroup="auto",
    )
