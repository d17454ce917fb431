"""Arrays that remember how they came about, so that a later operation can be fused with them.

A fused primitive often spans two Python functions: experts are multiplied in one module, their
outputs are weighted and summed in another. Here the first returns a subclass of `mx.array` that
holds the ordinary, unevaluated result and remembers its operands. The operation that completes the
pattern is overridden and uses the operands; the ordinary result is then never evaluated. Every
other operation sees a plain array and gives a plain array, inside `mx.compile` and `mx.grad` too,
because tracing runs the same Python code.

Objects that only imitate an array are no alternative: MLX's functions accept them inconsistently.
"""

import mlx.core as mx

FLOAT_TYPES = frozenset((mx.float32, mx.float16, mx.bfloat16))

# What changes an array in place. MLX rebinds the Python object to a new value, so that whatever an
# object remembers of its old value has to go.
_IN_PLACE = (
    "__iadd__",
    "__iand__",
    "__ifloordiv__",
    "__ilshift__",
    "__imatmul__",
    "__imod__",
    "__imul__",
    "__ior__",
    "__ipow__",
    "__irshift__",
    "__isub__",
    "__itruediv__",
    "__ixor__",
    "__setitem__",
    "__setstate__",
)


class SeamArray(mx.array):
    """An array with a memory (`_memo`; None means that it is an ordinary array by now)."""

    _memo = None
    _fused = None

    def __reduce_ex__(self, protocol):
        return mx.array, (mx.array(self),)


def _forgetting(name):
    stock = getattr(mx.array, name)

    def method(self, *args):
        self._memo = self._fused = None
        return stock(self, *args)

    method.__name__ = name
    return method


for _name in _IN_PLACE:
    if hasattr(mx.array, _name):
        setattr(SeamArray, _name, _forgetting(_name))


_array = mx.array
_mul = mx.array.__mul__
_rmul = mx.array.__rmul__
_add = mx.array.__add__
_radd = mx.array.__radd__
_sum = mx.array.sum
_astype = mx.array.astype
_squeeze = mx.squeeze
_expand_dims = mx.expand_dims


# --- Experts' outputs, weighted and summed -------------------------------------------------------


class ExpertOutputs(SeamArray):
    """Outputs of the selected experts, (..., K, D). Times weights (..., K, 1), with the weights on
    either side, they give `WeightedOutputs`.

    The memory is `(combine, shape, weight_type)`: `combine(weights)` is the fused weighted sum,
    `shape` the (..., K) that the weights must have, `weight_type` a type to cast them to first.
    """

    def __mul__(self, other):
        return self._weighted(_mul(self, other), other)

    def __rmul__(self, other):
        return self._weighted(_rmul(self, other), other)

    def _weighted(self, product, weights):
        memo = self._memo
        if memo is None or not isinstance(weights, _array):
            return product
        combine, shape, weight_type = memo
        if weights.shape != (*shape, 1):
            return product
        weights = _squeeze(weights, -1)
        if weight_type is not None:
            weights = _astype(weights, weight_type)
        product = WeightedOutputs(product)
        product._memo = (combine, weights)
        return product

    def astype(self, dtype, stream=None):
        result = _astype(self, dtype, stream=stream)
        memo = self._memo
        # Widening is exact, so weighting after it equals weighting with wide weights.
        if memo is not None and (dtype == self.dtype or dtype == mx.float32):
            weight_type = memo[2] if dtype == self.dtype else dtype
            result = ExpertOutputs(result)
            result._memo = (memo[0], memo[1], weight_type)
        return result


class WeightedOutputs(SeamArray):
    """Weighted outputs of experts, (..., K, D); their sum over K is one fused call."""

    def sum(self, axis=None, keepdims=False, *, stream=None):
        memo = self._memo
        if memo is None or stream is not None or not _is_axis(axis, self.ndim - 2, self.ndim):
            return _sum(self, axis, keepdims, stream=stream)
        combine, weights = memo
        if weights.dtype not in FLOAT_TYPES:
            return _sum(self, axis, keepdims)
        result = combine(weights)
        return _expand_dims(result, -2) if keepdims else result

    def astype(self, dtype, stream=None):
        result = _astype(self, dtype, stream=stream)
        memo = self._memo
        if memo is not None and dtype == self.dtype:
            result = WeightedOutputs(result)
            result._memo = memo
        return result


def _is_axis(axis, wanted, ndim):
    if isinstance(axis, (list, tuple)):
        if len(axis) != 1:
            return False
        axis = axis[0]
    return isinstance(axis, int) and (axis == wanted or axis == wanted - ndim)


# --- Residual sums, normalised -------------------------------------------------------------------


class ResidualSum(SeamArray):
    """The residual stream of decoder layers: a sum that an RMS norm can compute along with its own
    result. Adding an array to it gives another one.

    The memory is the two operands until a norm calls `fuse`. From then on `_fused` is the sum that
    came with the norm; sums and norms read that, so that nothing evaluates the ordinary one.
    """

    def __add__(self, other):
        return _residual_sum(self, other, _add)

    def __radd__(self, other):
        return _residual_sum(self, other, _radd)

    def fuse(self, add_rms_norm, weight, eps):
        """The RMS norm of this sum, or None if there is nothing to fuse; then `value` is what to
        normalise."""
        memo = self._memo
        if memo is None:
            return None
        a, b = memo
        if a.shape != b.shape or self.dtype not in FLOAT_TYPES:
            return None
        normed, self._fused = add_rms_norm(a, b, weight, eps)
        self._memo = None  # the operands can go
        return normed

    def consume(self, build):
        """`result` of `(result, sum) = build(a, b)` for the operands; None if there is nothing to
        build, or if `build` returns None."""
        memo = self._memo
        if memo is None:
            return None
        a, b = memo
        pair = build(a, b)
        if pair is None:
            return None
        result, self._fused = pair
        self._memo = None
        return result

    @property
    def value(self):
        return self if self._fused is None else self._fused


def residual_stream(x):
    """A plain array as the beginning of a residual stream."""
    stream = ResidualSum(x)
    stream._fused = _array(x)
    return stream


def pending_sum(a, b):
    """a + b as a `ResidualSum`, of arrays that nobody else holds."""
    total = ResidualSum(_add(a, b))
    total._memo = (a, b)
    return total


def _residual_sum(own, other, add):
    """`add(own, other)`, where `own` is a `ResidualSum`.

    Operands are remembered by copies of their handles: the originals may be changed in place before
    the sum is fused, and would keep what they remember themselves alive.
    """
    a = _array(own) if own._fused is None else own._fused
    if type(other) is ResidualSum and other._fused is not None:
        b = other._fused
    elif isinstance(other, _array):
        b = _array(other)
    else:
        return add(a, other)
    total = ResidualSum(add(a, b))
    total._memo = (a, b)
    return total
