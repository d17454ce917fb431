"""Kernels from Python: names and defaults, jit, tools."""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import zmlx
from zmlx.bench import compare
from zmlx.testing import assert_gradient_matches, assert_matches

SHAPES = [(5,), (3, 64), (2, 3, 1000)]
SCALE = 0.75


def mish(x):
    return x * mx.tanh(mx.log(1 + mx.exp(x)))


def test_elementwise_formula_of_the_readme():
    kernel = zmlx.elementwise("x * tanh(log(1 + exp(x)))")
    assert_matches(kernel, mish, SHAPES)
    assert_matches(kernel, mish, SHAPES, dtypes=[mx.float16, mx.bfloat16], atol=2e-2, rtol=2e-2)
    assert_gradient_matches(kernel, mish, SHAPES)


def test_inputs_are_free_names_in_order_of_appearance_or_given():
    gate = zmlx.elementwise("a / (1 + exp(-a)) * b")
    assert gate.inputs == ["a", "b"]
    assert_matches(gate, lambda a, b: nn.silu(a) * b, SHAPES, n_inputs=2)
    assert_gradient_matches(gate, lambda a, b: nn.silu(a) * b, SHAPES, n_inputs=2)
    swapped = zmlx.elementwise("a - b", inputs=["b", "a"])
    assert swapped(mx.array(1.0), mx.array(5.0)).item() == 4


def test_numbers_do_not_widen_the_result():
    scale = zmlx.elementwise("x * s")
    assert scale(mx.ones(3, mx.bfloat16), 2.5).dtype == mx.bfloat16
    assert scale(mx.ones(3), 2).tolist() == [2, 2, 2]
    with pytest.raises(TypeError, match="takes arrays and numbers"):
        scale(mx.ones(3), "2")


def test_given_derivative_as_in_the_python_package():
    sigmoid = zmlx.elementwise(
        "kk_sigmoid(x)", name="sig", grad_expr="g * y * ((T)1 - y)", compute_dtype=mx.float32
    )
    assert_gradient_matches(sigmoid, mx.sigmoid, SHAPES)
    silu = zmlx.elementwise(
        "kk_silu(x)",
        grad_expr="g * (kk_sigmoid(x) + x * kk_sigmoid(x) * (1 - kk_sigmoid(x)))",
        use_output=False,
    )
    assert_gradient_matches(silu, nn.silu, SHAPES)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16], ids=str)
def test_16_bit_compute_dtypes_compute_as_mlx_does_in_them(dtype):
    x, y = (3 * mx.random.normal((4000,), key=mx.random.key(seed)) for seed in (1, 2))
    kernel = zmlx.elementwise("(x * y + x / y) - T(0.1) * x * 3", compute_dtype=dtype)
    a, b = x.astype(dtype), y.astype(dtype)
    with mx.stream(mx.cpu):
        expected = (a * b + a / b) - mx.array(0.1, dtype) * a * mx.array(3, dtype)
        assert mx.array_equal(kernel(a, b), expected)
        # Wider arrays are rounded when they are read, and results have their type.
        assert mx.array_equal(kernel(x, y), expected.astype(mx.float32))
        rounded = zmlx.elementwise("half(x)" if dtype == mx.float16 else "(bfloat)x")
        assert mx.array_equal(rounded(x), a.astype(mx.float32))
        norm2 = zmlx.reduce(init="0", update="acc + v * v", finalize="s", compute_dtype=dtype)
        squares = (a * a).astype(mx.float32).sum()
        np.testing.assert_allclose(norm2(x).item(), squares.item(), rtol=2**-8)
        assert norm2(x).item() == norm2(x).astype(dtype).item()


def test_16_bit_formulas_have_the_derivative_of_what_they_round():
    silu = zmlx.elementwise("x / (1 + exp(-x))", compute_dtype=mx.float16)
    assert_gradient_matches(silu, nn.silu, SHAPES, atol=2e-3, rtol=2e-3)
    given = zmlx.elementwise(
        "kk_silu(x)",
        grad_expr="T s = kk_sigmoid(x); g * (s + x * s * ((T)1 - s))",
        compute_dtype=mx.bfloat16,
    )
    assert_gradient_matches(given, nn.silu, SHAPES, atol=2e-2, rtol=2e-2)
    cast = zmlx.elementwise("half(x) * bfloat(y)")
    x, y = mx.array([0.1, 2.0]), mx.array([0.3, 5.0])
    by_x, by_y = mx.grad(lambda x, y: cast(x, y).sum(), [0, 1])(x, y)
    assert mx.array_equal(by_x, y.astype(mx.bfloat16).astype(mx.float32))
    assert mx.array_equal(by_y, x.astype(mx.float16).astype(mx.float32))


