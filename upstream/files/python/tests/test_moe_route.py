# Copyright © 2026 Apple Inc.

import unittest

import mlx.core as mx
import mlx_tests
import numpy as np

TOLERANCE = {mx.float32: 1e-5, mx.float16: 4e-3, mx.bfloat16: 3e-2}


def reference(logits, k, score, select_bias=None, n_group=1, topk_group=1, **kwargs):
    """In float64, sorted by expert."""
    x = np.array(logits.astype(mx.float32), np.float64)
    bias = None if select_bias is None else np.array(select_bias.astype(mx.float32))

    def softmax(x):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    scores = {
        "softmax": softmax,
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "topk_softmax": lambda x: x,
    }[score](x)
    selection = scores if bias is None else scores + bias
    if topk_group < n_group:
        groups = selection.reshape(*x.shape[:-1], n_group, -1)
        best = np.sort(groups, -1)[..., -2:].sum(-1)
        worst = np.argsort(best, -1)[..., : n_group - topk_group]
        np.put_along_axis(groups, worst[..., None], kwargs.get("group_fill", 0.0), -2)
        selection = groups.reshape(x.shape)
    indices = np.sort(np.argsort(-selection, -1)[..., :k], -1)
    weights = np.take_along_axis(scores, indices, -1)
    if score == "topk_softmax":
        weights = softmax(weights)
    if kwargs.get("renormalize"):
        weights = weights / (weights.sum(-1, keepdims=True) + kwargs.get("eps", 0.0))
    return indices, weights * kwargs.get("scale", 1.0)


class TestMoERoute(mlx_tests.MLXTestCase):
    def setUp(self):
        super().setUp()
        mx.random.seed(0)

    def logits(self, rows, E, dtype=mx.float32):
        # Distinct in every type, so that the selection does not depend on rounding.
        order = mx.argsort(mx.random.normal((rows, E)), axis=-1)
        return ((order.astype(mx.float32) - E) / 16).astype(dtype)

    def check(self, logits, k, score, **kwargs):
        indices, weights = mx.fast.moe_route(logits, k, score=score, **kwargs)
        kwargs.pop("order", None)
        self.assertEqual(indices.dtype, mx.uint32)
        self.assertEqual(indices.shape, (*logits.shape[:-1], k))
        order = mx.argsort(indices, -1)
        found = np.array(mx.take_along_axis(indices, order, -1))
        expected, expected_weights = reference(logits, k, score, **kwargs)
        self.assertTrue(np.array_equal(found, expected))
        y = mx.take_along_axis(weights, order, -1).astype(mx.float32)
        tolerance = TOLERANCE[logits.dtype]
        self.assertTrue(np.allclose(y, expected_weights, rtol=tolerance, atol=1e-6))

    def test_scores_and_types(self):
        for dtype in TOLERANCE:
            for score in ("softmax", "sigmoid", "topk_softmax"):
                for order in ("descending", "ascending"):
                    for rows, E, k in ((1, 8, 2), (5, 64, 6), (40, 128, 8)):
                        logits = self.logits(rows, E, dtype)
                        with self.subTest(dtype=dtype, score=score, order=order, E=E):
                            self.check(logits, k, score, order=order)

    def test_select_bias(self):
        bias = mx.random.normal((64,))
        for order in ("descending", "ascending"):
            kwargs = dict(select_bias=bias, order=order, renormalize=True, scale=2.5)
            self.check(self.logits(4, 64), 6, "sigmoid", **kwargs)

    def test_groups(self):
        for fill in (0.0, -float("inf")):
            kwargs = dict(n_group=8, topk_group=3, group_fill=fill)
            self.check(self.logits(4, 64), 6, "sigmoid", **kwargs)

    def test_eps(self):
        self.check(self.logits(4, 64), 6, "sigmoid", renormalize=True, eps=0.25)

    def test_one_axis_and_all_experts(self):
        self.check(self.logits(1, 16)[0], 4, "softmax", renormalize=True)
        self.check(self.logits(3, 8), 8, "softmax")

    def test_types_of_scores_and_weights(self):
        logits = self.logits(2, 32, mx.bfloat16)
        _, weights = mx.fast.moe_route(
            logits, 4, score="softmax", score_dtype=mx.float32
        )
        self.assertEqual(weights.dtype, mx.float32)
        _, weights = mx.fast.moe_route(
            logits,
            4,
            score="softmax",
            score_dtype=mx.float32,
            weights_dtype=mx.bfloat16,
        )
        self.assertEqual(weights.dtype, mx.bfloat16)

    def test_empty(self):
        indices, weights = mx.fast.moe_route(mx.zeros((0, 16)), 4, score="softmax")
        self.assertEqual(indices.shape, (0, 4))
        self.assertEqual(weights.shape, (0, 4))

    def test_gradient(self):
        logits = self.logits(3, 32)
        cotangent = mx.random.normal((3, 32))

        def fused(x):
            i, w = mx.fast.moe_route(x, 4, score="softmax", renormalize=True)
            return (w * mx.take_along_axis(cotangent, i, -1)).sum()

        def composed(x):
            p = mx.softmax(x, -1)
            i = mx.stop_gradient(mx.argpartition(-p, 3, -1)[..., :4])
            w = mx.take_along_axis(p, i, -1)
            w = w / w.sum(-1, keepdims=True)
            return (w * mx.take_along_axis(cotangent, i, -1)).sum()

        y, expected = mx.grad(fused)(logits), mx.grad(composed)(logits)
        self.assertTrue(mx.allclose(y, expected, rtol=1e-4, atol=1e-6))

    def test_vmap(self):
        logits = mx.stack([self.logits(2, 32) for _ in range(3)])
        bias = mx.random.normal((3, 32))

        def f(x, b):
            i, w = mx.fast.moe_route(x, 4, score="sigmoid", select_bias=b)
            order = mx.argsort(i, -1)
            return mx.take_along_axis(i, order, -1), mx.take_along_axis(w, order, -1)

        for axes in ((0, None), (0, 0), (None, 0)):
            args = [
                a if axis is not None else a[0] for a, axis in zip((logits, bias), axes)
            ]
            y = mx.vmap(f, in_axes=axes)(*args)
            rows = [
                f(*(a if axis is None else a[n] for a, axis in zip(args, axes)))
                for n in range(3)
            ]
            self.assertTrue(mx.array_equal(y[0], mx.stack([row[0] for row in rows])))
            self.assertTrue(mx.allclose(y[1], mx.stack([row[1] for row in rows])))

    def test_errors(self):
        x = mx.zeros((2, 16))
        for args, kwargs in [
            ((mx.array(0.0), 1), dict(score="softmax")),
            ((x, 17), dict(score="softmax")),
            ((x, 0), dict(score="softmax")),
            ((x, 2), dict(score="relu")),
            ((x, 2), dict(score="softmax", order="none")),
            ((x, 2), dict(score="softmax", n_group=3)),
            ((x, 2), dict(score="softmax", n_group=4, topk_group=5)),
            ((x, 2), dict(score="sigmoid", select_bias=mx.zeros((8,)))),
            ((x, 2), dict(score="softmax", eps=-1.0)),
            ((x.astype(mx.int32), 2), dict(score="softmax")),
        ]:
            with self.assertRaisesRegex(ValueError, r"\[moe_route\]"):
                mx.fast.moe_route(*args, **kwargs)


if __name__ == "__main__":
    mlx_tests.MLXTestRunner()
