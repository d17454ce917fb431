"""Turns a checkout of MLX into a pull request's tree for one primitive or several.

    python upstream/apply.py PATH-TO-MLX gather_qmm_swiglu

writes the primitive with its kernels, binding, documentation, tests and benchmark into the
checkout. Doing so twice changes nothing; primitives that are there already stay. docs/upstream.md
says what goes where.
"""

import argparse
import sys

from landing import formatting
from landing.change import PRIMITIVES
from landing.checkout import Checkout
from landing.errors import Conflict, Missing


def parser():
    out = argparse.ArgumentParser(
        prog="apply.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("checkout", help="path of an MLX checkout")
    out.add_argument(
        "primitives",
        nargs="*",
        metavar="PRIMITIVE",
        help=f"{', '.join(PRIMITIVES)}; without any, --check and --revert take all",
    )
    action = out.add_mutually_exclusive_group()
    action.add_argument(
        "--check",
        action="store_true",
        help="only say whether the checkout still fits; writes nothing",
    )
    action.add_argument("--revert", action="store_true", help="take the primitives out again")
    return out


def run(options):
    checkout = Checkout(options.checkout)
    named = options.primitives or (PRIMITIVES if options.check or options.revert else ())
    if not named or set(named) - set(PRIMITIVES):
        wrong = ", ".join(set(named) - set(PRIMITIVES))
        raise Missing(f"{wrong or 'nothing'} is no primitive; there are {', '.join(PRIMITIVES)}")
    present = checkout.applied()
    kept = [op for op in present if op not in named]
    wanted = kept if options.revert else [*kept, *named]
    written, removed = checkout.update(wanted, dry_run=options.check)
    wanted_version = formatting.wanted_version(checkout.path)
    if wanted_version and wanted_version != formatting.version():
        print(
            f"note: the checkout formats with clang-format {wanted_version}, "
            f"this is {formatting.version()}: pip install clang-format=={wanted_version}"
        )
    if options.check:
        print(f"fits: {', '.join(named)} ({len(written)} files would change)")
        return
    for path in written:
        print(f"wrote   {path}")
    for path in removed:
        print(f"removed {path}")
    if not written and not removed:
        print("nothing to do")


def main(arguments=None):
    try:
        run(parser().parse_intermixed_args(arguments))
    except (Missing, Conflict) as error:
        print(f"apply.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