def test_raw_source_is_refused():
    for arguments in ({"header": "#include <x>"}, {"grad_prelude": "T s = 1;"}):
        with pytest.raises(ValueError, match="zmlx.metal_kernel"):
            zmlx.elementwise("x + 1", **arguments)
    with pytest.raises(ValueError, match="zmlx.metal_kernel"):
        zmlx.reduce(init="0", update="acc + v", header="x")


def test_reduce_and_map_reduce():
    norm2 = zmlx.reduce(init="0", update="acc + v * v", finalize="sqrt(s)")
    assert_matches(norm2, lambda x: mx.sqrt(mx.sum(x * x, -1)).reshape(-1, *x.shape[1:-1]), SHAPES)
    total = zmlx.reduce(init="0.0f", update="acc + v", name="simple_sum")
    assert total.name == "simple_sum" and total(mx.ones((8, 10))).tolist() == [10] * 8
    softmax = zmlx.map_reduce(
        pass1={"init": "-INFINITY", "update": "max(acc1, x)", "reduce": "max(a, b)"},
        pass2={"init": "0.0f", "update": "acc2 + exp(x - s1)", "reduce": "a + b"},
        write="exp(x - s1) / s2",
        threadgroup="auto",
    )
    assert_matches(softmax, lambda x: mx.softmax(x, -1), SHAPES)
    weights = mx.random.normal((1000,))
    for shape in SHAPES[2:]:
        assert_gradient_matches(
            lambda x: softmax(x) * weights, lambda x: mx.softmax(x, -1) * weights, [shape]
        )
    with pytest.raises(
        ValueError, match="pass1 needs the keys init, update, reduce; reduce missing"
    ):
        zmlx.map_reduce(pass1={"init": "0", "update": "acc1 + x"}, pass2={}, write="x")
    with pytest.raises(ValueError, match="power of two"):
        zmlx.map_reduce(
            pass1={"init": "0", "update": "acc1 + x", "reduce": "a + b"},
            pass2={"init": "0", "update": "acc2 + x", "reduce": "a + b"},
            write="x",
            threadgroup=100,
        )


def test_second_pass_may_have_nothing_to_do():
    rms_norm = zmlx.map_reduce(
        pass1={"init": "0", "update": "acc1 + x * x", "reduce": "a + b"},
        pass2={"init": "0", "update": "acc2", "reduce": "a"},
        write="x * rsqrt(s1 / 1000 + 1e-5f)",
    )
    weights = mx.random.normal((1000,))
    for shape in SHAPES[2:]:
        assert_matches(rms_norm, lambda x: mx.fast.rms_norm(x, None, 1e-5), [shape])
        assert_gradient_matches(
            lambda x: rms_norm(x) * weights,
            lambda x: mx.fast.rms_norm(x, None, 1e-5) * weights,
            [shape],
        )


@zmlx.jit
def jit_silu(x):
    return x / (1 + mx.exp(-x))


@zmlx.jit
def jit_mixed(x, y):
    """Everything that a body may hold."""
    t = math.exp(-abs(x)) + SCALE
    for i in range(1, 4):
        t = t * 0.5 + i / 4
    t += y**2
    if x > y and not y < -1:
        return t % 3
    z: float = mx.maximum(x, y, 0.25)
    return mx.where(0 < x < 2, z, -t) * math.pi


def mixed_reference(x, y):
    t = mx.exp(-mx.abs(x)) + SCALE
    for i in range(1, 4):
        t = t * 0.5 + i / 4
    t = t + y**2
    z = mx.maximum(mx.maximum(x, y), 0.25)
    other = mx.where((x > 0) & (x < 2), z, -t) * math.pi
    return mx.where((x > y) & ~(y < -1), t - 3 * mx.floor(t / 3), other)


def test_jit_reads_the_syntax_tree():
    assert jit_silu.name == "jit_silu"
    assert_matches(jit_silu, nn.silu, SHAPES)
    assert_gradient_matches(jit_silu, nn.silu, SHAPES)
    assert_matches(jit_mixed, mixed_reference, SHAPES, n_inputs=2, atol=1e-4)


