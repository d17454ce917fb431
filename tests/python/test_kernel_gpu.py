"""Kernels on a GPU against the CPU's evaluator and float64."""

import concurrent.futures
import math
import multiprocessing

import mlx.core as mx
import numpy as np
import pytest
import zmlx
from kernel_cases import (
    FLOATS,
    FORMULAS,
    HALF_UNIT,
    LENGTHS,
    MANY,
    UNARY,
    doubles,
    layer_norm,
    many_arrays,
    normal,
    sixteen_bits,
    strided_pairs,
    sweep,
)
from random_formulas import KINDS, corpus_program, in_one, inputs_of_one, random_formulas
from zmlx.bench.kernels import softmax as make_softmax

GPU = mx.cuda.is_available() or mx.metal.is_available()
pytestmark = pytest.mark.skipif(not GPU, reason="MLX has no GPU here")

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 31, 100, 1023, 4096, 4097, 262_147, (1 << 21) + 13)


def on(device, function, *inputs):
    with mx.stream(device):
        results = function(*inputs)
        mx.eval(results)
    return results if isinstance(results, (list, tuple)) else [results]


def assert_agrees(function, *inputs, rtol=2e-6, atol=1e-6):
    """The GPU's results are the CPU's, to the last digits and one rounding to the result's type."""
    results = (on(device, function, *inputs) for device in (mx.gpu, mx.cpu))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        units = 4 * HALF_UNIT.get(found.dtype, 0)
        np.testing.assert_allclose(
            doubles(found), doubles(expected), rtol=rtol + units, atol=atol, equal_nan=True
        )


@pytest.mark.parametrize("size", SIZES)
def test_every_type_and_size(size):
    kernel = zmlx.elementwise("a * b + 0.5f * a - abs(b)")
    for dtype in (*FLOATS, mx.int32, mx.uint32, mx.int8, mx.bool_):
        a, b = normal((size,), dtype, 1, 50), normal((size,), dtype, 2, 50)
        assert_agrees(kernel, a, b, atol=1e-3)
        assert_agrees(kernel, a, normal((size,), mx.float32, 3), atol=1e-3)
    ints = zmlx.elementwise("(x * 1664525 + 7) % 1000 ^ x >> 3 | -x / 9", compute_dtype=mx.int32)
    x = mx.random.randint(-(2**31), 2**31 - 1, (size,), key=mx.random.key(4))
    assert mx.array_equal(*on(mx.gpu, ints, x), *on(mx.cpu, ints, x))
    words = zmlx.elementwise("x << 13 | x >> 19 ^ ~x % 7u", compute_dtype=mx.uint32)
    assert mx.array_equal(*on(mx.gpu, words, x), *on(mx.cpu, words, x))


def test_integers_at_their_ends():
    ends = [0, 1, -1, 7, -7, 2**31 - 1, -(2**31), -(2**31) + 1, 31, 32, 33]
    a, b = (mx.array(x.ravel(), mx.int32) for x in np.meshgrid(ends, ends))
    for op in ("+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>", "<", "=="):
        for dtype in (mx.int32, mx.uint32):
            kernel = zmlx.elementwise(f"T(a {op} b)", compute_dtype=dtype)
            x, y = a.astype(dtype), b.astype(dtype)
            assert mx.array_equal(*on(mx.gpu, kernel, x, y), *on(mx.cpu, kernel, x, y)), op
    for text in ("int(x)", "uint(x)", "int(-x)", "float(uint(x)) + float(int(x))"):
        kernel = zmlx.elementwise(f"float({text})")
        x = mx.array([0.5, -0.5, 1e10, -1e10, math.nan, math.inf, -math.inf, 2147483648.0])
        assert mx.array_equal(*on(mx.gpu, kernel, x), *on(mx.cpu, kernel, x)), text


