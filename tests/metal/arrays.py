"""Arrays of the models' types in NumPy, where bfloat16 is uint16, and quantized experts."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

METAL_TYPES = {"float32": "float", "float16": "half", "bfloat16": "bfloat"}
NUMPY_TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
NUMPY_TYPES |= {"uint32": np.uint32, "int32": np.int32}


def rounded(values, type_):
    """Float values as an array of a type."""
    values = np.asarray(values, np.float32)
    if type_ != "bfloat16":
        return np.ascontiguousarray(values.astype(NUMPY_TYPES[type_]))
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def to_float(array, type_):
    if type_ != "bfloat16":
        return array.astype(np.float32)
    return (array.astype(np.uint32) << 16).view(np.float32)


def unwritten(shape, type_):
    """An output before its kernel: all NaN."""
    array = np.empty(shape, NUMPY_TYPES[type_])
    array.view(np.uint8)[...] = 0xFF
    return array


@dataclass(frozen=True)
class Quantization:
    mode: str
    bits: int
    group: int

    @property
    def affine(self):
        return self.mode == "affine"

    def __str__(self):
        return f"affine{self.bits}-{self.group}" if self.affine else self.mode


AFFINE = [Quantization("affine", b, g) for b in (1, 2, 3, 4, 5, 6, 8) for g in (32, 64, 128)]
QUANTIZATIONS = [
    *AFFINE,
    Quantization("mxfp4", 4, 32),
    Quantization("mxfp8", 8, 32),
    Quantization("nvfp4", 4, 16),
]


@dataclass
class Experts:
    """A stack of quantized matrices (E, N, K) in a type, and a bias (E, N) or None."""

    quantization: Quantization
    type: str
    w: np.ndarray
    scales: np.ndarray
    biases: np.ndarray | None
    bias: np.ndarray | None

    @property
    def shape(self):
        experts, n, words = self.w.shape
        return experts, n, words * 32 // self.quantization.bits

    def arrays(self):
        return [a for a in (self.w, self.scales, self.biases, self.bias) if a is not None]

    def dense(self):
        """What the codes stand for, in float32."""
        q = self.quantization
        scales = mx.array(to_float(self.scales, self.type) if q.affine else self.scales)
        biases = mx.array(to_float(self.biases, self.type)) if q.affine else None
        how = dict(group_size=q.group, bits=q.bits, mode=q.mode, dtype=mx.float32)
        return np.array(mx.dequantize(mx.array(self.w), scales, biases, **how, stream=mx.cpu))


def random_experts(rng, quantization, type_, experts, n, k, bias=False):
    """Random codes, not quantized weights: every code and scale occurs."""
    q = quantization
    w = rng.integers(0, 2**32, (experts, n, k * q.bits // 32), np.uint32)
    groups = (experts, n, k // q.group)
    biases = None
    if q.affine:
        size = 2.0 ** (1 - q.bits)
        scales = rounded(rng.uniform(0.5, 1.5, groups) * size * rng.choice([-1, 1], groups), type_)
        biases = rounded(rng.uniform(-1, 1, groups), type_)
    elif q.mode == "nvfp4":
        scales = rng.integers(0x20, 0x40, groups, np.uint8)
    else:
        scales = rng.integers(121, 128, groups, np.uint8)
    if q.mode == "mxfp8":
        codes = w.view(np.uint8)
        codes[codes & 0x7F == 0x7F] = 0x11  # NaN
        scales -= 5
    added = rounded(rng.standard_normal((experts, n)), type_) if bias else None
    return Experts(q, type_, w, scales, biases, added)
