"""One call by MLX's kernels and by ours."""

import numpy as np
from arrays import to_float


def stock_result(stock, case, values):
    """What stock mlx-lm computes."""
    type_ = case.type
    if case.op == "swiglu":
        gate = stock.product(values["x"], values["rows"], values["gate"], values["indices"])
        up = stock.product(values["x"], values["rows"], values["up"], values["indices"])
        return stock.swiglu(gate, up, type_, case.activation)
    x = values["x"].reshape(-1, case.inner)
    rows = np.arange(len(x), dtype=np.uint32).reshape(case.tokens, case.top_k)
    y = stock.product(x, rows, values["down"], values["indices"])
    return stock.weighted_sum(y, type_, values["weights"], case.weights_type)


def fused_result(kernels, case, values, variant):
    """What our kernel computes."""
    stacks = ("gate", "up") if case.op == "swiglu" else ("down",)
    arrays = [values["x"], *(a for name in stacks for a in values[name].arrays())]
    offsets = {i: a.itemsize * case.offset for i, a in enumerate(arrays)}
    arrays.append(values["indices"])
    if case.op == "swiglu":
        arrays += [values["rows"]] if case.rows else []
        output = ((case.tokens, case.top_k, case.outer), case.type)
    else:
        arrays.append(values["weights"])
        output = ((case.tokens, case.outer), case.weights_type)
    return kernels.run(case.kernel(), arrays, [output], variant, offsets)[0]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _activate(gate, up, activation):
    if activation == "swiglu":
        return gate * _sigmoid(gate) * up
    if activation == "geglu":
        inner = np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)
        return 0.5 * gate * (1 + np.tanh(inner)) * up
    gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
    return (up + 1) * gate * _sigmoid(1.702 * gate)


def _product(x, experts, indices):
    dense = experts.dense()[indices].astype(np.float64)
    y = np.einsum("mkd,mkhd->mkh", x.astype(np.float64), dense)
    if experts.bias is not None:
        y += to_float(experts.bias, experts.type)[indices]
    return y


def exact_result(case, values):
    """The same in float64, from what the codes stand for."""
    x = to_float(values["x"], case.type)
    if case.op == "swiglu":
        x = x[values["rows"]]
        gate, up = (_product(x, values[name], values["indices"]) for name in ("gate", "up"))
        return _activate(gate, up, case.activation)
    y = _product(x, values["down"], values["indices"])
    return np.einsum("mkh,mk->mh", y, to_float(values["weights"], case.weights_type))


def assert_same_bits(got, wanted, what):
    view = {2: np.uint16, 4: np.uint32}[wanted.itemsize]
    got, wanted = got.view(view), wanted.view(view)
    if not np.array_equal(got, wanted):
        where = np.argwhere(got != wanted)
        first = tuple(where[0])
        raise AssertionError(
            f"{what}: {len(where)} of {got.size} elements differ, first at {first}: "
            f"{got[first]:#x} instead of {wanted[first]:#x}"
        )