@pytest.mark.parametrize("name", UNARY)
def test_functions_are_as_accurate_as_stated(name):
    function, ulps, low, high = UNARY[name]
    x = sweep(low, high)
    kernel = zmlx.elementwise(f"{name}(x)")
    exact = np.array([float(function(float(v))) for v in x])
    (found,) = on(mx.gpu, kernel, mx.array(x))
    unit = np.spacing(np.maximum(np.abs(exact), 1e-37).astype(np.float32)).astype(np.float64)
    errors = np.abs(doubles(found) - exact) / unit
    assert errors.max() <= max(ulps, 0.5), f"{errors.max()} at {x[errors.argmax()]}"
    for dtype in (mx.float16, mx.bfloat16):
        short = mx.array(x).astype(dtype)
        wide = doubles(short)
        inside = np.isfinite(wide) & (wide >= low) & (wide <= high)
        exact = np.array([float(function(v)) for v in wide[inside]])
        (found,) = on(mx.gpu, kernel, short)
        found = doubles(found)[inside]
        normal = (np.abs(exact) > 7e-5) & (np.abs(exact) < 65_000)
        assert normal.sum() > 300
        errors = np.abs(found - exact)[normal] / np.abs(exact[normal])
        assert errors.max() <= 1.15 * HALF_UNIT[dtype], (
            f"{errors.max()} of {dtype} at {wide[inside][normal][errors.argmax()]}"
        )


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_ends_are_the_cpus(dtype):
    values = [0.0, -0.0, math.inf, -math.inf, math.nan, 1, -1, 89, -110, 0.5, 1e4, -1e4]
    x = mx.array(values, dtype)
    for name in UNARY:
        kernel = zmlx.elementwise(f"{name}(x)")
        found, expected = doubles(*on(mx.gpu, kernel, x)), doubles(*on(mx.cpu, kernel, x))
        same = np.isclose(found, expected, rtol=4 * HALF_UNIT[dtype] + 2e-6, atol=2e-38)
        same |= np.isnan(found) & np.isnan(expected)
        assert same.all(), f"{name}: {found} and {expected}"
    kernel = zmlx.elementwise("max(a, b) + 2 * min(a, b)")
    a, b = (mx.array(side.ravel(), dtype) for side in np.meshgrid(values, values))
    assert_agrees(kernel, a, b)


@pytest.mark.parametrize("a, b", [pytest.param(a, b, id=n) for n, a, b in strided_pairs()])
def test_broadcasts_and_strides(a, b):
    kernel = zmlx.elementwise("a * b + 2 * a - b")
    assert_agrees(kernel, a, b)
    if a.shape == b.shape:
        assert_agrees(lambda a, b: mx.vjp(kernel, [a, b], [kernel(b, a)])[1], a, b)