def test_jit_says_what_it_cannot_read():
    def unknown(x):
        return x + somewhere  # noqa: F821

    def loop(x):
        while x > 1:
            x = x / 2
        return x

    def nothing(x):
        x = x + 1

    def foreign(x):
        return open(x)

    for function, message in [
        (unknown, "line 2: there is no 'somewhere' here"),
        (loop, "line 2: a kernel cannot hold this statement"),
        (nothing, "must end with a return"),
        (foreign, "there is no function 'open'"),
    ]:
        with pytest.raises(ValueError, match=message):
            zmlx.jit(function)


def test_assertions_fail_where_they_should():
    double = zmlx.elementwise("x * 2")
    with pytest.raises(AssertionError, match="elements differ"):
        assert_matches(double, lambda x: x * 2.01, [(100,)])
    with pytest.raises(AssertionError, match="got shape"):
        assert_matches(double, lambda x: x[:1], [(100,)])
    with pytest.raises(AssertionError, match="gradient by input 0"):
        assert_gradient_matches(double, lambda x: x * 3, [(100,)])
    with pytest.raises(AssertionError, match="1 of 100 elements|elements differ"):
        assert_matches(zmlx.elementwise("x > 2 ? NAN : x"), lambda x: x, [(1000,)])


def test_registry_counts(monkeypatch):
    zmlx.registry.clear_cache()
    kernel = zmlx.elementwise("x * 7 + 1", name="counted")
    assert zmlx.elementwise("x * 7 + 1", name="counted")(mx.array(1.0)).item() == 8
    mx.eval(kernel(mx.array(2.0)))
    (entry,) = zmlx.registry.entries()
    assert (entry["name"], entry["kind"], entry["definitions"]) == ("counted", "elementwise", 2)
    assert (entry["calls"], entry["compilations"]) == (2, 1)
    assert zmlx.registry.list_kernels() == ["counted"] and zmlx.registry.cache_size() == 1
    assert "counted" in zmlx.registry.summary()


def test_compare_takes_turns(capsys):
    results = compare(
        {"MLX": mish, "ZMLX": zmlx.elementwise("x * tanh(log(1 + exp(x)))")}, [(1000,)], iters=3
    )
    assert [case["dtype"] for case in results] == ["mlx.core.float32", "mlx.core.float16"]
    assert all(case["MLX_us"] > 0 and case["ZMLX_us"] > 0 for case in results)
    assert "speedup" in capsys.readouterr().out


def test_explain_shows_formula_and_derivative():
    text = zmlx.elementwise("log(1 + exp(x))", name="soft").explain()
    assert "soft(x) = softplus(x)" in text
    assert "cotangent of x = (sigmoid(x) * g)" in text


def test_first_call_is_quick_on_the_cpu():
    import time

    times = []
    with mx.stream(mx.cpu):
        x = mx.ones(16)
        mx.eval(zmlx.elementwise("x + 3.25")(x))
        for i in range(20):
            text = f"x / (1 + exp(-x)) * {i}.125 + tanh(x * x) - log(1 + exp(x))"
            tic = time.perf_counter()
            mx.eval(zmlx.elementwise(text)(x))
            times.append(time.perf_counter() - tic)
    assert sorted(times)[10] < 1e-3


def test_autotune_chooses_and_remembers(tmp_path, monkeypatch):
    import time

    monkeypatch.setenv("ZMLX_CACHE_DIR", str(tmp_path))
    calls = []

    def work(x, wait):
        calls.append(wait)
        time.sleep(wait)
        return x + 1

    chosen = zmlx.autotune(work, [2e-3, 1e-4, 4e-3], args=(mx.ones(3),), key="work")
    assert chosen == 1e-4 and len(calls) >= 6
    calls.clear()
    assert zmlx.autotune(work, [2e-3, 1e-4, 4e-3], args=(mx.ones(3),), key="work") == 1e-4
    assert not calls and len(list(tmp_path.rglob("*.txt"))) == 1
    assert zmlx.autotune(lambda a, b: time.sleep(b), [{"b": 1e-3}], args=(1,)) == {"b": 1e-3}
    kernel = zmlx.elementwise("x * 2 + 3")
    x = mx.random.normal((100_000,))
    expected = kernel(x)
    mx.eval(expected)
    kernel.tune(x)
    assert kernel.tune(x).remembered
    assert mx.array_equal(kernel(x), expected)


