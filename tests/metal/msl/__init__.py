"""Runs Metal kernels on the CPU. See ../README.md."""

from .launch import MslFault
from .library import PLAIN, Library, Options

__all__ = ["PLAIN", "Library", "MslFault", "Options"]
