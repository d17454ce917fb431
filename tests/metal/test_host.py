"""The host computes what MSL says."""

import numpy as np
import pytest
from arrays import rounded, to_float
from msl import PLAIN, Library, Options

CONTRACTED = Options(contract=True)


def elementwise(expression, *arrays, type_, out="T", options=PLAIN, variant=0):
    """The expression of a, b, c (of type T) for each element."""
    names = "abc"[: len(arrays)]
    inputs = ", ".join(f"const device {type_}* in_{n} [[buffer({i})]]" for i, n in enumerate(names))
    values = " ".join(f"const T {n} = in_{n}[i];" for n in names)
    source = f"""
using namespace metal;
using T = {type_};
[[kernel]] void f({inputs}, device {out}* y [[buffer({len(arrays)})]],
                  uint i [[thread_position_in_grid]]) {{
  {values}
  y[i] = {expression};
}}
"""
    sizes = {"T": arrays[0].dtype, "float": np.float32, "uint": np.uint32}
    y = np.zeros(arrays[0].shape, sizes[out])
    Library(source, options=options)(
        "f", [*arrays, y], grid=y.size, threadgroup=64, variant=variant
    )
    return y


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("op", ["+", "-", "*", "/"])
@pytest.mark.parametrize("name", ["half", "bfloat"])
def test_small_floats_round_each_operation(rng, name, op):
    type_ = {"half": "float16", "bfloat": "bfloat16"}[name]
    a, b = (
        rounded(rng.standard_normal(4096) * 2.0 ** rng.integers(-9, 9, 4096), type_) for _ in "ab"
    )
    x, y = (to_float(v, type_).astype(np.float64) for v in (a, b))
    exact = {"+": x + y, "-": x - y, "*": x * y, "/": x / y}[op]
    # One rounding of the exact result; float64 holds all but quotients, which never lie between.
    with np.errstate(over="ignore"):
        wanted = exact.astype(np.float16) if name == "half" else _bfloat16(exact)
    np.testing.assert_array_equal(elementwise(f"a {op} b", a, b, type_=name), wanted)