def test_comparisons_with_nan_are_those_of_c():
    x = mx.array([float("nan"), 0.0, 1.0] * 9)
    for text, expected in (
        ("isnan(x)", [1, 0, 0]),
        ("x != x", [1, 0, 0]),
        ("x != 0", [1, 0, 1]),
        ("bool(x)", [1, 0, 1]),
        ("!(x < 1)", [1, 0, 1]),
        ("x == x", [0, 1, 1]),
        ("x && true", [1, 0, 1]),
    ):
        kernel = zmlx.elementwise(f"float({text})")
        assert kernel(x).tolist() == expected * 9, text


SQUARE = {"name": "square", "input_names": ["x"], "output_names": ["y"], "source": "y = x * x;"}
LAUNCH = {"grid": (4, 1, 1), "threadgroup": (4, 1, 1), "output_shapes": [(4,)]}


@pytest.mark.parametrize("kind", ["metal_kernel", "cuda_kernel"])
def test_raw_kernels_are_kept_and_have_the_given_derivative(kind, monkeypatch):
    zmlx.registry.clear_cache()
    made = []

    def make(**parameters):
        made.append(parameters)

        def kernel(inputs, grid, threadgroup, output_shapes):
            assert (grid, threadgroup, output_shapes) == tuple(LAUNCH.values())
            return [inputs[0] * inputs[0]]

        return kernel

    monkeypatch.setattr(mx.fast, kind, make)
    make_raw = getattr(zmlx, kind)
    plain = make_raw(**SQUARE)
    given = make_raw(**SQUARE, vjp=lambda xs, gs, ys: [10 * xs[0] * gs[0] + ys[0] / xs[0]])
    assert len(made) == 1 and made[0]["source"] == "y = x * x;"
    make_raw(**SQUARE, header="// another")
    assert len(made) == 2
    x = mx.array([1.0, 2.0, 3.0, 4.0])
    assert mx.array_equal(plain(x, **LAUNCH)[0], x * x)
    slope = mx.grad(lambda x: 2 * given(x, **LAUNCH)[0].sum())(x)
    assert mx.array_equal(slope, 21 * x)
    first, second = zmlx.registry.entries()
    assert (first["name"], first["kind"], first["definitions"], first["calls"]) == (
        *("square", kind),
        *(2, 2),
    )
    assert second["calls"] == 0 and "square" in zmlx.registry.summary()
    zmlx.registry.clear_cache()
    assert zmlx.registry.cache_size() == 0


def test_functions_of_the_math_library():
    x = mx.array([-2.5, -0.5, 0.0, 0.5, 9.0])
    for name in ("erfc", "cbrt"):
        expected = [float(getattr(np, name, getattr(math, name, None))(v)) for v in x.tolist()]
        np.testing.assert_allclose(zmlx.elementwise(f"{name}(x)")(x), expected, rtol=1e-6)
    scaled = zmlx.elementwise("ldexp(x, 3) + ilogb(x)")
    assert scaled(mx.array([0.75, -5.0])).tolist() == [5.0, -38.0]
    assert mx.grad(lambda x: scaled(x).sum())(x[:2]).tolist() == [8.0, 8.0]
    above = zmlx.elementwise("nextafter(x, INFINITY)")
    np.testing.assert_array_equal(above(x), np.nextafter(np.array(x), np.float32(np.inf)))
    difference = zmlx.elementwise("fdim(x, 0.25f)")
    assert difference(x).tolist() == [0, 0, 0, 0.25, 8.75]
    assert mx.isnan(difference(mx.array(math.nan)))

    @zmlx.jit
    def tail(x):
        return math.erfc(x) + mx.exp(0 * x)

    np.testing.assert_allclose(tail(x), [math.erfc(v) + 1 for v in x.tolist()], rtol=1e-6)


def test_autotune_takes_parameters_of_the_fused_operations():
    x, indices = mx.random.normal((2, 1, 1, 64)), mx.array([[0, 1], [2, 3]])
    gate, up = (mx.quantize(mx.random.normal((4, 64, 64), key=mx.random.key(k))) for k in (1, 2))

    def run(max_rows, numerics):
        return zmlx.fast.gather_qmm_swiglu(
            x, *gate, *up, rhs_indices=indices, max_rows=max_rows, numerics=numerics
        )

    candidates = [{"max_rows": m, "numerics": n} for m in (1, 32) for n in ("exact", "fp32")]
    assert zmlx.autotune(run, candidates, max_seconds=0.05) in candidates
