"""The arrays that remember their operands, alone: what they fuse, and that they are plain arrays
everywhere else."""

import copy
import pickle

import mlx.core as mx
import pytest
from zmlx.patch.seam import ExpertOutputs, ResidualSum, WeightedOutputs, residual_stream

K, D = 3, 8


class Combine:
    """Stands in for the fused sum; counts calls, and the ordinary result is never needed."""

    def __init__(self, y):
        self.y = y
        self.calls = []

    def __call__(self, weights):
        self.calls.append(weights)
        return (self.y * mx.expand_dims(weights, -1)).sum(axis=-2)


@pytest.fixture
def outputs():
    def make(shape=(2, 5, K, D), dtype=mx.float32, ordinary=None):
        y = mx.random.normal(shape, key=mx.random.key(0)).astype(dtype)
        combine = Combine(y)
        array = ExpertOutputs(y if ordinary is None else ordinary)
        array._memo = (combine, shape[:-1], None)
        return array, y, combine

    return make


def scores_like(y, dtype=None):
    return mx.random.uniform(shape=y.shape[:-1], key=mx.random.key(1)).astype(dtype or y.dtype)


# Every form in mlx-lm's models, and a few more that mean the same.
COMBINES = {
    "most models": lambda y, s: (y * s[..., None]).sum(axis=-2),
    "cast after": lambda y, s: (y * s[..., None]).sum(axis=-2).astype(y.dtype),
    "cast of weights": lambda y, s: (y * s[..., None].astype(mx.float32)).sum(axis=-2),
    "gpt_oss": lambda y, s: (y * mx.expand_dims(s, axis=-1)).sum(axis=-2),
    "gemma4": lambda y, s: (mx.expand_dims(s, -1) * y).sum(-2),
    "positive axis": lambda y, s: (y * s[..., None]).sum(axis=y.ndim - 2),
    "axis in a tuple": lambda y, s: (y * s[..., None]).sum((-2,)),
    "axis in a list": lambda y, s: (y * s[..., None]).sum([-2]),
    "keepdims": lambda y, s: (y * s[..., None]).sum(axis=-2, keepdims=True),
    "same type cast": lambda y, s: (y * s[..., None]).astype(y.dtype).sum(axis=-2),
    "outputs cast to float32": lambda y, s: (y.astype(mx.float32) * s[..., None]).sum(-2),
    "cast to own type": lambda y, s: (y.astype(y.dtype) * s[..., None]).sum(-2),
}


