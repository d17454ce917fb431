# Copyright © 2026 Apple Inc.

# Gate, up and activation of one mixture-of-experts layer: fused against
# gather_qmm, gather_qmm and a compiled activation, as mlx-lm runs them.

import argparse
from functools import partial

import mlx.core as mx
from time_utils import measure_runtime


@partial(mx.compile, shapeless=True)
def swiglu(g, u):
    return g * mx.sigmoid(g) * u


def unfused(x, gate, up, indices, **kwargs):
    u = mx.gather_qmm(x, *up, rhs_indices=indices, **kwargs)
    g = mx.gather_qmm(x, *gate, rhs_indices=indices, **kwargs)
    return swiglu(g, u)


def fused(x, gate, up, indices, **kwargs):
    return mx.fast.gather_qmm_swiglu(x, *gate, *up, rhs_indices=indices, **kwargs)


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

    def stack():
        w = mx.random.normal((E, H, D)).astype(dtype) / D**0.5
        q = mx.quantize(w, **kwargs)
        mx.eval(q)
        return (*q, None)[:3]

    gate, up = stack(), stack()
    print(f"E={E} K={K} D={D} H={H} {args.mode} {args.bits} bits, {args.dtype}")
    print(f"{'M':>4} {'unfused ms':>11} {'fused ms':>11} {'ratio':>6}")
    for M in (1, 4, 16, 64):
        x = mx.random.normal((1, M, 1, 1, D)).astype(dtype)
        indices = mx.random.randint(0, E, (1, M, K)).astype(mx.uint32)
        mx.eval(x, indices)

        def run(f):
            mx.eval(f(x, gate, up, indices, **kwargs))

        times = [measure_runtime(run, f=f) for f in (unfused, fused)]
        print(f"{M:4} {times[0]:11.3f} {times[1]:11.3f} {times[0] / times[1]:6.2f}")


if __name__ == "__main__":
    main()
