# Copyright © 2026 Apple Inc.

# From router logits to experts and weights: one kernel against the sequence of
# ops that mlx-lm's models have.

import argparse

import mlx.core as mx
from time_utils import measure_runtime


def unfused(logits, k):
    scores = mx.softmax(logits, axis=-1, precise=True)
    indices = mx.argpartition(scores, kth=-k, axis=-1)[..., -k:]
    weights = mx.take_along_axis(scores, indices, axis=-1)
    return indices, weights / weights.sum(axis=-1, keepdims=True)


def fused(logits, k):
    return mx.fast.moe_route(
        logits, k, score="softmax", renormalize=True, order="ascending"
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    if args.cpu:
        mx.set_default_device(mx.cpu)

    E, K, dtype = args.experts, args.top_k, getattr(mx, args.dtype)
    print(f"E={E} K={K} {args.dtype}")
    print(f"{'M':>4} {'unfused ms':>11} {'fused ms':>11} {'ratio':>6}")
    for M in (1, 4, 16, 64):
        logits = mx.random.normal((1, M, E)).astype(dtype)
        mx.eval(logits)

        def run(f):
            mx.eval(f(logits, K))

        times = [measure_runtime(run, f=f) for f in (unfused, fused)]
        print(f"{M:4} {times[0]:11.4f} {times[1]:11.4f} {times[0] / times[1]:6.2f}")


if __name__ == "__main__":
    main()