def test_more_arrays_with_gaps_than_a_launch_takes():
    assert_agrees(zmlx.elementwise(MANY), *many_arrays(), atol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_large_arrays_with_gaps(dtype):
    kernel = zmlx.elementwise("a * b + 2 * a - b")
    x = normal((3000, 2048), dtype, 1)
    y = normal((2048, 3000), dtype, 2)
    assert_agrees(kernel, x, y.T)
    assert_agrees(kernel, x, x[:1])
    assert_agrees(kernel, x, x[:, 7:8])
    assert_agrees(kernel, x[:, 1024:], x[:, :1024])
    assert_agrees(kernel, x[::3, 1::2], y.T[1::3, ::-2])
    assert_agrees(kernel, x.reshape(-1)[5:], x.reshape(-1)[:-5])


@pytest.mark.parametrize("text", FORMULAS.values(), ids=FORMULAS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_transforms(text, dtype):
    kernel = zmlx.elementwise(text)
    a, b, g, t = (normal((37, 65), dtype, seed) for seed in range(4))

    def second(a, b):
        slope = mx.grad(lambda a, b: kernel(a, b).sum())
        return mx.grad(lambda a, b: (slope(a, b) * g).sum(), [0, 1])(a, b)

    assert_agrees(lambda a, b: mx.vjp(kernel, [a, b], [g])[1], a, b)
    assert_agrees(lambda a, b: mx.jvp(kernel, [a, b], [t, g])[1], a, b)
    assert_agrees(lambda a, b: mx.vmap(kernel, in_axes=(0, 1))(a, b.T), a, b)
    assert_agrees(lambda a, b: mx.vmap(kernel, in_axes=(0, None))(a, b[0]), a, b)
    assert_agrees(lambda a, b: mx.compile(lambda a, b: kernel(a + 1, b) * 2)(a, b), a, b)
    assert_agrees(second, a, b, rtol=1e-5, atol=1e-5)


def test_16_bit_types():
    x, y, g = (normal((3, 1001), dtype, seed) for seed, dtype in enumerate(FLOATS))
    for kernel, tolerance in sixteen_bits():
        assert_agrees(kernel, x, y, **tolerance)
        assert_agrees(lambda x, y, k=kernel: mx.vjp(k, [x, y], [g])[1], x, y)


def test_given_derivative():
    kernel = zmlx.elementwise("sigmoid(x)", grad_expr="g * y * (1 - y)")
    assert_agrees(mx.grad(lambda x: kernel(x).sum()), normal((1000,)))


@pytest.mark.parametrize("length", LENGTHS)
def test_rows_of_any_length(length):
    softmax = make_softmax()
    norm2 = zmlx.reduce(init="0", update="acc + v * v", finalize="sqrt(s)")
    for rows in (1, 3, 130) if length < 10_000 else (1, 5):
        for dtype in FLOATS:
            x = normal((rows, length), dtype, length)
            wide = doubles(x)
            e = np.exp(wide - wide.max(-1, keepdims=True))
            unit = 1.3 * HALF_UNIT[dtype] + 4e-6
            (found,) = on(mx.gpu, softmax, x)
            expected = e / e.sum(-1, keepdims=True)
            np.testing.assert_allclose(doubles(found), expected, rtol=unit, atol=1e-7)
            (found,) = on(mx.gpu, norm2, x)
            np.testing.assert_allclose(doubles(found), np.sqrt((wide**2).sum(-1)), rtol=unit)
            (found,) = on(mx.gpu, layer_norm(length), x)
            centered = wide - wide.mean(-1, keepdims=True)
            expected = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
            np.testing.assert_allclose(doubles(found), expected, rtol=unit, atol=2e-5)


@pytest.mark.parametrize("length", [1, 7, 33, 1000, 4097])
def test_reductions_of_every_kind(length):
    x = normal((9, length), scale=3)
    for update in ("acc * (1 + v / 4096)", "min(acc, v)", "max(acc, abs(v))", "acc + sin(v)"):
        assert_agrees(zmlx.reduce(init="1", update=update), x, rtol=1e-5, atol=1e-5)
    assert_agrees(zmlx.reduce(init="0", update="acc * 0.5f + v"), x)
    for dtype in (mx.int32, mx.uint32):
        n = (100 * x).astype(mx.int32).astype(dtype)
        for update in ("acc + v", "acc * (v | 1)", "min(acc, v)", "max(acc, v)", "acc & v"):
            assert_agrees(zmlx.reduce(init="5", update=update, compute_dtype=dtype), n)
        for update in ("acc | v", "acc ^ v", "(acc << 1) + v"):
            assert_agrees(zmlx.reduce(init="5", update=update, compute_dtype=dtype), n)


@pytest.mark.parametrize("threadgroup", [1, 32, 64, 128, 256, 512, 1024, "auto"])
def test_threadgroups_change_nothing(threadgroup):
    kernel = zmlx.map_reduce(
        pass1={"init": "-INFINITY", "update": "max(acc1, x)", "reduce": "max(a, b)"},
        pass2={"init": "0.0f", "update": "acc2 + exp(x - s1)", "reduce": "a + b"},
        write="exp(x - s1) / s2",
        threadgroup=threadgroup,
    )
    for length in (20, 700, 4096, 10_001):
        assert_agrees(kernel, normal((33, length), mx.bfloat16, 5))


@pytest.mark.parametrize("length", [3, 64, 1000, 4096, 20_001])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_transforms_of_rows(length, dtype):
    x, g = normal((6, 4, length), dtype, 1), normal((6, 4, length), dtype, 2)
    norm2 = zmlx.reduce(init="0", update="acc + v * v", finalize="sqrt(s)")
    for kernel in (make_softmax(), layer_norm(length)):
        assert_agrees(lambda x, k=kernel: mx.vjp(k, [x], [g])[1], x, rtol=1e-4, atol=1e-5)
        assert_agrees(lambda x, k=kernel: mx.jvp(k, [x], [g])[1], x, rtol=1e-4, atol=1e-5)
        assert_agrees(lambda x, k=kernel: mx.vmap(k, in_axes=1)(x), x, rtol=1e-5, atol=2e-6)
        assert_agrees(lambda x, k=kernel: mx.compile(lambda x: k(x) * 2)(x), x, atol=1e-5)
        assert_agrees(lambda x, k=kernel: k(x.swapaxes(0, 1)), x, rtol=1e-5, atol=2e-6)
        assert_agrees(lambda x, k=kernel: k(x[..., : length // 2 + 1]), x, rtol=1e-5, atol=2e-6)
    assert_agrees(mx.grad(lambda x: (norm2(x) ** 2).sum()), x, rtol=1e-4, atol=1e-5)


def test_more_rows_than_a_grid_has():
    x = normal(((1 << 22) + 77, 3), seed=6)
    norm2 = zmlx.reduce(init="0", update="acc + v * v", finalize="sqrt(s)")
    assert_agrees(norm2, x)
    assert_agrees(zmlx.reduce(init="0", update="acc * 0.5f + v"), x)


def test_divisors_of_any_magnitude():
    """A row's divisor becomes an inverse, with a scale that keeps it from over- and underflow."""
    kernel = zmlx.map_reduce(
        pass1={"init": "0", "update": "max(acc1, abs(x))", "reduce": "max(a, b)"},
        pass2={"init": "0", "update": "acc2", "reduce": "a"},
        write="x / s1",
        threadgroup="auto",
    )
    for exponent in (-149, -140, -126, -120, -101, -100, -99, 0, 99, 100, 101, 120, 126, 127):
        x = mx.array(np.ldexp(np.float32([[1, 0.5, -1, 0]]), exponent).astype(np.float32))
        assert_agrees(kernel, x)
    assert_agrees(kernel, mx.array([[0.0, 0, 0], [math.inf, 1, -1], [math.nan, 1, 2]]))


def test_autotune_measures_the_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("ZMLX_CACHE_DIR", str(tmp_path))
    x = normal((1 << 20,))
    for kernel, argument in (
        (zmlx.elementwise("x * tanh(log(1 + exp(x))) + 0.25f"), x),
        (make_softmax(), x.reshape(256, 4096)),
    ):
        with mx.stream(mx.gpu):
            before = kernel(argument)
            mx.eval(before)
            result = kernel.tune(argument)
            assert not result.remembered and len(result.seconds) > 4
            assert kernel.tune(argument).remembered
            np.testing.assert_allclose(doubles(kernel(argument)), doubles(before), rtol=2e-6)


@pytest.mark.skipif(not mx.cuda.is_available(), reason="needs CUDA")
def test_a_raw_cuda_kernel_with_a_derivative():
    square = zmlx.cuda_kernel(
        "square",
        ["x"],
        ["y"],
        "auto i = blockIdx.x * blockDim.x + threadIdx.x; if (i < 1000) y[i] = x[i] * x[i];",
        vjp=lambda primals, cotangents, outputs: 2 * primals[0] * cotangents[0],
    )
    x = normal((1000,))

    def squared(x):
        return square(
            x,
            grid=(1024, 1, 1),
            threadgroup=(256, 1, 1),
            output_shapes=[x.shape],
            output_dtypes=[x.dtype],
        )[0]

    with mx.stream(mx.gpu):
        assert mx.allclose(squared(x), x * x)
        assert mx.allclose(mx.grad(lambda x: squared(x).sum())(x), 2 * x)


def _wrong(formulas, batch):
    """What a process finds: messages, and how many values and slopes were compared."""
    messages, compared, sloped, off = [], 0, 0, []
    for start in range(0, len(formulas), batch):
        part = formulas[start : start + batch]
        names = ["a", "b", "c", "k"]
        kernel = zmlx.elementwise(in_one(part), inputs=names)
        inputs = [mx.array(x) for x in inputs_of_one(part)]
        (found,) = on(mx.gpu, kernel, *inputs)
        (rates,) = on(mx.gpu, mx.grad(lambda *x, k=kernel: k(*x).sum()), *inputs)
        found, rates = (doubles(x).reshape(len(part), -1) for x in (found, rates))
        for f, values, slopes in zip(part, found, rates, strict=True):
            known = np.isfinite(f.value)
            wrong = known & ~(np.abs(values - f.value) <= 2 * f.error + 1e-30)
            compared += int(known.sum())
            if wrong.any():
                k = int(wrong.argmax())
                messages.append(f"{f.text} at {f.inputs[:, k]}: {values[k]}, not {f.value[k]}")
            size = 1 + np.abs(f.slope)
            smooth = known & (f.slope_error <= 1e-4 * size) & (f.error <= 1e-5 * size)
            bad = smooth & ~(np.abs(slopes - f.slope) <= 2e-3 * size)
            sloped += int(smooth.sum())
            off += [f"{f.text} at {f.inputs[:, k]}" for k in np.flatnonzero(bad)]
    return messages, compared, sloped, off


def test_random_formulas_agree_with_float64(tmp_path):
    program = corpus_program(tmp_path)
    if program is None:
        pytest.skip("no C++ compiler to make random formulas with")
    # Some by themselves; most of them sixteen at a time, for the compiler's sake.
    tasks = [(random_formulas(program, seed, 25), 1) for seed in range(8)]
    tasks += [(random_formulas(program, 100 + seed, 240), 16) for seed in range(8)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(8, mp_context=context) as pool:
        found = list(pool.map(_wrong, *zip(*tasks, strict=True)))
    messages = [text for part in found for text in part[0]]
    compared, sloped = (sum(part[i] for part in found) for i in (1, 2))
    off = [text for part in found for text in part[3]]
    assert not messages, f"{len(messages)} are wrong:\n" + "\n".join(messages[:5])
    assert compared > 40_000 and sloped > 20_000
    # Where digits cancel in the derivative alone, nothing bounds its error.
    assert len(off) <= 2e-3 * sloped, f"{len(off)} of {sloped}:\n" + "\n".join(off[:5])


@pytest.mark.parametrize("kind, dtype", KINDS.items(), ids=KINDS)
def test_random_formulas_of_16_bits_are_rounded_rightly(kind, dtype, tmp_path):
    program = corpus_program(tmp_path)
    if program is None:
        pytest.skip("no C++ compiler to make random formulas with")
    many = random_formulas(program, 7, 640, depth=4, kind=kind)
    compared = 0
    for start in range(0, len(many), 16):
        part = many[start : start + 16]
        kernel = zmlx.elementwise(
            in_one(part), inputs=["a", "b", "c", "k"], compute_dtype=getattr(mx, dtype)
        )
        (found,) = on(mx.gpu, kernel, *(mx.array(x) for x in inputs_of_one(part)))
        for f, values in zip(part, doubles(found).reshape(len(part), -1), strict=True):
            known = np.isfinite(f.value)
            compared += int(known.sum())
            wrong = np.flatnonzero(known & ~(np.abs(values - f.value) <= 2 * f.error))
            assert not len(wrong), f"{f.text} at {f.inputs[:, wrong[0]]}"
    assert compared > 8_000
