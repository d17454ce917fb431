"""Argument types and exit codes that the command lines share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

EXIT_FAIL = 1
EXIT_USAGE = 2
EXIT_INTERRUPT = 130


def at_least(bound: int) -> Callable[[str], int]:
    """An argparse type: an integer of at least ``bound``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not an integer") from None
        if value < bound:
            raise argparse.ArgumentTypeError(f"must be at least {bound}, but is {value}")
        return value

    parse.__name__ = "integer"
    return parse


def seconds(text: str) -> float:
    """An argparse type: a number of seconds, not negative."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds, but is {text}")
    return value


def integer_list(text: str) -> list[int]:
    """An argparse type: ``1,4,16`` as a list of integers of at least 1, each once."""
    parse = at_least(1)
    return list(dict.fromkeys(parse(part.strip()) for part in text.split(",")))


def name_list(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    """An argparse type: a comma-separated list of names out of ``choices``."""

    def parse(text: str) -> list[str]:
        names = list(dict.fromkeys(part.strip() for part in text.split(",")))
        for name in names:
            if name not in choices:
                raise argparse.ArgumentTypeError(f"'{name}' is not one of {', '.join(choices)}")
        return names

    parse.__name__ = "list"
    return parse


def guarded(program: str, run: Callable[[], int]) -> int:
    """Runs a command and turns what a user can cause into one sentence and an exit code.

    An unusable argument or model: exit 2. An interrupt: exit 130; a capsule in the making is not
    left behind.
    """
    from zmlx.lm.loading import ModelError

    try:
        return run()
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted; no capsule was written.", file=sys.stderr)
        return EXIT_INTERRUPT
    except (ModelError, ValueError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return EXIT_USAGE