@pytest.mark.parametrize("shape", [(2, 5, K, D), (5, K, D), (K, D)])
@pytest.mark.parametrize("form", COMBINES)
def test_combine_form_is_fused(outputs, form, shape):
    array, y, combine = outputs(shape)
    scores = scores_like(y)
    got = COMBINES[form](array, scores)
    want = COMBINES[form](y, scores)
    assert type(got) is mx.array
    assert len(combine.calls) == 1 and combine.calls[0].shape == scores.shape
    assert got.shape == want.shape and got.dtype == want.dtype
    assert mx.allclose(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", COMBINES)
@pytest.mark.parametrize("weights", [mx.bfloat16, mx.float16, mx.float32])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_fused_type_is_stocks_type(outputs, form, dtype, weights):
    array, y, combine = outputs(dtype=dtype)
    scores = scores_like(y, weights)
    got, want = COMBINES[form](array, scores), COMBINES[form](y, scores)
    assert got.dtype == want.dtype
    if (y * scores[..., None]).dtype == dtype or form != "same type cast":
        assert len(combine.calls) == 1
    assert mx.allclose(got, want, rtol=0.02, atol=0.02)


def test_ordinary_result_is_not_evaluated(outputs):
    wide = mx.random.normal((2, 5, K, D, 2**12))  # 4 MB, once it is evaluated
    array, y, _ = outputs(ordinary=wide.sum(axis=-1))
    scores = scores_like(y)
    mx.eval(y, scores)

    def peak(result):
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(result)
        return mx.get_peak_memory() - before

    assert peak((array * scores[..., None]).sum(axis=-2)) < 2**18
    assert peak((array * scores[..., None]).sum(axis=-1)) > 2**20


NOT_COMBINES = {
    "other axis": lambda y, s: (y * s[..., None]).sum(axis=-1),
    "all axes": lambda y, s: (y * s[..., None]).sum(),
    "two axes": lambda y, s: (y * s[..., None]).sum(axis=(-2, -1)),
    "first axis": lambda y, s: (y * s[..., None]).sum(axis=0),
    "mx.sum": lambda y, s: mx.sum(y * s[..., None], axis=-2),
    "mx.multiply": lambda y, s: mx.multiply(y, s[..., None]).sum(axis=-2),
    "mean": lambda y, s: (y * s[..., None]).mean(axis=-2),
    "weights broadcast over tokens": lambda y, s: (y * s[:1, :1, :, None]).sum(axis=-2),
    "weights of fewer axes": lambda y, s: (y * s[0, 0, :, None]).sum(axis=-2),
    "one weight for all experts": lambda y, s: (y * s[..., :1, None]).sum(axis=-2),
    "weights per output": lambda y, s: (y * (y * 0 + s[..., None])).sum(axis=-2),
    "a number": lambda y, s: (y * 2.0).sum(axis=-2),
    "integer weights": lambda y, s: (y * mx.ones(s.shape, mx.int32)[..., None]).sum(axis=-2),
    "product, then more": lambda y, s: (y * s[..., None] + 1).sum(axis=-2),
    "product narrowed": lambda y, s: (y * s[..., None]).astype(mx.float16).sum(axis=-2),
    "outputs narrowed": lambda y, s: (y.astype(mx.float16) * s[..., None]).sum(axis=-2),
    "sliced": lambda y, s: (y[..., :2, :] * s[..., :2, None]).sum(axis=-2),
    "divided": lambda y, s: (y / s[..., None]).sum(axis=-2),
    "sum of the outputs": lambda y, s: y.sum(axis=-2),
    "matmul": lambda y, s: (s[..., None, :] @ y).squeeze(-2),
    "squeeze, as llama4": lambda y, s: y[..., :1, :].squeeze(-2),
    "outputs changed in place": lambda y, s: (_add_in_place(y) * s[..., None]).sum(axis=-2),
    "product changed in place": lambda y, s: _add_in_place(y * s[..., None]).sum(axis=-2),
    "product written to": lambda y, s: _set_item(y * s[..., None]).sum(axis=-2),
    "compiled helper": lambda y, s: _compiled(y, s),
}


def _add_in_place(x):
    x += 1
    return x


def _set_item(x):
    x[0] = 5
    return x


@mx.compile
def _compiled(y, s):
    return (y * s[..., None]).sum(axis=-2).astype(y.dtype)


@pytest.mark.parametrize("form", NOT_COMBINES)
def test_other_uses_are_ordinary(outputs, form):
    array, y, combine = outputs()
    scores = scores_like(y)
    got = NOT_COMBINES[form](array, scores)
    want = NOT_COMBINES[form](mx.array(y), scores)
    assert type(got) is mx.array and got.dtype == want.dtype
    assert mx.array_equal(got, want)
    assert combine.calls == []


def test_weights_changed_after_the_product_do_not_matter(outputs):
    array, y, _ = outputs()
    column = mx.expand_dims(scores_like(y), -1)
    want = (y * column).sum(axis=-2)
    product = array * column
    column += 100
    assert mx.allclose(product.sum(axis=-2), want, rtol=1e-6, atol=1e-6)


UNARY = {
    "negative": lambda y: -y,
    "index": lambda y: y[0],
    "mask": lambda y: mx.where(y > 0, y, 0),
    "reshape": lambda y: y.reshape(-1, D),
    "transpose": lambda y: y.transpose(0, 2, 1, 3),
    "squeeze": lambda y: y[:, :1].squeeze(1),
    "cast": lambda y: y.astype(mx.float16),
    "flatten": lambda y: y.flatten(),
    "exp": lambda y: mx.exp(y),
    "stop_gradient": mx.stop_gradient,
    "concatenate": lambda y: mx.concatenate([y, y]),
    "copy": copy.copy,
    "add": lambda y: y + y,
    "radd": lambda y: 1 + y,
    "rsub": lambda y: 1 - y,
    "tolist": lambda y: mx.array(y.tolist()),
    "at": lambda y: y.at[0].add(1),
    "split": lambda y: mx.split(y, 2, axis=-1)[0],
    "compile": lambda y: mx.compile(lambda t: t * 2)(y),
}


@pytest.mark.parametrize("kind", [ExpertOutputs, WeightedOutputs])
@pytest.mark.parametrize("use", UNARY)
def test_type_does_not_leak(use, kind):
    y = mx.random.normal((2, 4, K, D))
    array = kind(y)
    array._memo = (None, y.shape[:-1], None) if kind is ExpertOutputs else (None, None)
    got = UNARY[use](array)
    assert type(got) is mx.array
    assert mx.array_equal(got, UNARY[use](y))


def test_pickle_and_save_give_plain_arrays(outputs, tmp_path):
    array, y, _ = outputs()
    assert type(pickle.loads(pickle.dumps(array))) is mx.array
    assert type(copy.deepcopy(array)) is mx.array
    mx.save(str(tmp_path / "y.npy"), array)
    assert mx.array_equal(mx.load(str(tmp_path / "y.npy")), y)
    mx.save_safetensors(str(tmp_path / "y.safetensors"), {"y": array})
    assert mx.array_equal(mx.load(str(tmp_path / "y.safetensors"))["y"], y)


def test_gradients_through_the_seam(outputs):
    _, y, _ = outputs()
    scores = scores_like(y)

    def loss(y, scores, seam):
        if seam:
            combine, plain = Combine(y), y
            y = ExpertOutputs(plain)
            y._memo = (combine, plain.shape[:-1], None)
        return ((y * scores[..., None]).sum(axis=-2) ** 2).sum()

    want = mx.grad(loss, argnums=(0, 1))(y, scores, False)
    for transform in (lambda f: f, mx.compile):
        got = transform(lambda y, s: mx.grad(loss, argnums=(0, 1))(y, s, True))(y, scores)
        for a, b in zip(got, want, strict=True):
            assert mx.allclose(a, b, rtol=1e-5, atol=1e-5)


# --- Residual sums -------------------------------------------------------------------------------


class Norms:
    """Stands in for the norm module and its kernel; counts calls."""

    def __init__(self):
        self.both = 0
        self.single = 0

    def add_rms_norm(self, x, residual, weight, eps):
        self.both += 1
        total = x + residual
        return mx.fast.rms_norm(total, weight, eps), total

    def __call__(self, x):
        if type(x) is ResidualSum:
            normed = x.fuse(self.add_rms_norm, None, 1e-5)
            if normed is not None:
                return normed
            x = x.value
        self.single += 1
        return mx.fast.rms_norm(x, None, 1e-5)


def rms_norm(x):
    return mx.fast.rms_norm(x, None, 1e-5)


@pytest.fixture
def xs():
    return [mx.random.normal((2, 3, D), key=mx.random.key(n)) for n in range(4)]


RESIDUALS = {
    "x + r": lambda x, r: x + r,
    "r + x": lambda x, r: r + x,
    "x + r * m": lambda x, r: x + r * 0.25,
    "x + x": lambda x, r: x + x,
}


@pytest.mark.parametrize("form", RESIDUALS)
def test_residual_form_is_fused(form, xs):
    x, r = xs[:2]
    norms = Norms()
    total = RESIDUALS[form](residual_stream(x), r)
    got = norms(total)
    assert (norms.both, norms.single) == (1, 0)
    assert type(got) is mx.array
    assert mx.allclose(got, rms_norm(RESIDUALS[form](x, r)), rtol=1e-6, atol=1e-6)
    assert mx.array_equal(total, RESIDUALS[form](x, r))  # anything else reads the ordinary sum


def test_later_sums_and_norms_read_the_fused_sum(xs):
    x, r1, r2, r3 = xs
    norms = Norms()
    h1 = residual_stream(x) + r1
    norms(h1)
    h2 = h1 + r2
    norms(h1)  # again
    out = norms(h2)
    assert (norms.both, norms.single) == (2, 1)
    assert mx.allclose(out, rms_norm(x + r1 + r2), rtol=1e-5, atol=1e-5)
    assert mx.allclose(r3 + h2, x + r1 + r2 + r3, rtol=1e-5, atol=1e-5)
    # The ordinary sums are poisoned: whatever the fused ones give does not come from them.
    poisoned = ResidualSum(mx.full(x.shape, float("nan")))
    poisoned._memo = (x, r1)
    norms(poisoned)
    assert mx.allclose(norms(poisoned + r2), rms_norm(x + r1 + r2), rtol=1e-5, atol=1e-5)


def test_three_terms(xs):
    x, a, b, _ = xs
    for total in (lambda: residual_stream(x) + a + b, lambda: a + b + residual_stream(x)):
        norms = Norms()
        got = norms(total())
        assert (norms.both, norms.single) == (1, 0)
        assert mx.allclose(got, rms_norm(x + a + b), rtol=1e-5, atol=1e-5)


def test_the_beginning_of_a_stream_is_an_ordinary_array(xs):
    norms = Norms()
    assert mx.array_equal(norms(residual_stream(xs[0])), rms_norm(xs[0]))
    assert norms.both == 0


def _change(x):
    x *= 3
    return x


# Each gets a residual stream and an array.
OTHER_SUMS = {
    "stream changed before": lambda x, r: _change(x) + r,
    "sum changed": lambda x, r: _change(x + r),
    "first operand of two changed": lambda x, r: _sum_of_changed(x, r),
    "shapes differ": lambda x, r: x + r[:1],
    "one row": lambda x, r: x + r[0, 0],
    "a number": lambda x, r: 1 + x,
    "times an array": lambda x, r: x * r,
    "negative": lambda x, r: -x + r,
    "difference": lambda x, r: x - r,
    "mx.add": mx.add,
    "cast": lambda x, r: (x + r).astype(mx.float16),
}


def _sum_of_changed(x, r):
    first = x + r
    total = first + r
    _change(first)
    return total


@pytest.mark.parametrize("form", OTHER_SUMS)
def test_other_sums_are_right(form, xs):
    x, r = xs[:2]
    norms = Norms()
    got = OTHER_SUMS[form](residual_stream(x), mx.array(r))
    want = OTHER_SUMS[form](mx.array(x), mx.array(r))
    assert got.dtype == want.dtype and mx.array_equal(got, want)
    assert mx.allclose(norms(got), rms_norm(want), rtol=1e-5, atol=1e-5)
    # What was changed before it was added is an operand like any other.
    assert norms.both == (form in ("stream changed before", "first operand of two changed"))


def test_integers_are_not_fused():
    norms = Norms()
    total = residual_stream(mx.arange(8)) + mx.arange(8)
    assert total.fuse(norms.add_rms_norm, None, 1e-5) is None
    assert mx.array_equal(total.value, 2 * mx.arange(8))


@pytest.mark.parametrize("which", [0, 1])
def test_operand_changed_in_place_before_the_norm(xs, which):
    x, r = mx.array(xs[0]), mx.array(xs[1])
    norms = Norms()
    total = residual_stream(x) + r
    (x, r)[which].__iadd__(100)
    assert mx.allclose(norms(total), rms_norm(xs[0] + xs[1]), rtol=1e-6, atol=1e-6)


def test_sum_changed_after_the_norm(xs):
    x, r1, r2, _ = xs
    norms = Norms()
    total = residual_stream(x) + r1
    norms(total)
    total += 1
    assert mx.allclose(total + r2, x + r1 + 1 + r2, rtol=1e-6, atol=1e-6)
    assert mx.allclose(norms(total), rms_norm(x + r1 + 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("use", UNARY)
@pytest.mark.parametrize("kind", ["stream", "sum", "fused sum"])
def test_residual_types_do_not_leak(use, kind):
    y = mx.random.normal((2, 4, K, D))
    array = residual_stream(y)
    if kind != "stream":
        array = array + mx.zeros_like(y)
    if kind == "fused sum":
        Norms()(array)
    got = UNARY[use](array)
    assert mx.array_equal(got, UNARY[use](y))
    assert type(got) is (ResidualSum if use == "add" else mx.array)


def test_gradients_through_residual_sums(xs):
    x, r1, r2, _ = xs

    def loss(x, r1, r2, stream):
        norms = Norms()
        h = stream(x) + r1
        return (norms(h + norms(h) * r2) ** 3).sum()

    want = mx.grad(loss, argnums=(0, 1, 2))(x, r1, r2, mx.array)
    got = mx.grad(loss, argnums=(0, 1, 2))(x, r1, r2, residual_stream)
    for a, b in zip(got, want, strict=True):
        assert mx.allclose(a, b, rtol=1e-4, atol=1e-5)
