"""Runs Metal kernels on the CPU. See ../README.md."""

from .library import Library, Options
from .launch import MslFault

__all__ = ["Library", "MslFault", "Options"]
