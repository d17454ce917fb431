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


class Layer:
    def __init__(self, mode, group_size, bits, dtype, E=4, D=48, H=256, bias=False):
        self.kwargs = dict(mode=mode, group_size=group_size, bits=bits)
        w = (mx.random.normal((E, D, H)) / math.sqrt(H)).astype(dtype)
        w, scales, *biases = mx.quantize(w, **self.kwargs)
        self.weights = [w, scales, *(biases or [None])]
        exact = [
            a if a.dtype == mx.uint8 else a.astype(mx.float32)
            for a in (scales, *biases)
        ]
        self.dense = mx.dequantize(w, *exact, **self.kwargs, dtype=mx.float32)
        self.bias = mx.random.normal((E, D)).astype(dtype) if bias else None
        mx.eval(self.weights, self.dense)

    def fused(self, x, indices, weights):
        return mx.fast.gather_qmm_combine(
            x, *self.weights, indices, weights, bias=self.bias, **self.kwargs
        )

    def composed(self, x, indices, weights):
        # Of dense float32 matrices: the product that is right whatever the type.
        y = x.astype(mx.float32) @ self.dense[indices].swapaxes(-1, -2)
        if self.bias is not None:
            y = y + self.bias.astype(mx.float32)[indices][..., None, :]
        return (y.squeeze(-2) * weights.astype(mx.float32)[..., None]).sum(-2)


def case(M, K, H, dtype, E=4):
    x = mx.random.normal((1, M, K, 1, H)).astype(dtype)
    indices = mx.random.randint(0, E, (1, M, K)).astype(mx.uint32)
    weights = mx.random.uniform(shape=(1, M, K)).astype(dtype)
    mx.eval(x, indices, weights)
    return x, indices, weights


class TestGatherQMMCombine(mlx_tests.MLXTestCase):
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
                for M, K in ((1, 1), (1, 8), (3, 2), (7, 4)):
                    with self.subTest(mode=mode, bits=bits, dtype=dtype, M=M, K=K):
                        layer = Layer(mode, group_size, bits, dtype)
                        args = case(M, K, 256, dtype)
                        self.assertNear(
                            layer.fused(*args), layer.composed(*args), dtype
                        )

    def test_sizes_and_bias(self):
        for H, D in [(32, 8), (96, 20), (1024, 16), (2080, 9), (4096, 4)]:
            for bias in (False, True):
                with self.subTest(H=H, D=D, bias=bias):
                    layer = Layer("affine", 32, 4, mx.float32, D=D, H=H, bias=bias)
                    args = case(2, 3, H, mx.float32)
                    self.assertNear(
                        layer.fused(*args), layer.composed(*args), mx.float32
                    )

    def test_many_rows_of_one_expert(self):
        layer = Layer("affine", 64, 4, mx.float32, E=1)
        args = case(40, 2, 256, mx.float32, E=1)
        self.assertNear(layer.fused(*args), layer.composed(*args), mx.float32)

    def test_float32_weights_promote(self):
        layer = Layer("affine", 64, 4, mx.bfloat16)
        x, indices, weights = case(2, 4, 256, mx.bfloat16)
        y = layer.fused(x, indices, weights.astype(mx.float32))
        self.assertEqual(y.dtype, mx.float32)
        expected = layer.composed(x, indices, weights)
        self.assertLess(mx.abs(y - expected).max().item(), 0.1)

    def test_expert_out_of_range(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x, _, weights = case(3, 2, 256, mx.float32)
        indices = mx.array([[[0, 1], [4, 1], [2, 1000]]], mx.uint32)
        nan = mx.isnan(layer.fused(x, indices, weights))
        self.assertEqual(nan.all(-1).tolist(), [[False, True, True]])
        self.assertEqual(nan.any(-1).tolist(), [[False, True, True]])

    def test_strided(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x, indices, weights = case(4, 6, 256, mx.float32)
        args = x[:, :, ::2], indices[:, :, ::2], weights[:, :, ::2]
        self.assertNear(layer.fused(*args), layer.composed(*args), mx.float32)

    def test_gradients(self):
        layer = Layer("affine", 64, 4, mx.float32, bias=True)
        x, indices, weights = case(3, 2, 256, mx.float32)
        cotangent = mx.random.normal((1, 3, 48))

        def of(f):
            def loss(x, weights):
                return (f(x, indices, weights) * cotangent).sum()

            return mx.grad(loss, argnums=(0, 1))(x, weights)

        for y, expected in zip(of(layer.fused), of(layer.composed)):
            self.assertTrue(mx.allclose(y, expected, rtol=1e-4, atol=1e-4))

    def test_jvp_raises(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x, indices, weights = case(2, 2, 256, mx.float32)
        with self.assertRaises(ValueError):
            mx.jvp(lambda x: layer.fused(x, indices, weights), [x], [x])

    def test_vmap(self):
        layer = Layer("affine", 64, 4, mx.float32)
        cases = [case(2, 3, 256, mx.float32) for _ in range(3)]
        stacked = [mx.stack(arrays) for arrays in zip(*cases)]
        y = mx.vmap(layer.fused)(*stacked)
        expected = mx.stack([layer.fused(*args) for args in cases])
        self.assertTrue(mx.allclose(y, expected, rtol=1e-5, atol=1e-5))

    def test_errors(self):
        layer = Layer("affine", 64, 4, mx.float32)
        x, indices, weights = case(2, 3, 256, mx.float32)
        for args in [
            (x[..., :128], indices, weights),
            (x[:, :, :2], indices, weights),
            (x, indices[:, :1], weights),
            (x, indices, weights.astype(mx.int32)),
            (x, indices.astype(mx.float32), weights),
        ]:
            with self.assertRaisesRegex(ValueError, r"\[gather_qmm_combine\]"):
                layer.fused(*args)


if __name__ == "__main__":
    mlx_tests.MLXTestRunner()
