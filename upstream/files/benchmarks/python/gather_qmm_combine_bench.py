# Copyright © 2026 Apple Inc.

# Down projection and weighted sum of one mixture-of-experts layer: fused
# against gather_qmm, a product and a sum, as mlx-lm runs them.

import argparse

import mlx.core as mx
from time_utils import measure_runtime


def unfused(x, down, indices, weights, **kwargs):
    y = mx.gather_qmm(x, *down, rhs_indices=indices, **kwargs).squeeze(-2)
    return (y * weights[..., None]).sum(-2)


def fused(x, down, indices, weights, **kwargs):
    return mx.fast.gather_qmm_combine(x, *down, indices, weights, **kwargs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--experts", type=int, default=128)
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--expert-width", type=int, default=768)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--mode", default="affine")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    if args.cpu:
        mx.set_default_device(mx.cpu)

    E, K, D, H = args.experts, args.top_k, args.width, args.expert_width
    kwargs = dict(group_size=args.group_size, bits=args.bits, mode=args.mode)
    dtype = getattr(mx, args.dtype)

    w = mx.random.normal((E, D, H)).astype(dtype) / H**0.5
    down = (*mx.quantize(w, **kwargs), None)[:3]
    mx.eval(down)
    print(f"E={E} K={K} D={D} H={H} {args.mode} {args.bits} bits, {args.dtype}")
    print(f"{'M':>4} {'unfused ms':>11} {'fused ms':>11} {'ratio':>6}")
    for M in (1, 4, 16, 64):
        x = mx.random.normal((1, M, K, 1, H)).astype(dtype)
        indices = mx.random.randint(0, E, (1, M, K)).astype(mx.uint32)
        weights = mx.random.uniform(shape=(1, M, K)).astype(dtype)
        mx.eval(x, indices, weights)

        def run(f):
            mx.eval(f(x, down, indices, weights, **kwargs))

        times = [measure_runtime(run, f=f) for f in (unfused, fused)]
        print(f"{M:4} {times[0]:11.3f} {times[1]:11.3f} {times[0] / times[1]:6.2f}")


if __name__ == "__main__":
    main()
