# Copyright © 2026 Apple Inc.

import math
import unittest

import mlx.core as mx
import mlx_tests

MODES = [
    ("affine", 64, 4),
    ("affine", 32, 8),
    ("affine", 128, 2),
    ("affine", 64, 3),
    ("affine", 32, 5),
    ("affine", 64, 6),
    ("mxfp4", 32, 4),
    ("mxfp8", 32, 8),
    ("nvfp4", 16, 4),
]
EPS = {mx.float32: 2**-23, mx.float16: 2**-10, mx.bfloat16: 2**-7}


def sigmoid(x):
    return 1 / (1 + mx.exp(-x))


def activate(g, u, activation, alpha, limit):
    if activation == "swiglu":
        return g * sigmoid(g) * u
    if activation == "geglu":
        inner = math.sqrt(2 / math.pi) * (g + 0.044715 * g * g * g)
        return 0.5 * g * (1 + mx.tanh(inner)) * u
    g = mx.minimum(g, limit)
    u = mx.clip(u, -limit, limit)
    return (u + 1) * g * sigmoid(alpha * g)


class Layer:
    def __init__(self, mode, group_size, bits, dtype, E=4, H=48, D=256, bias=False):
        self.kwargs = dict(mode=mode, group_size=group_size, bits=bits)
        self.weights, self.dense, self.bias = [], [], []
        for _ in range(2):
            w = (mx.random.normal((E, H, D)) / math.sqrt(D)).astype(dtype)
            q = mx.quantize(w, **self.kwargs)
            q = list(q) + [None] * (3 - len(q))
            self.weights += q
            # dequantize rounds to the type of w
            exact = [
                a if a.dtype == mx.uint8 else a.astype(mx.float32)
                for a in q[1:]
                if a is not None
            ]
            self.dense.append(
                mx.dequantize(q[0], *exact, **self.kwargs, dtype=mx.float32)
            )
            self.bias.append(mx.random.normal((E, H)).astype(dtype) if bias else None)
        mx.eval(self.weights, self.dense, self.bias)

    def fused(self, x, indices, **kwargs):
        gate_bias, up_bias = self.bias
        return mx.fast.gather_qmm_swiglu(
            x,
            *self.weights,
            rhs_indices=indices,
            gate_bias=gate_bias,
            up_bias=up_bias,
            **self.kwargs,
            **kwargs,
        )

    def composed(self, x, indices, activation="swiglu", alpha=1.702, limit=7.0):
        # Of dense float32 matrices: the product that is right whatever the type.
        x = x.astype(mx.float32)
        products = []
        for w, bias in zip(self.dense, self.bias):
            y = x @ w[indices].swapaxes(-1, -2)
            if bias is not None:
                y = y + bias.astype(mx.float32)[indices][..., None, :]
            products.append(y)
        return activate(*products, activation, alpha, limit)