def _bfloat16(exact):
    """Rounds float64 once to bfloat16, as uint16."""
    near = exact.astype(np.float32)
    bits = near.view(np.uint32)
    # Rounding to odd before keeps the second rounding harmless.
    inexact = near.astype(np.float64) != exact
    away = np.abs(near.astype(np.float64)) > np.abs(exact)
    bits = np.where(inexact, (bits - away) | 1, bits).astype(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize("name", ["half", "bfloat"])
def test_conversions_of_every_small_float(name):
    all_bits = np.arange(65536, dtype=np.uint16)
    type_ = {"half": "float16", "bfloat": "bfloat16"}[name]
    small = all_bits.view(np.float16) if name == "half" else all_bits
    wide = elementwise("float(a)", small, type_=name, out="float")
    np.testing.assert_array_equal(wide, to_float(small, type_))
    number = ~np.isnan(wide)
    back = elementwise("T(float(a))", small, type_=name)
    np.testing.assert_array_equal(back.view(np.uint16)[number], all_bits[number])
    assert np.isnan(to_float(back, type_)[~number]).all()


def test_ties_go_to_even():
    # Halfway between two bfloats, just below and just above.
    bits = np.array([0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001], np.uint32)
    y = elementwise(
        "uint(as_type<ushort>(bfloat(a)))", bits.view(np.float32), type_="float", out="uint"
    )
    np.testing.assert_array_equal(y, [0x3F80, 0x3F82, 0x3F80, 0x3F81])


@pytest.mark.parametrize("name", ["float", "half", "bfloat"])
def test_contraction(rng, name):
    type_ = {"float": "float32", "half": "float16", "bfloat": "bfloat16"}[name]
    a, b = (rounded(rng.standard_normal(1024), type_) for _ in "ab")
    x, y = (to_float(v, type_).astype(np.float64) for v in (a, b))
    c = rounded(-(x * y), type_)  # so that rounding the product first gives 0
    z = to_float(c, type_)
    apart = elementwise("a * b + c", a, b, c, type_=name)
    fused = elementwise("a * b + c", a, b, c, type_=name, options=CONTRACTED)
    assert not to_float(apart, type_).any()
    np.testing.assert_array_equal(
        to_float(fused, type_), to_float(rounded(x * y + z, type_), type_)
    )
    assert to_float(fused, type_).any()
    # A conversion in between keeps them apart.
    kept = elementwise("T(float(a * b)) + c", a, b, c, type_=name, options=CONTRACTED)
    assert name == "float" or not to_float(kept, type_).any()


def test_literals_are_floats():
    x = np.full(4, 0.1, np.float32)
    y = elementwise("a * 3.3", x, type_="float")
    np.testing.assert_array_equal(y, x * np.float32(3.3))


@pytest.mark.parametrize("variant", [0, 1])
def test_simd_operations(rng, variant):
    x = rng.standard_normal(64).astype(np.float32)
    lanes = np.arange(64) % 32
    at = x.reshape(2, 32)

    def run(expression):
        return elementwise(expression, x, type_="float", variant=variant).reshape(2, 32)

    sums = at.copy()
    if variant == 0:
        for step in (16, 8, 4, 2, 1):
            sums = sums + sums[:, np.arange(32) ^ step]
    else:
        sums = np.add.accumulate(at, 1, np.float32)[:, -1:].repeat(32, 1)
    np.testing.assert_array_equal(run("simd_sum(a)"), sums)
    np.testing.assert_array_equal(run("simd_max(a)"), at.max(1, keepdims=True).repeat(32, 1))
    np.testing.assert_array_equal(run("simd_min(a)"), at.min(1, keepdims=True).repeat(32, 1))
    np.testing.assert_array_equal(run("simd_broadcast(a, 5)"), at[:, 5:6].repeat(32, 1))
    np.testing.assert_array_equal(run("simd_shuffle(a, (i * 7) % 32)"), at[:, lanes[:32] * 7 % 32])
    np.testing.assert_array_equal(run("simd_shuffle_xor(a, 9)"), at[:, np.arange(32) ^ 9])
    down = np.where(np.arange(32) < 29, np.roll(at, -3, 1), at)
    np.testing.assert_array_equal(run("simd_shuffle_down(a, 3)"), down)
    up = np.where(np.arange(32) >= 3, np.roll(at, 3, 1), at)
    np.testing.assert_array_equal(run("simd_shuffle_up(a, 3)"), up)
    np.testing.assert_array_equal(
        run("simd_prefix_inclusive_sum(a)"), np.add.accumulate(at, 1, np.float32)
    )
    filled = np.where(np.arange(32) >= 3, np.roll(at, 3, 1), 2 * np.roll(at, 3, 1))
    np.testing.assert_array_equal(run("simd_shuffle_and_fill_up(a, 2 * a, 3)"), filled)
    votes = (at > 0) @ (1 << np.arange(32, dtype=np.uint64))
    ballot = elementwise("uint(ulong(simd_ballot(a > 0)))", x, type_="float", out="uint")
    np.testing.assert_array_equal(ballot.reshape(2, 32)[:, 0], votes)


def test_spellings_of_functions_differ(rng):
    x = rng.standard_normal(256).astype(np.float32)

    def run(name, variant):
        return elementwise(f"{name}exp(a)", x, type_="float", variant=variant)

    np.testing.assert_allclose(run("precise::", 0), np.exp(x.astype(np.float64)), rtol=2e-7)
    np.testing.assert_array_equal(run("metal::", 0), run("precise::", 0))
    assert (run("fast::", 0) != run("precise::", 0)).mean() > 0.9
    assert (run("metal::", 1) != run("precise::", 1)).mean() > 0.9
    np.testing.assert_allclose(run("fast::", 0), run("precise::", 0), rtol=2.0**-23)


@pytest.mark.parametrize("variant", [0, 1])
def test_simdgroup_matrix(rng, variant):
    source = """
using namespace metal;
[[kernel]] void product(const device half* a [[buffer(0)]], const device half* b [[buffer(1)]],
                        device float* c [[buffer(2)]]) {
  simdgroup_matrix<half, 8, 8> x, y;
  simdgroup_matrix<float, 8, 8> z = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
  simdgroup_load(x, a, 8);
  simdgroup_load(y, b, 8, ulong2(0, 0), true);
  simdgroup_multiply_accumulate(z, x, y, z);
  simdgroup_store(z, c, 8);
}
"""
    a, b = rng.standard_normal((2, 8, 8)).astype(np.float16)
    c = np.zeros((8, 8), np.float32)
    library = Library(source, options=Options(checked=True))
    library("product", [a, b, c], grid=32, threadgroup=32, variant=variant)
    wanted = a.astype(np.float64) @ b.T.astype(np.float64) + 1
    np.testing.assert_allclose(c, wanted, rtol=1e-5, atol=1e-5)


def test_vectors():
    x = np.arange(1, 9, dtype=np.float32)
    expression = "float4(float2(a, 2), float2(2, 3).yx).xyz.z + vec<float, 3>(uint3(1, 2, 3)).xz.y"
    np.testing.assert_array_equal(elementwise(expression, x, type_="float"), 3 + 3)
    np.testing.assert_array_equal(
        elementwise("dot(float2(a, 2), float2(3, 4))", x, type_="float"), 3 * x + 8
    )
