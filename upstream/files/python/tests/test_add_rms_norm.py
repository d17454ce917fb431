# Copyright © 2026 Apple Inc.

import unittest

import mlx.core as mx
import mlx_tests

EPS = {mx.float32: 2**-23, mx.float16: 2**-10, mx.bfloat16: 2**-7}
# Of 16 bits, the composition rounds the normalised value before it is weighted.
# In float32, it sums squares in another order.
TOLERANCE = {t: (16 if t == mx.float32 else 2) * eps for t, eps in EPS.items()}


def composed(x, residual, weight, eps):
    total = x + residual
    return mx.fast.rms_norm(total, weight, eps), total


class TestAddRMSNorm(mlx_tests.MLXTestCase):
    def setUp(self):
        super().setUp()
        mx.random.seed(0)

    def check(self, x, residual, weight, eps=1e-5):
        normed, total = mx.fast.add_rms_norm(x, residual, weight, eps)
        expected, expected_total = composed(x, residual, weight, eps)
        self.assertEqual(total.dtype, expected_total.dtype)
        self.assertEqual(normed.dtype, expected.dtype)
        self.assertTrue(mx.array_equal(total, expected_total))
        tolerance = max(TOLERANCE[normed.dtype], TOLERANCE[total.dtype])
        self.assertTrue(
            mx.allclose(
                normed.astype(mx.float32),
                expected.astype(mx.float32),
                rtol=tolerance,
                atol=tolerance / 16,
            )
        )

    def test_types_and_widths(self):
        for dtype in EPS:
            for D in (1, 5, 31, 32, 33, 256, 512, 1000, 2048, 4096, 4097, 9000):
                for rows in ((3,), (2, 3)):
                    with self.subTest(dtype=dtype, D=D, rows=rows):
                        x = mx.random.normal((*rows, D)).astype(dtype)
                        residual = mx.random.normal((*rows, D)).astype(dtype)
                        weight = mx.random.normal((D,)).astype(dtype)
                        self.check(x, residual, weight)
                        self.check(x, residual, None, 1e-3)

    def test_mixed_types(self):
        x = mx.random.normal((3, 64))
        residual, weight = mx.random.normal((3, 64)), mx.random.normal((64,))
        for a in EPS:
            for b in EPS:
                self.check(x.astype(a), residual.astype(a), weight.astype(b))
                self.check(x.astype(a), residual.astype(b), weight.astype(a))

    def test_long_prompt(self):
        x, residual = mx.random.normal((2, 1, 300, 2048))
        self.check(x, residual, mx.random.normal((2048,)))

    def test_strided(self):
        x = mx.random.normal((64, 3)).T
        residual = mx.random.normal((3, 64, 2))[..., 0]
        self.check(x, residual, mx.random.normal((128,))[::2])

    def test_empty(self):
        normed, total = mx.fast.add_rms_norm(
            mx.zeros((0, 8)), mx.zeros((0, 8)), mx.ones((8,)), 1e-5
        )
        self.assertEqual(normed.shape, (0, 8))
        self.assertEqual(total.shape, (0, 8))

    def test_gradients(self):
        x, residual = mx.random.normal((3, 64)), mx.random.normal((3, 64))
        weight = mx.random.normal((64,))
        a, b = mx.random.normal((3, 64)), mx.random.normal((3, 64))

        def of(f):
            def loss(*args):
                normed, total = f(*args, 1e-5)
                return (normed * a).sum() + (total * b).sum()

            return mx.grad(loss, argnums=(0, 1, 2))(x, residual, weight)

        for y, expected in zip(of(mx.fast.add_rms_norm), of(composed)):
            self.assertTrue(mx.allclose(y, expected, rtol=1e-4, atol=1e-4))

    def test_jvp(self):
        x, residual = mx.random.normal((3, 64)), mx.random.normal((3, 64))
        tangents = [mx.random.normal((3, 64)), mx.random.normal((3, 64))]
        weight = mx.random.normal((64,))
        _, y = mx.jvp(
            lambda x, r: mx.fast.add_rms_norm(x, r, weight, 1e-5),
            [x, residual],
            tangents,
        )
        _, expected = mx.jvp(
            lambda x, r: composed(x, r, weight, 1e-5), [x, residual], tangents
        )
        for a, b in zip(y, expected):
            self.assertTrue(mx.allclose(a, b, rtol=1e-4, atol=1e-4))

    def test_vmap(self):
        x, residual = mx.random.normal((4, 3, 64)), mx.random.normal((4, 3, 64))
        weight = mx.random.normal((64,))
        weights = mx.random.normal((4, 64))

        def f(x, r, w):
            return mx.fast.add_rms_norm(x, r, w, 1e-5)

        for axes, args in [
            ((0, 0, None), (x, residual, weight)),
            ((0, None, None), (x, residual[0], weight)),
            ((0, 0, 0), (x, residual, weights)),
        ]:
            y = mx.vmap(f, in_axes=axes)(*args)
            rows = [
                f(*(a if axis is None else a[i] for a, axis in zip(args, axes)))
                for i in range(4)
            ]
            for k in range(2):
                expected = mx.stack([row[k] for row in rows])
                self.assertTrue(mx.allclose(y[k], expected, rtol=1e-5, atol=1e-6))

    def test_errors(self):
        x, weight = mx.zeros((3, 64)), mx.zeros((64,))
        for args in [
            (mx.array(0.0), mx.array(0.0), None),
            (x, x[:2], weight),
            (x, x, weight[:32]),
            (x.astype(mx.int32), x, weight),
            (x, x.astype(mx.int32), weight),
        ]:
            with self.assertRaisesRegex(ValueError, r"\[add_rms_norm\]"):
                mx.fast.add_rms_norm(*args, 1e-5)


if __name__ == "__main__":
    mlx_tests.MLXTestRunner()