class TestGatherQMMSwiglu(mlx_tests.MLXTestCase):
    def setUp(self):
        super().setUp()
        mx.random.seed(0)

    def assertNear(self, y, expected, dtype):
        self.assertEqual(y.dtype, dtype)
        self.assertEqual(y.shape, expected.shape)
        # A rounding of each operation of a GPU's sequence, and sums of its type.
        tolerance = 64 * EPS[dtype] * mx.abs(expected).max().item()
        error = mx.abs(y.astype(mx.float32) - expected).max().item()
        self.assertLessEqual(error, tolerance)

    def test_modes_and_types(self):
        for mode, group_size, bits in MODES:
            for dtype in EPS:
                for M in (1, 3, 7):
                    with self.subTest(mode=mode, bits=bits, dtype=dtype, M=M):
                        layer = Layer(mode, group_size, bits, dtype)
                        x = mx.random.normal((1, M, 1, 1, 256)).astype(dtype)
                        indices = mx.random.randint(0, 4, (1, M, 2)).astype(mx.uint32)
                        y = layer.fused(x, indices)
                        self.assertNear(y, layer.composed(x, indices), dtype)

    def test_one_expert_for_all(self):
        for mode, group_size, bits in MODES:
            for M in (4, 5, 70):
                with self.subTest(mode=mode, bits=bits, M=M):
                    layer = Layer(mode, group_size, bits, mx.float32, E=1)
                    x = mx.random.normal((M, 1, 256))
                    indices = mx.zeros((M,), mx.uint32)
                    y = layer.fused(x, indices)
                    self.assertNear(y, layer.composed(x, indices), mx.float32)

    def test_sizes(self):
        for D, H in [(32, 8), (96, 20), (1024, 16), (2080, 9), (4096, 4)]:
            for bits in (2, 4, 8):
                with self.subTest(D=D, H=H, bits=bits):
                    layer = Layer("affine", 32, bits, mx.float32, H=H, D=D)
                    x = mx.random.normal((2, 1, 1, D))
                    indices = mx.array([[0, 3], [3, 1]], mx.uint32)
                    y = layer.fused(x, indices)
                    self.assertNear(y, layer.composed(x, indices), mx.float32)

    def test_activations_and_bias(self):
        for activation in ("swiglu", "geglu", "swiglu_clamped"):
            for bias in (False, True):
                with self.subTest(activation=activation, bias=bias):
                    layer = Layer("affine", 64, 4, mx.float32, bias=bias)
                    x = 4 * mx.random.normal((3, 1, 1, 256))
                    indices = mx.array([[0, 1], [2, 3], [1, 1]], mx.uint32)
                    args = dict(activation=activation, alpha=1.5, limit=2.0)
                    y = layer.fused(x, indices, **args)
                    self.assertNear(y, layer.composed(x, indices, **args), mx.float32)

    def test_large_activations(self):
        layer = Layer("affine", 64, 4, mx.float32)
        indices = mx.array([[0, 1]], mx.uint32)
        for scale in (100.0, 1e4):
            x = scale * mx.random.normal((1, 1, 1, 256))
            self.assertNear(
                layer.fused(x, indices), layer.composed(x, indices), mx.float32
            )
        x = mx.full((1, 1, 1, 256), mx.inf)
        self.assertFalse(mx.isfinite(layer.fused(x, indices)).any().item())

    def test_lhs_indices(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x = mx.random.normal((5, 1, 256))
        lhs = mx.array([[4, 0], [2, 2]], mx.uint32)
        rhs = mx.array([[0, 1], [3, 0]], mx.uint32)
        y = layer.fused(x, rhs, lhs_indices=lhs)
        self.assertNear(y, layer.composed(x[lhs], rhs), mx.float32)

    def test_default_indices(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x = mx.random.normal((4, 1, 256))
        y = layer.fused(x, None)
        self.assertNear(y, layer.composed(x, mx.arange(4)), mx.float32)

    def test_expert_out_of_range(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x = mx.random.normal((2, 1, 1, 256))
        y = layer.fused(x, mx.array([[0, 4], [1000, 1]], mx.uint32))
        nan = mx.isnan(y).all(axis=(-1, -2))
        self.assertEqual(nan.tolist(), [[False, True], [True, False]])
        self.assertEqual(mx.isnan(y).any(axis=(-1, -2)).tolist(), nan.tolist())

    def test_strided(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x = mx.random.normal((3, 1, 256, 2))[..., 0][:, :, None]
        indices = mx.array([[0, 9, 1], [2, 9, 3], [1, 9, 0]], mx.uint32)[:, ::2]
        y = layer.fused(x, indices)
        self.assertNear(y, layer.composed(x, indices), mx.float32)

    def test_more_rows_than_kernels_take(self):
        layer = Layer("affine", 64, 4, mx.float16)
        x = mx.random.normal((70, 1, 1, 256)).astype(mx.float16)
        indices = mx.random.randint(0, 4, (70, 2)).astype(mx.uint32)
        y = layer.fused(x, indices)
        self.assertNear(y, layer.composed(x, indices), mx.float16)

    def test_gradients(self):
        layer = Layer("affine", 64, 4, mx.float32, bias=True)
        x = mx.random.normal((3, 1, 1, 256))
        indices = mx.array([[0, 1], [2, 3], [1, 1]], mx.uint32)
        cotangent = mx.random.normal((3, 2, 1, 48))
        for activation in ("swiglu", "geglu", "swiglu_clamped"):

            def fused(x):
                return (
                    layer.fused(x, indices, activation=activation) * cotangent
                ).sum()

            def composed(x):
                return (layer.composed(x, indices, activation) * cotangent).sum()

            y, expected = mx.grad(fused)(x), mx.grad(composed)(x)
            self.assertTrue(mx.allclose(y, expected, rtol=1e-4, atol=1e-4))

        def of_scales(scales):
            w, _, *rest = layer.weights
            y = mx.fast.gather_qmm_swiglu(x, w, scales, *rest, rhs_indices=indices)
            return (y * cotangent).sum()

        grad = mx.grad(of_scales)(layer.weights[1])
        self.assertEqual(grad.shape, layer.weights[1].shape)
        self.assertGreater(mx.abs(grad).max().item(), 0)

    def test_jvp_raises(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x = mx.random.normal((4, 1, 256))
        with self.assertRaises(ValueError):
            mx.jvp(lambda x: layer.fused(x, None), [x], [x])

    def test_vmap(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x = mx.random.normal((3, 2, 1, 1, 256))
        indices = mx.random.randint(0, 4, (3, 2, 2)).astype(mx.uint32)
        expected = mx.stack([layer.fused(a, i) for a, i in zip(x, indices)])
        y = mx.vmap(layer.fused)(x, indices)
        self.assertTrue(mx.allclose(y, expected, rtol=1e-5, atol=1e-6))
        shared = mx.vmap(layer.fused, in_axes=(None, 0))(x[0], indices)
        expected = mx.stack([layer.fused(x[0], i) for i in indices])
        self.assertTrue(mx.allclose(shared, expected, rtol=1e-5, atol=1e-6))

    def test_compile(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x = mx.random.normal((2, 1, 1, 256))
        indices = mx.array([[0, 1], [2, 3]], mx.uint32)
        y = mx.compile(lambda x, i: layer.fused(x, i) + 1)(x, indices)
        self.assertTrue(mx.array_equal(y, layer.fused(x, indices) + 1))

    def test_errors(self):
        layer = Layer("affine", 64, 4, mx.float32)
        w, scales, biases, *up = layer.weights
        x = mx.random.normal((4, 1, 256))

        def call(*args, **kwargs):
            return mx.fast.gather_qmm_swiglu(*args, **kwargs)

        for args, kwargs in [
            ((x[0, 0], w, scales, biases, *up), {}),
            ((x[..., :128], w, scales, biases, *up), {}),
            ((x, w, scales[..., :1], biases, *up), {}),
            ((x, w, scales, None, *up), {}),
            ((x, w[:, :8], scales[:, :8], biases[:, :8], *up), {}),
            ((x, w, scales, biases, *up), dict(activation="relu")),
            ((x, w, scales, biases, *up), dict(mode="affine", bits=7)),
            ((x, w, scales, biases, *up), dict(rhs_indices=mx.zeros((4,)))),
        ]:
            with self.assertRaisesRegex(ValueError, r"\[gather_qmm_swiglu\]"):
                call(*args, **kwargs)


if __name__ == "__main__":
    mlx_tests.MLXTestRunner()
