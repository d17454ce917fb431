"""The calls over which our kernels are compared with MLX's."""

import os
import zlib
from dataclasses import dataclass

import numpy as np
from arrays import METAL_TYPES, QUANTIZATIONS, Quantization, random_experts, rounded
from fused import kernel_of
from stock.sequence import fast_alignment

FULL = os.environ.get("ZMLX_METAL_SWEEP") == "full"


@dataclass(frozen=True)
class Case:
    """One call. The product's sizes `inner` and `outer` are (D, H) of swiglu, (H, D) of combine."""

    op: str
    quantization: Quantization
    type: str
    inner: int
    outer: int
    tokens: int
    top_k: int
    experts: int
    bias: bool
    rows: bool  # swiglu: rows of x are chosen by indices
    activation: str
    weights_type: str
    exact: bool = True  # numerics
    offset: int = 0  # elements by which x and the weights lie off their alignment

    def __str__(self):
        flags = dict(bias=self.bias, rows=self.rows, offset=self.offset)
        more = [name for name, on in flags.items() if on]
        if self.op == "swiglu":
            more.append(self.activation)
        else:
            more.append(f"weights-{self.weights_type}")
        shape = f"{self.inner}x{self.outer}-M{self.tokens}-K{self.top_k}-E{self.experts}"
        return "-".join([self.op, str(self.quantization), self.type, shape, *more])

    def kernel(self):
        """What the library launches."""
        q = self.quantization
        settings = dict(type=self.type, mode=q.mode, bits=q.bits, group=q.group, E=self.experts)
        settings |= dict(N=self.outer, K=self.inner, tokens=self.tokens, top_k=self.top_k)
        settings |= dict(offset=self.offset, exact=self.exact)
        if self.op == "swiglu":
            rows = self.tokens if self.rows else "token"
            settings |= dict(rows=rows, activation=self.activation)
            settings |= dict(gate_bias=self.bias, up_bias=self.bias)
        else:
            settings |= dict(weight=self.weights_type, bias=self.bias)
        return kernel_of(self.op, **settings)

    def inputs(self):
        """Arrays by name."""
        rng = np.random.default_rng(zlib.crc32(str(self).encode()))
        pairs = (self.tokens, self.top_k)

        def stack():
            shape = (self.experts, self.outer, self.inner)
            return random_experts(rng, self.quantization, self.type, *shape, bias=self.bias)

        values = dict(indices=rng.integers(0, self.experts, pairs, np.uint32))
        if self.op == "swiglu":
            x = rng.standard_normal((self.tokens, self.inner)) * self.inner**-0.5
            rows = np.repeat(np.arange(self.tokens, dtype=np.uint32)[:, None], self.top_k, 1)
            if self.rows:
                rows = rng.integers(0, self.tokens, pairs, np.uint32)
            values |= dict(gate=stack(), up=stack(), rows=np.ascontiguousarray(rows))
        else:
            x = rng.standard_normal((*pairs, self.inner)) * self.inner**-0.5
            weights = rounded(rng.uniform(0, 1, pairs), self.weights_type)
            values |= dict(down=stack(), weights=weights)
        return values | dict(x=rounded(x, self.type))


def _shapes(q, rng):
    """(inner, outer): one for MLX's fast kernel, one for the general one."""
    align = fast_alignment(q.bits)
    # Odd numbers of groups, whole words of codes.
    step = int(np.lcm(q.group, 32))
    inner = [k for k in range(step, 700, step) if k % align]
    outer = [1, 3, 5, 7, 9, 15, 22, 37]
    yield max(align, step) * int(rng.integers(1, 3)), 8 * int(rng.integers(1, 4))
    yield int(rng.choice(inner)), int(rng.choice(outer))


def sweep(quantizations=QUANTIZATIONS, types=tuple(METAL_TYPES), full=FULL):
    """Every quantization and type in both kernels' shapes, the rest drawn at random."""
    cases = []
    for q in quantizations:
        for type_ in types:
            for repeat in range(12 if full else 2):
                rng = np.random.default_rng(zlib.crc32(f"{q} {type_} {repeat}".encode()))
                for op in ("swiglu", "combine"):
                    for inner, outer in _shapes(q, rng):
                        cases.append(_case(op, q, type_, inner, outer, rng))
    return cases


def _case(op, q, type_, inner, outer, rng):
    tokens = int(rng.choice([1, 2, 3, 4, 7, 8, 13, 16, 21, 32]))
    top_k = int(rng.integers(1, 11))
    experts = int(rng.integers(2, 9))
    pairs = tokens * top_k
    if pairs >= 64:  # else mlx-lm's sorted experts may come to MLX's kernel for them
        experts = max(experts, pairs // 4 + 1)
    if op == "combine":
        outer = max(outer, 2)
    return Case(
        op,
        q,
        type_,
        inner,
        outer,
        tokens,
        top_k,
        experts,
        bias=bool(rng.random() < 0.3),
        rows=op == "swiglu" and bool(rng.random() < 0.3),
        activation=str(rng.choice(["swiglu", "swiglu_clamped", "geglu"])),
        weights_type="float32" if rng.random() < 0.4 else type_,
        offset=int(rng.random() < 0.25),
    )
