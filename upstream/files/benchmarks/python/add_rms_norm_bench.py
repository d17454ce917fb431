# Copyright © 2026 Apple Inc.

# Residual add and RMS norm: in one pass against one after the other.

import argparse

import mlx.core as mx
from time_utils import measure_runtime


def unfused(x, residual, weight):
    total = x + residual
    return mx.fast.rms_norm(total, weight, 1e-5), total


def fused(x, residual, weight):
    return mx.fast.add_rms_norm(x, residual, weight, 1e-5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    if args.cpu:
        mx.set_default_device(mx.cpu)

    D, dtype = args.width, getattr(mx, args.dtype)
    weight = mx.random.normal((D,)).astype(dtype)
    print(f"D={D} {args.dtype}")
    print(f"{'M':>4} {'unfused ms':>11} {'fused ms':>11} {'ratio':>6}")
    for M in (1, 4, 16, 64, 1024):
        x, residual = mx.random.normal((2, 1, M, D)).astype(dtype)
        mx.eval(x, residual, weight)

        # Twenty in a row, as a model has them.
        def run(f):
            y, total = x, residual
            for _ in range(20):
                y, total = f(y, total, weight)
            mx.eval(y, total)

        times = [measure_runtime(run, f=f) / 20 for f in (unfused, fused)]
        print(f"{M:4} {times[0]:11.4f} {times[1]:11.4f} {times[0] / times[1]:6.2f}")


if __name__ == "__main__":
    main()
